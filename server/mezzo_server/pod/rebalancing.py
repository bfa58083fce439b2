"""A map whose shares are as even as may be, without waiting for anybody's steps: what it would move. No I/O, no clock.

Capacities need no such thing: a shard that says another one gets another share with the next map.  What an operator
may want sooner is that shards which are joining take all of their share at once, and that shares which may be off by
`tuning.TOLERANCE` are brought to `EVEN`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mezzo.placement.pod_map import ShardState
from mezzo.placement.rendezvous import NOBODY
from mezzo_server.pod.plan import UNIT_BYTES, Member, Pace, Plan, capacity_units, next_plan
from mezzo_server.pod.tuning import TOLERANCE

EVEN = 0.01
"""How far off its share a shard may be after it, as far as whole slots allow."""
WORTH = 0.001
"""A part of all slots: if less than that would be where it belongs, nothing is moved for it."""


@dataclass(frozen=True, slots=True)
class ShardChange:
    """What becomes of one shard."""

    id: bytes
    node: str
    slots: int
    """that it owns now"""
    slots_after: int
    gains: int
    """slots that it takes from others"""
    loses: int
    off: float
    """by how much it has too many slots now, as a part of what its capacity is worth"""
    off_after: float


@dataclass(frozen=True, slots=True)
class Rebalance:
    """A change, thought out or made."""

    epoch: int
    """of the map that it is; of the present one if nothing changes"""
    slots: int
    moves: int
    """slots that get another owner"""
    bytes_max: int
    """of chunks that are in them, if all shards are full"""
    joined: tuple[bytes, ...]
    """shards that were joining and have all of their share by it"""
    shards: tuple[ShardChange, ...]
    made: bool = False


def rebalanced(plan: Plan, members: Sequence[Member], now: float, pace: Pace) -> Plan | None:
    """The plan that should follow; None: this one is right.

    Of several that aim at shares of different evenness the one in which the fewest slots are too many somewhere: with
    shards of few slots, to aim at less comes nearer.
    """
    settled, at_once = replace(plan, began={}), replace(pace, ramp_s=0.0)
    found: Plan | None = None
    least = excess(plan, members) - WORTH * len(plan.pod_map.table)
    if any(place.state is ShardState.JOINING for place in plan.pod_map.shards):
        least = float("inf")
    for tolerance in (EVEN, 2 * EVEN, TOLERANCE):
        following = next_plan(
            settled, members, now, at_once, seconds=bool(plan.pod_map.seconds), tolerance=tolerance
        )
        if following is None or following.pod_map.table == plan.pod_map.table:
            continue
        over = excess(following, members)
        if over < least:
            found, least = following, over
    return found


def excess(plan: Plan, members: Sequence[Member]) -> float:
    """Slots that shards have beyond what their capacity is worth."""
    units, slots = units_of(members), len(plan.pod_map.table)
    owned = Counter(plan.pod_map.table)
    return sum(
        max(0.0, owned[index] - due_slots(place.id, units, slots))
        for index, place in enumerate(plan.pod_map.shards)
    )


def changes(plan: Plan, members: Sequence[Member], after: Plan | None) -> Rebalance:
    """What leads from one plan to another; None: nothing."""
    was, then = plan.pod_map, (after or plan).pod_map
    names = [place.id for place in was.shards]
    index_of = {place.id: index for index, place in enumerate(then.shards)}
    before = [index_of.get(name, NOBODY) for name in names] + [NOBODY]
    gains: Counter[int] = Counter()
    loses: Counter[int] = Counter()
    for old, new in zip(was.table, then.table, strict=True):
        owner = before[min(old, len(names))]
        if owner != new:
            gains[new] += 1
            loses[owner] += 1
    owned, kept = Counter(was.table), Counter(then.table)
    had = {name: owned[index] for index, name in enumerate(names)}
    units = units_of(members)
    shards = [
        ShardChange(
            place.id,
            place.node,
            had.get(place.id, 0),
            kept[index],
            gains[index],
            loses[index],
            _off(had.get(place.id, 0), place.id, units, len(was.table)),
            _off(kept[index], place.id, units, len(was.table)),
        )
        for index, place in enumerate(then.shards)
    ]
    total_bytes = sum(units.values()) * UNIT_BYTES
    moves = sum(gains.values())
    return Rebalance(
        then.epoch,
        len(then.table),
        moves,
        moves * total_bytes // len(then.table),
        tuple(sorted(shard for shard in plan.began if after is not None and shard not in after.began)),
        tuple(shards),
    )


def units_of(members: Sequence[Member]) -> Mapping[bytes, int]:
    """What each shard's share is measured by; 0: it is to be empty."""
    return {member.id: 0 if member.draining else capacity_units(member) for member in members}


def due_slots(shard: bytes, units: Mapping[bytes, int], slots: int) -> float:
    """What a shard's capacity is worth."""
    total = sum(units.values())
    return slots * units.get(shard, 0) / total if total else 0.0


def _off(owned: int, shard: bytes, units: Mapping[bytes, int], slots: int) -> float:
    due = due_slots(shard, units, slots)
    return owned / due - 1 if due else 0.0
