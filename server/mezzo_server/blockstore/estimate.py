"""How long a load would take now: what is queued, over what the devices have been giving.

An exponentially weighted rate and latency of finished reads; one number each, so O(1) for a request.
"""

from __future__ import annotations

WEIGHT = 0.05
RATE_START = 1e9
LATENCY_START_S = 200e-6
LARGE_BYTES = 256 << 10


class LoadEstimate:
    """Fed by gets as they begin and end."""

    __slots__ = ("_busy_since", "_latency_s", "_moved", "_rate", "in_flight_bytes")

    def __init__(self) -> None:
        self.in_flight_bytes = 0
        self._rate = RATE_START
        self._latency_s = LATENCY_START_S
        self._busy_since = 0.0
        self._moved = 0

    def begin(self, size: int, now: float) -> None:
        """A read of ``size`` bytes begins."""
        if not self.in_flight_bytes:
            self._busy_since, self._moved = now, 0
        self.in_flight_bytes += size

    def end(self, size: int, began: float, now: float) -> None:
        """A read that began then ended."""
        self.in_flight_bytes -= size
        self._moved += size
        busy = now - self._busy_since
        if size < LARGE_BYTES:
            self._latency_s += WEIGHT * (now - began - self._latency_s)
        if busy > 0 and self._moved >= LARGE_BYTES:
            self._rate += WEIGHT * (self._moved / busy - self._rate)

    def seconds(self, size: int) -> float:
        """Expected seconds until ``size`` more bytes were read."""
        return self._latency_s + (self.in_flight_bytes + size) / self._rate
