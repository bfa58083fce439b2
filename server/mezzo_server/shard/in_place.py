"""Leases whose holder reads hot chunks where they lie: places, loading, and the descriptors of arenas.

No I/O but the passing of a descriptor, which `descriptor_passing` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mezzo.errors import InvalidArgument, MezzoError
from mezzo.protocol.messages import PLACE_NUMBERS, Acquire, Acquired, ArenaOpen, ArenaOpened, InPlace, Kind
from mezzo_server.hot.slots import Slot
from mezzo_server.shard.descriptor_passing import pass_descriptor
from mezzo_server.shard.estimates import tell_load
from mezzo_server.shard.leases import Granted
from mezzo_server.shard.request import Request

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session

LOADED_AT_ONCE = 128
"""Chunks that one request loads before it looks whether its client still wants them."""


def acquire_in_place(session: Session, request_id: int, body: Acquire) -> Acquired | None:
    """The answer to an acquire with ``in_place``; None: it comes when what is not hot was loaded.

    Raises:
        InvalidArgument: this connection cannot pass descriptors, or nobody knows this wish.
        TooLarge, Busy: as `LeaseTable.acquire`.
    """
    if not session.shm:
        raise InvalidArgument(
            "use in place needs a client on this host, on a unix:// address: only a Unix socket passes descriptors"
        )
    if body.in_place == InPlace.LOAD:
        _Loading(session, request_id, body).start()
        return None
    if body.in_place != InPlace.HOT:
        raise InvalidArgument(f"in_place is {', '.join(map(str, map(int, InPlace)))}, not {body.in_place}")
    return _acquired(session, body)


def open_arena(session: Session, body: ArenaOpen, channel: int) -> ArenaOpened:
    """Send the descriptor of an arena over ``channel``, which this takes over.

    Raises:
        InvalidArgument: there is no such arena, for this tenant.
        RegionError: ``channel`` is no end of a Unix stream socket pair, or nobody reads the other one.
    """
    service = session.service
    try:
        hot = service.store.hot
        try:
            arena = hot.arena(body.arena) if hot is not None else None
        except KeyError:
            arena = None
        if arena is None or arena.tenant != session.scope.tenant or arena.fd < 0:
            # One answer for all of them: whether another tenant has such an arena is not told.
            raise InvalidArgument(f"there is no arena {body.arena}")
        pass_descriptor(channel, arena.fd)
        if hot is not None:
            hot.memory.lend(arena.number, session)
    finally:
        service.discard(channel)
    return ArenaOpened(arena.bytes, arena.data_offset, arena.page_bytes)


def _acquired(session: Session, body: Acquire) -> Acquired:
    service = session.service
    granted = service.leases.acquire(session, session.scope, body.keys, body.lease_ms / 1000, in_place=True)
    return acquired(session, body, granted, _places(granted.slots))


def acquired(session: Session, body: Acquire, granted: Granted, places: list[int]) -> Acquired:
    """The answer to an acquire that was granted this."""
    told = tell_load(session, body.keys, (granted.prefix, granted.bytes))
    return Acquired(
        granted.lease,
        granted.prefix,
        granted.bytes,
        round(granted.lease_s * 1000),
        told.load_us,
        places,
        told.hot_prefix,
        told.hot_bytes,
        told.hot_load_us,
        told.device_load_us,
        told.load_high_us,
        told.load_wait_us,
    )


def _places(slots: Sequence[Slot | None]) -> list[int]:
    """The numbers of `Acquired.places`."""
    if None in slots:
        hot = [(0, 0, 0, 0) if s is None else (s.arena, s.page, s.length, s.generation) for s in slots]
        return [number for place in hot for number in place]
    held = [slot for slot in slots if slot is not None]
    # Column by column: half the time of one place after the other.
    places = [0] * (PLACE_NUMBERS * len(held))
    places[0::4] = [slot.arena for slot in held]
    places[1::4] = [slot.page for slot in held]
    places[2::4] = [slot.length for slot in held]
    places[3::4] = [slot.generation for slot in held]
    return places


class _Loading(Request):
    """An acquire that brings what is not hot into the hot tier first, some keys at a time."""

    __slots__ = ("_arenas", "_body", "_bytes", "_next", "_window")

    def __init__(self, session: Session, request_id: int, body: Acquire) -> None:
        super().__init__(session, request_id, Kind.ACQUIRE)
        self._arenas = 0
        self._body = body
        self._bytes = 0
        self._next = 0
        self._window: tuple[Sequence[bytes], int] = ((), 0)

    def start(self) -> None:
        """Load the first keys, then the others until one is not present or no more may be held."""
        store, scope = self.session.service.store, self.session.scope
        keys = self._body.keys[self._next : self._next + LOADED_AT_ONCE]
        count, size = store.prefix(scope, keys)
        if self.cancelled or count == 0 or store.hot is None or self._bytes >= store.hot.held_bytes_max:
            self._loaded()
            return
        self._next = self._next + count if count == len(keys) else len(self._body.keys)
        self._bytes += size
        self._window = (keys[:count], size)
        self._warm()

    def _warm(self) -> None:
        session = self.session
        hot = session.service.store.hot
        self._arenas = 0 if hot is None else len(hot.memory)
        session.service.store.warm(session.scope, self._window[0], self._warmed)
        session.service.poke()

    def _warmed(self) -> None:
        session = self.session
        store = session.service.store
        keys, size = self._window
        hot = store.hot
        if hot is not None and not self.cancelled and store.hot_bytes(session.scope, keys) < size:
            # Was there no room because its memory was still being made? Then once more; this ends at the
            # latest when all the memory is made that the tier may have.
            if hot.memory.making:
                hot.memory.when_made(self._warm)
                return
            if len(hot.memory) > self._arenas:
                session.link.later(self._warm)
                return
        if self.cancelled or self._next >= len(self._body.keys):
            self._loaded()
        else:
            session.link.later(self.start)

    def _loaded(self) -> None:
        if self.cancelled:
            # Nobody will ever hear of a lease.
            self.finish(Kind.ACQUIRED, Acquired(0, 0, 0, 0, 0))
            return
        try:
            acquired = _acquired(self.session, self._body)
        except MezzoError as error:
            self.fail(error)
        else:
            self.finish(Kind.ACQUIRED, acquired)
