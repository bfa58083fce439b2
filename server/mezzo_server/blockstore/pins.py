"""What leases do to many chunks at once: keep them, and hold their hot slots.

An acquire of a prefix must cost little more than its frames, so these are single loops over its keys
with the calls of the index written out: each would cost as much as the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.index import HASH_SHIFT
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
        context = self._context
        namespace = context.index.peek(scope)
        pins, shards, mask, lives = namespace.pins, namespace.shards, namespace.mask, context.lives
        for key in keys:
            before = pins.get(key)
            if before:
                pins[key] = before + 1
                continue
            location = shards[hash(key) >> HASH_SHIFT & mask][key]
            segment = lives[life_of(location)]
            segment.pinned_bytes += segment.table.length[number_of(location)]
            pins[key] = 1

    def unpin_all(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """Undo one `pin_all`. KeyError if one was not kept."""
        context = self._context
        namespace = context.index.peek(scope)
        pins = namespace.pins
        for key in keys:
            left = pins[key] - 1
            if left:
                pins[key] = left
                continue
            del pins[key]
            place = context.find(namespace, key)
            if place is not None:
                place[0].pinned_bytes -= place[0].table.length[place[1]]
        context.changes += 1

    def hold_all(self, scope: Scope, keys: Sequence[bytes]) -> Sequence[Slot | None]:
        """Hold the slots of present chunks; None for one that is not hot, or may not be held."""
        context = self._context
        hot = context.hot
        if hot is None:
            return [None] * len(keys)
        slots: list[Slot | None] = []
        namespace = context.index.peek(scope)
        shards, mask = namespace.hot.shards, namespace.hot.mask
        hold, used = hot.hold, hot.used
        for key in keys:
            slot = shards[hash(key) >> HASH_SHIFT & mask].get(key)
            if slot is not None and hold(slot):
                used(slot)
                slots.append(slot)
            else:
                slots.append(None)
        return slots

    def let_go_all(self, slots: Sequence[Slot]) -> None:
        """Undo one `hold_all`."""
        hot = self._context.hot
        if hot is not None:
            for slot in slots:
                hot.let_go(slot)
