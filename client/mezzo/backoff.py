"""When to try a connection again. No I/O, no clock of its own."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Exponential backoff with full jitter. Owner of the count of failures since the last success.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
    """

    def __init__(
        self, random: Callable[[], float], *, first_s: float = 0.05, factor: float = 2.0, max_s: float = 5.0
    ) -> None:
        if not (0 < first_s <= max_s and factor >= 1):
            raise ValueError("backoff needs 0 < first_s <= max_s and factor >= 1")
        self._random = random
        self._first_s = first_s
        self._factor = factor
        self._max_s = max_s
        self.failures = 0
        self.not_before = 0.0
        """clock reading from which on the next attempt may be made"""

    def failed(self, now: float) -> float:
        """An attempt failed at ``now``: seconds until the next may be made (at most ``max_s``)."""
        # The exponent is bounded so that the power cannot overflow after a night of failures.
        ceiling_s = min(self._max_s, self._first_s * self._factor ** min(self.failures, 64))
        self.failures += 1
        # Never zero: half of the range is certain, so that a dead server is not hammered.
        delay_s = ceiling_s * (0.5 + 0.5 * self._random())
        self.not_before = now + delay_s
        return delay_s

    def succeeded(self) -> None:
        """An attempt succeeded: the next failure starts over."""
        self.failures = 0
        self.not_before = 0.0
