"""Short ways to declare a shard's metrics: names begin and end as they must."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Kind, Metric, Source


def gauge(name: str, text: str, source: Source, labels: tuple[str, ...] = (), advice: str = "") -> Metric:
    """A number that rises and falls."""
    return Metric(f"mezzo_shard_{name}", Kind.GAUGE, text, source, labels, advice)


def counter(name: str, text: str, source: Source, labels: tuple[str, ...] = (), advice: str = "") -> Metric:
    """A number that only rises."""
    return Metric(f"mezzo_shard_{name}_total", Kind.COUNTER, text, source, labels, advice)


def histogram(name: str, text: str, source: Source, labels: tuple[str, ...] = (), advice: str = "") -> Metric:
    """Counts of values by bucket."""
    return Metric(f"mezzo_shard_{name}", Kind.HISTOGRAM, text, source, labels, advice)
