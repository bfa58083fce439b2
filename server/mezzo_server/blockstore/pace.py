"""How fast something works that has a queue: a device, the copies out of the hot tier, a connection. No clock.

Two numbers say it: the bytes a second at which what is queued leaves, taken over the time in which there was
any, and what a lone piece of work waits for besides.  Both come from what ended, O(1) for each, and one
stall or one burst moves neither far.
"""

from __future__ import annotations

BATCH_BYTES = 256 << 10
"""What ended is looked at in batches of so much: what ends in one turn of the loop ended at one time."""
SMALL_BYTES = 64 << 10
"""A lone piece of work that is no longer than this tells of the latency, a longer one of the rate."""
MEMORY_BYTES = 64 << 20
"""What has ended counts for less the more has ended since: by half after about so many bytes."""
MEMORY_BATCHES = 12
"""And by half after about so many batches, if these are larger."""
LATENCY_WEIGHT = 0.05
OUTLIER = 8.0
"""A batch counts as at most so many times slower or faster than what is known."""
SLOW = 16.0
"""What takes so many times longer than another of its kind is to be avoided."""
OUTLIERS_MAX = 3
"""So many in a row, all slower or all faster, are no stall and no burst: what was known is forgotten."""


class Pace:
    """See the module. Fed by `begin` and `moved`."""

    __slots__ = ("_batch", "_bytes", "_fresh", "_late", "_seconds", "_since", "_slow", "latency_s", "queued")

    def __init__(self, rate: float, latency_s: float) -> None:
        """``rate`` and ``latency_s``: what is believed before anything has ended."""
        self.latency_s = latency_s
        """that a lone piece of work takes besides its bytes"""
        self.queued = 0
        """bytes begun and not ended"""
        self._bytes = float(1 << 20)
        self._seconds = self._bytes / rate
        self._since = 0.0
        self._batch = 0
        self._slow = self._late = 0
        """batches, and lone pieces of work, in a row that were outliers: slower ones, or, negative, faster ones"""
        self._fresh = True
        """nothing has ended since there was nothing queued"""

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self._bytes / self._seconds

    def seconds(self, nbytes: float) -> float:
        """Until all that are queued and ``nbytes`` more will have ended."""
        return self.latency_s + (self.queued + nbytes) * self._seconds / self._bytes

    def lone_s(self, nbytes: float) -> float:
        """Of a piece of work with nothing queued ahead of it."""
        return self.latency_s + nbytes * self._seconds / self._bytes

    def idle_s(self, now: float) -> float:
        """Since when nothing has told anything; 0 before the first."""
        return now - self._since if self._since else 0.0

    def begin(self, nbytes: int, now: float) -> None:
        """So many bytes are queued."""
        if not self.queued:
            self._since, self._fresh, self._batch = now, True, 0
        self.queued += nbytes

    def moved(self, nbytes: int, now: float) -> None:
        """So many of them ended."""
        self.queued -= nbytes
        self._batch += nbytes
        if self._batch < BATCH_BYTES and self.queued:
            return
        seconds = now - self._since
        if seconds <= 0:
            return
        batch, lone = self._batch, self._fresh
        self._since, self._batch, self._fresh = now, 0, False
        if lone and batch <= SMALL_BYTES:
            waited_s, known_s = seconds - batch / self.rate, self.latency_s
            self._late = _in_a_row(self._late, waited_s, known_s)
            if abs(self._late) >= OUTLIERS_MAX and waited_s > 0:
                self._late, self.latency_s = 0, waited_s
                return
            sample = min(max(waited_s, known_s / OUTLIER), known_s * OUTLIER)
            self.latency_s += LATENCY_WEIGHT * (sample - known_s)
            return
        if batch <= SMALL_BYTES:
            return  # the end of a queue of small pieces: too little to tell
        expected = batch / self.rate
        if lone:
            seconds = max(seconds - self.latency_s, seconds / 4)
        self._slow = _in_a_row(self._slow, seconds, expected)
        if abs(self._slow) >= OUTLIERS_MAX:
            self._slow, self._bytes, self._seconds = 0, float(batch), seconds
            return
        keep = max(0.5 ** (batch / MEMORY_BYTES), 0.5 ** (1 / MEMORY_BATCHES))
        self._bytes = keep * self._bytes + batch
        self._seconds = keep * self._seconds + min(max(seconds, expected / OUTLIER), expected * OUTLIER)

    def drop(self, nbytes: int, now: float) -> None:
        """So many of them will not end: they were given up."""
        self.queued -= nbytes
        if not self.queued:
            self._since, self._fresh, self._batch = now, True, 0


def _in_a_row(count: int, seconds: float, expected: float) -> int:
    """How many outliers there were in a row, all slower (positive) or all faster, with this one."""
    if seconds > expected * OUTLIER:
        return max(0, count) + 1
    if seconds < expected / OUTLIER:
        return min(0, count) - 1
    return 0
