from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo_server.quota.bucket import Bucket

RATES = st.floats(0.5, 1e6)


def test_a_burst_and_then_the_rate() -> None:
    bucket = Bucket(10.0, 5.0, now=100.0)
    for _ in range(5):
        assert bucket.wait_s(1, 100.0) == 0
        bucket.take(1, 100.0)
    assert bucket.wait_s(1, 100.0) == pytest.approx(0.1)
    assert bucket.wait_s(1, 100.1) == pytest.approx(0.0, abs=1e-9)


def test_more_than_a_burst_goes_when_it_is_full_and_is_paid_off() -> None:
    bucket = Bucket(10.0, 5.0, now=0.0)
    assert bucket.wait_s(50, 0.0) == 0
    bucket.take(50, 0.0)
    assert bucket.level(0.0) == -45
    assert bucket.wait_s(50, 0.0) == pytest.approx(5.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(4.6)


@given(
    rate=RATES,
    burst=st.floats(1.0, 1e6),
    asks=st.lists(st.tuples(st.floats(0, 2), st.floats(0.1, 1e5)), max_size=60),
)
def test_no_stretch_of_time_passes_more_than_it_should(
    rate: float, burst: float, asks: list[tuple[float, float]]
) -> None:
    """Whoever keeps to what `wait_s` says never gets more than rate * time + burst, and his last request."""
    bucket = Bucket(rate, burst, now=0.0)
    now, passed, largest = 0.0, 0.0, 0.0
    for gap, tokens in asks:
        now += gap
        if bucket.wait_s(tokens, now) == 0:
            bucket.take(tokens, now)
            passed += tokens
            largest = max(largest, tokens)
            assert passed <= (rate * now + burst + largest) * (1 + 1e-9)


@given(rate=RATES, burst=st.floats(1.0, 1e6), taken=st.floats(0, 2e6), tokens=st.floats(0.1, 2e6))
def test_the_time_to_wait_is_exact(rate: float, burst: float, taken: float, tokens: float) -> None:
    bucket = Bucket(rate, burst, now=0.0)
    bucket.take(taken, 0.0)
    wait_s = bucket.wait_s(tokens, 0.0)
    if wait_s > 1e-3:
        assert bucket.wait_s(tokens, 0.9 * wait_s) > 0
        assert bucket.wait_s(tokens, wait_s) <= 1e-6 * wait_s


def test_what_is_only_watched_is_soon_forgotten() -> None:
    bucket = Bucket(1.0, 2.0, now=0.0)
    bucket.mark(1000, 0.0)
    assert bucket.level(0.0) == -2.0
    assert bucket.level(3.0) == 1.0


def test_another_rate_keeps_what_was_taken() -> None:
    bucket = Bucket(1.0, 10.0, now=0.0)
    bucket.take(8, 0.0)
    bucket.change(2.0, 4.0, 0.0)
    assert bucket.level(0.0) == 2.0
    assert bucket.level(1.0) == 4.0


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = Bucket(5.0, 1.0, now=10.0)
    bucket.take(1, 10.0)
    assert bucket.level(9.0) == 0.0
    assert bucket.level(10.0) == 0.0
