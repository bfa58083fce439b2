"""How fast something works that has a queue: what one stall does to it, and what another pace does."""

from __future__ import annotations

import pytest

from mezzo_server.blockstore.pace import BATCH_BYTES, OUTLIERS_MAX, Pace


class Played:
    """Something that works through its queue at a rate."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.pace = Pace(rate, 0.0)
        self.now = 1.0
        self.pace.begin(1 << 40, self.now)  # it never runs dry
        self.work(100)

    def work(self, batches: int, stall_s: float = 0.0) -> None:
        for _ in range(batches):
            self.now += BATCH_BYTES / self.rate + stall_s
            self.pace.moved(BATCH_BYTES, self.now)


@pytest.mark.parametrize("times", [100.0, 0.01])
def test_another_pace_is_known_after_a_few_batches(times):
    played = Played(100e6)
    assert played.pace.rate == pytest.approx(100e6)
    played.rate *= times
    played.work(OUTLIERS_MAX)
    assert played.pace.rate == pytest.approx(100e6 * times)


def test_a_stall_now_and_then_is_no_other_pace():
    played = Played(100e6)
    for _ in range(20):
        played.work(1, stall_s=0.5)
        played.work(30)
    assert played.pace.rate > 30e6


def test_a_stall_and_a_burst_are_no_other_pace_together():
    played = Played(100e6)
    for _ in range(10):
        played.work(OUTLIERS_MAX - 1, stall_s=0.5)
        played.rate *= 100
        played.work(OUTLIERS_MAX - 1)
        played.rate /= 100
    assert 1e6 < played.pace.rate < 1e9
