"""What may be written beside what is put: the budget of reclaim."""

from __future__ import annotations

BURST_SEGMENTS = 2.0
"""Credit is kept up to so many segments: a budget that waits for good survivors must not come all at once."""


class RewriteBudget:
    """Bytes that a policy may have rewritten, as a share of what is put. Owner of the credit.

    ``amplification`` is what may be written for each byte that is put, the put itself included.  What is
    rewritten because it must be (leases, quotas) costs credit too, but is never refused.
    """

    __slots__ = ("_burst", "_share", "credit")

    def __init__(self, amplification: float, burst_bytes: float) -> None:
        self._share = max(amplification - 1.0, 0.0)
        self._burst = burst_bytes if self._share else 0.0
        self.credit = self._burst
        """bytes, from minus the burst to the burst"""

    @property
    def fill(self) -> float:
        """Credit as a share of the most that is kept; 0 if nothing may ever be rewritten."""
        return max(self.credit, 0.0) / self._burst if self._burst else 0.0

    def put(self, size: int) -> None:
        """So many bytes were put."""
        self.credit = min(self.credit + size * self._share, self._burst)

    def spend(self, size: int) -> None:
        """So many bytes are rewritten."""
        self.credit = max(self.credit - size, -self._burst)
