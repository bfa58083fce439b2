"""From a catalogue and a sample to what Prometheus reads. Pure: no I/O, no state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family

from mezzo_server.metrics.catalog import (
    EachDevice,
    Histograms,
    Kind,
    Metric,
    Numbers,
    Sample,
    Table,
    Words,
)
from mezzo_server.metrics.measures import Histogram


def families(metrics: Iterable[Metric], sample: Sample) -> Iterator[Family]:
    """Every metric of ``metrics`` with its values; a number that the sample lacks is 0."""
    for metric in metrics:
        yield _family(metric, sample)


def _family(metric: Metric, sample: Sample) -> Family:
    source = metric.source
    if metric.kind is Kind.HISTOGRAM:
        return _histogram(metric, sample)
    if metric.kind is Kind.INFO:
        names = source.names if isinstance(source, Words) else ()
        words = {name: sample.words.get(name, "") for name in names}
        return InfoMetricFamily(metric.name.removesuffix("_info"), metric.help, value=words)
    values = list(_values(metric, sample))
    family: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is Kind.COUNTER:
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    else:
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _values(metric: Metric, sample: Sample) -> Iterator[tuple[tuple[str, ...], float]]:
    source, numbers = metric.source, sample.numbers
    if isinstance(source, Numbers):
        for value in source.values:
            total = _sum(value.plus, numbers) - _sum(value.minus, numbers)
            yield value.labels, total * value.scale
    elif isinstance(source, EachDevice):
        for place, name in enumerate(sample.devices):
            number = numbers.get(f"device_{place}_{source.name}")
            if number is not None:
                yield (name,), number
    elif isinstance(source, Table):
        for labels, number in sorted(sample.tables.get(source.name, {}).items()):
            yield labels, number * source.scale


def _sum(names: Iterable[str], numbers: Mapping[str, int | float]) -> int | float:
    return sum(numbers.get(name, 0) for name in names)


def _histogram(metric: Metric, sample: Sample) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    source = metric.source
    table: Mapping[str, Histogram] = {}
    if isinstance(source, Histograms):
        table = sample.histograms.get(source.name, {})
    for label, histogram in table.items():
        buckets = [(_bound(bound), float(count)) for bound, count in histogram.cumulated()]
        family.add_metric((label,) if metric.labels else (), buckets, histogram.total)
    return family


def _bound(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(value)
