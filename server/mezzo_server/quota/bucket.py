"""A token bucket. No clock of its own: ``now`` is an argument, seconds of any monotonic clock.

It holds ``burst`` tokens at the most, gains ``rate`` of them a second, and may go into debt: who asks for
more than a whole burst gets it when the bucket is full, and everybody waits for it to be paid off.  So over
any stretch of ``t`` seconds at most ``rate * t + burst`` and one request more pass.
"""

from __future__ import annotations


class Bucket:
    """Tokens at a rate. Owned by one account."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        """Full at first. ``rate`` and ``burst`` are more than 0."""
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def level(self, now: float) -> float:
        """Tokens that are there; negative: debt."""
        gained = (now - self._at) * self.rate
        if gained > 0:
            self._at = now
            self._level = min(self.burst, self._level + gained)
        return self._level

    def wait_s(self, tokens: float, now: float) -> float:
        """Seconds until so many may be taken, if nobody else takes any; 0: now."""
        missing = min(tokens, self.burst) - self.level(now)
        return missing / self.rate if missing > 0 else 0.0

    def take(self, tokens: float, now: float) -> None:
        """Take them, whether they are there or not. A negative number gives some back."""
        self.level(now)
        self._level = min(self.burst, self._level - tokens)

    def mark(self, tokens: float, now: float) -> None:
        """`take`, but never more than a burst into debt: for a limit that is only watched."""
        self.take(tokens, now)
        self._level = max(self._level, -self.burst)

    def change(self, rate: float, burst: float, now: float) -> None:
        """Another rate from now on; what was taken stays taken."""
        self.level(now)
        self.rate = rate
        self.burst = burst
        self._level = min(self._level, burst)
