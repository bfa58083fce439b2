"""The hot tier against a model: bytes bounded, one owner for each slot, generations that never lie."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mezzo_server.hot.arena import AnonymousArena
from mezzo_server.hot.slots import PAGE_BYTES, ArenaMemory, Slot, SlotMap, State, arena_bytes_for
from mezzo_server.hot.tier import HotTier

TENANTS = (b"a" * 16, b"b" * 16)
ARENA_BYTES = 32 * PAGE_BYTES


WHICH = st.integers(0, 1000)
"""Which of those that there are: a number is drawn in no time, a slot (with its arena) is not"""


def tier(arenas: int = 4, held_fraction: float = 0.5, **more: object) -> HotTier:
    return HotTier(
        bytes_max=arenas * arena_bytes_for(ARENA_BYTES),
        arena_bytes=ARENA_BYTES,
        held_fraction=held_fraction,
        **{"new_arena": AnonymousArena, **more},  # type: ignore[arg-type]
    )


def fill(hot: HotTier, slots: SlotMap, key: bytes, pages: int = 4, tenant: bytes = TENANTS[0]) -> Slot | None:
    slot = hot.reserve(slots, tenant, key, pages * PAGE_BYTES)
    if slot is not None:
        assert hot.ready(slot, 1)
    return slot


class Model(RuleBasedStateMachine):
    """Whoever holds a slot wrote down its generation and its bytes: both are checked after use."""

    def __init__(self) -> None:
        super().__init__()
        self.hot = tier()
        self.maps = {tenant: SlotMap() for tenant in TENANTS}
        self.filling: list[Slot] = []
        self.held: list[tuple[Slot, int, bytes]] = []
        self.words: dict[tuple[int, int], int] = {}
        self.seen: set[int] = set()
        self.stamp = 0

    def word(self, slot: Slot) -> int:
        return self.hot.arena(slot.arena).generation(slot.page)

    @rule(tenant=st.sampled_from(TENANTS), number=st.integers(0, 30), pages=st.sampled_from((1, 2, 4, 9, 32)))
    def reserve(self, tenant: bytes, number: int, pages: int) -> None:
        key = b"%d" % number
        if self.maps[tenant].get(key) is not None:
            with pytest.raises(RuntimeError):
                self.hot.reserve(self.maps[tenant], tenant, key, pages * PAGE_BYTES)
            return
        slot = self.hot.reserve(self.maps[tenant], tenant, key, pages * PAGE_BYTES - 5)
        if slot is None:
            return
        assert slot.state is State.FILLING
        assert self.maps[tenant].get(key) is slot
        assert self.hot.arena(slot.arena).tenant == tenant
        # only now bytes change: whoever used the place before sees another generation
        self.stamp += 1
        view = slot.span(0, slot.capacity).view
        view[:] = self.stamp.to_bytes(8, "little") * (slot.capacity // 8)
        self.filling.append(slot)

    @precondition(lambda self: self.filling)
    @rule(which=WHICH, right=st.booleans())
    def fill_ends(self, which: int, right: bool) -> None:
        slot = self.filling.pop(which % len(self.filling))
        told: list[bool] = []
        slot.waiters.append(told.append)
        dropped = slot.state is State.LEAVING
        if right:
            assert self.hot.ready(slot, self.stamp) == (not dropped)
        else:
            self.hot.fail(slot)
        assert told == [right and not dropped]

    def ready(self) -> list[Slot]:
        return [slot for slots in self.maps.values() for slot in slots if slot.state is State.READY]

    @precondition(lambda self: self.ready())
    @rule(which=WHICH)
    def hold(self, which: int) -> None:
        ready = self.ready()
        slot = ready[which % len(ready)]
        before = self.hot.held_bytes
        if self.hot.hold(slot):
            self.hot.used(slot)
            self.held.append((slot, slot.generation, bytes(slot.span(0, slot.capacity).view)))
        else:
            assert not slot.holds
            assert before + slot.capacity > self.hot.held_bytes_max

    @precondition(lambda self: self.held)
    @rule(which=WHICH)
    def let_go(self, which: int) -> None:
        slot, generation, before = self.held.pop(which % len(self.held))
        assert bytes(slot.span(0, slot.capacity).view) == before, "a held slot was given to somebody else"
        if slot.state is State.READY and slot.generation == generation:
            assert self.word(slot) == generation
        self.hot.let_go(slot)

    @precondition(lambda self: any(len(list(slots)) for slots in self.maps.values()))
    @rule(which=WHICH)
    def drop(self, which: int) -> None:
        every = [slot for slots in self.maps.values() for slot in slots]
        slot = every[which % len(every)]
        owner, key, before = slot.owner, slot.key, self.word(slot)
        assert owner is not None
        self.hot.drop(slot)
        assert owner.get(key) is None
        assert self.word(slot) > before, "raised at once, though somebody may use it"

    @rule(which=WHICH)
    def use(self, which: int) -> None:
        ready = self.ready()
        if ready:
            self.hot.used(ready[which % len(ready)])

    @invariant()
    def bytes_are_bounded(self) -> None:
        report = self.hot.report()
        assert report["hot_bytes"] == sum(arena.bytes for arena in self.hot.arenas()) <= self.hot.bytes_max
        assert report["hot_bytes_held"] == sum(
            slot.capacity for slot in {id(held[0]): held[0] for held in self.held}.values()
        )
        assert report["hot_bytes_held"] <= self.hot.held_bytes_max

    @invariant()
    def places_have_one_owner(self) -> None:
        taken: set[tuple[int, int]] = set()
        live = {id(slot): slot for slots in self.maps.values() for slot in slots}
        live.update({id(slot): slot for slot, _, _ in self.held})
        live.update({id(slot): slot for slot in self.filling})
        for slot in live.values():
            for page in range(slot.page, slot.page + slot.capacity // PAGE_BYTES):
                assert (slot.arena, page) not in taken
                taken.add((slot.arena, page))
        assert sum(slot.capacity for slot in live.values()) == self.hot.report()["hot_bytes_used"]

    @invariant()
    def generations_only_rise(self) -> None:
        for arena in self.hot.arenas():
            for page in range(32):
                word = arena.generation(page)
                before = self.words.get((arena.number, page), 0)
                assert word >= before
                if word > before:
                    assert word not in self.seen, "a generation is used twice"
                    self.seen.add(word)
                    self.words[arena.number, page] = word


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestModel = Model.TestCase


def test_full_of_holds_refuses_and_says_so() -> None:
    hot, slots = tier(2, held_fraction=1.0), SlotMap()
    held = []
    for number in range(16):
        slot = fill(hot, slots, b"%d" % number)
        assert slot is not None
        assert hot.hold(slot)
        held.append(slot)
    assert not hot.pressed
    assert fill(hot, slots, b"more") is None
    assert hot.pressed
    hot.pressed = False
    hot.let_go(held[5])
    slot = fill(hot, slots, b"more")
    assert slot is not None
    assert slot.page == held[5].page
    assert not hot.pressed
    assert hot.report()["hot_no_room"] == 1


def test_no_room_because_all_are_filling_is_no_pressure() -> None:
    hot, slots = tier(1), SlotMap()
    assert all(hot.reserve(slots, TENANTS[0], b"%d" % n, 8 * PAGE_BYTES) for n in range(4))
    assert hot.reserve(slots, TENANTS[0], b"more", 8 * PAGE_BYTES) is None
    assert not hot.pressed


def test_clients_hold_no_more_than_their_share() -> None:
    hot, slots = tier(2), SlotMap()
    ready = [fill(hot, slots, b"%d" % number) for number in range(16)]
    taken = [slot for slot in ready if slot is not None and hot.hold(slot)]
    assert len(taken) == 8
    assert hot.hold(taken[0]), "what is held already costs nothing more"
    assert fill(hot, slots, b"more") is not None, "half of it goes on serving"


def test_a_held_slot_that_lost_its_chunk_is_not_given_away() -> None:
    hot, slots = tier(1), SlotMap()
    slot = fill(hot, slots, b"k", 32)
    assert slot is not None
    assert not hot.hold(slot), "more than clients may hold"
    hot = tier(1, held_fraction=1.0)
    slot = fill(hot, slots := SlotMap(), b"k", 32)
    assert slot is not None
    assert hot.hold(slot)
    before = slot.generation
    hot.drop(slot)
    assert hot.arena(slot.arena).generation(slot.page) > before
    assert slots.get(b"k") is None
    assert fill(hot, slots, b"k", 32) is None
    hot.let_go(slot)
    assert fill(hot, slots, b"k", 32) is not None
    with pytest.raises(RuntimeError, match="nobody holds"):
        hot.let_go(slot)


def test_a_size_that_is_used_no_more_gives_its_memory_up() -> None:
    hot, slots = tier(4), SlotMap()
    for number in range(128):
        assert fill(hot, slots, b"small-%d" % number, 1) is not None
    assert hot.report()["hot_chunks"] == 128
    for number in range(100):
        fill(hot, slots, b"large-%d" % number, 16)
    large = sum(slot.capacity == 16 * PAGE_BYTES for slot in slots)
    assert large == 8, "all four arenas"
    # and back again, though some of the large ones are in use meanwhile
    held = next(slot for slot in slots if slot.capacity == 16 * PAGE_BYTES)
    assert hot.hold(held)
    data = bytes(held.span(0, held.capacity).view)
    for number in range(500):
        fill(hot, slots, b"again-%d" % number, 1)
    assert sum(slot.capacity == PAGE_BYTES for slot in slots) == 96
    assert held.state is State.READY
    assert bytes(held.span(0, held.capacity).view) == data


def test_a_size_that_is_in_use_keeps_its_memory() -> None:
    hot, slots = tier(4), SlotMap()
    for number in range(128):
        fill(hot, slots, b"small-%d" % number, 1)
    for number in range(40):
        fill(hot, slots, b"large-%d" % number, 16)
        for slot in list(slots):
            if slot.capacity == PAGE_BYTES:
                hot.used(slot)
    small = sum(slot.capacity == PAGE_BYTES for slot in slots)
    assert small >= 32, "what is used all the time is not displaced by what is put once"


def test_thousands_of_small_slots_are_given_up_step_by_step() -> None:
    big = 1024 * PAGE_BYTES
    hot = HotTier(bytes_max=arena_bytes_for(big), arena_bytes=big, new_arena=AnonymousArena)
    slots = SlotMap()
    for number in range(1024):
        assert fill(hot, slots, b"%d" % number, 1) is not None
    calls = 0
    while fill(hot, slots, b"whole", 1024) is None:
        calls += 1
        assert calls < 100
    assert calls == 1024 // 64 - 1
    assert slots.count == 1


def test_what_is_left_of_the_memory_is_a_smaller_arena() -> None:
    hot = HotTier(
        bytes_max=arena_bytes_for(ARENA_BYTES) + 20 * PAGE_BYTES,
        arena_bytes=ARENA_BYTES,
        new_arena=AnonymousArena,
    )
    slots = SlotMap()
    assert all(fill(hot, slots, b"%d" % number, 1) for number in range(51))
    assert hot.report()["hot_evictions"] == 0
    assert hot.report()["hot_bytes"] == hot.bytes_max
    assert fill(hot, slots, b"more", 1) is not None
    assert hot.report()["hot_evictions"] == 1


def test_too_large_for_an_arena() -> None:
    hot, slots = tier(), SlotMap()
    assert hot.reserve(slots, TENANTS[0], b"k", ARENA_BYTES + 1) is None
    assert hot.reserve(slots, TENANTS[0], b"k", ARENA_BYTES) is not None
    assert hot.report()["hot_too_large"] == 1


def test_while_an_arena_is_made_there_is_no_room_and_one_is_made_at_a_time() -> None:
    work: list[tuple[Callable[[], None], Callable[[], None]]] = []
    made: list[ArenaMemory] = []
    hot = tier(3, offload=lambda do, done: work.append((do, done)))
    hot.memory.made = made.append
    slots = SlotMap()
    assert [fill(hot, slots, b"k", 4) for _ in range(3)] == [None] * 3
    assert len(work) == 1
    for number in range(200):
        fill(hot, slots, b"%d" % number, 4, random.Random(number).choice(TENANTS))
        if len(work) > 0 and number % 10 == 0:
            do, done = work.pop()
            do()
            done()
        assert len(work) <= 1
    assert len(made) == 3
    assert hot.report()["hot_arenas"] == 3


def test_a_machine_without_memory_leaves_the_tier_as_it_is() -> None:
    left = [2]

    def scarce(number: int, tenant: bytes, nbytes: int) -> AnonymousArena:
        if not left[0]:
            raise OSError(12, "Cannot allocate memory")
        left[0] -= 1
        return AnonymousArena(number, tenant, nbytes)

    hot, slots = tier(4, new_arena=scarce), SlotMap()
    for number in range(100):
        assert fill(hot, slots, b"%d" % number, 4) is not None
    report = hot.report()
    assert (report["hot_arenas"], report["hot_arenas_failed"]) == (2, 1)
    assert report["hot_bytes"] == 2 * arena_bytes_for(ARENA_BYTES)


def test_arenas_are_closed_once_also_one_that_comes_late() -> None:
    work: list[tuple[Callable[[], None], Callable[[], None]]] = []
    hot = tier(2, offload=lambda do, done: work.append((do, done)))
    hot.prepare(TENANTS[0])
    hot.close()
    do, done = work.pop()
    do()
    done()
    assert hot.report()["hot_arenas"] == 0
    assert hot.reserve(SlotMap(), TENANTS[0], b"k", 1) is None
