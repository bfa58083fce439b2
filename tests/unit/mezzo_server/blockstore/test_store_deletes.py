"""Deletes: acknowledged, they stay, whatever happens; and their tombstones do not pile up."""

from __future__ import annotations

import pytest

from mezzo.errors import MezzoError
from mezzo_server.blockstore.api import PutStatus
from mezzo_server.blockstore.devices.faults import Fault, FaultKind
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.simulation.world import options

STORED = PutStatus.STORED


def churn(rig: Rig, segments: int, name: str = "churn") -> None:
    """Put until so many segments were reclaimed."""
    goal = rig.counters["segments_reclaimed"] + segments
    number = 0
    while rig.counters["segments_reclaimed"] < goal:
        rig.put(b"%s-%d" % (name.encode(), number), 60_000)
        number += 1
    rig.drain()


@pytest.mark.parametrize("how", ["kill", "cut", "close"])
def test_deleted_stays_deleted_across_reclaim_and_restarts(how: str) -> None:
    rig = Rig()
    keys = rig.fill("k", 15, 20_000)
    assert rig.delete(*keys[::2])[1] is None
    for round_ in range(6):
        rig.restart(how, seed=round_)
        for key in keys[::2]:
            assert not rig.has(key), f"{key!r} came back in round {round_}"
        churn(rig, 3, f"r{round_}")
    assert not any(rig.has(key) for key in keys[::2])


def test_answers_of_deletes() -> None:
    rig = Rig()
    rig.fill("k", 3, 5000)
    assert rig.delete(b"k-0", b"never", b"k-2", b"k-0") == ([True, False, True, False], None)
    assert rig.delete(b"k-0", b"k-2") == ([False, False], None)
    assert rig.put(b"k-0", 5000) is STORED
    assert rig.delete(b"k-0") == ([True], None)
    rig.drain()


def test_evicted_then_deleted_does_not_come_back() -> None:
    """The evicted chunk's segment is erased, but a power cut may undo what was not flushed."""
    for seed in range(60):
        rig = Rig(segments=8)
        keys = rig.fill("k", 10, 60_000)
        number = 0
        while rig.has(keys[0]):
            rig.begin_put([chunk(b"more-%d" % number, bytes(60_000))])
            number += 1
            for _ in range(3):
                rig.store.pump()
                if not rig.has(keys[0]):
                    break
        gone = [key for key in keys if not rig.has(key)]
        assert rig.delete(*gone)[1] is None
        rig.restart("cut", seed=seed)
        for key in gone:
            assert not rig.has(key), f"seed {seed}: {key!r} came back"


def test_duplicates_of_an_interrupted_reclaim_then_deleted_do_not_come_back() -> None:
    for moment in range(0, 60, 3):
        rig = Rig(segments=8, in_order=False, seed=moment)
        keys = rig.fill("k", 10, 20_000)
        for key in keys:
            rig.get(key)  # read since they were written: they survive
        number = 0
        while not rig.counters["chunks_rewritten"]:
            rig.begin_put([chunk(b"more-%d" % number, bytes(60_000))])
            number += 1
            for _ in range(6):
                rig.store.pump()
        for _ in range(moment):
            rig.store.pump()
        rig.restart(seed=moment)
        there = [key for key in keys if rig.has(key)]
        assert rig.delete(*there)[1] is None
        for round_ in range(3):
            churn(rig, 4, f"r{round_}")
            rig.restart(seed=round_)
            for key in there:
                assert not rig.has(key), f"moment {moment}, round {round_}: {key!r} came back"


def test_an_older_copy_is_remembered_when_the_newer_is_evicted_and_the_key_put_again() -> None:
    rig = Rig(devices=2)
    keys = rig.fill("k", 20, 20_000)
    logs = audit.context_of(rig.store).logs
    logs[0].fence("for this test")
    rig.drain()
    away = [key for key in keys if not rig.has(key)]
    assert away
    assert [rig.put(key, 20_000) for key in away] == [STORED] * len(away)
    rig.restart()  # the first device is well again: two copies of each
    context = audit.context_of(rig.store)
    namespace = context.index.namespace(SCOPE)
    assert all(key in namespace.shadows for key in away)
    for key in away:  # as reclaim of the newer copy's segment would
        place = context.find(namespace, key)
        assert place is not None
        context.forget(namespace, key, *place)
    assert [rig.put(key, 20_000) for key in away] == [STORED] * len(away)
    assert rig.delete(*away) == ([True] * len(away), None)
    on_first = {segment.life for segment in context.logs[0].segments.values()}
    blockers = [one for segment in context.lives.values() for one in segment.blockers.values()]
    assert sum(bool(one & on_first) for one in blockers) >= len(away)
    for round_ in range(4):
        rig.restart(seed=round_)
        assert not any(rig.has(key) for key in away)
        churn(rig, 3, f"r{round_}")


def test_tombstones_do_not_pile_up() -> None:
    rig = Rig(segments=8)
    for round_ in range(1500):
        key = b"k-%d" % (round_ % 7)
        assert rig.put(key, 3000) is STORED
        assert rig.delete(key) == ([True], None)
        if round_ % 50 == 0:
            rig.drain(ticks=1)
    rig.drain()
    context = audit.context_of(rig.store)
    waiting = sum(len(segment.blockers) for segment in context.lives.values())
    copies = sum(len(segment.table) - segment.table.tombstones for segment in context.lives.values())
    assert waiting <= copies + 8
    assert rig.counters["tombstones_written"] < 2 * 1500
    assert rig.counters["segments_reclaimed"] > 10
    assert all(not namespace.shadows for namespace in context.index)
    assert rig.put(b"after", 100_000) is STORED


def test_deletes_of_keys_that_were_never_there_cost_nothing() -> None:
    rig = Rig()
    rig.fill("k", 3, 5000)
    rig.drain()
    written = rig.counters["tombstones_written"]
    for number in range(500):
        assert rig.delete(b"never-%d" % number) == ([False], None)
    assert rig.counters["tombstones_written"] == written


def test_deletes_that_meet_do_not_wait_for_each_other() -> None:
    """One holds what the other wants while both wait for a put: that would be for ever."""
    rig = Rig()
    rig.fill("k", 4, 5000)
    outcomes, _ = rig.begin_put([chunk(b"b", b"bytes")])
    answers: list[str] = []
    rig.store.delete(SCOPE, [b"k-0", b"b", b"k-2"], lambda deleted, error: answers.append("one"))
    rig.store.delete(SCOPE, [b"k-2", b"k-0", b"b"], lambda deleted, error: answers.append("two"))
    rig.until(lambda: len(answers) == 2 and bool(outcomes))
    assert not any(rig.has(key) for key in (b"b", b"k-0", b"k-2"))
    rig.drain()


@pytest.mark.parametrize("kind", [FaultKind.EIO_WRITE, FaultKind.ENOSPC])
def test_a_delete_that_failed_is_not_acknowledged_by_the_next(kind: FaultKind) -> None:
    for nth in range(1, 12):
        rig = Rig(options=options(io_errors_max=100))
        keys = rig.fill("k", 4, 5000)
        rig.restart("close", faults=[Fault(kind, nth=(nth, nth + 1, nth + 2))])
        answers = []
        for key in keys:
            for _ in range(8):
                _, error = rig.delete(key)
                assert error is None or isinstance(error, MezzoError)
                answers.append(error)
                if error is None:
                    break
        assert answers[-1] is None
        rig.restart(seed=nth)
        assert not any(rig.has(key) for key in keys), f"nth {nth}"


def test_delete_of_a_leased_chunk() -> None:
    rig = Rig()
    rig.put(b"k", 5000)
    rig.store.pin(SCOPE, b"k")
    assert rig.delete(b"k") == ([True], None)
    assert rig.get(b"k") is None
    assert rig.put(b"k", 6000) is STORED
    rig.drain()
    rig.store.unpin(SCOPE, b"k")
    rig.drain()
    assert rig.get(b"k") == content(b"k", 6000)


def test_ten_thousand_keys_of_which_all_are_busy() -> None:
    rig = Rig(segments=40)
    chunks = [chunk(b"k%d" % n, b"x") for n in range(2000)]
    outcomes, _ = rig.begin_put(chunks)
    for _ in range(3):
        rig.store.pump()
    deleted, error = rig.delete(*[one.key for one in chunks])
    assert error is None
    rig.until(lambda: bool(outcomes))
    assert len(deleted) == 2000
    rig.drain()


def test_needed_tombstones_are_not_rewritten_before_all_else() -> None:
    """A segment of nothing but tombstones looks empty; taking it first, again and again, gains nothing."""
    rig = Rig(segments=20)
    keys = rig.fill("k", 200, 4096)
    for key in keys[::2]:
        rig.delete(key)
    rig.restart("close")
    context = audit.context_of(rig.store)
    segments = context.logs[0].segments.values()
    buried = [segment for segment in segments if not segment.live_count and segment.blockers]
    assert buried
    reclaim = rig.store._reclaims[0]
    context.logs[0].free.clear()  # so space is short
    victim = reclaim._choose()
    assert victim is not None
    assert victim.live_count
    assert victim.life < min(segment.life for segment in buried)
