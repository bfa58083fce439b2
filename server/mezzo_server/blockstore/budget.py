"""A rate of bytes for work in the background: it is spent as work is begun, and fills up with time."""

from __future__ import annotations


class Budget:
    """Bytes that may be worked on now; below 0 after a piece of work that was larger than what was left."""

    __slots__ = ("_at", "_bytes_max", "bytes", "bytes_per_s")

    def __init__(self, bytes_per_s: float, burst_s: float, now: float) -> None:
        """``burst_s``: what is not spent is kept for at most so long."""
        self.bytes_per_s = bytes_per_s
        self.bytes = 0.0
        self._bytes_max = bytes_per_s * burst_s
        self._at = now

    def fill(self, now: float) -> None:
        """Time has passed."""
        self.bytes = min(self.bytes + (now - self._at) * self.bytes_per_s, self._bytes_max)
        self._at = now
