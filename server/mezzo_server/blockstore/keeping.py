"""What keeps a chunk where it is: leases pin it on its device, clients hold its slot in the hot tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.get import Gets
from mezzo_server.blockstore.pins import Pins
from mezzo_server.hot.slots import Slot, State
from mezzo_server.hot.tier import HotTier


class Keeping:
    """The part of `BlockStore` that keeps chunks. Owns nothing: pins are in the index, holds in the slots."""

    _context: Context
    _gets: Gets
    pins: Pins

    def _check_open(self) -> None:
        raise NotImplementedError

    def pin(self, scope: Scope, key: bytes) -> int:
        """Keep a chunk from eviction until `unpin`; its bytes, or 0 if it is not present."""
        count, nbytes = self.pins.prefix(scope, [key])
        if count:
            self.pins.pin_all(scope, [key])
        return nbytes

    def unpin(self, scope: Scope, key: bytes) -> None:
        """Undo one `pin`. KeyError if there was none."""
        self.pins.unpin_all(scope, [key])

    @property
    def hot(self) -> HotTier | None:
        """The hot tier, if there is one."""
        return self._context.hot

    def hot_bytes(self, scope: Scope, keys: Sequence[bytes]) -> int:
        """Bytes of those of the chunks that are hot now."""
        slots = self._context.index.peek(scope).hot
        if self.hot is None or not slots.count:
            return 0
        ready = State.READY
        return sum([slot.length for slot in slots.get_all(keys) if slot is not None and slot.state is ready])

    def hold(self, scope: Scope, key: bytes) -> Slot | None:
        """The slot of a present chunk, to be used in place until `let_go`; None: it is not hot.

        None as well if clients hold as much of the hot tier as they may.
        """
        context = self._context
        hot = context.hot
        if hot is None:
            return None
        namespace = context.index.peek(scope)
        place = context.find(namespace, key)
        slot = None if place is None else context.ready_slot(namespace, key, *place)
        if place is None or slot is None or not hot.hold(slot):
            return None
        hot.used(slot)
        context.policy.request()
        context.policy.used(*place)
        return slot

    def let_go(self, slot: Slot) -> None:
        """Undo one `hold`."""
        if self._context.hot is not None:
            self._context.hot.let_go(slot)

    def warm(self, scope: Scope, keys: Sequence[bytes], done: Callable[[], None]) -> None:
        """Read those chunks into the hot tier that are present and not hot, as far as there is room.

        ``done`` is called once, when no more of them will become hot by this call.
        """
        self._check_open()
        if self._gets.hot is None:
            self._context.call(lambda _: done(), None)
            return
        self._gets.in_flight += 1

        def ended() -> None:
            self._gets.in_flight -= 1
            self._context.call(lambda _: done(), None)

        self._gets.hot.warm(self._context.index.peek(scope), keys, ended)
