"""The hot tier: who has which slot, who gives one up, and how much memory all of it takes. No I/O.

Invariants: arenas, heads included, are never more than ``bytes_max``; an arena is one tenant's for ever;
a slot is in one map at most, and there only while it fills or is ready; a busy slot is never taken from
whoever uses it; the generation word is raised before a slot can be given to anybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mezzo_server.hot.arenas import Arenas, NewArena, Offload
from mezzo_server.hot.policy import S3Fifo, SlotPolicy
from mezzo_server.hot.pools import Claim, Pool, Tenant
from mezzo_server.hot.slots import (
    PAGE_BYTES,
    ArenaMemory,
    Cut,
    Slot,
    SlotMap,
    State,
    class_pages,
    data_pages,
)

DRAIN_SLOTS = 64
"""Slots evicted in one call from an arena that is to be cut anew."""
ARENAS_LOOKED_AT = 8
"""Arenas considered to be cut anew in one call, those used longest ago first."""


class HotTier:
    """Slots for chunks. Owner of all arenas; belongs to one thread."""

    def __init__(
        self,
        *,
        bytes_max: int,
        arena_bytes: int,
        new_arena: NewArena,
        held_fraction: float = 0.5,
        fill_puts: bool = True,
        offload: Offload | None = None,
        policy: Callable[[int], SlotPolicy] = S3Fifo,
    ) -> None:
        """``bytes_max`` for all arenas, heads included; ``arena_bytes`` of data in each.

        ``fill_puts``: what is put becomes hot, not only what is read.  ``policy`` makes the policy for
        one size from the number of slots of that size there can be at most.
        """
        self.memory = Arenas(
            bytes_max=bytes_max, arena_bytes=arena_bytes, new_arena=new_arena, offload=offload or _here
        )
        """all arenas"""
        self.bytes_max = bytes_max
        self.arena_bytes = arena_bytes
        self.fill_puts = fill_puts
        self.held_bytes_max = int(held_fraction * bytes_max)
        self.lent_wanted = 0
        """an arena that would be taken for another tenant if nobody had it mapped; 0: there is none"""
        self.pressed = False
        """room was refused while clients held slots; whoever can end their holding clears it"""
        self.held_bytes = 0
        """of slots that clients use in place"""
        self._policy = policy
        self._tenants: dict[bytes, Tenant] = {}
        self._claim: Claim | None = None
        self._looked: set[bytes] = set()
        """tenants for which nobody had to give anything up, since the last tick"""
        self._generation = 0
        self._clock = 0
        self._used_bytes = 0
        self._ready = 0
        self._fills = 0
        self._evictions = 0
        self._no_room = 0
        self._too_large = 0
        self._claimed = 0

    # -- arenas

    def arena(self, number: int) -> ArenaMemory:
        """An arena by its number. KeyError if there is none."""
        return self.memory[number]

    def arenas(self) -> Iterator[ArenaMemory]:
        """All of them."""
        return iter(self.memory)

    def prepare(self, tenant: bytes) -> None:
        """Begin to make an arena for a tenant that has none to spare, if memory is left."""
        if self._tenant(tenant).spare is None:
            self._make(tenant)

    def cuts(self) -> list[Cut]:
        """The arenas that are cut into slots."""
        return [cut for tenant in self._tenants.values() for cut in tenant.cuts]

    def tick(self) -> None:
        """A few times a second: who gives up arenas for whom is looked at anew."""
        self._looked.clear()
        self.lent_wanted = 0
        if len(self._tenants) > len(self.memory):
            self._tenants = {tenant: state for tenant, state in self._tenants.items() if not state.idle}

    def _tenant(self, tenant: bytes) -> Tenant:
        state = self._tenants.get(tenant)
        if state is None:
            state = self._tenants[tenant] = Tenant()
        return state

    def _make(self, tenant: bytes) -> None:
        def came(arena: ArenaMemory) -> None:
            self._tenant(tenant).spare = Cut(arena)

        self.memory.make(tenant, came)

    def close(self) -> None:
        """Give all memory back. Nothing of it is in use any more."""
        self.memory.close()
        self._tenants.clear()

    # -- slots

    def wants(self, tenant: bytes, key: bytes, length: int) -> bool:
        """Whether a chunk that is being read from a device should become hot."""
        state = self._tenants.get(tenant)
        pool = state.pools.get(class_pages(length)) if state is not None else None
        return pool is None or pool.policy.wants(key)

    def reserve(self, owner: SlotMap, tenant: bytes, key: bytes, length: int) -> Slot | None:
        """A slot to fill with a chunk of ``length`` bytes; None: there is no room now.

        The caller ends the fill with `ready` or `fail`.  RuntimeError if the key has a slot.
        """
        if owner.get(key) is not None:
            raise RuntimeError("a second slot for a key")
        pages = class_pages(length)
        if pages * PAGE_BYTES > self.arena_bytes or self.memory.closed:
            self._too_large += 1
            return None
        state = self._tenant(tenant)
        pool = state.pools.get(pages)
        if pool is None:
            most = self.bytes_max // (pages * PAGE_BYTES)
            pool = state.pools[pages] = Pool(pages, self._policy(most))
        cut = self._room(tenant, state, pool)
        if cut is None:
            self._no_room += 1
            return None
        slot = cut.take(self._draw)
        if not cut.has_room:
            del pool.roomy[cut]
        slot.state = State.FILLING
        slot.owner = owner
        slot.key = key
        slot.length = length
        slot.sequence = 0
        owner.set(key, slot)
        self._used_bytes += slot.capacity
        self.use(slot)
        return slot

    def ready(self, slot: Slot, sequence: int) -> bool:
        """Its fill has ended, and the chunk is visible under this sequence. False: it was dropped."""
        right = slot.state is State.FILLING
        if right:
            slot.state = State.READY
            slot.sequence = sequence
            self._ready += 1
            self._fills += 1
            self._touch(slot)
            self._pool(slot).policy.added(slot)
        self._filled(slot, right)
        return right

    def fail(self, slot: Slot) -> None:
        """Its fill has ended without the chunk."""
        if slot.state is State.FILLING:
            self.drop(slot)
        self._filled(slot, False)

    def _filled(self, slot: Slot, right: bool) -> None:
        waiters, slot.waiters = slot.waiters, []
        try:
            for waiter in waiters:
                waiter(right)
        finally:
            self.unuse(slot)

    def used(self, slot: Slot) -> None:
        """Its chunk was got, or taken to use in place."""
        if slot.state is State.READY:
            self._touch(slot)
            self._pool(slot).policy.used(slot)

    def drop(self, slot: Slot) -> None:
        """Its chunk is not the key's any more: deleted, evicted from the device, corrupt, not written."""
        if slot.state is State.READY:
            self._pool(slot).policy.removed(slot)
        self._leave(slot)

    def use(self, slot: Slot) -> None:
        """The store itself reads or writes its bytes, until `unuse`."""
        if not (slot.uses or slot.holds):
            slot.cut.busy += 1
        slot.uses += 1

    def unuse(self, slot: Slot) -> None:
        """Undo one `use`."""
        slot.uses -= 1
        if not (slot.uses or slot.holds):
            self._rest(slot)

    def hold(self, slot: Slot) -> bool:
        """A client uses a ready slot in place, until `let_go`. False: too much is held already."""
        if slot.state is not State.READY:
            return False
        if not slot.holds:
            if self.held_bytes + slot.capacity > self.held_bytes_max:
                return False
            self.held_bytes += slot.capacity
            if not slot.uses:
                slot.cut.busy += 1
        slot.holds += 1
        return True

    def hold_all(self, slots: list[Slot | None]) -> list[Slot | None]:
        """`hold` and `used` for many, in one loop; None for each that cannot be held. Changes the list."""
        self._clock += 1
        clock, ready, most = self._clock, State.READY, self.held_bytes_max
        held_bytes = self.held_bytes
        cut: Cut | None = None
        used: Callable[[Slot], None] = _nobody
        for place, slot in enumerate(slots):
            if slot is None:
                continue
            if slot.state is not ready:
                slots[place] = None
                continue
            if not slot.holds:
                if held_bytes + slot.capacity > most:
                    slots[place] = None
                    continue
                held_bytes += slot.capacity
                if not slot.uses:
                    slot.cut.busy += 1
            slot.holds += 1
            if slot.cut is not cut:
                cut = slot.cut
                cut.used_at = clock
                tenant = self._tenants[cut.arena.tenant]
                tenant.cuts.move_to_end(cut)
                used = tenant.pools[cut.slot_pages].policy.used
            slot.used_at = clock
            used(slot)
        self.held_bytes = held_bytes
        return slots

    def let_go_all(self, slots: Sequence[Slot]) -> None:
        """`let_go` for many."""
        for slot in slots:
            # `let_go`, where it says nothing more than that one holds it less
            if slot.holds > 1:
                slot.holds -= 1
            else:
                self.let_go(slot)

    def let_go(self, slot: Slot) -> None:
        """Undo one `hold`."""
        if not slot.holds:
            raise RuntimeError("a slot is let go that nobody holds")
        slot.holds -= 1
        if not slot.holds:
            self.held_bytes -= slot.capacity
            if not slot.uses:
                self._rest(slot)

    def _rest(self, slot: Slot) -> None:
        slot.cut.busy -= 1
        if slot.state is State.LEAVING:
            self._free(slot)

    def _pool(self, slot: Slot) -> Pool:
        return self._tenants[slot.cut.arena.tenant].pools[slot.cut.slot_pages]

    def _draw(self) -> int:
        self._generation += 1
        return self._generation

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        cut = slot.cut
        slot.used_at = cut.used_at = self._clock
        self._tenants[cut.arena.tenant].cuts.move_to_end(cut)

    def _leave(self, slot: Slot) -> None:
        """The slot holds its chunk no more: nobody finds it, and who reads it in place will know."""
        if slot.state is State.FREE or slot.state is State.LEAVING:
            return
        if slot.state is State.READY:
            self._ready -= 1
        slot.generation = self._draw()
        slot.cut.arena.publish(slot.page, slot.generation)
        if slot.owner is not None:
            slot.owner.remove(slot.key)
            slot.owner = None
        slot.state = State.LEAVING
        if not slot.busy:
            self._free(slot)

    def _free(self, slot: Slot) -> None:
        cut = slot.cut
        slot.state = State.FREE
        slot.key = b""
        slot.checksums = ()
        slot.length = 0
        self._used_bytes -= slot.capacity
        cut.give(slot)
        if not cut.draining:
            self._pool(slot).roomy[cut] = None

    # -- room

    def _room(self, tenant: bytes, state: Tenant, pool: Pool) -> Cut | None:
        """An arena of the pool with a free slot, by whatever it takes; None: there is none now."""
        if pool.roomy:
            return next(reversed(pool.roomy))
        if state.spare is None:
            self._make(tenant)
        if state.spare is None and not self.memory.making:
            self._take_for(tenant)
        cut = state.spare
        if cut is not None and data_pages(cut.arena) >= pool.pages:
            state.spare = None
            self._assign(state, pool, cut)
            self._make(tenant)
            return cut
        if cut is None and self.memory.making:
            return None
        victim = pool.policy.victim()
        cut = self._recut(state, pool, victim)
        if cut is not None:
            return cut
        if victim is not None:
            pool.policy.evicted(victim)
            self._evictions += 1
            self._leave(victim)
            if self._claim is not None and victim.cut is self._claim.cut:
                return None  # another tenant gets it
            if victim.cut.draining:
                self._keep(state, victim.cut)
            return victim.cut
        if self.held_bytes:
            self.pressed = True
        return None

    def _assign(self, state: Tenant, pool: Pool, cut: Cut) -> None:
        cut.recut(pool.pages)
        cut.used_at = self._clock
        state.cuts[cut] = None
        state.cuts.move_to_end(cut)
        pool.roomy[cut] = None

    def _recut(self, state: Tenant, pool: Pool, victim: Slot | None) -> Cut | None:
        """An arena of another size, if it was used longer ago than what this size would give up.

        Emptied over several calls, since it may have thousands of chunks; then cut anew.
        """
        cut = pool.draining
        if cut is not None and cut.draining and cut.busy:
            self._keep(state, cut)
        if cut is None or not cut.draining:
            pool.draining = None
            cut = self._oldest(state, pool, victim)
            if cut is None:
                return None
            pool.draining = cut
            cut.draining = True
            state.pools[cut.slot_pages].roomy.pop(cut, None)
        if not self._drain(state, cut):
            return None
        pool.draining = None
        self._assign(state, pool, cut)
        return cut

    def _drain(self, state: Tenant, cut: Cut) -> bool:
        """Evict some of the chunks of an arena that is to be emptied. Whether it is empty."""
        former = state.pools[cut.slot_pages]
        steps = DRAIN_SLOTS
        while cut.made and steps:
            slot = cut.made[-1]
            if slot.state is State.READY:
                steps -= 1
                former.policy.evicted(slot)
                self._evictions += 1
                self._leave(slot)
            # Its page's word has its last generation: it is drawn anew if the place is used again.
            cut.made.pop()
        return not cut.made

    def _keep(self, state: Tenant, cut: Cut) -> None:
        """Somebody came to use the arena while it was emptied: it stays as it is."""
        cut.draining = False
        cut.free = [slot for slot in cut.made if slot.state is State.FREE]
        if cut.has_room:
            state.pools[cut.slot_pages].roomy[cut] = None

    def _oldest(self, state: Tenant, pool: Pool, victim: Slot | None) -> Cut | None:
        for looked, cut in enumerate(state.cuts):
            if looked >= ARENAS_LOOKED_AT or (victim is not None and cut.used_at >= victim.used_at):
                return None
            other = cut.slot_pages != pool.pages and not cut.busy and not cut.draining
            if other and data_pages(cut.arena) >= pool.pages:
                return cut
        return None

    # -- room for one tenant that another has too much of

    def _take_for(self, tenant: bytes) -> None:
        """Take an arena from who has more than his share, emptied over several calls."""
        claim = self._claim
        if claim is None:
            if tenant in self._looked:
                return
            claim = self._claim = self._new_claim(tenant)
            if claim is None:
                self._looked.add(tenant)
                return
        cut, state = claim.cut, claim.giver
        if claim.over:
            return
        if cut.busy or not cut.draining:
            # Somebody came to use it: it stays, and another is looked for.
            self._claim = None
            self._keep(state, cut)
            return
        if cut.slot_pages and not self._drain(state, cut):
            return
        claim.over = True
        state.cuts.pop(cut, None)
        if state.spare is cut:
            state.spare = None
        self._claimed += 1
        self.memory.remove(cut.arena, self._taken)

    def _taken(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            self._make(claim.tenant)

    def _new_claim(self, tenant: bytes) -> Claim | None:
        giver = self.memory.giver(tenant)
        state = None if giver is None else self._tenants.get(giver)
        if state is None:
            return None
        spare = () if state.spare is None else (state.spare,)
        for looked, cut in enumerate((*spare, *state.cuts)):
            if looked >= ARENAS_LOOKED_AT:
                break
            if cut.busy or cut.draining:
                continue
            if self.memory.borrowers(cut.arena.number):
                self.lent_wanted = self.lent_wanted or cut.arena.number
                continue
            cut.draining = True
            if cut.slot_pages:
                state.pools[cut.slot_pages].roomy.pop(cut, None)
            self.lent_wanted = 0
            return Claim(tenant, state, cut)
        return None

    # -- what is told

    def report(self) -> dict[str, int]:
        """The tier in numbers: bytes, slots, and counts since the start."""
        return {
            "hot_bytes_max": self.bytes_max,
            "hot_bytes": self.memory.bytes,
            "hot_bytes_used": self._used_bytes,
            "hot_bytes_held": self.held_bytes,
            "hot_chunks": self._ready,
            "hot_arenas": len(self.memory),
            "hot_arenas_failed": self.memory.failed,
            "hot_arenas_taken": self._claimed,
            "hot_fills": self._fills,
            "hot_evictions": self._evictions,
            "hot_no_room": self._no_room,
            "hot_too_large": self._too_large,
        }


def _nobody(slot: Slot) -> None:
    """No policy orders the slot yet."""


def _here(work: Callable[[], None], done: Callable[[], None]) -> None:
    work()
    done()
