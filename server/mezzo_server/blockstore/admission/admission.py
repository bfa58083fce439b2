"""Decides which chunks of a put are taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from mezzo_server.blockstore.admission.endurance import DAY_S, Endurance
from mezzo_server.blockstore.admission.sketch import Sketch
from mezzo_server.blockstore.api import PutChunk
from mezzo_server.blockstore.policies.base import key_hash

SEEN_LEVELS = 4
POSITION_LEVELS = 3


class Mode(StrEnum):
    """What must be true of a chunk that is taken."""

    NONE = "none"
    """nothing"""
    SECOND_TOUCH = "second_touch"
    """somebody wanted to put it before, not long ago"""
    SIZE_POSITION = "size_position"
    """it is neither too large nor too late in its prefix"""


class Reason(StrEnum):
    """Why a chunk was not taken."""

    FIRST_TOUCH = "first_touch"
    TOO_LARGE = "too_large"
    TOO_LATE = "position"
    ENDURANCE = "endurance"


@dataclass(frozen=True, slots=True)
class AdmissionOptions:
    """What a store takes; by default everything."""

    mode: Mode = Mode.NONE
    chunk_bytes_max: int = 0
    """with `Mode.SIZE_POSITION`: longer chunks are not taken; 0: of any size"""
    position_max: int = 0
    """with `Mode.SIZE_POSITION`: chunks behind so many others are not taken; 0: anywhere"""
    writes_per_day: float = 0.0
    """device writes a day, as a multiple of the capacity (DWPD); 0: without limit"""
    endurance_bytes: int = 0
    """what the devices together are rated to be written from now on; 0: not known"""


TAKES_ALL = AdmissionOptions()


class Admission:
    """Owner of the sketch, of the endurance budget, and of the counts of what was not taken."""

    def __init__(
        self,
        options: AdmissionOptions,
        capacity_bytes: int,
        written: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        """``written`` says how many bytes were written since the store was opened."""
        self._options = options
        self._now = now
        self._written = written
        self._written_before = 0
        self._opened_at = now()
        self.endurance = Endurance(options.writes_per_day * capacity_bytes, now())
        self._sketch: Sketch | None = None
        if options.mode is Mode.SECOND_TOUCH or self.endurance.limited:
            self._sketch = Sketch()
        self.takes_all = self._sketch is None and options.mode is Mode.NONE
        self.taken = 0
        """chunks, of those that were asked about"""
        self.declined: Counter[Reason] = Counter(dict.fromkeys(Reason, 0))
        """chunks, by reason"""

    def resize(self, capacity_bytes: int) -> None:
        """Devices came, left or grew: what may be written in a day is a multiple of what there is now."""
        self.endurance.bytes_per_s = self._options.writes_per_day * capacity_bytes / DAY_S

    def report(self, put_bytes: int) -> dict[str, int]:
        """Numbers for metrics; ``put_bytes`` were put since the store was opened."""
        written = self._written()
        passed = self._now() - self._opened_at
        per_day = written / passed * DAY_S if passed > 0 else 0.0
        left = max(self._options.endurance_bytes - written, 0)
        return {
            "chunks_admitted": self.taken,
            "write_amplification_ppm": written * 1_000_000 // put_bytes if put_bytes else 0,
            "written_bytes_per_day": int(per_day),
            "life_days_left": int(left / per_day) if per_day else 0,
            **{f"declined_{reason}": count for reason, count in self.declined.items()},
        }

    def takes(self, salt: int, chunk: PutChunk) -> bool:
        """Whether a chunk that is not stored yet is taken; O(1). To be asked once for each put of it."""
        reason = self._why_not(salt, chunk)
        if reason is None:
            self.taken += 1
            return True
        self.declined[reason] += 1
        return False

    def _why_not(self, salt: int, chunk: PutChunk) -> Reason | None:
        options = self._options
        seen = 0 if self._sketch is None else self._sketch.add(key_hash(salt, chunk.key))
        if options.mode is Mode.SECOND_TOUCH and not seen:
            return Reason.FIRST_TOUCH
        if options.mode is Mode.SIZE_POSITION:
            if options.chunk_bytes_max and sum(chunk.parts) > options.chunk_bytes_max:
                return Reason.TOO_LARGE
            if options.position_max and chunk.position > options.position_max:
                return Reason.TOO_LATE
        if self.endurance.limited:
            written = self._written()
            self.endurance.written(written - self._written_before, self._now())
            self._written_before = written
            if not self.endurance.takes(_useful(chunk, seen)):
                return Reason.ENDURANCE
        return None


def _useful(chunk: PutChunk, seen: int) -> int:
    """By priority first, then by how often it was wanted, then the earlier in its prefix: 0 to 63."""
    early = POSITION_LEVELS - min(chunk.position.bit_length() // 3, POSITION_LEVELS)
    return chunk.priority * 8 + min(min(seen, SEEN_LEVELS) + early, 7)
