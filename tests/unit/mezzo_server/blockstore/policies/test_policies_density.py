"""Mezzo's own policy: what it learns, whom it keeps, and what it does not forget to bound."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mezzo.protocol.messages import PRIORITY_MAX
from mezzo_server.blockstore.api import PutChunk, PutStatus
from mezzo_server.blockstore.format.record import Entry
from mezzo_server.blockstore.policies.density import CLASSES, LAST, UNKNOWN, USED, Density
from mezzo_server.blockstore.policies.hazards import (
    AGES,
    EDGES,
    SPAN,
    STEPS,
    TIME_BITS,
    UNITS,
    Hazards,
    age_of,
    step_of,
)
from mezzo_server.blockstore.policies.rewrites import RewriteBudget
from mezzo_server.blockstore.segment import Purpose, Segment
from tests.simulation import audit
from tests.simulation.rig import Rig, chunk, content
from tests.simulation.world import options
from tests.unit.mezzo_server.blockstore.policies.ring import SCOPE, Log


def test_ages() -> None:
    assert EDGES[0] == 0
    assert sorted(set(EDGES)) == EDGES
    assert all(not edge % SPAN for edge in EDGES)
    for age in range(AGES):
        assert age_of(EDGES[age]) == age
        assert age_of(EDGES[age + 1] - 1) == age
    assert age_of(EDGES[-1]) == age_of(1 << 40) == AGES - 1


def test_steps_follow_one_another_and_are_finer_than_ages() -> None:
    steps = [step_of(units) for units in range(0, EDGES[-1] + SPAN, SPAN)]
    assert steps[0] == 0
    assert steps[-1] == STEPS - 1
    assert all(after - before in (0, 1) for before, after in pairwise(steps))
    assert all(step_of(edge) > step_of(edge - 1) for edge in EDGES[1:-1])


def test_learns_what_is_wanted_again_and_when() -> None:
    """Class 0 is wanted after half a capacity by one in two, class 1 by nobody."""
    hazards = Hazards([0, 0], [1.0, 1.0])
    randomness = random.Random(1)
    wanted: list[tuple[int, int]] = []
    for now in range(1, 6 * UNITS):
        for kind in (0, 1):
            hazards.came(kind, now)
        if randomness.random() < 0.5:
            wanted.append((now + UNITS // 2, now))
        while wanted and wanted[0][0] <= now:
            hazards.used(0, wanted.pop(0)[1], now)
        if not now % 64:
            hazards.learn(0)
            hazards.learn(1)
        if not now % SPAN:
            hazards.pass_on(now)
    soon, late = step_of(UNITS // 2 - SPAN), step_of(2 * UNITS)
    assert hazards.worth[0][0] > 10 * hazards.worth[1][0]
    assert hazards.worth[0][soon] > 5 * hazards.worth[0][late]
    assert hazards.worth[0][0] < hazards.worth[0][soon]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["came", "used", "ended", "learn", "forget"]),
            st.integers(0, 2),
            st.integers(0, 9000),
        ),
        max_size=60,
    )
)
def test_worths_are_numbers(steps: list[tuple[str, int, int]]) -> None:
    hazards = Hazards([0, 0, 1], [1.0, 0.5, 2.0])
    now = 1
    for step, kind, units in steps:
        now += units % 700
        if step == "came":
            hazards.came(kind, now)
        elif step == "learn":
            hazards.learn(kind)
        elif step == "forget":
            hazards.forget()
        else:
            getattr(hazards, step)(kind, max(now - units, 0), now)
        hazards.pass_on(now)
    assert all(0 <= worth < 2 for row in hazards.worth for worth in row)


def asked(count: int, position: int, priority: int = 3) -> list[PutChunk]:
    return [
        PutChunk(b"%d-%d" % (position, n), (4096,), (), position + n, priority=priority) for n in range(count)
    ]


def test_classes_of_what_comes() -> None:
    policy = Density()
    marks = policy.arriving(1, asked(5, 0), range(5))
    kinds = [mark >> 24 & 31 for mark in marks]
    assert kinds[4] == LAST
    assert len(set(kinds[:4])) == 1
    assert kinds[0] < LAST
    assert policy.arriving(1, asked(5, 9), range(5))[0] >> 24 & 31 != kinds[0], "elsewhere in its prefix"
    assert policy.arriving(1, asked(60, 0), range(60))[0] >> 24 & 31 != kinds[0], "with more others"
    assert [policy.arriving(1, asked(2, 0, one), range(2))[0] >> 29 & 7 for one in range(8)] == list(range(8))
    assert CLASSES <= 32
    assert USED > LAST
    assert UNKNOWN == CLASSES - 1


def test_the_last_chunk_of_a_request_shares_segments_with_its_like() -> None:
    policy = Density()
    lanes = [policy.lane(mark) for mark in policy.arriving(1, asked(5, 0), range(5))]
    assert lanes == [0, 0, 0, 0, 1]
    assert policy.lane(policy.arriving(1, asked(1, 7), range(1))[0]) == 1
    assert not any(map(policy.lane, policy.arriving(1, asked(3, 9), range(3)))), "a record for so few"


def segment_of(policy: Density, number: int, kinds: list[int]) -> Segment:
    made = Segment(Log(), number, number, b"", 0, Purpose.CHUNKS)  # type: ignore[arg-type]
    for place, kind in enumerate(kinds):
        made.table.append(Entry(b"%d-%d" % (number, place), 1, (4096,), (0,)), SCOPE)
        made.table.touched[place] = (3 << 5 | kind) << TIME_BITS | UNITS
        made.account(place, +1)
    policy.opened(made)
    return made


def test_what_will_be_rewritten_does_not_hold_its_segment() -> None:
    policy = Density()
    policy.begin(1 << 30, [], RewriteBudget(1.5, 1 << 20))
    few_good = segment_of(policy, 1, [USED + 5] * 2 + [LAST] * 8)
    all_fair = segment_of(policy, 2, [0] * 10)
    both = [few_good, all_fair]
    assert policy.victim(both, both) is all_fair, "nothing is known of the price yet"
    assert policy.survivors(all_fair, range(10), both) == []
    assert policy.victim(both, both) is few_good
    assert policy.survivors(few_good, range(10), both) == [0, 1]


def test_higher_priority_lives_longer() -> None:
    rig = Rig(segments=16, options=options(policy="density", write_amplification=1.5))
    randomness = random.Random(4)
    stored: Counter[int] = Counter()
    for number in range(500):
        priority = (0, 3, PRIORITY_MAX)[randomness.randrange(3)]
        key = b"p%d-%d" % (priority, number)
        one = chunk(key, content(key, 20_000))
        one.priority = priority
        assert rig.put_chunks([one]).statuses == [PutStatus.STORED]
        stored[priority] += 1
        rig.store.tick()
        rig.store.pump()
    rig.drain()
    left = {p: sum(rig.has(b"p%d-%d" % (p, n)) for n in range(500)) for p in (0, 3, PRIORITY_MAX)}
    assert left[PRIORITY_MAX] > left[3] + left[0]


def test_goes_on_after_a_restart() -> None:
    rig = Rig(segments=16, options=options(policy="density"))
    keys = rig.fill("k", 60, 20_000)
    rig.restart("close")
    assert sum(rig.get(key) is not None for key in keys) > 40
    rig.fill("more", 200, 20_000)
    rig.drain()
    audit.check_counts(rig.store)
    assert rig.counters["chunks_evicted"]


def test_what_a_restart_found_and_nobody_wants_goes_before_what_is_used() -> None:
    rig = Rig(segments=24, options=options(policy="density", write_amplification=1.0))
    found = [key for key in rig.fill("found", 70, 60_000) if rig.has(key)]
    rig.restart("close")
    wanted = found[:9]
    for number in range(200):
        key = b"new-%d" % number
        rig.put(key, 60_000)
        rig.get(key)
        rig.get(wanted[number % len(wanted)])
        rig.get(key)
        rig.store.tick()
        rig.store.pump()
    rig.drain()
    left = [key for key in found if key not in wanted and rig.has(key)]
    assert len(left) < 5


def test_what_expires_soon_is_not_rewritten() -> None:
    rig = Rig(segments=16, options=options(policy="fifo", write_amplification=2.0))
    for number in range(250):
        key = b"k-%d" % number
        one = chunk(key, content(key, 20_000))
        if number % 2:
            one.expiry_ms = audit.context_of(rig.store).clock.now_ms() + 20_000
        rig.put_chunks([one])
        rig.get(key)
        rig.time += 2.0
        rig.store.tick()
        rig.store.pump()
    rig.drain()
    assert rig.counters["chunks_rewritten"]
    segments = [s for s in audit.context_of(rig.store).lives.values() if s.purpose.name == "SURVIVORS"]
    assert segments
    assert not any(any(s.table.expiry_ms) for s in segments)
