"""Hits by tier: from counters, over time, and chunks that are read in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mezzo.errors import Busy, Gone
from mezzo.replay import tiers as module
from mezzo.replay.figures import Served, windows
from mezzo.replay.plot import write_plot
from mezzo.replay.report import Report, make_report, tables
from mezzo.replay.runner import Outcome, Replay
from mezzo.replay.tiers import TierSample, TierSampler, hot_share, tiers
from mezzo.replay.trace import Request, Trace
from mezzo.replay.worker import ReplayOptions
from mezzo.testing import FakeClient, FakeStore

BLOCK = 4096
CHAT = Trace(
    "t",
    tuple(
        Request(float(n), 1, 1, ids)
        for n, ids in enumerate([(0, 1, 2), (0, 1, 3, 4), (0, 5), (0, 1, 3, 4, 6), (7,)])
    ),
)
HOT_AND_NOT = {
    "chunks_got_hot": 5.0, "bytes_got_hot": 50.0, "chunks_got_device": 2.0, "bytes_got_device": 20.0,
    "chunks_missed": 1.0,
}  # fmt: skip


def replay(client: type[FakeClient] = FakeClient, room: int = 2**30) -> Outcome:
    store = FakeStore(room)
    options = ReplayOptions(block_bytes=BLOCK, concurrency=1, in_place=True)
    return Replay(lambda: client(store), CHAT, options).run()


def report(server: Mapping[str, float], outcome: Outcome, samples: Sequence[TierSample] = ()) -> Report:
    return make_report(
        trace="t", trace_sha256="", summary=CHAT.summary(), address="unix:///x",
        options=ReplayOptions(block_bytes=BLOCK), outcome=outcome, server=server, samples=samples,
    )  # fmt: skip


def shown(report: Report) -> str:
    console = Console(width=100, record=True)
    with console.capture() as capture:
        for table in tables(report):
            console.print(table)
    return " ".join(capture.get().split())


# -- in place ------------------------------------------------------------------------------------


def test_all_that_is_hot_is_read_in_place() -> None:
    tally = replay().tally
    assert (tally.references, tally.hits, tally.in_place, tally.gone) == (15, 7, 7, 0)
    assert (tally.got_bytes, len(tally.get_s), len(tally.lookup_s), len(tally.acquire_s)) == (0, 0, 0, 5)
    assert [(one.hits, one.in_place) for one in tally.served] == [(0, 0), (2, 2), (1, 1), (4, 4), (0, 0)]
    assert tally.wrong_bytes == 0


class Lease:
    """A lease of the fake with other views, or one that is gone after they were used."""

    def __init__(self, lease: Any, change: Any, gone: bool = False) -> None:
        self._lease = lease
        self.prefix = lease.prefix
        self.release = lease.release
        self._change = change
        self._gone = gone

    @contextmanager
    def using(self) -> Any:
        with self._lease.using() as views:
            yield tuple(self._change(index, view) for index, view in enumerate(views))
        if self._gone and self.prefix:
            raise Gone("taken back")


def with_lease(change: Any, gone: bool = False) -> type[FakeClient]:
    class Changed(FakeClient):
        def acquire(self, *arguments: Any, **keywords: Any) -> Any:
            return Lease(super().acquire(*arguments, **keywords), change, gone)

    return Changed


def test_what_is_not_hot_is_got() -> None:
    tally = replay(with_lease(lambda index, view: None if index % 2 else view)).tally
    assert (tally.hits, tally.in_place, tally.got_bytes) == (7, 4, 3 * BLOCK)
    assert tally.hits + tally.stored + tally.exists + tally.refused == tally.references


def flipped(index: int, view: memoryview) -> memoryview:
    data = bytearray(view)
    data[5] ^= index == 1
    return memoryview(data)


def test_a_wrong_byte_in_place_is_seen_and_no_hit() -> None:
    tally = replay(with_lease(flipped)).tally
    assert (tally.wrong_blocks, tally.wrong_bytes) == (2, 2)
    assert [wrong.hash_id for wrong in tally.wrong] == [1, 1]
    assert tally.hits == 1 + 1 + 1


def test_what_was_taken_back_is_not_believed_and_got_instead() -> None:
    tally = replay(with_lease(flipped, gone=True)).tally
    assert (tally.wrong_bytes, tally.in_place, tally.gone) == (0, 0, 7)
    assert (tally.hits, tally.got_bytes) == (7, 7 * BLOCK)


def test_the_books_balance_where_room_is_short() -> None:
    tally = replay(room=3 * BLOCK).tally
    assert tally.busy, "a quarter of three blocks is leased out at once, so chunks are got instead"
    assert tally.references == tally.hits + tally.stored + tally.exists + tally.refused
    assert tally.wrong_bytes == 0


# -- counters ------------------------------------------------------------------------------------


def test_tiers_of_a_server_that_tells_and_of_one_that_does_not() -> None:
    found = tiers(HOT_AND_NOT)
    assert found is not None
    assert (found.hot_chunks, found.hot_bytes, found.device_chunks, found.device_bytes) == (5, 50, 2, 20)
    assert found.missed_chunks == 1
    assert tiers({"chunks_got": 3.0}) is None


def test_the_table_has_a_row_for_each_tier() -> None:
    outcome = replay(with_lease(lambda _, view: None))
    text = shown(report(HOT_AND_NOT, outcome))
    assert "from the hot tier │ 5 (33.3% of the references)" in text
    assert "from the device │ 2 (13.3% of the references)" in text
    assert "not there │ 8 (53.3% of the references)" in text
    assert "in place" not in text
    assert "hot tier" not in shown(report({}, outcome))
    assert "in place │ 7 (46.7%" in shown(report(HOT_AND_NOT, replay()))


def test_sampler_takes_what_is_due_and_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLES_MAX", 16)
    now = [0.0]
    sampler = TierSampler(lambda: {"chunks_got_hot": now[0], "chunks_got_device": 2 * now[0]}, lambda: now[0])
    for step in range(4000):
        now[0] = step * 0.1
        sampler.look()
        assert len(sampler.samples) <= 16
    assert len(sampler.samples) >= 7
    assert sampler.samples[0].at_s == 0
    times = [sample.at_s for sample in sampler.samples]
    assert times == sorted(set(times))
    assert hot_share(sampler.samples, 10, 300) == pytest.approx(1 / 3)


def test_sampler_goes_on_where_the_shard_is_busy_or_does_not_tell() -> None:
    def busy() -> Mapping[str, float]:
        raise Busy("later", retry_after_s=1)

    for stat in (busy, lambda: {"chunks_got": 1.0}):
        sampler = TierSampler(stat, lambda: 0.0)
        sampler.look()
        assert sampler.samples == []
    assert hot_share([], 0, 1) == 0


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=9))
def test_shares_are_shares(steps: list[tuple[int, int, int]]) -> None:
    at = hot = device = 0
    samples = [TierSample(0.0, 0, 0)]
    for step, more_hot, more_device in steps:
        at, hot, device = at + step, hot + more_hot, device + more_device
        samples.append(TierSample(float(at), hot, device))
    assert hot_share(samples, 0, at) == pytest.approx(hot / (hot + device) if hot + device else 0)
    for start in range(at):
        assert 0 <= hot_share(samples, start, start + 0.5) <= 1


def test_windows_split_their_hits_by_tier() -> None:
    served = [Served(0.25, 10, 8, 8, 0, 0), Served(0.75, 10, 8, 8, 0, 0, 4)]
    samples = [TierSample(0.0, 0, 0), TierSample(0.5, 6, 2), TierSample(1.0, 7, 5)]
    first, second = windows(served, 1.0, samples=samples)
    assert (first.hit_rate, first.hot_rate) == (0.8, pytest.approx(0.6))
    assert second.hot_rate == pytest.approx((4 + 4 * 0.25) / 10)


def test_the_plot_shows_what_was_hot(tmp_path: Path) -> None:
    outcome = replay()
    write_plot(report(HOT_AND_NOT, outcome, [TierSample(0, 0, 0), TierSample(9, 5, 2)]), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
