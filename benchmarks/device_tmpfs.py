"""The device rows on a file in memory: no disk to wait for, so what is ours shows.

A read of tmpfs is a copy within the call that submits it; fio and the shard pay for it alike, but the
shard checksums what it read as well.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.device import LARGE, MEDIUM, SMALL, Case, reads, writes
from benchmarks.harness import Row
from benchmarks.settings import Settings

READS = (Case(MEDIUM, 16, 2, 0.8), Case(LARGE, 8, 2, None), Case(SMALL, 64, 2, None))
WRITES = (Case(MEDIUM, 16, 2, 0.8),)


def rows(settings: Settings) -> Iterator[Row]:
    """Reads, then writes."""
    yield from reads(settings, settings.tmpfs, READS)
    yield from writes(settings, settings.tmpfs, WRITES)
