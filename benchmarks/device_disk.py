"""The device rows on the working disk."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.device import LARGE, MEDIUM, SMALL, Case, reads, writes
from benchmarks.harness import Row
from benchmarks.settings import Settings

READS = (
    Case(MEDIUM, 16, 2, 0.95),
    Case(LARGE, 8, 2, 0.95),
    Case(SMALL, 64, 2, 0.85),
    Case(SMALL, 64, 2, None, prefixes=True),
)
WRITES = (Case(MEDIUM, 16, 2, 0.90),)


def rows(settings: Settings) -> Iterator[Row]:
    """Reads, then writes."""
    yield from reads(settings, settings.disk, READS)
    yield from writes(settings, settings.disk, WRITES)
