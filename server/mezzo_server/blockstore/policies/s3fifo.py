"""S3-FIFO on a log: two queues of segments, and a memory of what left the first one."""

from __future__ import annotations

from collections.abc import Sequence

from mezzo_server.blockstore.api import PutChunk
from mezzo_server.blockstore.policies.base import STAMP_BITS, ReclaimPolicy, key_hash, set_stamp
from mezzo_server.blockstore.policies.ghost import Ghost
from mezzo_server.blockstore.policies.rewrites import RewriteBudget
from mezzo_server.blockstore.segment import Purpose, Segment

SMALL_SHARE = 0.1
"""of the segments; from the paper"""
FREQUENCY_MAX = 3
"""two bits, as in the paper"""
PROMOTE_AT = 2
"""uses in the small queue that take a chunk to the main queue; from the paper"""
MAIN_LANE = 1
GHOSTS_START = 4096


class S3Fifo(ReclaimPolicy):
    """New chunks go to a small queue, which most of them pass through once; from there, or from the
    ghost queue, to the main queue, a FIFO with reinsertion that counts uses.

    Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023.  Segments
    of new chunks are the small queue; segments of survivors, and of chunks that the ghost queue knows, are
    the main queue.  The ghost queue is as long as the main queue was when it was last looked at.  A stamp
    is the number of uses, at most 3.
    """

    name = "s3fifo"

    def __init__(self) -> None:
        self._ghost = Ghost(GHOSTS_START)

    def begin(self, capacity_bytes: int, segments: Sequence[Segment], budget: RewriteBudget) -> None:
        for segment in segments:
            self.opened(segment)

    def opened(self, segment: Segment) -> None:
        if segment.purpose is Purpose.SURVIVORS:
            segment.lane = MAIN_LANE

    def arriving(self, salt: int, chunks: Sequence[PutChunk], fresh: Sequence[int]) -> Sequence[int] | None:
        take = self._ghost.take
        known = [take(key_hash(salt, chunks[number].key)) is not None for number in fresh]
        return [MAIN_LANE << STAMP_BITS if one else 0 for one in known] if any(known) else None

    def used(self, segment: Segment, number: int) -> None:
        uses = segment.table.touched[number]
        if uses < FREQUENCY_MAX:
            set_stamp(segment, number, uses + 1)

    def rewritten(self, segment: Segment, number: int, target: Segment, copy: int) -> None:
        uses = segment.table.touched[number]
        # From the small queue a chunk comes without its count, in the main queue each round costs one.
        target.table.touched[copy] = max(uses - 1, 0) if segment.lane == MAIN_LANE else 0

    def evicted(self, segment: Segment, number: int, salt: int) -> None:
        if segment.lane != MAIN_LANE:
            self._ghost.add(key_hash(salt, segment.table.keys[number]))

    def victim(self, candidates: Sequence[Segment], log_segments: Sequence[Segment]) -> Segment:
        small = [segment for segment in candidates if segment.lane != MAIN_LANE]
        main = [segment for segment in candidates if segment.lane == MAIN_LANE]
        in_small = sum(segment.lane != MAIN_LANE for segment in log_segments)
        self._fit(log_segments)
        if small and (in_small >= SMALL_SHARE * len(log_segments) or not main):
            return min(small, key=lambda segment: segment.life)
        return min(main or small, key=lambda segment: segment.life)

    def survivors(self, victim: Segment, live: Sequence[int], sealed: Sequence[Segment]) -> list[int]:
        touched = victim.table.touched
        least = 1 if victim.lane == MAIN_LANE else PROMOTE_AT
        return sorted((number for number in live if touched[number] >= least), key=lambda n: -touched[n])

    def _fit(self, segments: Sequence[Segment]) -> None:
        """A longer ghost queue once there are more chunks than it remembers."""
        count = sum(segment.live_count for segment in segments)
        if count > 2 * self._ghost.size:
            longer = Ghost(count)
            if longer.size > self._ghost.size:
                self._ghost = longer
