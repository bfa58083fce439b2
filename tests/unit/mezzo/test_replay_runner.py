"""The replay against an in-memory store: what it counts, and that nothing wrong gets past it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import Busy, DeadlineExceeded, InvalidArgument, RegionError, Unavailable
from mezzo.replay import worker as worker_module
from mezzo.replay.figures import latency
from mezzo.replay.report import Report, encode_report, make_report, tables
from mezzo.replay.runner import Outcome, Replay
from mezzo.replay.trace import Request, Trace
from mezzo.replay.verify import present_blocks, verify
from mezzo.replay.worker import ReplayOptions
from mezzo.testing import FakeClient, FakeStore

BLOCK = 4096
PLENTY = 2**30


def make_trace(*lists: Iterable[int]) -> Trace:
    return Trace("t", tuple(Request(float(n), 1, 1, tuple(ids)) for n, ids in enumerate(lists)))


CHAT = make_trace([0, 1, 2], [0, 1, 3, 4], [0, 5], [0, 1, 3, 4, 6], [7])


def replay(trace: Trace, store: FakeStore, client: type[FakeClient] = FakeClient, **options: Any) -> Outcome:
    settings = ReplayOptions(**{"block_bytes": BLOCK, "concurrency": 1, **options})
    return Replay(lambda: client(store), trace, settings).run()


def test_every_block_is_hit_that_was_seen_before() -> None:
    tally = replay(CHAT, FakeStore(PLENTY)).tally
    assert (tally.requests, tally.references, tally.hits) == (5, 15, 7)
    assert (tally.stored, tally.exists, tally.refused, tally.lost) == (8, 0, 0, 0)
    assert (tally.got_bytes, tally.put_bytes) == (7 * BLOCK, 8 * BLOCK)
    assert (tally.wrong_blocks, tally.wrong_bytes, tally.wrong) == (0, 0, [])
    assert len(tally.lookup_s) == 5
    assert len(tally.get_s) == 3
    assert len(tally.put_s) == 5
    assert [(one.references, one.seen_before, one.hits) for one in tally.served] == [
        (3, 0, 0), (4, 2, 2), (2, 1, 1), (5, 4, 4), (1, 0, 0)
    ]  # fmt: skip


def test_another_salt_starts_afresh_and_the_same_does_not() -> None:
    store = FakeStore(PLENTY)
    assert replay(CHAT, store, salt="a").tally.hits == 7
    assert replay(CHAT, store, salt="b").tally.hits == 7
    assert replay(CHAT, store, salt="a").tally.hits == 15
    assert replay(CHAT, store, salt="a", block_bytes=2 * BLOCK).tally.hits == 7


def test_a_request_larger_than_the_region_goes_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "REGION_BYTES", 2 * BLOCK)
    tally = replay(make_trace(range(5), range(7)), FakeStore(PLENTY)).tally
    assert (tally.hits, tally.stored, tally.wrong_bytes) == (5, 7, 0)
    assert (len(tally.lookup_s), len(tally.get_s), len(tally.put_s)) == (2, 3, 3 + 1)


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=8, unique=True), min_size=1, max_size=12),
    st.integers(1, 20),
    st.integers(1, 4),
)
def test_the_books_balance_whatever_is_evicted(lists: list[list[int]], room: int, concurrency: int) -> None:
    trace = make_trace(*lists)
    outcome = replay(trace, FakeStore(room * BLOCK), concurrency=concurrency)
    tally = outcome.tally
    assert tally.requests == len(lists)
    assert (
        tally.references == sum(map(len, lists)) == tally.hits + tally.stored + tally.exists + tally.refused
    )
    assert tally.wrong_bytes == 0
    assert tally.hits <= trace.summary().seen_before
    assert tally.put_bytes == tally.stored * BLOCK
    assert tally.got_bytes >= tally.hits * BLOCK
    assert sum(one.hits for one in tally.served) == tally.hits
    assert sum(one.seen_before for one in tally.served) == trace.summary().seen_before


class AwayForAWhile(FakeClient):
    """Nobody answers its calls 3 to 5."""

    calls = 0

    def lookup(self, keys: Sequence[bytes], **options: Any) -> Any:  # type: ignore[override]
        self._one()
        return super().lookup(keys, **options)

    def put(self, keys: Sequence[bytes], sources: Sequence[Any], **options: Any) -> Any:  # type: ignore[override]
        self._one()
        return super().put(keys, sources, **options)

    def _one(self) -> None:
        AwayForAWhile.calls += 1
        if 3 <= AwayForAWhile.calls <= 5:
            raise Unavailable("nobody")


def test_who_rides_it_out_counts_calls_that_nobody_answers_as_misses() -> None:
    AwayForAWhile.calls = 0
    with pytest.raises(Unavailable):
        replay(CHAT, FakeStore(PLENTY), AwayForAWhile)
    AwayForAWhile.calls = 0
    tally = replay(CHAT, FakeStore(PLENTY), AwayForAWhile, rides_out=True).tally
    # Of the second request the lookup and the put, of the third the lookup.
    assert (tally.requests, tally.unreached, tally.refused) == (5, 3, 4)
    assert (tally.hits, tally.wrong_bytes) == (2, 0)


def test_one_that_is_to_stop_begins_no_request_after_its_time() -> None:
    ticks = itertools.count()
    settings = ReplayOptions(block_bytes=BLOCK, concurrency=1, stop_s=1e-9)
    assert (
        Replay(lambda: FakeClient(FakeStore(PLENTY)), CHAT, settings, clock=lambda: float(next(ticks)))
        .run()
        .tally.requests
        == 0
    )
    assert replay(CHAT, FakeStore(PLENTY), stop_s=1e6).tally.requests == 5


class SpoilsARegion(FakeClient):
    """The memory of its first get may still be written to by somebody, and is not taken again."""

    bad: Any = None

    def get(self, keys: Sequence[bytes], targets: Sequence[Any], **options: Any) -> Any:  # type: ignore[override]
        self.bad = self.bad or targets[0].region
        if targets[0].region is self.bad:
            raise RegionError("may still be written to")
        return super().get(keys, targets, **options)


def test_who_rides_it_out_takes_another_region_if_one_may_still_be_written_to() -> None:
    with pytest.raises(RegionError):
        replay(CHAT, FakeStore(PLENTY), SpoilsARegion)
    tally = replay(CHAT, FakeStore(PLENTY), SpoilsARegion, rides_out=True).tally
    assert (tally.requests, tally.unreached, tally.wrong_bytes) == (5, 1, 0)
    assert tally.hits == 7 - 2


# -- a store that lies ---------------------------------------------------------------------------


class FlipsABit(FakeClient):
    """The third byte of the last block got is not what was put."""

    def get(self, keys: Sequence[bytes], targets: Sequence[Any], **_: Any) -> Any:  # type: ignore[override]
        got = super().get(keys, targets)
        target = targets[len(keys) - 1]
        target.region.view[target.offset + 2] ^= 1
        return got


class DeliversNothing(FakeClient):
    """Says that all is there, and leaves the targets as they were."""

    def get(self, keys: Sequence[bytes], targets: Sequence[Any], **_: Any) -> Any:  # type: ignore[override]
        before = [bytes(t.region.view[t.offset : t.offset + t.length]) for t in targets]
        got = super().get(keys, targets)
        for target, old in zip(targets, before, strict=True):
            target.region.view[target.offset : target.offset + target.length] = old
        return got


class SwapsBlocks(FakeClient):
    """Delivers two blocks in each other's place."""

    def get(self, keys: Sequence[bytes], targets: Sequence[Any], **_: Any) -> Any:  # type: ignore[override]
        return super().get(keys, list(reversed(targets)))


def test_one_flipped_bit_is_one_wrong_byte_and_no_hit() -> None:
    tally = replay(make_trace([0, 1], [0, 1]), FakeStore(PLENTY), FlipsABit).tally
    assert (tally.wrong_blocks, tally.wrong_bytes, tally.hits) == (1, 1, 1)
    assert [(wrong.request, wrong.hash_id, wrong.wrong_bytes) for wrong in tally.wrong] == [(1, 1, 1)]


def test_what_is_not_delivered_does_not_pass_though_it_was_there_before() -> None:
    # The same blocks at the same places of the region: an earlier get left the right bytes there.
    tally = replay(make_trace([0, 1], [0, 1], [0, 1]), FakeStore(PLENTY), DeliversNothing).tally
    assert (tally.wrong_blocks, tally.wrong_bytes, tally.hits) == (4, 4 * BLOCK, 0)


def test_swapped_blocks_are_wrong() -> None:
    tally = replay(make_trace([0, 1, 2], [0, 1, 2]), FakeStore(PLENTY), SwapsBlocks).tally
    assert (tally.wrong_blocks, tally.hits) == (2, 0)
    assert tally.wrong_bytes > BLOCK


def test_few_of_many_wrong_blocks_are_kept() -> None:
    many = make_trace(range(100), *[range(100)] * 3)
    tally = replay(many, FakeStore(PLENTY), DeliversNothing, concurrency=2).tally
    assert tally.wrong_blocks >= 100
    assert len(tally.wrong) == worker_module.WRONG_KEPT_MAX


# -- a store that fails --------------------------------------------------------------------------


def failing(errors: Callable[[], Iterable[Exception | None]]) -> type[FakeClient]:
    """A client of which each lookup takes the next of ``errors``."""

    class Failing(FakeClient):
        def __init__(self, store: FakeStore) -> None:
            super().__init__(store)
            self.errors = iter(errors())

        def lookup(self, keys: Sequence[bytes], **_: Any) -> Any:  # type: ignore[override]
            if error := next(self.errors, None):
                raise error
            return super().lookup(keys)

    return Failing


def test_busy_is_tried_again() -> None:
    client = failing(lambda: [Busy("full", 0.0)] * 3)
    tally = replay(CHAT, FakeStore(PLENTY), client).tally
    assert (tally.busy, tally.given_up, tally.hits) == (3, 0, 7)
    assert len(tally.lookup_s) == 5


def test_busy_for_too_long_is_given_up_and_the_rest_goes_on() -> None:
    clock = itertools.count(0.0, worker_module.BUSY_WAIT_S_MAX)
    options = ReplayOptions(block_bytes=BLOCK, concurrency=1)
    client = failing(lambda: [None, Busy("full", 0.0)])
    run = Replay(lambda: client(FakeStore(PLENTY)), CHAT, options, clock=lambda: next(clock))
    tally = run.run().tally
    assert (tally.busy, tally.given_up, tally.requests) == (1, 1, 5)
    assert tally.hits < 7
    assert tally.exists == 7 - tally.hits


def test_a_deadline_is_a_miss() -> None:
    client = failing(lambda: [None, DeadlineExceeded("late")])
    tally = replay(CHAT, FakeStore(PLENTY), client).tally
    assert (tally.given_up, tally.requests) == (1, 5)


def test_a_lost_store_ends_the_replay_with_its_error() -> None:
    before = set(threading.enumerate())
    client = failing(lambda: [None, Unavailable("gone")])
    with pytest.raises(Unavailable, match="gone"):
        replay(CHAT, FakeStore(PLENTY), client, concurrency=3)
    assert set(threading.enumerate()) <= before


# -- time, options, progress ---------------------------------------------------------------------


def test_requests_come_at_the_times_of_the_trace() -> None:
    # The clock says 100 s more each time it is asked: everything is late, by more and more.
    clock = itertools.count(0.0, 100.0)
    options = ReplayOptions(block_bytes=BLOCK, concurrency=1, time_scale=1.0)
    run = Replay(lambda: FakeClient(FakeStore(PLENTY)), CHAT, options, clock=lambda: next(clock))
    assert run.run().tally.late_s_max > 100


def test_progress_ends_with_all_of_them() -> None:
    told: list[int] = []
    options = ReplayOptions(block_bytes=BLOCK, concurrency=2)
    Replay(lambda: FakeClient(FakeStore(PLENTY)), CHAT, options).run(told.append)
    assert told[-1] == 5
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("name", "value"), [("concurrency", 0), ("concurrency", 1000), ("time_scale", -1.0), ("block_bytes", 12)]
)
def test_senseless_options_are_named(name: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=name.replace("_bytes", "").replace("_", " ")):
        replay(CHAT, FakeStore(PLENTY), **{name: value})


# -- afterwards ----------------------------------------------------------------------------------


def test_verify_finds_what_is_there() -> None:
    store = FakeStore(PLENTY)
    replay(CHAT, store)
    options = ReplayOptions(block_bytes=BLOCK)
    client = FakeClient(store)
    assert present_blocks(client, CHAT, options, batch=3) == [0, 1, 2, 3, 4, 5, 6, 7]
    found = verify(client, CHAT, options, bytes_max=PLENTY)
    assert (found.present, found.compared, found.lost, found.wrong_bytes) == (8, 8, 0, 0)
    some = verify(client, CHAT, options, bytes_max=3 * BLOCK)
    assert some.present == 8
    assert 0 < some.compared <= 3


def test_verify_sees_wrong_bytes_and_nothing_in_an_empty_store() -> None:
    store = FakeStore(PLENTY)
    replay(CHAT, store)
    options = ReplayOptions(block_bytes=BLOCK)
    assert verify(FlipsABit(store), CHAT, options, bytes_max=PLENTY).wrong_bytes == 1
    assert verify(FakeClient(FakeStore(PLENTY)), CHAT, options, bytes_max=PLENTY).present == 0


def report_of(outcome: Outcome, trace: Trace = CHAT) -> Report:
    return make_report(
        trace=trace.name, trace_sha256=trace.sha256, summary=trace.summary(), address="unix:///x",
        options=ReplayOptions(block_bytes=BLOCK), outcome=outcome,
        server={"rewritten_bytes": 2.0, "chunks_evicted": 3.0},
    )  # fmt: skip


def test_report_sums_up() -> None:
    outcome = replay(CHAT, FakeStore(PLENTY))
    report = report_of(outcome)
    assert report.hit_rate == report.hit_rate_max == 7 / 15
    assert report.lookup == latency(outcome.tally.lookup_s)
    assert report.got_gb_per_s == pytest.approx(7 * BLOCK / outcome.duration_s / 1e9)
    assert sum(window.requests for window in report.timeline) == 5
    assert (report.evicted, report.rewritten_bytes) == (3, 2)
    assert b'"hit_rate_max": 0.46' in encode_report(report)
    assert [table.row_count for table in tables(report)] == [8, 3]


def test_report_of_a_warm_store_has_a_note() -> None:
    store = FakeStore(PLENTY)
    replay(CHAT, store)
    report = report_of(replay(CHAT, store))
    assert report.hit_rate > report.hit_rate_max
    assert tables(report)[0].row_count == 9


def test_plot_is_drawn(tmp_path: Any) -> None:
    from mezzo.replay.plot import write_plot

    write_plot(report_of(replay(CHAT, FakeStore(PLENTY))), tmp_path / "replay.png")
    assert (tmp_path / "replay.png").read_bytes().startswith(b"\x89PNG")
