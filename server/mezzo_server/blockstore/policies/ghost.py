"""Keys that were here lately, in a fixed amount of memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable

GHOSTS_MAX = 1 << 18
"""16 bytes each"""


class Ghost:
    """The last keys that were added, nearly: two that share a place displace one another.

    Each may have a note, a number below 2^32.  Keys are given as hashes (`base.key_hash`).
    """

    __slots__ = ("_added", "_hashes", "_mask", "_notes", "size")

    def __init__(self, size: int) -> None:
        """``size``: how many additions later a key is forgotten, at most `GHOSTS_MAX`."""
        self.size = min(max(size, 16), GHOSTS_MAX)
        slots = 1 << (2 * self.size - 1).bit_length()
        self._hashes = array("q", bytes(8 * slots))
        self._notes = array("Q", bytes(8 * slots))
        self._mask = slots - 1
        self._added = self.size

    def add(self, hashed: int, note: int = 0, forgotten: Callable[[int], None] | None = None) -> None:
        """Remember a key; ``forgotten`` gets the note of one that gives way to it."""
        self._added += 1
        place = hashed & self._mask
        if forgotten is not None and self._notes[place]:
            forgotten(self._notes[place] & 0xFFFFFFFF)
        self._hashes[place] = _signed(hashed)
        self._notes[place] = (self._added & 0xFFFFFFFF) << 32 | note

    def take(self, hashed: int) -> int | None:
        """Forget a key; its note, None if it was not remembered."""
        place = hashed & self._mask
        if self._hashes[place] != _signed(hashed):
            return None
        found = self._notes[place]
        self._hashes[place] = 0
        self._notes[place] = 0
        if not found or (self._added - (found >> 32)) & 0xFFFFFFFF >= self.size:
            return None
        return found & 0xFFFFFFFF


def _signed(hashed: int) -> int:
    """The low 64 bits as the array holds them."""
    hashed &= 0xFFFFFFFFFFFFFFFF
    return hashed - (1 << 64) if hashed >> 63 else hashed
