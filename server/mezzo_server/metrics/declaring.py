"""Short ways to declare the metrics of a process: names begin and end as they must."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Kind, Metric, Source, Words


class Declaring:
    """Declares metrics of one kind of process: ``mezzo_<process>_<name>``."""

    def __init__(self, process: str) -> None:
        self._process = process

    def gauge(
        self, name: str, text: str, source: Source, labels: tuple[str, ...] = (), advice: str = ""
    ) -> Metric:
        """A number that rises and falls."""
        return Metric(f"mezzo_{self._process}_{name}", Kind.GAUGE, text, source, labels, advice)

    def counter(
        self, name: str, text: str, source: Source, labels: tuple[str, ...] = (), advice: str = ""
    ) -> Metric:
        """A number that only rises."""
        return Metric(f"mezzo_{self._process}_{name}_total", Kind.COUNTER, text, source, labels, advice)

    def histogram(
        self, name: str, text: str, source: Source, labels: tuple[str, ...] = (), advice: str = ""
    ) -> Metric:
        """Counts of values by bucket."""
        return Metric(f"mezzo_{self._process}_{name}", Kind.HISTOGRAM, text, source, labels, advice)

    def info(self, text: str, words: tuple[str, ...]) -> Metric:
        """What runs, in these words of `Sample`."""
        return Metric(f"mezzo_{self._process}_info", Kind.INFO, text, Words(words), words)


SHARD = Declaring("shard")
FRONTEND = Declaring("frontend")
SUPERVISOR = Declaring("supervisor")
METADATA = Declaring("metadata")
