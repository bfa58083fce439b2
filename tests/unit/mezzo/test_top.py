"""`mezzo top`: its arithmetic, and that its frames fit a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mezzo.cli.top_figures import Figures, figures
from mezzo.cli.top_view import HISTORY, SPARKS, History, bar, span, spark, view

BASE: dict[str, float] = {
    "uptime_s": 100.0,
    "chunks_got_hot": 10,
    "chunks_got_device": 20,
    "chunks_missed": 30,
    "bytes_out_shm": 1000,
    "bytes_out_tcp": 100,
    "requests": 50,
    "errors": 1,
    "requests_get": 20,
    "requests_failed_get": 1,
    "request_us_get": 20_000,
    "request_device_us_get": 5_000,
    "requests_lookup": 5,
    "requests_failed_lookup": 0,
    "request_us_lookup": 100,
    "loop_held_us": 1_000_000,
    "device_0_bytes_total": 100,
    "device_0_bytes_live": 25,
    "device_0_segments_total": 8,
    "device_0_segments_free": 3,
    "device_1_bytes_total": 100,
    "device_1_fenced": 1,
}
STEP: dict[str, float] = {
    "uptime_s": 2.0,
    "chunks_got_hot": 6,
    "chunks_got_device": 3,
    "chunks_missed": 1,
    "bytes_out_shm": 4000,
    "bytes_out_tcp": 200,
    "requests": 30,
    "errors": 2,
    "requests_get": 10,
    "requests_failed_get": 2,
    "request_us_get": 30_000,
    "request_device_us_get": 20_000,
    "loop_held_us": 500_000,
}


def later() -> dict[str, float]:
    return {name: value + STEP.get(name, 0) for name, value in BASE.items()}


def lines_of(told: Figures | None, width: int, height: int, problem: str = "") -> list[str]:
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(
            view("unix:///tmp/mezzo.sock", told, History(), width=width, height=height, problem=problem)
        )
    return capture.get().splitlines()


def test_two_samples_make_rates() -> None:
    told = figures(BASE, later(), 2.0)
    assert told.interval_s == 2.0
    assert not told.restarted
    assert told.hits is not None
    assert (told.hits.hot, told.hits.device, told.hits.miss) == (6, 3, 1)
    assert told.hits.rate == pytest.approx(0.9)
    assert told.hits_total.rate == pytest.approx(39 / 70)
    assert told.sent is not None
    assert (told.sent.shm, told.sent.tcp, told.sent.total) == (2000, 100, 2100)
    assert told.requests_per_s == 15
    assert told.errors_per_s == 1
    assert told.loop_share == pytest.approx(0.25)
    get = next(one for one in told.requests if one.kind == "get")
    assert (get.per_s, get.failed_per_s, get.total) == (5, 1, 30)
    assert (get.mean_ms, get.own_ms, get.device_ms) == pytest.approx((3.0, 1.0, 2.0))


def test_what_did_not_happen_has_no_mean() -> None:
    lookup = next(one for one in figures(BASE, later(), 2.0).requests if one.kind == "lookup")
    assert (lookup.per_s, lookup.mean_ms, lookup.own_ms, lookup.total) == (0, None, None, 5)


def test_the_first_sample_has_totals_and_means_but_no_rates() -> None:
    told = figures(None, BASE, 1.0)
    assert (told.interval_s, told.hits, told.sent, told.requests_per_s) == (None, None, None, None)
    assert told.hits_total.asked == 60
    assert [one.mean_ms for one in told.requests] == [None, None]


def test_a_restart_is_seen_and_gives_no_negative_rates() -> None:
    fresh = dict.fromkeys(BASE, 0.0) | {"uptime_s": 1.0, "requests": 80}
    told = figures(BASE, fresh, 2.0)
    assert told.restarted
    assert told.requests_per_s is None
    assert told.hits is None
    after = figures(fresh, fresh | {"uptime_s": 3.0, "requests": 90}, 2.0)
    assert not after.restarted
    assert after.requests_per_s == 5


def test_devices_are_read_by_number() -> None:
    first, second = figures(None, BASE, 1.0).devices
    assert (first.fill, first.segments_free, first.state) == (0.25, 3, "serving")
    assert second.state == "fenced"


@given(
    st.dictionaries(st.sampled_from(sorted(BASE)), st.integers(0, 10**15)),
    st.dictionaries(st.sampled_from(sorted(BASE)), st.integers(0, 10**15)),
    st.floats(0, 1e6),
)
def test_no_numbers_break_it(before: dict[str, float], now: dict[str, float], elapsed_s: float) -> None:
    told = figures(before, now, elapsed_s)
    if told.hits is not None and told.hits.rate is not None:
        assert 0 <= told.hits.rate <= 1
    for rate in (told.requests_per_s, told.errors_per_s, told.evicted_bytes_per_s):
        assert rate is None or rate >= 0


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (160, 50)])
@pytest.mark.parametrize("problem", ["", "cannot connect: " + "x" * 200])
def test_a_frame_fits_the_terminal(width: int, height: int, problem: str) -> None:
    many = later() | {f"device_{number}_bytes_total": 2.0**44 for number in range(2, 20)}
    many |= {f"requests_failed_kind{number}": 1 for number in range(20)}
    many |= {f"requests_kind{number}": 1e12 for number in range(20)}
    many |= {"hot_bytes_max": 2.0**40, "hot_bytes_used": 2.0**39, "hot_chunks": 1e9, "io_errors": 1e6}
    lines = lines_of(figures(BASE, many, 0.5), width, height, problem)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_what_people_look_for_is_there() -> None:
    text = "\n".join(lines_of(figures(BASE, later() | {"chunks_corrupt": 3.0}, 2.0), 80, 24))
    for words in (
        "hit rate",
        "90.0 %",
        "hot 60.0",
        "get",
        "3.000",
        "device 0",
        "25 %",
        "fenced",
        "3 corrupt",
    ):
        assert words in text
    assert "not reachable" in lines_of(figures(BASE, later(), 2.0), 80, 24, "away")[0]
    assert "connecting" in lines_of(None, 80, 24)[0]


def test_a_tenant_is_shown_what_it_is_told_and_nothing_else() -> None:
    told = {
        "capacity_bytes": 2.0**30,
        "quota_capacity_bytes_hard": 2.0**31,
        "hot_bytes": 2.0**26,
        "namespace_chunks": 1234.0,
        "requests": 30.0,
        "over_quota": 7.0,
        "connections": 2.0,
    }
    lines = lines_of(figures(told | {"requests": 10.0}, told, 2.0), 80, 24)
    text = "\n".join(lines)
    for words in ("1.00 GiB of 2.00 GiB", "1,234 in this namespace", "10/s", "7 refused", "operator's"):
        assert words in text
    for words in ("up 0 s", "there is none", "memory"):
        assert words not in text
    assert max(map(len, lines)) <= 80


def test_curves_and_bars() -> None:
    assert spark([0, 1, 2, 4], 3) == SPARKS[2] + SPARKS[4] + SPARKS[7]
    assert spark([0.5], 5, 1.0) == SPARKS[4]
    assert spark([], 5) == spark([1], 0) == ""
    assert spark([0, 0], 5) == SPARKS[0] * 2
    assert bar(0.5, 4) == "██░░"
    assert bar(7.0, 4) == "████"


def test_history_is_bounded_and_skips_restarts() -> None:
    history = History()
    for _ in range(HISTORY + 5):
        history.add(figures(BASE, later(), 2.0))
    history.add(figures(None, BASE, 1.0))
    assert len(history.sent) == HISTORY
    assert history.sent[-1] == 2100


def test_spans() -> None:
    assert [span(value) for value in (0, 59.9, 125, 7322, 273_600)] == [
        "0 s",
        "59 s",
        "2 min 5 s",
        "2 h 2 min",
        "3 d 4 h",
    ]
