"""Pairs and their arithmetic: the reference and ours in turn, and the spread of their ratios.

Machines drift: a neighbour wakes up, a clock slows down.  Two figures taken one right after the other
share that drift and their ratio does not show it, so ratios of neighbours are what we report.
Absolute figures stand beside them for orientation only and are never compared across runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

Better = Literal["higher", "lower"]


class Skipped(Exception):
    """This cannot be measured here; the message says why and what would help."""


class Spread(Struct, frozen=True):
    """Five numbers of a sample."""

    min: float
    q1: float
    median: float
    q3: float
    max: float


class Sample(Struct, frozen=True):
    """One figure, and what was seen on the side while it was taken (CPU, for example)."""

    value: float
    detail: dict[str, float] = {}


class Row(Struct, frozen=True, kw_only=True):
    """One line of the table.

    With a ``reference``, ``spread`` and ``target`` are about the ratio ours / reference of each pair;
    without one they are about our figures themselves.
    """

    name: str
    unit: str
    better: Better
    ours: str
    """how ours was taken"""
    reference: str = ""
    """what it is compared with; empty: nothing"""
    target: float | None = None
    """None: reported only"""
    spread: Spread
    reference_median: float = 0.0
    ours_median: float
    met: bool | None = None
    pairs: list[tuple[float, float]] = []
    """(reference, ours), as taken"""
    reference_detail: dict[str, float] = {}
    """medians"""
    ours_detail: dict[str, float] = {}
    note: str = ""


class Unmeasured(Struct, frozen=True, kw_only=True):
    """A line that could not be filled, and why."""

    name: str
    reason: str


def quantile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0..1) of them lie below, interpolated between neighbours.

    Type 7 of Hyndman and Fan, "Sample Quantiles in Statistical Packages" (1996), as NumPy has it.
    """
    if not values:
        raise ValueError("no values")
    if not 0 <= share <= 1:
        raise ValueError(f"a share is 0 to 1, not {share}")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return quantile(values, 0.5)


def spread(values: Sequence[float]) -> Spread:
    """Minimum, quartiles and maximum."""
    return Spread(*(quantile(values, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)))


def ratios(pairs: Iterable[tuple[float, float]]) -> list[float]:
    """ours / reference of each pair. ValueError for a reference that measured nothing."""
    result = []
    for reference, ours in pairs:
        if reference <= 0:
            raise ValueError(f"a reference of {reference} is no measurement")
        result.append(ours / reference)
    return result


def meets(value: float, target: float | None, better: Better) -> bool | None:
    """Whether a figure reaches its target; None without one."""
    if target is None:
        return None
    return value >= target if better == "higher" else value <= target


def medians(details: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each key over the samples that have it."""
    keys = dict.fromkeys(key for detail in details for key in detail)
    return {key: median([detail[key] for detail in details if key in detail]) for key in keys}


Take = Callable[[], Sample]


def take_pairs(reference: Take, ours: Take, count: int) -> list[tuple[Sample, Sample]]:
    """``count`` pairs, in turn: reference, ours, reference, ours, ..."""
    if count < 1:
        raise ValueError("at least one pair")
    return [(reference(), ours()) for _ in range(count)]


def compared(
    samples: Sequence[tuple[Sample, Sample]],
    *,
    name: str,
    unit: str,
    reference: str,
    ours: str,
    better: Better = "higher",
    target: float | None = None,
    note: str = "",
) -> Row:
    """The row of pairs (reference, ours)."""
    pairs = [(first.value, second.value) for first, second in samples]
    measured = spread(ratios(pairs))
    return Row(
        name=name,
        unit=unit,
        better=better,
        ours=ours,
        reference=reference,
        target=target,
        spread=measured,
        reference_median=median([pair[0] for pair in pairs]),
        ours_median=median([pair[1] for pair in pairs]),
        met=meets(measured.median, target, better),
        pairs=pairs,
        reference_detail=medians([first.detail for first, _ in samples]),
        ours_detail=medians([second.detail for _, second in samples]),
        note=note,
    )


def alone(
    samples: Sequence[Sample],
    *,
    name: str,
    unit: str,
    ours: str,
    better: Better = "lower",
    target: float | None = None,
    note: str = "",
) -> Row:
    """The row of figures that nothing is compared with."""
    measured = spread([sample.value for sample in samples])
    return Row(
        name=name,
        unit=unit,
        better=better,
        ours=ours,
        target=target,
        spread=measured,
        ours_median=measured.median,
        met=meets(measured.median, target, better),
        pairs=[(0.0, sample.value) for sample in samples],
        ours_detail=medians([sample.detail for sample in samples]),
        note=note,
    )


LATENCIES_MAX = 100_000


def latency_us(call: Callable[[], object], sample_s: float) -> Sample:
    """The median time of a call, microseconds; for at most ``sample_s`` or `LATENCIES_MAX` calls."""
    clock = time.perf_counter_ns
    times: list[float] = []
    until = clock() + int(sample_s * 1e9)
    began = clock()
    while began < until and len(times) < LATENCIES_MAX:
        call()
        ended = clock()
        times.append((ended - began) / 1000)
        began = ended
    return latencies(times)


def latencies(times: Sequence[float], **detail: float) -> Sample:
    """The median of times in microseconds, and on the side what one in a hundred is over."""
    return Sample(median(times), {"p99_us": quantile(times, 0.99), "calls": float(len(times)), **detail})
