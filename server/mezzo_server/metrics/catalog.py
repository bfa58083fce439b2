"""How a metric is declared, and the catalogue of all of them: one place for all processes.

The declarations themselves stand by process in `shard`, `frontend` and `supervisor` next door; what
`families` exports and what docs/metrics.md says is made of them and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from mezzo_server.metrics.measures import Histogram


class Kind(Enum):
    """Kinds of metrics, as Prometheus has them."""

    COUNTER = "counter"
    """only rises, until its process starts anew; its name ends with ``_total``"""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"
    """labels that tell something, with the value 1"""


@dataclass(frozen=True, slots=True)
class Value:
    """One value: the sum of some numbers less that of others, times ``scale``, under these labels."""

    labels: tuple[str, ...]
    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Numbers:
    """Values made of a process's numbers (`shard_stat`, for a shard)."""

    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class EachDevice:
    """A number of each device: ``device_0_<name>`` and so on; the label is the device's name."""

    name: str


@dataclass(frozen=True, slots=True)
class Histograms:
    """A table of histograms of `Sample`, by one label (or one alone under ``""``)."""

    name: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of `Sample` whose labels are known only when something happened."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Words:
    """Words of `Sample`, by label."""

    names: tuple[str, ...]


Source = Numbers | EachDevice | Histograms | Table | Words


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of one kind of process."""

    name: str
    """in full, with its unit, and ``_total`` for a counter"""
    kind: Kind
    help: str
    """what it means, in one sentence; units are the name's"""
    source: Source
    labels: tuple[str, ...] = ()
    advice: str = ""
    """what to do when it moves; empty: it explains others"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process knew of itself at one moment. Made by its own thread, read by others."""

    numbers: Mapping[str, int | float] = field(default_factory=dict)
    histograms: Mapping[str, Mapping[str, Histogram]] = field(default_factory=dict)
    tables: Mapping[str, Mapping[tuple[str, ...], float]] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    devices: Sequence[str] = ()
    """names of the devices, in the order of their numbers"""


def one(name: str, *, scale: float = 1.0) -> Numbers:
    """A metric that is one number."""
    return Numbers((Value((), (name,), scale=scale),))


def by(pairs: Mapping[str, str], *, scale: float = 1.0) -> Numbers:
    """A metric with one label: the number for each of its values."""
    return Numbers(tuple(Value((label,), (name,), scale=scale) for label, name in pairs.items()))


def catalogue() -> Mapping[str, tuple[Metric, ...]]:
    """All metrics, by kind of process."""
    from mezzo_server.metrics import frontend, metadata, shard, supervisor

    return {
        "shard": shard.METRICS,
        "frontend": frontend.METRICS,
        "supervisor": supervisor.METRICS,
        "metadata": metadata.METRICS,
    }
