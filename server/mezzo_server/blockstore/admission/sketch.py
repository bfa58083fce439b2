"""How often keys were seen lately, in a fixed amount of memory: a count-min sketch that ages.

Cormode and Muthukrishnan 2005; counts are halved after so many additions, as in TinyLFU (Einziger, Friedman,
Manes 2017).  It never says less than was counted since the last halving, and sometimes more.
"""

from __future__ import annotations

ROWS = 4
COUNT_MAX = 15
ADDITIONS_PER_COUNTER = 2
"""Counts are halved after so many additions for each counter of a row."""
_HALVES = bytes(count // 2 for count in range(256))


class Sketch:
    """Counts by 64-bit hash. Owner of ``ROWS`` rows of one byte each."""

    __slots__ = ("_added", "_mask", "_rows")

    def __init__(self, counters: int = 1 << 18) -> None:
        """``counters`` of each row, a power of two."""
        self._mask = counters - 1
        self._rows = [bytearray(counters) for _ in range(ROWS)]
        self._added = 0

    def add(self, hashed: int) -> int:
        """Count a key; how often it had been seen before."""
        before = COUNT_MAX
        for number, row in enumerate(self._rows):
            place = (hashed >> 13 * number) & self._mask
            count = row[place]
            before = min(before, count)
            if count < COUNT_MAX:
                row[place] = count + 1
        self._added += 1
        if self._added >= ADDITIONS_PER_COUNTER * (self._mask + 1):
            self._added = 0
            self._rows = [row.translate(_HALVES) for row in self._rows]
        return before
