"""When a pod gets another map, and which: from the members that are there to the next epoch. No I/O, no clock.

- A shard that nobody knew takes load in steps (`STEPS`), each an epoch: what it owns it has to fill first.
- One that was there before and comes back has its chunks still, and gets its slots back at once.
- One that is drained owns nothing from the next epoch on, and stays in the map to be asked for what it has.
- One that is gone leaves the map, and is remembered for a while, with its tuning.
- Who owned a slot before is told for `asked_s`; of one that left nothing is told, since it cannot be asked.
- Who has a slot's second copies follows from its owner and the shards (`mezzo.placement.seconds`), if that is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mezzo.placement.pod_map import PodMap, ShardPlace, ShardState
from mezzo.placement.rendezvous import NOBODY
from mezzo.placement.seconds import domains
from mezzo_server.pod.table import make_seconds
from mezzo_server.pod.tuning import CAPACITY_MAX, TOLERANCE, TUNING_ONE, contenders, tune

STEPS = (0.25, 0.5, 0.75, 1.0)
"""Parts of its capacity that a new shard takes, one after the other."""
UNIT_BYTES = 1 << 20
"""that capacities are counted in"""
REMEMBERED_MAX = 4096
"""Shards that left; over it the one that left first is forgotten."""


@dataclass(frozen=True, slots=True)
class Member:
    """A shard that is there, as it says itself."""

    id: bytes
    node: str
    rack: str
    addresses: tuple[str, ...]
    capacity_bytes: int
    draining: bool = False
    """somebody asked for it to be emptied"""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a pod changes."""

    ramp_s: float = 600.0
    """from a new shard's first step to its last; 0: all at once"""
    asked_s: float = 3600.0
    """for so long after a slot moved its former owner is asked"""
    remembered_s: float = 86_400.0
    """for so long a shard that left gets its slots back at once when it comes again"""


@dataclass(frozen=True, slots=True)
class Plan:
    """The map of an epoch, and what the next one is made from. Kept by the metadata engine as a whole."""

    pod_map: PodMap
    tunings: Mapping[bytes, int]
    """of every shard of the map, and of those that are remembered"""
    began: Mapping[bytes, float]
    """when each shard that is joining took its first step"""
    left: Mapping[bytes, float] = field(default_factory=dict)
    """when each of the shards that are remembered left"""
    moved: Mapping[int, float] = field(default_factory=dict)
    """when each slot of the map's ``previous`` moved"""


def empty_plan(pod: bytes, slots_log2: int) -> Plan:
    """Of a pod that has no shard yet: epoch 0."""
    return Plan(PodMap(pod, 0, slots_log2, (), [NOBODY] * (1 << slots_log2), {}), {}, {})


def next_plan(
    plan: Plan,
    members: Sequence[Member],
    now: float,
    pace: Pace,
    *,
    seconds: bool = False,
    tolerance: float = TOLERANCE,
) -> Plan | None:
    """The plan that should follow; None: this one is right. Of the same arguments always the same.

    ``now`` is seconds of a clock that all who plan share; one that was set back makes steps come later.
    ``seconds``: the map is to say who has second copies. Whether one that has them should not is no reason for another.
    ``tolerance``: how far off its share a shard may be; one that is less than the usual is a reason for another map.
    """
    members = sorted(members, key=lambda member: member.id)
    known = {shard.id: shard for shard in plan.pod_map.shards}
    remembered = {shard: at for shard, at in plan.left.items() if now - at <= pace.remembered_s}
    began = dict(plan.began)
    shards: list[ShardPlace] = []
    first = not known  # a pod that begins: nobody has anything, so there is nothing to spare
    for member in members:
        fresh = member.id not in known and member.id not in remembered and not first
        if fresh and pace.ramp_s > 0:
            began[member.id] = now
        part = _part(began.get(member.id), now, pace)
        if part == 1.0:
            began.pop(member.id, None)
        shards.append(_place(member, part))
    here = {shard.id for shard in shards}
    left = {shard: at for shard, at in remembered.items() if shard not in here}
    left.update((shard, now) for shard in known if shard not in here)
    while len(left) > REMEMBERED_MAX:
        del left[min(left, key=lambda shard: (left[shard], shard))]
    began = {shard: at for shard, at in began.items() if shard in here}
    same = tuple(shards) == plan.pod_map.shards
    if same and tolerance < TOLERANCE:
        following = _follow(plan, shards, began, left, now, pace, seconds=seconds, tolerance=tolerance)
        return None if following.pod_map.table == plan.pod_map.table else following
    if same and (plan.pod_map.seconds or not seconds or first):
        stale = {slot for slot, at in plan.moved.items() if now - at > pace.asked_s}
        return _forgetting(plan, stale) if stale else None
    return _follow(plan, shards, began, left, now, pace, seconds=seconds, tolerance=tolerance)


def due(plan: Plan, now: float, pace: Pace) -> float | None:
    """Seconds from now until time alone may make `next_plan` say something else; None: it will not."""
    times = [at + pace.asked_s for at in plan.moved.values()]
    for at in plan.began.values():
        step_s = pace.ramp_s / (len(STEPS) - 1)
        times.append(at + step_s * (1 + int(max(0.0, now - at) / step_s)) if step_s else now)
    return max(0.0, min(times) - now) if times else None


def _part(began: float | None, now: float, pace: Pace) -> float:
    """The part of its capacity that a shard takes by now."""
    if began is None or pace.ramp_s <= 0:
        return 1.0
    step = int(max(0.0, now - began) / pace.ramp_s * (len(STEPS) - 1))
    return STEPS[min(step, len(STEPS) - 1)]


def capacity_units(member: Member) -> int:
    """What a shard's share is measured by, once it has all of it."""
    return min(CAPACITY_MAX, max(1, member.capacity_bytes // UNIT_BYTES))


def _place(member: Member, part: float) -> ShardPlace:
    units = capacity_units(member)
    if member.draining:
        state, units = ShardState.DRAINING, 0
    elif part < 1.0:
        state, units = ShardState.JOINING, max(1, int(units * part))
    else:
        state = ShardState.SERVING
    return ShardPlace(member.id, member.node, member.rack, member.addresses, units, state)


def _follow(
    plan: Plan,
    shards: Sequence[ShardPlace],
    began: Mapping[bytes, float],
    left: Mapping[bytes, float],
    now: float,
    pace: Pace,
    *,
    seconds: bool,
    tolerance: float,
) -> Plan:
    """The plan of the next epoch, with these shards."""
    was = plan.pod_map
    ids, weights = [shard.id for shard in shards], [shard.weight for shard in shards]
    tuned = tune(
        ids, weights, [plan.tunings.get(shard, TUNING_ONE) for shard in ids], was.slots_log2, tolerance
    )
    copies: Sequence[int] = ()
    if seconds:
        domain_of = domains([shard.node for shard in shards], [shard.rack for shard in shards], weights)
        copies = make_seconds(contenders(ids, weights, tuned.tunings), domain_of, tuned.table, was.slots_log2)
    index_of = {shard.id: index for index, shard in enumerate(shards)}
    before = [index_of.get(shard.id, NOBODY) for shard in was.shards]
    previous: dict[int, int] = {}
    moved: dict[int, float] = {}
    for slot, (old, new) in enumerate(zip(was.table, tuned.table, strict=True)):
        owner = NOBODY if old == NOBODY else before[old]
        if owner != new and owner != NOBODY:
            previous[slot], moved[slot] = owner, now
        elif slot in was.previous:
            earlier = before[was.previous[slot]]
            at = plan.moved.get(slot, now)
            if earlier not in (NOBODY, new) and now - at <= pace.asked_s:
                previous[slot], moved[slot] = earlier, at
    tunings = {shard: plan.tunings[shard] for shard in left if shard in plan.tunings}
    tunings.update((shard.id, tuning) for shard, tuning in zip(shards, tuned.tunings, strict=True))
    return Plan(
        PodMap(was.pod, was.epoch + 1, was.slots_log2, shards, list(tuned.table), previous, copies),
        tunings,
        began,
        left,
        moved,
    )


def renumbered(plan: Plan, epoch: int) -> Plan:
    """The same plan as that of another epoch."""
    was = plan.pod_map
    pod_map = PodMap(was.pod, epoch, was.slots_log2, was.shards, was.table, was.previous, was.seconds)
    return replace(plan, pod_map=pod_map)


def _forgetting(plan: Plan, slots: Iterable[int]) -> Plan:
    """The next epoch, in which the former owners of ``slots`` are not asked any more."""
    stale = set(slots)
    was = plan.pod_map
    previous = {slot: index for slot, index in was.previous.items() if slot not in stale}
    pod_map = PodMap(was.pod, was.epoch + 1, was.slots_log2, was.shards, was.table, previous, was.seconds)
    return replace(
        plan, pod_map=pod_map, moved={slot: at for slot, at in plan.moved.items() if slot not in stale}
    )
