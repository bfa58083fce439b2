"""Get and put over a stream: payload between the socket and the store's or the staging memory.

`TcpGet` is drawn from by its connection when there is room in the connection's output: it asks the
store for the next piece, and gives the piece back once it was sent.  `TcpPut` grants credit as the
connection's share of staging allows, checks what comes while it is still in the processor's cache,
and hands it to the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import xxhash

from mezzo.checksum import chunk_seed, part_seed
from mezzo.errors import Busy, DeadlineExceeded, InvalidArgument, MezzoError, ProtocolError, TooLarge
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Get, GetData, Kind, Put, PutData, PutGrant
from mezzo_server.blockstore.api import PutChunk, PutOutcome, PutStatus
from mezzo_server.memory import Span
from mezzo_server.shard.request import Request, check_lengths, parts_of
from mezzo_server.shard.shm_transfer import got, put_done

if TYPE_CHECKING:
    from mezzo_server.blockstore.store import ChunkStream, PutTicket
    from mezzo_server.shard.service import Session
    from mezzo_server.shard.share import Ask

STEP_KEYS = 256
"""Keys checked before others get their turn."""
ZEROS = memoryview(bytes(1 << 20))
"""What is sent for pieces that could not be read; the answer says that they are a miss."""
PIECES_HELD_MAX = 3
"""Pieces of one chunk in the output: fewer than a stream reads ahead, so that the next is on its way."""
FLUSH_BYTES = 1 << 20
"""Received chunks are handed to the store together until they are so many bytes."""


class Output(Protocol):
    """Where a get puts its payload: the connection's output."""

    def has_room(self) -> bool:
        """Whether more payload should be queued now."""

    def begin_payload(self, header: bytes, length: int) -> None:
        """Queue the frame that precedes ``length`` bytes of payload."""

    def add_piece(self, piece: memoryview, sent: Callable[[], None]) -> None:
        """Queue a piece of it; ``sent`` is called when it was sent or never will be."""


class _Sending:
    """One chunk on its way out."""

    __slots__ = ("ended", "failed", "held", "index", "left", "length", "stream", "waiting")

    def __init__(self, stream: ChunkStream, index: int) -> None:
        self.stream = stream
        self.index = index
        self.length = self.left = stream.length
        self.held = 0
        """pieces queued and not yet sent"""
        self.waiting = False
        """for the store's next piece"""
        self.failed = False
        self.ended = False


class TcpGet(Request):
    """A get whose bytes follow on the same stream."""

    __slots__ = ("_body", "_current", "_filling", "_lengths", "_next_index", "_open", "_queued")

    def __init__(self, session: Session, request_id: int, body: Get) -> None:
        if body.capacities and len(body.capacities) != len(body.keys):
            raise InvalidArgument(f"{len(body.keys)} keys and {len(body.capacities)} capacities")
        super().__init__(session, request_id, Kind.GET, deadline_ms=body.deadline_ms)
        self._body = body
        self._lengths = [-1] * len(body.keys)
        self._next_index = 0
        self._current: _Sending | None = None
        self._open: set[_Sending] = set()
        self._queued = False
        self._filling = False

    def start(self) -> None:
        """Begin: check that all fits, then queue for output."""
        if self._body.capacities or self.deadline is not None:
            self._check(0, 0)
        else:
            self._queue()

    def fill(self, output: Output) -> bool:
        """Queue payload while there is room. True: all of it is queued."""
        self._filling = True
        try:
            return self._fill(output)
        finally:
            self._filling = False

    def give_up(self) -> None:
        """Send no further chunk; what was begun is filled up with zeros."""
        if not self._queued:
            return  # _check sees it
        if self.session.closed:
            for sending in tuple(self._open):
                self._end_chunk(sending)
            self._current = None
            self._next_index = len(self._lengths)
            self._maybe_finish()
        elif self._current is None:
            self._next_index = len(self._lengths)
            self._maybe_finish()
        else:
            self.session.link.output_ready()

    def _check(self, first: int, nbytes: int) -> None:
        """Step by step: that no chunk is over its capacity, and that the deadline can be met."""
        if self.cancelled:
            self.finish(Kind.GOT, got(self._lengths))
            return
        body, store, scope = self._body, self.session.service.store, self.session.scope
        last = min(first + STEP_KEYS, len(body.keys))
        try:
            for index in range(first, last):
                info = store.info(scope, body.keys[index])
                if info is None:
                    continue
                end = body.first_part + body.part_count if body.part_count else len(info.parts)
                length = sum(info.parts[body.first_part : end])
                nbytes += length
                if body.capacities and length > body.capacities[index]:
                    raise TooLarge(
                        f"chunk {index} of {length} bytes is over its capacity ({body.capacities[index]})"
                    )
            if last == len(body.keys):
                self.check_load(nbytes)
        except MezzoError as error:
            self.fail(error)
            return
        if last < len(body.keys):
            self.session.link.later(lambda: self._check(last, nbytes))
        else:
            self._queue()

    def _queue(self) -> None:
        self._queued = True
        self.session.link.send_payloads(self)

    def _fill(self, output: Output) -> bool:
        keys_left = STEP_KEYS
        while output.has_room():
            current = self._current
            if current is None:
                if self.cancelled:
                    self._next_index = len(self._lengths)
                if self._next_index == len(self._lengths):
                    self._maybe_finish()
                    return True
                if keys_left == 0:
                    self.session.link.later(self.session.link.output_ready)
                    return False
                keys_left -= 1
                self._open_next(output)
                continue
            if current.failed or self.cancelled:
                self._add(output, current, ZEROS[: min(current.left, len(ZEROS))], None)
            elif current.waiting or current.held >= PIECES_HELD_MAX or not self._draw(output, current):
                return False
            if current.left == 0:
                self._current = None
        return False

    def _open_next(self, output: Output) -> None:
        body = self._body
        index = self._next_index
        self._next_index += 1
        stream = self.session.service.store.stream(
            self.session.scope, body.keys[index], first_part=body.first_part, part_count=body.part_count
        )
        if stream is None:
            return
        if body.capacities and stream.length > body.capacities[index]:
            # Put anew and longer since it was checked: as if it had come after us.
            stream.finish()
            return
        head = GetData(index, body.first_part, list(stream.part_lengths), list(stream.checksums))
        output.begin_payload(encode(Kind.GET_DATA, self.id, head, stream.length), stream.length)
        self._current = _Sending(stream, index)
        self._open.add(self._current)

    def _draw(self, output: Output, sending: _Sending) -> bool:
        """Ask for the next piece. False: it will come later."""

        def ready(span: Span | None) -> None:
            sending.waiting = False
            if sending.ended:
                if span is not None:
                    sending.stream.drop(span)
                return
            if span is None:
                sending.failed = True
            else:
                self._add(output, sending, span.view, span)
                if sending.left == 0 and self._current is sending:
                    self._current = None
            if not self._filling:
                self.session.link.output_ready()

        sending.waiting = True
        sending.stream.next(ready)
        if sending.waiting:
            self.session.service.poke()
            return False
        return True

    def _add(self, output: Output, sending: _Sending, piece: memoryview, span: Span | None) -> None:
        sending.left -= len(piece)
        sending.held += 1

        def sent() -> None:
            sending.held -= 1
            if span is not None:
                sending.stream.drop(span)
            if sending.held == 0 and sending.left == 0 and not sending.ended:
                self._end_chunk(sending)
                self._maybe_finish()

        output.add_piece(piece, sent)

    def _end_chunk(self, sending: _Sending) -> None:
        sending.ended = True
        self._open.discard(sending)
        if sending.stream.finish() and not sending.failed and sending.left == 0 and not self.cancelled:
            self._lengths[sending.index] = sending.length

    def _maybe_finish(self) -> None:
        if self._next_index == len(self._lengths) and not self._open and self.session.holds(self):
            self.finish(Kind.GOT, got(self._lengths))


class PayloadSink:
    """Where one payload of a put goes, and the checksums that run along. Owned by its connection
    from the frame to `complete`.
    """

    __slots__ = (
        "_checked",
        "_checksums",
        "_hasher",
        "_part",
        "_part_left",
        "_parts",
        "_put",
        "_seed",
        "_view",
        "index",
        "span",
    )

    def __init__(self, put: TcpPut, index: int, span: Span, parts: Sequence[int], seed: int) -> None:
        self._put = put
        self.index = index
        self.span = span
        self._view: memoryview | None = span.view
        self._parts = parts
        self._seed = seed
        self._part = 0
        self._part_left = parts[0]
        self._hasher = xxhash.xxh3_64(seed=part_seed(seed, 0))
        self._checked = 0
        self._checksums: list[int] = []

    @property
    def view(self) -> memoryview:
        """Where the payload is received into."""
        if self._view is None:
            raise ProtocolError("the payload is complete")
        return self._view

    def advance(self, received: int) -> None:
        """The first ``received`` bytes have come: check them while they are in the cache."""
        view = self.view
        while self._checked < received:
            count = min(received - self._checked, self._part_left)
            self._hasher.update(view[self._checked : self._checked + count])
            self._checked += count
            self._part_left -= count
            if self._part_left == 0:
                self._checksums.append(self._hasher.intdigest())
                self._part += 1
                if self._part < len(self._parts):
                    self._part_left = self._parts[self._part]
                    self._hasher = xxhash.xxh3_64(seed=part_seed(self._seed, self._part))

    def complete(self) -> None:
        """All has come."""
        self.advance(self.span.length)
        self._view = None
        self._put.received(self.index, self.span, tuple(self._checksums))


class TcpPut(Request):
    """A put whose bytes come on the same stream, against credit."""

    __slots__ = (
        "_ask",
        "_claimed",
        "_error",
        "_granting",
        "_in_store",
        "_keys",
        "_lengths",
        "_next_index",
        "_open",
        "_parts",
        "_pending_step",
        "_position",
        "_ready",
        "_ready_bytes",
        "_receiving",
        "_statuses",
        "_tickets",
    )

    def __init__(self, session: Session, request_id: int, body: Put) -> None:
        parts = parts_of(body)
        check_lengths(body.lengths, session.limits.chunk_bytes_max)
        super().__init__(session, request_id, Kind.PUT, deadline_ms=body.deadline_ms)
        self._keys = body.keys
        self._lengths = body.lengths
        self._parts = parts
        self._position = body.position
        self._statuses = [PutStatus.FAILED] * len(body.keys)
        self._error: Exception | None = None
        self._next_index = 0
        self._ask: Ask | None = None
        self._granting: list[int] | None = None
        self._pending_step = False
        # Granted and not begun to come, in order; the one that is coming; checked and not yet handed
        # to the store; how many the store has.
        self._open: deque[tuple[int, Span]] = deque()
        self._claimed: dict[int, tuple[int, ...]] = {}
        self._receiving: Span | None = None
        self._ready: list[tuple[int, Span, tuple[int, ...]]] = []
        self._ready_bytes = 0
        self._in_store = 0
        self._tickets: list[PutTicket] = []

    @property
    def grants_open(self) -> int:
        """Payloads granted that have not begun to come."""
        return len(self._open)

    def start(self) -> None:
        """Begin to grant."""
        self._grant_more()

    def receive(self, body: PutData, payload_bytes: int) -> PayloadSink:
        """Where the payload of the next granted chunk goes.

        Raises:
            ProtocolError: it is not what was announced.
        """
        index, span = self._open[0]
        if payload_bytes != span.length:
            raise ProtocolError(f"PUT_DATA of {payload_bytes} bytes for a chunk announced with {span.length}")
        if len(body.checksums) != len(self._parts[index]):
            raise ProtocolError(f"{len(body.checksums)} checksums for {len(self._parts[index])} parts")
        self._open.popleft()
        self._claimed[index] = tuple(body.checksums)
        self._receiving = span
        scope = self.session.scope
        seed = chunk_seed(scope.tenant + scope.namespace, self._keys[index])
        return PayloadSink(self, index, span, self._parts[index], seed)

    def received(self, index: int, span: Span, checksums: tuple[int, ...]) -> None:
        """A payload is complete; these are its checksums."""
        self._receiving = None
        if checksums != self._claimed.pop(index):
            self.session.service.counters["checksum_mismatches_received"] += 1
            self.session.share.give(span)
            self._grant_more()
            return
        if not self._ready:
            self.session.at_turn_end(self)
        self._ready.append((index, span, checksums))
        self._ready_bytes += span.length
        if self._ready_bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand what was received to the store."""
        if not self._ready:
            return
        batch, self._ready, self._ready_bytes = self._ready, [], 0
        chunks = [
            PutChunk(self._keys[index], self._parts[index], (span,), self._position + index, checksums)
            for index, span, checksums in batch
        ]
        ended = False
        ticket: PutTicket | None = None

        def done(outcome: PutOutcome) -> None:
            nonlocal ended
            ended = True
            if ticket is not None:
                self._tickets.remove(ticket)
            self._in_store -= len(batch)
            self._error = self._error or outcome.error
            for (index, _, _), status in zip(batch, outcome.statuses, strict=True):
                self._statuses[index] = status
            for _, span, _ in batch:
                self.session.share.give(span)
            self._grant_more()

        self._in_store += len(batch)
        try:
            ticket = self.session.service.put(self.session.scope, chunks, done, deadline=self.deadline)
        except MezzoError as error:
            self._in_store -= len(batch)
            self._error = self._error or error
            for _, span, _ in batch:
                self.session.share.give(span)
            self._grant_more()
            return
        if not ended:
            self._tickets.append(ticket)

    def give_up(self) -> None:
        """Take back what was granted and has not come, abandon what waits in the store."""
        self._next_index = len(self._keys)
        if self._ask is not None:
            self._ask.cancel()
            self._ask = None
        spans = [span for _, span in self._open]
        self._open.clear()
        if self._receiving is not None and self.session.closed:
            spans.append(self._receiving)
            self._receiving = None
        for _, span, _ in self._ready:
            spans.append(span)
        self._ready, self._ready_bytes = [], 0
        for span in spans:
            self.session.share.give(span)
        for ticket in tuple(self._tickets):
            ticket.abandon()
        self._maybe_finish()

    def _grant_more(self) -> None:
        """Grant what staging allows now; end if nothing is left."""
        if self._granting is not None:
            return
        self._granting = granting = []
        keys_left = STEP_KEYS
        store, scope = self.session.service.store, self.session.scope
        while self._next_index < len(self._keys) and self._ask is None and not self._pending_step:
            if self._passed():
                break
            if keys_left == 0:
                self._pending_step = True
                self.session.link.later(self._step)
                break
            keys_left -= 1
            index = self._next_index
            self._next_index += 1
            if store.prefix(scope, (self._keys[index],))[0]:
                self._statuses[index] = PutStatus.EXISTS
            else:
                self._ask_for(index)
        self._granting = None
        self._send_grants(granting)
        self._maybe_finish()

    def _ask_for(self, index: int) -> None:
        def arrived(span: Span | None) -> None:
            nonlocal now
            now = True
            self._ask = None
            if span is None:
                self._error = self._error or Busy("too many requests wait for staging memory")
                self._next_index = len(self._keys)
            else:
                self._open.append((index, span))
                if self._granting is None:
                    self._send_grants([index])
                else:
                    self._granting.append(index)
            if self._granting is None:
                self._grant_more()

        now = False
        ask = self.session.share.request(self._lengths[index], arrived)
        if not now:
            self._ask = ask

    def _send_grants(self, indexes: list[int]) -> None:
        if indexes:
            self.session.grant(self, encode(Kind.PUT_GRANT, self.id, PutGrant(indexes)), indexes)

    def _passed(self) -> bool:
        """Whether the deadline has passed: then no more is granted."""
        if self.deadline is None or self.session.service.now() < self.deadline:
            return False
        self._error = self._error or DeadlineExceeded("the deadline passed before all was stored")
        self._next_index = len(self._keys)
        return True

    def _step(self) -> None:
        self._pending_step = False
        self._grant_more()

    def _maybe_finish(self) -> None:
        if (
            self._next_index < len(self._keys)
            or self._open
            or self._ready
            or self._in_store
            or self._ask is not None
            or self._receiving is not None
            or self._pending_step
            or not self.session.holds(self)
        ):
            return
        error = self._error
        if isinstance(error, MezzoError) and all(status is PutStatus.FAILED for status in self._statuses):
            self.fail(error)
        else:
            self.finish(Kind.PUT_DONE, put_done(self._statuses))
