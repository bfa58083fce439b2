"""Get and put over shared memory that is mapped: the device moves the bytes itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mezzo.errors import InvalidArgument, MezzoError, RegionError, Unavailable
from mezzo.protocol.messages import Get, Got, Kind, Put, PutDone
from mezzo_server.blockstore.api import GetChunk, GetOutcome, PutChunk, PutOutcome, PutStatus
from mezzo_server.memory import Span
from mezzo_server.shard.regions import Region
from mezzo_server.shard.request import Request, SlicedRequest, bitmap, check_lengths, parts_of, positions_of
from mezzo_server.shard.share import Ask

if TYPE_CHECKING:
    from mezzo_server.blockstore.put import PutTicket
    from mezzo_server.shard.session import Session


class ShmRequest(SlicedRequest):
    """What gets and puts through regions share: their extents and how these are weighed."""

    __slots__ = ("asks", "extents", "keys", "sizes")

    def __init__(
        self,
        session: Session,
        request_id: int,
        kind: Kind,
        keys: Sequence[bytes],
        extents: Sequence[Sequence[int]],
        region: Region,
        deadline_ms: int,
    ) -> None:
        if len(extents) != len(keys):
            raise InvalidArgument(f"{len(keys)} keys and {len(extents)} extent lists")
        super().__init__(session, request_id, kind, len(keys), region, deadline_ms)
        self.keys = keys
        self.extents = extents
        # Most have one extent: its length, without another list for each.
        self.sizes = [pairs[1] if len(pairs) == 2 else sum(pairs[1::2]) for pairs in extents]
        """bytes of each key's extents"""
        self.asks: dict[Ask, int] = {}
        """slices that wait for staging memory, and their bytes"""

    def stage(self, length: int, nbytes: int, staged: Callable[[Span], None]) -> None:
        """Call ``staged`` with staging memory for a slice; if there will be none, the slice ends."""
        share = self.session.share
        ask: Ask | None = None
        came = False

        def arrived(span: Span | None) -> None:
            nonlocal came
            came = True
            if ask is not None:
                del self.asks[ask]
            if span is None:
                self.slice_ended(nbytes, share.busy())
            elif self.cancelled:
                share.give(span)
                self.slice_ended(nbytes)
            else:
                staged(span)

        asked = share.request(length, arrived)
        if not came:
            ask = asked
            self.asks[asked] = nbytes

    def give_up(self) -> None:
        """Wait for no more memory; end once the slices under way have."""
        asks, self.asks = self.asks, {}
        for ask, nbytes in asks.items():
            ask.cancel()
            self.slice_ended(nbytes)
        super().give_up()

    @property
    def place(self) -> Region:
        """The region, which the request holds until it ends."""
        if self.region is None:
            raise RegionError("the request has ended")
        return self.region

    def weigh(self, index: int) -> tuple[int, int]:
        """Bytes and extents of one key."""
        return self.sizes[index], len(self.extents[index]) // 2


class ShmGet(ShmRequest):
    """A get into a mapped region."""

    __slots__ = ("first_part", "lengths", "part_count")

    @property
    def got(self) -> Sequence[bytes]:
        """See `Request.got`."""
        return self.keys

    def __init__(self, session: Session, request_id: int, body: Get, region: Region) -> None:
        super().__init__(session, request_id, Kind.GET, body.keys, body.targets, region, body.deadline_ms)
        self.first_part = body.first_part
        self.part_count = body.part_count
        self.lengths = [-1] * len(body.keys)

    def start(self) -> None:
        """Begin. The answer comes through the session."""
        try:
            self.begin_load(self.keys, sum(self.sizes))
        except MezzoError as error:
            self.fail(error)
            return
        self.session.streams = False
        self.run()

    @property
    def moved_bytes(self) -> int:
        """See `Request.moved_bytes`."""
        return sum([length for length in self.lengths if length > 0])

    def begin_slice(self, first: int, last: int, nbytes: int) -> None:
        """Let the store read these keys straight into the region."""
        spans = self.place.spans
        keys, extents = self.keys, self.extents
        chunks = [GetChunk(keys[index], spans(extents[index])) for index in range(first, last)]

        def done(outcome: GetOutcome) -> None:
            self.lengths[first:last] = outcome.lengths
            self.slice_ended(nbytes)

        self.session.service.get(
            self.session.scope,
            chunks,
            done,
            first_part=self.first_part,
            part_count=self.part_count,
            time=self,
        )

    def complete(self) -> None:
        """Say what is there."""
        self.finish(Kind.GOT, got(self.lengths))


class ShmPut(ShmRequest):
    """A put out of a mapped region."""

    __slots__ = ("expiry_ms", "parts", "positions", "priority", "put_error", "statuses", "tickets")

    def __init__(self, session: Session, request_id: int, body: Put, region: Region) -> None:
        self.parts, self.positions = parts_of(body), positions_of(body)
        check_lengths(body.lengths, session.service.chunk_bytes_max, session.identity)
        session.service.store.check_put(session.scope, body.keys, body.lengths)
        super().__init__(session, request_id, Kind.PUT, body.keys, body.sources, region, body.deadline_ms)
        self.expiry_ms, self.priority = session.expiry_ms(body.ttl_ms), body.priority
        self.statuses = [PutStatus.FAILED] * len(body.keys)
        self.put_error: Exception | None = None
        self.tickets: list[PutTicket] = []

    @property
    def written(self) -> Sequence[bytes]:
        """See `Request.written`."""
        return self.keys

    def start(self) -> None:
        """Begin. The answer comes through the session."""
        self.run()

    def give_up(self) -> None:
        """Abandon what still waits for its turn in the store."""
        for ticket in tuple(self.tickets):
            ticket.abandon()
        super().give_up()

    def chunk(self, index: int, source: Sequence[Span]) -> PutChunk:
        """One of the chunks, as the store takes it."""
        return PutChunk(
            self.keys[index],
            self.parts[index],
            tuple(source),
            self.positions[index],
            expiry_ms=self.expiry_ms,
            priority=self.priority,
        )

    def begin_slice(self, first: int, last: int, nbytes: int) -> None:
        """Let the store write these keys straight out of the region."""
        spans = self.place.spans
        chunks = []
        for index in range(first, last):
            source = spans(self.extents[index])
            check_source(self.sizes[index], self.parts[index])
            chunks.append(self.chunk(index, source))
        self.put_slice(first, last, nbytes, chunks)

    def put_slice(self, first: int, last: int, nbytes: int, chunks: list[PutChunk]) -> None:
        """Hand a slice to the store."""
        ended = False
        ticket: PutTicket | None = None

        def done(outcome: PutOutcome) -> None:
            nonlocal ended, ticket
            ended = True
            if ticket is not None:
                self.tickets.remove(ticket)
                ticket = None  # it holds this function: no work for the garbage collector
            self.statuses[first:last] = outcome.statuses
            count_stored(self.session, "shm", chunks, outcome)
            self.put_error = self.put_error or outcome.error
            self.slice_ended(nbytes)

        begun = self.session.service.put(self.session.scope, chunks, done, deadline=self.deadline, time=self)
        if not ended:
            ticket = begun
            self.tickets.append(begun)

    def complete(self) -> None:
        """Say what was stored."""
        answer_put(self, self.statuses, self.put_error)


def count_stored(session: Session, transport: str, chunks: Sequence[PutChunk], outcome: PutOutcome) -> None:
    """Count the bytes of those chunks that were stored."""
    stored = 0
    for chunk, status in zip(chunks, outcome.statuses, strict=True):
        if status is PutStatus.STORED:
            stored += sum(chunk.parts)
    session.service.measures.bytes_in[transport] += stored
    session.meter.moved(stored)


def check_source(nbytes: int, parts: Sequence[int]) -> None:
    """InvalidArgument unless the extents hold the chunk exactly."""
    if nbytes != sum(parts):
        raise InvalidArgument(f"extents of {nbytes} bytes in all do not make a chunk of {sum(parts)}")


def got(lengths: Sequence[int]) -> Got:
    """The answer to a get, from bytes delivered for each key (-1: miss)."""
    if min(lengths) > 0:
        found, count = bitmap([True] * len(lengths))
        return Got(count, found, list(lengths))
    found, count = bitmap([length >= 0 for length in lengths])
    return Got(count, found, [length if length > 0 else 0 for length in lengths])


def answer_put(request: Request, statuses: Sequence[PutStatus], error: Exception | None) -> None:
    """End a put: an error if nothing came of it, else what was stored."""
    if error is not None and all(status is PutStatus.FAILED for status in statuses):
        request.fail(error if isinstance(error, MezzoError) else Unavailable(str(error)))
        return
    request.finish(Kind.PUT_DONE, _put_done(statuses))


def _put_done(statuses: Sequence[PutStatus]) -> PutDone:
    stored, stored_count = bitmap([status is PutStatus.STORED for status in statuses])
    exists, exists_count = bitmap([status is PutStatus.EXISTS for status in statuses])
    if PutStatus.DECLINED not in statuses:
        return PutDone(stored, exists, stored_count, exists_count)
    declined, declined_count = bitmap([status is PutStatus.DECLINED for status in statuses])
    return PutDone(stored, exists, stored_count, exists_count, declined, declined_count)
