"""Percentiles and windows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.replay.figures import Latency, Served, latency, windows


def test_no_call_no_latency() -> None:
    assert latency([]) == Latency(0, 0.0, 0.0, 0.0, 0.0)


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert latency([n / 1000 for n in range(100, 0, -1)]) == Latency(100, 50.0, 95.0, 99.0, 100.0)
    assert latency([0.002]) == Latency(1, 2.0, 2.0, 2.0, 2.0)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_in_order(seconds: list[float]) -> None:
    row = latency(seconds)
    assert min(seconds) * 1000 <= row.p50_ms <= row.p95_ms <= row.p99_ms <= row.max_ms == max(seconds) * 1000


served = st.builds(
    Served, st.floats(0, 50), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 10**6),
    st.integers(0, 10**6),
)  # fmt: skip


@given(st.lists(served), st.floats(0.001, 50))
def test_windows_lose_nothing(requests: list[Served], duration_s: float) -> None:
    made = windows(requests, duration_s, windows_max=20)
    assert 1 <= len(made) <= 20
    assert sum(window.requests for window in made) == len(requests)
    for attribute in ("got", "put"):
        moved = sum(getattr(w, f"{attribute}_gb_per_s") * (w.end_s - w.start_s) for w in made) * 1e9
        assert moved == pytest.approx(sum(getattr(one, f"{attribute}_bytes") for one in requests))
    assert made[0].start_s == 0
    assert made[-1].end_s == pytest.approx(duration_s)


def test_a_window_has_the_rates_of_its_requests() -> None:
    first, second = windows([Served(0.1, 4, 2, 1, 0, 0), Served(0.9, 1, 1, 1, 10**9, 0)], 1.0)
    assert (first.hit_rate, first.hit_rate_max, first.got_gb_per_s) == (0.25, 0.5, 0.0)
    assert (second.hit_rate, second.hit_rate_max, second.got_gb_per_s) == (1.0, 1.0, 2.0)
