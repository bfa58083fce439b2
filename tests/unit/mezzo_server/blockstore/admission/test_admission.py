"""Which puts are taken: second touch, size and position, and a budget of device writes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo_server.blockstore.admission.admission import Admission, AdmissionOptions, Mode, Reason
from mezzo_server.blockstore.admission.endurance import BURST_S, DAY_S, Endurance
from mezzo_server.blockstore.admission.sketch import COUNT_MAX, Sketch
from mezzo_server.blockstore.api import PutChunk, PutStatus
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.simulation.world import options
from tests.unit.mezzo_server.blockstore.membership_rig import add, device_of, settle

STORED, EXISTS, DECLINED = PutStatus.STORED, PutStatus.EXISTS, PutStatus.DECLINED


def rig_with(**chosen: object) -> Rig:
    return Rig(segments=16, options=options(admission=AdmissionOptions(**chosen)))  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 30), max_size=200))
def test_a_sketch_never_says_less_than_was_counted(keys: list[int]) -> None:
    sketch = Sketch(1 << 12)
    counts = dict.fromkeys(keys, 0)
    for key in keys:
        hashed = key * 0x9E3779B97F4A7C15 & (1 << 64) - 1
        assert sketch.add(hashed) >= min(counts[key], COUNT_MAX)
        counts[key] += 1


def test_a_sketch_ages() -> None:
    sketch = Sketch(1 << 8)
    for _ in range(10):
        sketch.add(12345)
    randomness = random.Random(1)
    for _ in range(4000):
        sketch.add(randomness.getrandbits(64) | 1 << 40)
    assert sketch.add(12345) < COUNT_MAX


def test_second_touch() -> None:
    rig = rig_with(mode=Mode.SECOND_TOUCH)
    assert rig.put(b"k", 20_000) is DECLINED
    assert not rig.has(b"k"), "what is declined must not look stored"
    assert rig.get(b"k") is None
    assert rig.put(b"k", 20_000) is STORED
    assert rig.get(b"k") == content(b"k", 20_000)
    assert rig.put(b"k", 20_000) is EXISTS
    report = rig.store.report().counters
    assert (report["chunks_admitted"], report["declined_first_touch"]) == (1, 1)
    rig.drain()


def test_some_of_a_request() -> None:
    rig = rig_with(mode=Mode.SIZE_POSITION, chunk_bytes_max=30_000, position_max=2)
    chunks = []
    for number, length in enumerate((20_000, 40_000, 20_000, 20_000, 20_000)):
        one = chunk(b"k-%d" % number, content(b"k-%d" % number, length))
        one.position = number
        chunks.append(one)
    outcome = rig.put_chunks(chunks)
    assert outcome.statuses == [STORED, DECLINED, STORED, DECLINED, DECLINED]
    assert outcome.error is None
    counters = rig.store.report().counters
    assert counters["declined_too_large"] == 1
    assert counters["declined_position"] == 2
    rig.drain()
    assert not rig.store.report().counters["put_bytes_waiting"]


def test_who_waits_for_a_declined_chunk_is_asked_too() -> None:
    rig = rig_with(mode=Mode.SECOND_TOUCH)
    one, two = chunk(b"k", content(b"k", 5000)), chunk(b"k", content(b"k", 5000))
    assert rig.put_chunks([one, two]).statuses == [DECLINED, STORED]
    rig.drain()
    assert rig.get(b"k") == content(b"k", 5000)


def test_admitted_already() -> None:
    rig = rig_with(mode=Mode.SECOND_TOUCH)
    one = chunk(b"k", content(b"k", 5000))
    assert not rig.store.takes(SCOPE, one)
    assert rig.store.takes(SCOPE, one)
    one.admitted = True
    assert rig.put_chunks([one]).statuses == [STORED]


def admission(writes_per_day: float, capacity: int) -> tuple[Admission, list[float]]:
    state = [0.0, 0.0]  # written, now
    made = Admission(
        AdmissionOptions(writes_per_day=writes_per_day), capacity, lambda: int(state[0]), lambda: state[1]
    )
    return made, state


def test_endurance_sheds_the_least_useful_first() -> None:
    capacity, size = 1 << 40, 32 << 20
    rate = capacity / DAY_S
    made, state = admission(1.0, capacity)
    randomness = random.Random(2)
    taken = {0: 0, 3: 0, 7: 0}
    asked = dict.fromkeys(taken, 0)
    for number in range(30_000):
        state[1] += size / rate / 3  # three times as much is offered as may be written
        priority = randomness.choice([0, 3, 7])
        asked[priority] += 1
        if made.takes(1, PutChunk(b"%d" % number, (size,), (), priority=priority)):
            taken[priority] += 1
            state[0] += size
    shares = {priority: taken[priority] / asked[priority] for priority in taken}
    assert shares[7] > 0.9
    assert shares[0] < shares[3] < shares[7]
    allowed = rate * (state[1] + BURST_S)
    assert state[0] <= 1.02 * allowed
    assert state[0] > 0.8 * rate * state[1], "what may be written is used"
    assert made.declined[Reason.ENDURANCE] == sum(asked.values()) - sum(taken.values())
    assert made.report(int(state[0]))["written_bytes_per_day"] <= 1.3 * capacity


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.floats(0, 5000), st.integers(-5, 80)), max_size=60))
def test_the_bucket_is_bounded(steps: list[tuple[int, float, int]]) -> None:
    endurance = Endurance(1e9, 0.0)
    now = 0.0
    for size, passed, useful in steps:
        now += passed
        endurance.written(size, now)
        assert abs(endurance.bytes) <= 1e9 / DAY_S * BURST_S + 1
        if endurance.bytes >= 0.5 * 1e9 / DAY_S * BURST_S:
            assert endurance.takes(useful)
        elif endurance.bytes <= 0:
            assert not endurance.takes(useful)
        else:
            endurance.takes(useful)


def test_life() -> None:
    made, state = admission(0, 1 << 40)
    made._options = replace(made._options, endurance_bytes=10**12)
    assert made.takes_all
    assert made.report(0)["life_days_left"] == 0
    state[0], state[1] = 10**9, DAY_S / 10
    report = made.report(9 * 10**8)
    assert report["written_bytes_per_day"] == 10**10
    assert report["life_days_left"] == 99
    assert report["write_amplification_ppm"] == pytest.approx(1_111_111, abs=1)


def test_devices_that_come_and_leave_change_what_may_be_written() -> None:
    rig = rig_with(writes_per_day=1e6)
    context = audit.context_of(rig.store)
    endurance = context.admission.endurance
    alone = endurance.bytes_per_s
    rig.fill("k", 8, 20_000)
    add(rig, device_of("new"))
    settle(rig)
    both = endurance.bytes_per_s
    assert both > alone
    written = context.written_bytes()
    rig.store.membership.drain("d0")
    settle(rig)
    assert endurance.bytes_per_s == pytest.approx(both - alone)
    assert context.written_bytes() >= written, "what a device was written is not forgotten when it leaves"
