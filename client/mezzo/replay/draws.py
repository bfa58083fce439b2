"""Seeded draws from the distributions of a workload.

Only ``random.Random.random`` is used, the one method whose output Python promises to keep for a
seed; normal values come from it by `statistics.NormalDist.inv_cdf` (Wichura, algorithm AS 241, 1988).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate
from random import Random
from statistics import NormalDist

from mezzo.replay.workload_config import Amount, Arrivals

_NORMAL = NormalDist()


class Draws:
    """Draws of one seed, in the order in which they are asked for."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random

    def chance(self, share: float) -> bool:
        """True in ``share`` of the draws. Draws nothing for 0 and 1."""
        return share >= 1 or (share > 0 and self._random() < share)

    def amount(self, amount: Amount) -> float:
        """A value of ``amount``, within its bounds."""
        median, sigma = amount.median, amount.sigma
        if self.chance(amount.long_share):
            median, sigma = amount.long_median, amount.long_sigma
        value = median * math.exp(sigma * self._normal()) if sigma and median else median
        return min(max(value, amount.least), amount.most)

    def count(self, amount: Amount) -> int:
        """The same, as a whole number."""
        return int(self.amount(amount) + 0.5)

    def exponential(self, mean: float) -> float:
        """Waiting time of a Poisson process whose events are ``mean`` apart on average."""
        return -math.log(1 - self._random()) * mean

    def below(self, limit: float) -> float:
        """Uniform from 0 to ``limit``."""
        return self._random() * limit

    def _normal(self) -> float:
        # random() may be 0, which has no finite normal value; 2**-54 is half of its next one.
        return _NORMAL.inv_cdf(self._random() or 2**-54)


class Zipf:
    """Ranks from 0, the k-th drawn in proportion to 1 / (k+1)**exponent."""

    def __init__(self, count: int, exponent: float) -> None:
        self._sums = list(accumulate((rank + 1) ** -exponent for rank in range(count)))

    def draw(self, draws: Draws) -> int:
        """One rank."""
        return min(bisect_right(self._sums, draws.below(self._sums[-1])), len(self._sums) - 1)


class ArrivalTimes:
    """When sessions begin: ascending times in seconds from ``start_s`` on, the last one not before ``end_s``.

    A Poisson process of the highest rate, thinned to the rate of the moment (Lewis and Shedler,
    Simulation of nonhomogeneous Poisson processes by thinning, 1979).
    """

    def __init__(self, arrivals: Arrivals, draws: Draws, start_s: float, end_s: float) -> None:
        self._arrivals = arrivals
        self._draws = draws
        self._end_s = end_s
        self._now_s = start_s
        self._bursts = arrivals.burst_every_s > 0
        self._bursting = False
        self._turn_s = start_s + draws.exponential(arrivals.burst_every_s) if self._bursts else math.inf
        self._rate_max = (
            arrivals.sessions_per_s
            * (1 + abs(arrivals.trend) / 2)
            * (1 + arrivals.swing)
            * (arrivals.burst_factor if self._bursts else 1.0)
        )

    def next_s(self) -> float:
        """The next beginning; infinity when the end has passed."""
        while True:
            self._now_s += self._draws.exponential(1 / self._rate_max)
            if self._now_s >= self._end_s:
                return math.inf
            if self._draws.below(self._rate_max) < self._rate(self._now_s):
                return self._now_s

    def _rate(self, now_s: float) -> float:
        arrivals = self._arrivals
        while self._turn_s <= now_s:
            self._bursting = not self._bursting
            self._turn_s += self._draws.exponential(
                arrivals.burst_s if self._bursting else arrivals.burst_every_s
            )
        rate = arrivals.sessions_per_s * (arrivals.burst_factor if self._bursting else 1.0)
        # The warm-up has the rate of the beginning.
        rate *= 1 + arrivals.trend * (max(0.0, now_s) / self._end_s - 0.5)
        swing = 2 * math.pi * (now_s / arrivals.swing_period_s + arrivals.swing_phase)
        return rate * (1 + arrivals.swing * math.sin(swing))
