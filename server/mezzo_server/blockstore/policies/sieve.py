"""SIEVE on a log: a hand that walks from the oldest segment to the newest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mezzo_server.blockstore.policies.base import ReclaimPolicy, set_stamp
from mezzo_server.blockstore.segment import Purpose, Segment

if TYPE_CHECKING:
    from mezzo_server.blockstore.device_log import DeviceLog

FIRST = (-1.0, -1)
BEHIND = 0.5
"""Segments are opened with orders at least 1 apart: so much lower is behind one and ahead of the one before."""


class Sieve(ReclaimPolicy):
    """The hand takes what was not used since it came by last; what was used keeps its place in the queue.

    Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is Simpler than LRU", NSDI 2024.  On a log what stays is
    written anew; its segment takes the place in the queue behind the hand (``segment.order``), so that
    the hand meets it only after all that is newer, and then begins again with the oldest.  A stamp is 1 if
    the chunk was used since the hand came by.
    """

    name = "sieve"

    def __init__(self) -> None:
        self._hands: WeakKeyDictionary[DeviceLog, tuple[float, int]] = WeakKeyDictionary()

    def opened(self, segment: Segment) -> None:
        if segment.purpose is Purpose.SURVIVORS:
            segment.order = self._hands.get(segment.log, FIRST)[0] - BEHIND

    def used(self, segment: Segment, number: int) -> None:
        if not segment.table.touched[number]:
            set_stamp(segment, number, 1)

    def victim(self, candidates: Sequence[Segment], log_segments: Sequence[Segment]) -> Segment:
        hand = self._hands.get(candidates[0].log, FIRST)
        ahead = [segment for segment in candidates if (segment.order, segment.life) > hand]
        chosen = min(ahead or candidates, key=lambda segment: (segment.order, segment.life))
        self._hands[chosen.log] = (chosen.order, chosen.life)
        return chosen

    def survivors(self, victim: Segment, live: Sequence[int], sealed: Sequence[Segment]) -> list[int]:
        touched = victim.table.touched
        return [number for number in live if touched[number]]
