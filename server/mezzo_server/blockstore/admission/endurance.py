"""What a device may be written in a day, and which puts go without when that is used up.

A token bucket fills with the rated writes; what is written empties it, rewriting included.  While it is more
than half full everything is taken.  Below that the least useful puts are shed first: a share of them that
rises to all when the bucket is empty.  How useful puts are beside one another is learned from those of late.
"""

from __future__ import annotations

DAY_S = 86_400.0
BURST_S = 3600.0
"""What is not written is kept for so long."""
USEFUL_LEVELS = 64
FORGET_EVERY = 4096
"""puts after which those of before count half"""


class Endurance:
    """Owner of the bucket, and of what it knows of the usefulness of puts."""

    __slots__ = ("_at", "_levels", "_seen", "bytes", "bytes_per_s")

    def __init__(self, bytes_per_day: float, now: float) -> None:
        """``bytes_per_day``; 0: without limit."""
        self.bytes_per_s = bytes_per_day / DAY_S
        """that may be written; changes when devices come, leave or grow"""
        self.bytes = self._burst_bytes
        """that may be written now; below 0 when more was"""
        self._at = now
        self._levels = [0.0] * USEFUL_LEVELS
        self._seen = 0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.bytes_per_s > 0

    @property
    def _burst_bytes(self) -> float:
        return self.bytes_per_s * BURST_S

    def written(self, size: int, now: float) -> None:
        """So many bytes were written since the last call."""
        self.bytes += (now - self._at) * self.bytes_per_s - size
        self.bytes = max(min(self.bytes, self._burst_bytes), -self._burst_bytes)
        self._at = now

    def takes(self, useful: int) -> bool:
        """Whether a put of this usefulness (0 to 63, more is better) is taken now."""
        useful = min(max(useful, 0), USEFUL_LEVELS - 1)
        levels = self._levels
        levels[useful] += 1.0
        self._seen += 1
        if self._seen >= FORGET_EVERY:
            self._seen = 0
            self._levels = levels = [count / 2 for count in levels]
        shed = min(max(1.0 - 2.0 * self.bytes / self._burst_bytes, 0.0), 1.0)
        if shed == 0.0:
            return True
        # Those less useful than this one, and half of those as useful: is it above what is shed?
        below = sum(levels[:useful]) + levels[useful] / 2
        return below > shed * sum(levels)
