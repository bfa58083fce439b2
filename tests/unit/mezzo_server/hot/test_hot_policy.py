"""S3-FIFO: what is read once goes first, what is used stays, what comes back soon stays longer."""

from __future__ import annotations

import random

import pytest

from mezzo_server.hot.arena import AnonymousArena
from mezzo_server.hot.policy import STEPS_MAX, Ghost, S3Fifo
from mezzo_server.hot.slots import PAGE_BYTES, Cut, Slot, State, arena_bytes_for


class Places:
    """Slots of one page, and a policy that orders those that are ready."""

    def __init__(self, count: int) -> None:
        self.cut = Cut(AnonymousArena(1, b"t" * 16, arena_bytes_for(count * PAGE_BYTES)))
        self.cut.recut(1)
        self.policy = S3Fifo(count)
        self.by_key: dict[bytes, Slot] = {}

    def add(self, key: bytes) -> Slot:
        if not self.cut.has_room:
            self.evict()
        slot = self.cut.take(lambda: 1)
        slot.key, slot.state = key, State.READY
        self.by_key[key] = slot
        self.policy.added(slot)
        return slot

    def evict(self) -> bytes | None:
        slot = self.policy.victim()
        if slot is None:
            return None
        assert not slot.busy
        self.policy.evicted(slot)
        slot.state = State.FREE
        self.cut.give(slot)
        del self.by_key[slot.key]
        return slot.key

    def read(self, key: bytes) -> bool:
        slot = self.by_key.get(key)
        if slot is None:
            self.add(key)
            return False
        self.policy.used(slot)
        return True


def test_first_in_first_out_without_reads() -> None:
    places = Places(20)
    for number in range(20):
        places.add(b"%d" % number)
    assert [places.evict() for _ in range(20)] == [b"%d" % number for number in range(20)]
    assert places.evict() is None
    assert places.policy.bytes == 0


def test_used_twice_survives_a_scan() -> None:
    places = Places(100)
    for number in range(50):
        places.add(b"warm-%d" % number)
    for _ in range(2):
        for number in range(50):
            assert places.read(b"warm-%d" % number)
    for number in range(2000):
        places.read(b"scan-%d" % number)
    assert sum(b"warm-%d" % number in places.by_key for number in range(50)) == 50


def test_what_comes_back_soon_goes_to_the_main_queue() -> None:
    places = Places(20)
    for number in range(21):
        places.add(b"%d" % number)
    assert b"0" not in places.by_key
    places.add(b"0")
    for number in range(100, 117):
        places.add(b"%d" % number)
    assert b"0" in places.by_key


def test_busy_slots_are_skipped_and_steps_bounded() -> None:
    places = Places(200)
    slots = [places.add(b"%d" % number) for number in range(200)]
    for slot in slots[:-1]:
        slot.holds = 1
    tries = 0
    while places.policy.victim() is None:
        tries += 1
    assert 1 <= tries <= 200 // STEPS_MAX + 1, "each call goes on where the last one ended"
    assert places.policy.victim() is slots[-1]
    slots[-1].uses = 1
    assert [places.policy.victim() for _ in range(10)] == [None] * 10


def test_a_victim_is_found_at_once_though_all_were_used() -> None:
    places = Places(1000)
    for number in range(1000):
        slot = places.add(b"%d" % number)
        for _ in range(5):
            places.policy.used(slot)
    assert places.policy.victim() is not None


def test_better_than_first_in_first_out_where_some_are_read_more() -> None:
    rng = random.Random(1)
    keys = [b"%d" % min(999, int(rng.paretovariate(0.6))) for _ in range(20_000)]
    places, fifo, order, hits = Places(50), set[bytes](), list[bytes](), 0
    ours = 0
    for key in keys:
        ours += places.read(key)
        if key in fifo:
            hits += 1
            continue
        if len(order) == 50:
            fifo.discard(order.pop(0))
        order.append(key)
        fifo.add(key)
    assert len(keys) - ours < 0.7 * (len(keys) - hits), "misses"


@pytest.mark.parametrize("size", [1, 64, 1000, 1 << 30])
def test_the_ghost_is_bounded_and_forgets(size: int) -> None:
    ghost = Ghost(size)
    assert b"" not in ghost
    ghost.add(b"old")
    assert b"old" in ghost
    for number in range(70_000):
        ghost.add(b"%d" % number)
    assert b"old" not in ghost
    assert b"69999" in ghost
    assert ghost.take(b"69999")
    assert not ghost.take(b"69999")
