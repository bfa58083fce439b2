"""A hierarchical timing wheel: places of chunks by the time when they expire.

    4 levels of 64 slots; a slot is 512 ms, 33 s, 35 min or 37 h; what lies beyond 99 days comes round again

Putting a place in is O(1), and so is what it costs later: it is moved to a finer level at most three times.
A slot is an array of 8 bytes a place.  Nothing is ever taken out early: whoever owns the wheel says of each
place that comes up when it is due by now, or that it is gone.  Work comes in portions: `due` looks at a
bounded number of places, however many came up.  After G. Varghese and A. Lauck, "Hashed and Hierarchical
Timing Wheels", SOSP 1987.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

TICK_BITS = 9
TICK_MS = 1 << TICK_BITS
SLOT_BITS = 6
SLOTS = 1 << SLOT_BITS
LEVELS = 4
MASK = SLOTS - 1
SPAN = 1 << SLOT_BITS * LEVELS
"""Ticks that the wheel sees ahead."""
STRIDE = 4 * SLOTS
"""More ticks than these at once are not walked through: everything is put in anew."""

Batch: TypeAlias = "array[int] | range"


class Wheel:
    """Places by time. No clock of its own."""

    __slots__ = ("_levels", "_tick", "_work", "count")

    def __init__(self, now_ms: int) -> None:
        self._tick = now_ms >> TICK_BITS
        self._levels: list[list[array[int] | None]] = [[None] * SLOTS for _ in range(LEVELS)]
        self._work: deque[Batch] = deque()
        """places that came up, or are to be put in anew"""
        self.count = 0
        """places in it, those that are gone included"""

    @property
    def working(self) -> bool:
        """Whether places came up that were not looked at yet."""
        return bool(self._work)

    def add(self, place: int, due_ms: int) -> None:
        """Let a place come up once ``due_ms`` is reached, at most a tick later."""
        self.count += 1
        now = self._tick
        tick = max((due_ms + TICK_MS - 1) >> TICK_BITS, now + 1)
        ahead = min(tick - now, SPAN - 1)
        level = (ahead.bit_length() - 1) // SLOT_BITS
        number = now + ahead >> SLOT_BITS * level & MASK
        slots = self._levels[level]
        slot = slots[number]
        if slot is None:
            slots[number] = array("Q", (place,))
        else:
            slot.append(place)

    def add_all(self, places: range) -> None:
        """Let places come up soon, to be put in where they belong: costs nothing now."""
        self.count += len(places)
        self._work.append(places)

    def renew(self) -> None:
        """Let all places come up, so that those that are gone are noticed."""
        for slots in self._levels:
            for number, slot in enumerate(slots):
                if slot is not None:
                    self._work.append(slot)
                    slots[number] = None

    def due(self, now_ms: int, most: int, due_of: Callable[[int], int]) -> list[int]:
        """Of those that came up, places that are due now; looks at ``most`` of them.

        ``due_of``: when a place is due, milliseconds; 0: it is gone.
        """
        self._advance(now_ms >> TICK_BITS)
        found: list[int] = []
        while most > 0 and self._work:
            batch = self._work[0]
            piece = batch[-most:]
            if len(piece) == len(batch):
                self._work.popleft()
            elif isinstance(batch, range):
                self._work[0] = batch[:-most]
            else:
                del batch[-most:]
            most -= len(piece)
            self.count -= len(piece)
            for place in piece:
                due = due_of(place)
                if not due:
                    continue
                if due <= now_ms:
                    found.append(place)
                else:
                    self.add(place, due)
        return found

    def _advance(self, tick: int) -> None:
        """Let the slots come up that lie between the last time and now."""
        if tick - self._tick > STRIDE:
            self._tick = tick
            self.renew()
            return
        while self._tick < tick:
            self._tick += 1
            self._come_up(0)
            for level in range(1, LEVELS):
                if self._tick & (1 << SLOT_BITS * level) - 1:
                    break
                self._come_up(level)

    def _come_up(self, level: int) -> None:
        slots, number = self._levels[level], self._tick >> SLOT_BITS * level & MASK
        slot = slots[number]
        if slot is not None:
            self._work.append(slot)
            slots[number] = None
