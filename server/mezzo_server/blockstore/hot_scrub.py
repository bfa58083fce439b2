"""Scrub of the hot tier: memory that changes by itself is found although nobody copies it.

A get into a region verifies what it copies; over TCP the slot is sent as it is, and whoever reads it in
place looks for himself.  So the slots are walked as well, at the rate of the devices' scrub, arena after
arena for ever; one that does not match its checksums is given up, and its chunk is read from the device
again.
"""

from __future__ import annotations

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.budget import Budget
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.hot_read import hot_select
from mezzo_server.blockstore.schedule import BACKGROUND
from mezzo_server.blockstore.scrub import BURST_S
from mezzo_server.hot.slots import Cut, Slot, State
from mezzo_server.hot.tier import HotTier

SLOTS_LOOKED_AT = 256
"""In one call: free ones and those that are being filled are passed over."""


class HotScrub:
    """Walks the slots of a hot tier. Driven by `tick`; one chunk is under way at a time."""

    def __init__(self, context: Context, hot: HotTier) -> None:
        self._context = context
        self._hot = hot
        self._budget = Budget(context.options.scrub_bytes_per_s, BURST_S, context.now())
        self._arena = 0
        self._here: Cut | None = None
        self._at = 0
        self._looking = False

    def tick(self) -> None:
        """Go on as far as the rate allows."""
        self._budget.fill(self._context.now())
        if self._budget.bytes > 0 and not self._looking and not self._context.closing:
            slot = self._next()
            if slot is not None:
                self._look(slot)

    def _next(self) -> Slot | None:
        """The next slot that is ready; None: not within this call."""
        for _ in range(SLOTS_LOOKED_AT):
            cut = self._here
            if cut is None or self._at >= len(cut.made):
                cuts = self._hot.cuts()
                later = [cut for cut in cuts if cut.arena.number > self._arena]
                cut = self._here = min(later or cuts, key=lambda cut: cut.arena.number, default=None)
                if cut is None:
                    return None
                self._arena, self._at = cut.arena.number, 0
                if not later and not cut.made:
                    return None
                continue
            slot = cut.made[self._at]
            self._at += 1
            if slot.state is State.READY:
                return slot
        return None

    def _look(self, slot: Slot) -> None:
        context, hot, owner = self._context, self._hot, slot.owner
        if owner is None or not isinstance(owner.scope, Scope):
            return
        namespace = context.index.peek(owner.scope)
        place = context.find(namespace, slot.key)
        if place is None or context.ready_slot(namespace, slot.key, *place) is not slot:
            return
        segment, number = place
        length = slot.length
        self._looking = True
        self._budget.bytes -= length
        hot.use(slot)

        def verified(right: bool) -> None:
            self._looking = False
            context.counters["hot_scrubbed_bytes"] += length
            if not right and slot.state is State.READY:
                context.counters["hot_mismatches"] += 1
                hot.drop(slot)
            hot.unuse(slot)
            context.later.add(self.tick)

        seed = context.seed(namespace, slot.key)
        _, lengths, checksums = hot_select(slot, segment, number, 0, 0)
        context.verify(seed, 0, lengths, checksums, [slot.span()], verified, BACKGROUND)
