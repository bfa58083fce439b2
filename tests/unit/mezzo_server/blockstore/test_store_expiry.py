"""Chunks with a deadline: not served from it on, gone soon after, never back; masses of them in slices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mezzo_server.blockstore.api import PutStatus
from mezzo_server.blockstore.clock import AHEAD_MS
from mezzo_server.blockstore.expiry import STEP_CHUNKS
from mezzo_server.blockstore.wheel import TICK_MS
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.unit.mezzo_server.blockstore.test_clock import MINUTES_10, Machine

HOT = {"bytes_max": 1 << 20}
BOUND_S = 1.0
"""From a deadline on, within which a chunk's space and its hot slot are free."""


def there(rig: Rig, key: bytes) -> bool:
    """What every face of the store says, which must be the same."""
    stream = rig.stream(key)
    data = rig.get(key)
    assert (stream is None) == (data is None) == (not rig.has(key))
    assert rig.store.prefix(SCOPE, [key]) == ((0, 0) if data is None else (1, len(data)))
    slot = rig.store.hold(SCOPE, key)
    if slot is not None:
        rig.store.let_go(slot)
        assert data is not None
    pinned = rig.store.pin(SCOPE, key)
    assert bool(pinned) == (data is not None)
    if pinned:
        rig.store.unpin(SCOPE, key)
    return data is not None


@pytest.mark.parametrize("hot", [None, HOT])
def test_served_until_the_deadline_and_not_from_then_on(hot: dict[str, object] | None) -> None:
    """Exactly, although nothing ticks: the index still has it."""
    rig = Rig(hot=hot)
    assert rig.put(b"short", 5000, ttl_s=10) is PutStatus.STORED
    assert rig.put(b"long", 5000, ttl_s=20) is PutStatus.STORED
    assert rig.put(b"ever", 5000) is PutStatus.STORED
    rig.time += 9.999
    assert there(rig, b"short")
    assert rig.store.prefix(SCOPE, [b"short", b"long", b"ever"]) == (3, 15_000)
    rig.time += 0.002
    assert not there(rig, b"short")
    assert rig.store.prefix(SCOPE, [b"long", b"short", b"ever"]) == (1, 5000)
    assert there(rig, b"long")
    assert rig.store.report().chunks == 3
    rig.time += BOUND_S
    rig.drain()
    assert rig.store.report().chunks == 2
    rig.time += 10
    rig.drain()
    assert there(rig, b"ever")
    assert rig.counters["chunks_expired"] == 2
    assert rig.counters["bytes_expired"] == 10_000


def test_a_prefix_of_one_segment_ends_where_one_is_over() -> None:
    rig = Rig()
    keys = [b"k-%d" % n for n in range(8)]
    chunks = [chunk(key, content(key, 5000)) for key in keys]
    for number, one in enumerate(chunks):
        one.expiry_ms = rig.store.now_ms + (1000 if number == 5 else 60_000)
    rig.put_chunks(chunks)
    assert rig.store.prefix(SCOPE, keys) == (8, 40_000)
    rig.time += 1.0
    assert rig.store.prefix(SCOPE, keys) == (5, 25_000)


def test_what_is_over_can_be_put_again_and_is_not_there_to_be_deleted() -> None:
    rig = Rig()
    rig.put(b"k", b"first" * 100, ttl_s=1)
    rig.put(b"gone", 5000, ttl_s=1)
    assert rig.put(b"k", b"other" * 100) is PutStatus.EXISTS
    rig.time += 1
    assert rig.delete(b"gone") == ([False], None)
    assert rig.put(b"k", b"second" * 100, ttl_s=5) is PutStatus.STORED
    assert rig.get(b"k") == b"second" * 100
    rig.restart("kill")
    assert rig.get(b"k") == b"second" * 100
    rig.time += 5
    assert rig.get(b"k") is None
    rig.restart("kill")
    assert rig.get(b"k") is None
    rig.drain()


def test_exists_does_not_prolong() -> None:
    rig = Rig()
    rig.put(b"k", 5000, ttl_s=5)
    assert rig.put(b"k", 5000, ttl_s=500) is PutStatus.EXISTS
    rig.time += 5
    assert not there(rig, b"k")


def test_a_lease_does_not_prolong_either() -> None:
    """Who uses the chunk in place finds another generation: `Gone`."""
    rig = Rig(hot=HOT)
    rig.put(b"k", 5000, ttl_s=5)
    assert rig.store.pin(SCOPE, b"k")
    slot = rig.store.hold(SCOPE, b"k")
    assert slot is not None
    generation = slot.generation
    rig.time += 5 + BOUND_S
    for _ in range(3):
        rig.store.tick()
        rig.store.pump()
    assert rig.get(b"k") is None
    assert slot.generation > generation
    rig.store.let_go(slot)
    rig.store.unpin(SCOPE, b"k")
    rig.drain()


@pytest.mark.parametrize("how", ["kill", "close"])
def test_a_restart_keeps_deadlines_and_brings_nothing_back(how: str) -> None:
    rig = Rig()
    rig.put(b"short", 5000, ttl_s=10)
    rig.put(b"long", 5000, ttl_s=30)
    rig.put(b"ever", 5000)
    rig.time += 5
    rig.restart(how)
    assert there(rig, b"short")
    info = rig.store.info(SCOPE, b"long")
    assert info is not None
    assert info.expiry_ms - rig.store.now_ms == 25_000
    rig.time += 5
    assert not there(rig, b"short")
    rig.restart(how)
    assert rig.store.recovered.chunks == 2
    assert rig.store.recovered.chunks_expired == 1
    assert not there(rig, b"short")
    rig.time += 20
    assert not there(rig, b"long")
    rig.time += BOUND_S
    rig.drain()
    assert rig.store.report().chunks == 1
    assert there(rig, b"ever")


def test_a_whole_segment_that_is_over_is_not_entered() -> None:
    rig = Rig()
    rig.fill("k", 12, 60_000, ttl_s=3)
    rig.put(b"ever", 5000)
    rig.restart("close")
    rig.time += 3
    rig.restart("kill")
    assert rig.store.recovered.chunks == 1
    assert rig.store.recovered.chunks_expired == 12
    rig.drain()


def test_rewriting_keeps_deadline_and_priority() -> None:
    rig = Rig(segments=8)
    one = chunk(b"k", content(b"k", 20_000))
    one.expiry_ms, one.priority = rig.store.now_ms + 100_000, 6
    rig.put_chunks([one])
    before = rig.store.info(SCOPE, b"k")
    rig.store.pin(SCOPE, b"k")
    number = 0
    while not rig.counters["chunks_rewritten"]:
        rig.put(b"more-%d" % number, 60_000)
        number += 1
    rig.drain()
    assert before is not None
    assert rig.store.info(SCOPE, b"k") == replace(before, leased=True)
    assert (before.priority, before.expiry_ms) == (6, one.expiry_ms)
    rig.restart("kill")
    assert rig.store.info(SCOPE, b"k") == before
    rig.time += 100
    assert not there(rig, b"k")


def test_reclaim_does_not_rewrite_what_is_over() -> None:
    rig = Rig(segments=8)
    keys = rig.fill("k", 3, 60_000, ttl_s=1)
    for key in keys:
        assert rig.get(key) is not None  # so that the policy would like to keep it
    rig.time += 1
    reclaimed, number = rig.counters["segments_reclaimed"], 0
    while rig.counters["segments_reclaimed"] < reclaimed + 2:
        rig.put(b"more-%d" % number, 60_000)  # without a tick: only reclaim looks at them
        number += 1
    assert rig.counters["chunks_expired"] == 3
    assert rig.counters["chunks_rewritten"] == 0
    rig.drain()


def test_a_mass_expiry_is_sliced() -> None:
    rig = Rig(segments=80)
    count = 8 * STEP_CHUNKS
    for start in range(0, count, 128):
        chunks = [chunk(b"%d" % n, b"x") for n in range(start, start + 128)]
        for one in chunks:
            one.expiry_ms = rig.store.now_ms + 5000
        assert set(rig.put_chunks(chunks).statuses) == {PutStatus.STORED}
    rig.time += 5 + TICK_MS / 1000
    left = rig.store.report().chunks
    assert left == count
    rig.store.tick()
    while left:
        now = rig.store.report().chunks
        assert left - now <= STEP_CHUNKS
        left = now
        assert rig.get(b"%d" % (count - 1)) is None
        rig.store.pump()
    rig.drain()
    assert rig.counters["chunks_expired"] == count


def test_the_wheel_forgets_what_is_gone() -> None:
    """However many chunks with a long life come and go: a place costs 8 bytes, and half of them are live."""
    rig = Rig(segments=12)
    expiry = audit.context_of(rig.store).expiry
    for number in range(300):
        rig.put(b"%d" % number, 20_000, ttl_s=86_400)
    live = rig.store.report().chunks
    assert expiry.places == 300
    gone_min = 16

    import mezzo_server.blockstore.expiry as module

    before, module.GONE_MIN = module.GONE_MIN, gone_min
    try:
        rig.drain()
        assert expiry.places <= 2 * live + gone_min
        assert expiry.places >= live
    finally:
        module.GONE_MIN = before


# -- the machine's clocks -------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [MINUTES_10, -MINUTES_10])
@pytest.mark.parametrize("how", ["running", "kill", "close"])
def test_a_jump_of_the_wall_clock(jump: int, how: str) -> None:
    """R8: a life of 60 s ends after 60 s, while the store runs and across its restarts."""
    host = Machine()
    rig = Rig(clock=host.clock())
    rig.put(b"k", 5000, ttl_s=60)
    host.true_ms += 30_000
    host.wall_off_ms += jump
    if how != "running":
        rig.restart(how)
    host.true_ms += 29_999
    assert there(rig, b"k")
    host.true_ms += 1
    assert not there(rig, b"k")
    rig.drain()


def test_a_stopped_process_serves_nothing_that_ended_meanwhile() -> None:
    host = Machine()
    rig = Rig(clock=host.clock())
    rig.put(b"k", 5000, ttl_s=60)
    rig.put(b"long", 5000, ttl_s=86_400)
    host.true_ms += MINUTES_10
    assert not there(rig, b"k")
    assert there(rig, b"long")
    rig.drain()


def test_a_reboot_counts_what_the_wall_clock_says_and_never_goes_back() -> None:
    host = Machine()
    rig = Rig(clock=host.clock())
    rig.put(b"k", 5000, ttl_s=60)
    rig.put(b"long", 5000, ttl_s=3600)
    host.true_ms += 59_000
    rig.drain()
    assert there(rig, b"k")
    host.reboot(takes_ms=20_000)
    rig.clock = host.clock()
    rig.restart("kill")
    assert not there(rig, b"k")
    assert there(rig, b"long")
    rig.put(b"k", 5000, ttl_s=10)
    host.true_ms += 10_000
    assert not there(rig, b"k")
    rig.drain()
    for _ in range(3):
        host.reboot()
        host.wall_off_ms -= MINUTES_10
        rig.clock = host.clock()
        rig.restart("kill")
        assert not there(rig, b"k"), "the wall clock was set back, and what had expired is there again"
        assert there(rig, b"long")
        info = rig.store.info(SCOPE, b"long")
        assert info is not None
        assert info.expiry_ms - rig.store.now_ms > 3600_000 - 89_000 - 3 * 2 * AHEAD_MS


def test_anchors_are_written_only_as_long_as_something_depends_on_them() -> None:
    host = Machine()
    rig = Rig(clock=host.clock(), devices=2)
    flushes = rig.counters["flushes"]

    def passes(ms: int) -> None:
        host.true_ms += ms
        rig.drain()

    passes(AHEAD_MS)
    assert rig.counters["flushes"] == flushes
    rig.put(b"k", 5000, ttl_s=100)
    passes(10)
    assert rig.counters["flushes"] == flushes + 4
    assert rig.store.report().counters["anchor_age_s"] == 0
    passes(1000)
    assert rig.counters["flushes"] == flushes + 4
    passes(AHEAD_MS // 2)
    assert rig.counters["flushes"] == flushes + 8
    passes(100_000)
    flushes = rig.counters["flushes"]
    passes(AHEAD_MS)
    passes(AHEAD_MS)
    assert rig.counters["flushes"] == flushes
    for log in audit.context_of(rig.store).logs:
        assert log.superblock.anchor is not None
