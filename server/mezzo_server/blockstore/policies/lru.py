"""Least recently used, as far as a log allows."""

from __future__ import annotations

from collections.abc import Sequence

from mezzo_server.blockstore.policies.base import STAMP_MAX, ReclaimPolicy, set_stamp
from mezzo_server.blockstore.segment import Segment


class Lru(ReclaimPolicy):
    """The segment whose live chunks were used longest ago on average goes.

    Those of its chunks live on that were used later than the average chunk of the device.  An
    approximation: exact LRU would rewrite nearly every segment, since uses are spread over all.  With
    one chunk in each segment it is exact.  A stamp is the number of the request that used the chunk last.
    """

    name = "lru"

    def __init__(self) -> None:
        self._clock = 0

    def request(self) -> None:
        self._clock = min(self._clock + 1, STAMP_MAX)

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
