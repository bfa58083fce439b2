"""Least recently used, as far as a log allows."""

from __future__ import annotations

from collections.abc import Sequence

from mezzo_server.blockstore.policies.base import STAMP_MAX, ReclaimPolicy, set_stamp
from mezzo_server.blockstore.segment import Segment

STEP_FACTOR = 4
"""Each time that half of the stamps that were left are used up, one stands for so many times as many requests."""


class Lru(ReclaimPolicy):
    """The segment whose live chunks were used longest ago on average goes.

    Those of its chunks live on that were used later than the average chunk of the device.  An
    approximation: exact LRU would rewrite nearly every segment, since uses are spread over all.  With
    one chunk in each segment it is exact.  A stamp is the number of the request that used the chunk last;
    a busy node has more requests in a week than there are stamps, so that later ones stand for several.
    """

    name = "lru"

    def __init__(self, stamp_max: int = STAMP_MAX) -> None:
        self._stamp_max = stamp_max
        self._clock = 0
        self._step = self._left = 1
        """requests to a stamp, and until the next one"""
        self._coarser_at = stamp_max // 2

    def request(self) -> None:
        self._left -= 1
        if self._left:
            return
        self._clock = min(self._clock + 1, self._stamp_max)
        if self._clock >= self._coarser_at:
            self._step *= STEP_FACTOR
            self._coarser_at += max((self._stamp_max - self._clock) // 2, 1)
        self._left = self._step

    def arriving(self, salt: int, chunks: object, fresh: Sequence[int]) -> Sequence[int] | None:
        self.request()
        return [self._clock] * len(fresh)

    def stored(self, segment: Segment, numbers: range, marks: Sequence[int] | None) -> None:
        if marks is not None:
            touched = segment.table.touched
            for number, mark in zip(numbers, marks, strict=True):
                touched[number] = mark

    def used(self, segment: Segment, number: int) -> None:
        set_stamp(segment, number, self._clock)

    def rewritten(self, segment: Segment, number: int, target: Segment, copy: int) -> None:
        target.table.touched[copy] = segment.table.touched[number]

    def victim(self, candidates: Sequence[Segment], log_segments: Sequence[Segment]) -> Segment:
        return min(candidates, key=lambda s: (s.touched_sum / max(s.live_count, 1), s.life))

    def survivors(self, victim: Segment, live: Sequence[int], sealed: Sequence[Segment]) -> list[int]:
        count = sum(segment.live_count for segment in sealed)
        mean = sum(segment.touched_sum for segment in sealed) / max(count, 1)
        touched = victim.table.touched
        return sorted((number for number in live if touched[number] > mean), key=lambda n: -touched[n])
