"""The plan of a node that is a pod of its own: made from the shards that it was told of. No I/O, no clock.

Nobody keeps it.  Of the same shards it is always the same, so that a front-end that starts again, or another
one beside it, gives out what clients have already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from mezzo.placement.pod_map import PodMap, encode_map
from mezzo.placement.slots import SLOTS_LOG2
from mezzo_server.pod.plan import Member, Pace, empty_plan, next_plan

AT_ONCE = Pace(ramp_s=0.0)
"""Shards of one node are there together."""


class LocalPlan:
    """Owner of the plan, and of its map as it is sent."""

    def __init__(self, slots_log2: int = SLOTS_LOG2) -> None:
        self._slots_log2 = slots_log2
        self._pod = b""
        self._plan = empty_plan(bytes(16), slots_log2)
        self._encoded = b""

    @property
    def pod_map(self) -> PodMap:
        """Epoch 0: nothing was planned yet."""
        return self._plan.pod_map

    @property
    def encoded(self) -> bytes:
        """The map as it is sent; empty at epoch 0."""
        return self._encoded

    def follow(self, members: Sequence[Member], now: float) -> bool:
        """Plan for these shards, which are all that the node has; whether there is another epoch.

        ``now``: seconds of the wall clock.
        """
        if not self._plan.pod_map.epoch:
            self._plan = empty_plan(_pod_of(members), self._slots_log2)
        plan = next_plan(self._plan, members, now, AT_ONCE)
        if plan is None:
            return False
        self._plan, self._encoded = plan, encode_map(plan.pod_map)
        return True


def _pod_of(members: Sequence[Member]) -> bytes:
    """The id of a pod that has no other than its shards'."""
    ids = sorted(member.id for member in members)
    return hashlib.blake2b(b"".join(ids), digest_size=16, person=b"mezzo local pod").digest()
