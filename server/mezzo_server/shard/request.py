"""A request that takes longer than one call: what all of them share. No I/O, no clock of its own.

Invariant: a request ends exactly once, after the last callback of the block store, the workers and
the staging pool that it waits for; only then is its id free, its region dropped and its answer sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mezzo.errors import DeadlineExceeded, InvalidArgument, MezzoError, TooLarge
from mezzo.identity import Identity
from mezzo.protocol.bitmap import pack
from mezzo.protocol.messages import U32_MAX, Body, Kind, Put
from mezzo_server.blockstore.io import DeviceTime
from mezzo_server.blockstore.loads import Load
from mezzo_server.blockstore.options import INLINE_BYTES, INLINE_REST_BYTES
from mezzo_server.blockstore.pace import Pace
from mezzo_server.shard.naming import check_identity_lengths
from mezzo_server.shard.regions import Region

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session

STEP_KEYS = 32
"""Keys of one request handled before others get their turn: a few hundred microseconds."""
STEP_EXTENTS = 256
REST_SHARE = 4
"""Where no more keys would be left than this part of a slice, they go with it: a slice has its price however few it has,
and of a call that is spread over shards each gets about as many keys as the others, and seldom a round number."""
SLICE_BYTES = INLINE_BYTES + INLINE_REST_BYTES
"""And no more bytes than these, which are checksummed in the loop in one turn."""


class Request(DeviceTime):
    """One request in flight. Owned by its `Session` from construction until `finish` or `fail`.

    It is handed to the store as the one whom its transfers are for.
    """

    __slots__ = ("began", "cancelled", "deadline", "id", "kind", "load", "region", "session")

    def __init__(
        self,
        session: Session,
        request_id: int,
        kind: Kind,
        region: Region | None = None,
        deadline_ms: int = 0,
    ) -> None:
        self.device_began = self.device_ended = 0.0
        self.began = 0.0
        """when its frame came; `Session.begin` sets it"""
        self.session = session
        self.id = request_id
        self.kind = kind
        self.region = region
        self.load: Load | None = None
        """what is expected of it, if it is a get"""
        self.cancelled = False
        """the client gave it up, or is gone"""
        self.deadline = session.service.now() + deadline_ms / 1000 if deadline_ms else None
        session.begin(self)
        if region is not None:
            region.hold()

    def give_up(self) -> None:
        """`cancelled` was set: begin nothing more, and end as soon as nothing is under way."""

    @property
    def moved_bytes(self) -> int:
        """Payload that has reached the client although the request was given up or fails, and that it has to pay for."""
        return 0

    @property
    def written(self) -> Sequence[bytes]:
        """Keys that it puts or deletes."""
        return ()

    @property
    def got(self) -> Sequence[bytes]:
        """Keys that it gets."""
        return ()

    def finish(self, kind: Kind, body: Body) -> None:
        """It is answered."""
        load, self.load = self.load, None
        if load is not None:
            load.end(whole=not self.cancelled)
        self.session.end(self, kind, body)
        self._release()  # after its answer: a removal that waits for it is answered behind it

    def fail(self, error: MezzoError) -> None:
        """It is answered with an error."""
        load, self.load = self.load, None
        if load is not None:
            load.end(whole=False)
        self.session.end_with_error(self, error)
        self._release()

    def check_deadline(self) -> None:
        """DeadlineExceeded if it has passed."""
        if self.deadline is not None and self.session.service.now() >= self.deadline:
            raise DeadlineExceeded("the deadline passed before the request could end")

    def begin_load(self, keys: Sequence[bytes], bytes_max: int, network: Pace | None = None) -> None:
        """Chunks, ``bytes_max`` bytes at most, are about to be loaded, over ``network`` if not into a region.

        Raises:
            DeadlineExceeded: that would end too late. The message says how long it would take.
        """
        session = self.session
        store = session.service.store
        _, nbytes, _, hot, slowest = store.sizes(session.scope, keys, beyond=True)
        nbytes = min(nbytes, bytes_max)
        hot = min(hot, nbytes)
        load = store.loads.begin(session.scope.tenant, hot, nbytes - hot, network, slowest)
        seconds = load.seconds
        late = self.deadline is not None and session.service.now() + seconds > self.deadline
        if late and not load.is_worth_trying(network):
            load.end(whole=False)
            raise DeadlineExceeded(
                f"loading {nbytes} bytes would take about {seconds * 1000:.1f} ms, which is beyond the deadline"
            )
        self.load = load

    def _release(self) -> None:
        region, self.region = self.region, None
        if region is not None:
            region.drop()


class SlicedRequest(Request):
    """A request for many keys that goes on slice by slice, so that it holds up nobody else.

    Subclasses give `weigh` and `begin_slice` and call `slice_ended` once for each slice; `complete`
    is called when all have ended.  Bytes of slices under way count against the session's window.
    """

    __slots__ = ("count", "error", "next_index", "running")

    slice_keys_max = STEP_KEYS

    def __init__(
        self,
        session: Session,
        request_id: int,
        kind: Kind,
        count: int,
        region: Region | None = None,
        deadline_ms: int = 0,
    ) -> None:
        super().__init__(session, request_id, kind, region, deadline_ms)
        self.count = count
        self.next_index = 0
        self.running = 0
        self.error: MezzoError | None = None

    def weigh(self, index: int) -> tuple[int, int]:
        """Bytes and extents of one key."""
        raise NotImplementedError

    def begin_slice(self, first: int, last: int, nbytes: int) -> None:
        """Begin keys ``first`` to ``last - 1``; MezzoError if nothing of the slice was begun."""
        raise NotImplementedError

    def complete(self) -> None:
        """All slices ended: finish or fail."""
        raise NotImplementedError

    def give_up(self) -> None:
        """End once the slices under way have."""
        if self.running == 0 and self.session.holds(self):
            self._complete()

    def run(self) -> None:
        """Begin slices until the step is spent, the window is full or all are begun."""
        keys_left, extents_left = STEP_KEYS, STEP_EXTENTS
        while self.next_index < self.count and self.error is None and not self.cancelled:
            if keys_left <= 0 or extents_left <= 0:
                self.running += 1  # the step to come counts: nothing completes before it
                self.session.link.later(self._step)
                return
            first = last = self.next_index
            nbytes = extents = 0
            most = min(self.slice_keys_max, keys_left)
            end = first + most
            if end + most // REST_SHARE >= self.count:
                end = self.count
            room, weigh = self.session.window_room, self.weigh
            while last < end and extents < extents_left:
                size, pieces = weigh(last)
                if last > first and nbytes + size > room:
                    break
                if last - first >= most and nbytes <= SLICE_BYTES < nbytes + size:
                    break  # the rest would be handed to the workers: that costs more than a slice
                nbytes += size
                extents += pieces
                last += 1
            if nbytes > room and not self.session.window_empty:
                self.running += 1
                self.session.window_wait(self._came_up)
                return
            keys_left -= last - first
            extents_left -= extents
            self.next_index = last
            self._begin(first, last, nbytes)
        if self.running == 0:
            self._complete()

    def slice_ended(self, nbytes: int, error: MezzoError | None = None) -> None:
        """A slice that was begun has ended."""
        if error is not None and self.error is None:
            self.error = error
        if self.load is not None:
            self.load.moved(nbytes)
        self.running -= 1
        self.session.window_give(nbytes)
        if self.running == 0 and (self.next_index >= self.count or self.error is not None or self.cancelled):
            self._complete()

    def _step(self) -> None:
        self.running -= 1
        self.run()

    def _came_up(self) -> None:
        """Bytes have arrived, so there is room in the window: for us, or for who waits behind."""
        if self.cancelled or self.error is not None:
            self.session.window_give(0)
        self._step()

    def _begin(self, first: int, last: int, nbytes: int) -> None:
        # One more while beginning, so that a slice that ends within begin_slice does not complete
        # the request under our feet.
        self.running += 2
        self.session.window_take(nbytes)
        try:
            self.check_deadline()
            self.begin_slice(first, last, nbytes)
        except MezzoError as error:
            self.error = self.error or error
            self.running -= 1
            self.session.window_give(nbytes)
        self.running -= 1

    def _complete(self) -> None:
        if self.error is not None:
            self.fail(self.error)
        else:
            self.complete()


def positions_of(body: Put) -> Sequence[int]:
    """Where each chunk of a put stands in its prefix.

    Raises:
        InvalidArgument: there are not as many as keys, or one is over what a record can have.
    """
    count = len(body.keys)
    if not body.positions:
        if body.position + count - 1 > U32_MAX:
            raise InvalidArgument(f"position {body.position} and {count} keys: the last is over {U32_MAX}")
        return range(body.position, body.position + count)
    if len(body.positions) != count:
        raise InvalidArgument(f"{count} keys and {len(body.positions)} positions")
    return body.positions


def parts_of(body: Put) -> list[tuple[int, ...]]:
    """The part lengths of each chunk of a put.

    Raises:
        InvalidArgument: they do not fit the lengths.
    """
    lengths, parts = body.lengths, body.parts
    count = len(body.keys)
    if len(lengths) != count:
        raise InvalidArgument(f"{count} keys and {len(lengths)} lengths")
    if not parts:
        return [(length,) for length in lengths]
    if len(parts) == 1:
        each = tuple(parts[0])
        total = sum(each)
        _check_parts(each)
        for length in lengths:
            if length != total:
                raise InvalidArgument(f"parts of {total} bytes in all do not make a chunk of {length}")
        return [each] * count
    if len(parts) != count:
        raise InvalidArgument(f"{count} keys and {len(parts)} lists of parts; give none, one or one for each")
    result = []
    for length, given in zip(lengths, parts, strict=True):
        each = tuple(given)
        _check_parts(each)
        if sum(each) != length:
            raise InvalidArgument(f"parts of {sum(each)} bytes in all do not make a chunk of {length}")
        result.append(each)
    return result


def check_lengths(lengths: Sequence[int], chunk_bytes_max: int, identity: Identity | None) -> None:
    """TooLarge or InvalidArgument for a chunk that cannot be stored."""
    check_identity_lengths(lengths, identity)
    if max(lengths) > chunk_bytes_max:
        raise TooLarge(
            f"a chunk of {max(lengths)} bytes is over the limit ({chunk_bytes_max}, chunk_bytes_max)"
        )
    if min(lengths) == 0:
        raise InvalidArgument("a chunk has at least one byte")


def _check_parts(parts: tuple[int, ...]) -> None:
    if min(parts) == 0:
        raise InvalidArgument("a part has at least one byte")


def bitmap(flags: Sequence[bool]) -> tuple[bytes, int]:
    """Flags as the protocol's bitmap, and how many are set."""
    total, count = len(flags), sum(flags)
    # All or none, as nearly always: without a digit for each.
    if count == total:
        return ((1 << total) - 1).to_bytes((total + 7) // 8, "little"), count
    if not count:
        return bytes((total + 7) // 8), 0
    return pack(flags), count
