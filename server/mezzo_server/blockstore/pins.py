"""What leases do to many chunks at once: keep them, and hold their hot slots.

An acquire of a prefix must cost little more than its frames, so what can be done for all of its keys at
once is: a call for each key would cost as much as the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.segment import life_of, number_of
from mezzo_server.hot.slots import Slot


class Pins:
    """A store's chunks as its leases see them. Owns nothing: pins are kept in the index."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def prefix(self, scope: Scope, keys: Sequence[bytes]) -> tuple[int, int]:
        """(how many of ``keys`` from the first on are present, their bytes)."""
        return self._context.prefix(self._context.index.peek(scope), keys)

    def pin_all(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """Keep chunks that are all present, as `prefix` has just told. KeyError if one is not."""
        namespace = self._context.index.peek(scope)
        pins = namespace.pins
        locations = namespace.get_all(keys)
        if pins.keys().isdisjoint(keys):
            fresh = dict.fromkeys(keys, 1)
            if len(fresh) == len(keys):
                pins.update(fresh)
                self._count(locations, +1)
                return
        for key, location in zip(keys, locations, strict=True):
            before = pins.get(key, 0)
            pins[key] = before + 1
            if not before:
                self._count([location], +1)

    def unpin_all(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """Undo one `pin_all`. KeyError if one was not kept."""
        context = self._context
        namespace = context.index.peek(scope)
        pins = namespace.pins
        if not pins and context.index.is_erased(scope):
            return  # its pins went with it
        locations = namespace.get_all(keys)
        if list(map(pins.get, keys)).count(1) == len(keys):
            for key in keys:
                del pins[key]
            self._count(locations, -1)
        else:
            for key, location in zip(keys, locations, strict=True):
                left = pins[key] - 1
                if left:
                    pins[key] = left
                else:
                    del pins[key]
                    self._count([location], -1)
        context.changes += 1

    def hold_all(self, scope: Scope, keys: Sequence[bytes]) -> Sequence[Slot | None]:
        """Hold the slots of present chunks; None for one that is not hot, or may not be held."""
        context = self._context
        hot = context.hot
        if hot is None:
            return [None] * len(keys)
        namespace = context.index.peek(scope)
        self._stamp(namespace.get_all(keys))
        return hot.hold_all(namespace.hot.get_all(keys))

    def let_go_all(self, slots: Sequence[Slot]) -> None:
        """Undo one `hold_all`."""
        hot = self._context.hot
        if hot is not None:
            hot.let_go_all(slots)

    def _stamp(self, locations: Sequence[int | None]) -> None:
        """Chunks that are used in place are read: their device's policy must know."""
        lives = self._context.lives
        policy = self._context.policy
        policy.request()
        for location in locations:
            if location is not None:
                policy.used(lives[life_of(location)], number_of(location))

    def _count(self, locations: Sequence[int | None], sign: int) -> None:
        """Add to (or take from) the pinned bytes of the segments that chunks lie in."""
        lives = self._context.lives
        first, last = locations[0], locations[-1]
        run = first is not None and last is not None and last - first == len(locations) - 1
        if run and first is not None and locations == list(range(first, first + len(locations))):
            # put together, so one run of one segment's entries, as prefixes mostly are
            segment = lives[life_of(first)]
            if segment.log.fenced is None:
                number = number_of(first)
                size = sum(segment.table.length[number : number + len(locations)])
                segment.pinned_bytes += sign * size
            return
        for location in locations:
            # None: it is gone, and with it the bytes that were counted for it
            if location is not None:
                segment = lives[life_of(location)]
                if segment.log.fenced is None:
                    segment.pinned_bytes += sign * segment.table.length[number_of(location)]
