"""From which tier a replay's chunks came, by the shard's own counters before, during and after it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from mezzo.errors import Busy, DeadlineExceeded

SAMPLES_MAX = 1024
SAMPLE_S_MIN = 0.25

HOT_CHUNKS = "chunks_got_hot"
DEVICE_CHUNKS = "chunks_got_device"


class Tiers(Struct, frozen=True):
    """What the shard's counters rose by."""

    hot_chunks: int
    """got out of memory"""
    hot_bytes: int
    device_chunks: int
    """got from a device"""
    device_bytes: int
    missed_chunks: int
    """asked for in a get, and not there: lookup had announced them, or another client asked"""


class TierSample(Struct, frozen=True, gc=False):
    """The counters at one moment."""

    at_s: float
    """since the run's start"""
    hot_chunks: float
    device_chunks: float


def tiers(server: Mapping[str, float]) -> Tiers | None:
    """By tier; None for a server that does not tell them apart."""
    if HOT_CHUNKS not in server:
        return None
    return Tiers(
        hot_chunks=int(server[HOT_CHUNKS]),
        hot_bytes=int(server.get("bytes_got_hot", 0)),
        device_chunks=int(server.get(DEVICE_CHUNKS, 0)),
        device_bytes=int(server.get("bytes_got_device", 0)),
        missed_chunks=int(server.get("chunks_missed", 0)),
    )


class TierSampler:
    """Reads the counters now and then while a replay runs. Owned by the thread that calls `look`.

    A long run is sampled more and more rarely, so that there are never over `SAMPLES_MAX`.
    """

    def __init__(self, stat: Callable[[], Mapping[str, float]], clock: Callable[[], float]) -> None:
        self._stat = stat
        self._clock = clock
        self._start_s = clock()
        self._step_s = SAMPLE_S_MIN
        self._next_s = 0.0
        self.samples: list[TierSample] = []

    def look(self) -> None:
        """Take a sample if one is due."""
        if self._clock() - self._start_s < self._next_s:
            return
        try:
            self.take(self._stat())
        except (Busy, DeadlineExceeded):
            pass  # the replay itself is what matters; the next sample tells as much

    def take(self, stat: Mapping[str, float]) -> None:
        """Note these counters, for the moment; used for the first and the last sample."""
        at_s = self._clock() - self._start_s
        if HOT_CHUNKS not in stat:
            return
        self.samples.append(TierSample(at_s, stat[HOT_CHUNKS], stat.get(DEVICE_CHUNKS, 0)))
        if len(self.samples) >= SAMPLES_MAX:
            del self.samples[1:-1:2]
            self._step_s *= 2
        self._next_s = at_s + self._step_s


def hot_share(samples: Sequence[TierSample], start_s: float, end_s: float) -> float:
    """Of the chunks got between two moments, the share that came from the hot tier; 0 if none was got."""
    hot = _at(samples, end_s, HOT_CHUNKS) - _at(samples, start_s, HOT_CHUNKS)
    device = _at(samples, end_s, DEVICE_CHUNKS) - _at(samples, start_s, DEVICE_CHUNKS)
    return hot / (hot + device) if hot + device > 0 else 0.0


def _at(samples: Sequence[TierSample], at_s: float, name: str) -> float:
    """A counter at a moment between two samples, on a straight line between them."""

    def value(sample: TierSample) -> float:
        return sample.hot_chunks if name == HOT_CHUNKS else sample.device_chunks

    if not samples:
        return 0.0
    after = bisect_right(samples, at_s, key=lambda sample: sample.at_s)
    if after == 0:
        return value(samples[0])
    if after == len(samples):
        return value(samples[-1])
    low, high = samples[after - 1], samples[after]
    share = (at_s - low.at_s) / (high.at_s - low.at_s)
    return value(low) + share * (value(high) - value(low))
