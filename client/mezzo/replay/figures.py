"""Figures of a run: percentiles of latencies, windows of a timeline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from mezzo.replay.tiers import TierSample, hot_share

WINDOWS_MAX = 120


class Latency(Struct, frozen=True):
    """Latencies of one operation, in milliseconds. All are 0 where there was none."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def latency(seconds: Iterable[float]) -> Latency:
    """Summarise durations, in seconds."""
    ordered = sorted(seconds)
    if not ordered:
        return Latency(0, 0.0, 0.0, 0.0, 0.0)
    p50, p95, p99 = (percentile(ordered, share) * 1000 for share in (0.50, 0.95, 0.99))
    return Latency(len(ordered), p50, p95, p99, ordered[-1] * 1000)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the sorted ``ordered`` do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Served(Struct, frozen=True, gc=False):
    """One request as it was served."""

    end_s: float
    """since the run's start"""
    references: int
    seen_before: int
    hits: int
    got_bytes: int
    put_bytes: int
    in_place: int = 0
    """of the hits, those that were read where they lie"""


class Window(Struct, frozen=True):
    """What was served in a stretch of the run."""

    start_s: float
    end_s: float
    requests: int
    hit_rate: float
    hit_rate_max: float
    """the best that any cache could have done with the requests of the window"""
    got_gb_per_s: float
    put_gb_per_s: float
    hot_rate: float = 0.0
    """the part of `hit_rate` that came from the hot tier: by the shard's counters, and in place"""


def windows(
    served: Iterable[Served],
    duration_s: float,
    windows_max: int = WINDOWS_MAX,
    samples: Sequence[TierSample] = (),
) -> tuple[Window, ...]:
    """Sum up ``served`` in equal windows over ``duration_s``, none shorter than half a second.

    ``samples``: the shard's counters by tier meanwhile.
    """
    count = max(1, min(windows_max, int(duration_s / 0.5)))
    width_s = max(duration_s, 1e-9) / count
    groups: list[list[Served]] = [[] for _ in range(count)]
    for one in served:
        groups[min(count - 1, int(one.end_s / width_s))].append(one)
    return tuple(_window(index * width_s, width_s, group, samples) for index, group in enumerate(groups))


def _window(start_s: float, width_s: float, group: Sequence[Served], samples: Sequence[TierSample]) -> Window:
    hits = sum(one.hits for one in group)
    in_place = sum(one.in_place for one in group)
    hot = in_place + (hits - in_place) * hot_share(samples, start_s, start_s + width_s)
    references = sum(one.references for one in group)
    share = 1 / references if references else 0.0
    return Window(
        start_s=start_s,
        end_s=start_s + width_s,
        requests=len(group),
        hit_rate=hits * share,
        hit_rate_max=sum(one.seen_before for one in group) * share,
        got_gb_per_s=sum(one.got_bytes for one in group) / width_s / 1e9,
        put_gb_per_s=sum(one.put_bytes for one in group) / width_s / 1e9,
        hot_rate=hot * share,
    )
