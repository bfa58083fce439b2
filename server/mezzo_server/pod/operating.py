"""What operators ask of a pod: how it is, where a chunk is, and that a shard be emptied or taken back. No clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import replace as replaced

from msgspec.structs import replace

from mezzo.errors import Busy, FormatError, InvalidArgument, Unavailable
from mezzo.placement.pod_map import ShardState
from mezzo_server.metadata.engine import Check, Engine, Write
from mezzo_server.pod.plan import Plan
from mezzo_server.pod.plan_format import encode_plan
from mezzo_server.pod.rebalancing import Rebalance, changes, due_slots, rebalanced, units_of
from mezzo_server.pod.records import (
    PLAN,
    POD,
    ROSTER,
    SETTINGS,
    Drain,
    Settings,
    decode,
    drain_key,
    encode,
)
from mezzo_server.pod.view import PodView

ID_DIGITS_MIN = 4
ATTEMPTS = 5
PACE_S_MAX = 366 * 86_400.0
NO_POD = "no pod was made on these metadata: start shards and a front-end with pod.enabled = true"
CONTENDED = "others change the same: try again"


@dataclass(frozen=True, slots=True)
class ShardSeen:
    """One shard, as the metadata know it."""

    id: bytes
    node: str
    rack: str
    addresses: tuple[str, ...]
    state: str
    """serving, joining, draining; new: not in the map yet; gone: in the map, and not registered any more"""
    capacity_bytes: int
    slots: int
    """that it owns"""
    slots_before: int
    """that it had, and is asked for still"""
    epoch: int
    """that it follows; 0: none yet"""
    done: float
    """of a change that is under way, 0 to 1: of its share, what it has, if it is joining; of the time for which it is
    asked, what has passed, if it is draining and owns nothing any more; else 1"""
    left_s: float
    """until it has its whole share, if it is joining; until nobody asks it any more, if it is draining; else 0"""


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod."""

    id: bytes
    epoch: int
    slots: int
    moved: int
    """slots whose former owner is still asked"""
    behind: int
    """registered shards that do not follow this map yet"""
    shards: tuple[ShardSeen, ...]


class PodOperator:
    """Acts on the metadata of a pod. It closes nothing of what it was given."""

    def __init__(self, engine: Engine, now_s: Callable[[], float]) -> None:
        """``now_s``: Unix time."""
        self._engine = engine
        self._now_s = now_s

    async def view(self) -> PodView:
        """What is stored.

        Raises:
            InvalidArgument: there is no pod.
            FormatError: it cannot be read.
        """
        view = PodView(lambda key, why: None)
        view.load(await self._engine.scan(POD))
        if view.settings is None:
            raise InvalidArgument(NO_POD)
        return view

    async def look(self) -> PodSeen:
        """How it is. Raises as `view`."""
        return seen(await self.view(), self._now_s())

    async def drain(self, text: str) -> bytes:
        """Have a shard emptied: it owns nothing from the next map on. Its id.

        Raises:
            InvalidArgument: no shard, or more than one, is called so.
        """
        return await self._wish(text, encode(Drain(self._now_s())))

    async def join(self, text: str) -> bytes:
        """Take a shard back that was to be emptied. Raises as `drain`."""
        return await self._wish(text, None)

    async def pace(self, change: Mapping[str, float]) -> Settings:
        """Change how fast the pod changes: fields of `Settings`, in seconds; the settings that are in force then.

        Planners heed it with their next map.

        Raises:
            InvalidArgument: there is no pod, or a time is none.
            FormatError: the settings cannot be read.
            Unavailable: others change them at the same time.
        """
        for _ in range(ATTEMPTS):
            entry = await self._engine.get(SETTINGS)
            if entry is None:
                raise InvalidArgument(NO_POD)
            stored = decode(Settings, SETTINGS, entry.value)
            if all(getattr(stored, name) == value for name, value in change.items()):
                return stored
            for name, value in change.items():
                if not 0 <= value <= PACE_S_MAX:
                    raise InvalidArgument(f"{name} is 0 to {PACE_S_MAX:g} s, not {value:g}")
            changed = replace(stored, **change)
            writes = [Write(SETTINGS, encode(changed))]
            if (await self._engine.transact([Check(SETTINGS, entry.revision)], writes)).done:
                return changed
        raise Unavailable(CONTENDED)

    async def rebalance(self, *, dry_run: bool = False) -> Rebalance:
        """Make the shares even at once, and end the steps of shards that are joining; ``dry_run``: tell what it would do.

        Raises:
            Busy: the shards do not all follow the present map yet, so there is no other before; or one is away.
            InvalidArgument: there is no map.
            FormatError: a record of the pod cannot be read.
            TooLarge: the metadata do not take the plan.
        """
        for _ in range(ATTEMPTS):
            view = await self.view()
            plan, settings = view.plan, view.settings
            if plan is None or settings is None:
                raise InvalidArgument("the pod has no map yet")
            if view.unreadable:
                raise FormatError(
                    f"the metadata record {min(view.unreadable)} cannot be read by this release"
                )
            away = [place for place in plan.pod_map.shards if place.id not in view.records]
            if away and not dry_run:
                raise Busy(
                    f"the shard of {away[0].node} is away: its slots pass to others first, or it comes back",
                    5.0,
                )
            members = view.members()
            after = rebalanced(plan, members, self._now_s(), settings.pace)
            told = changes(plan, members, after)
            if dry_run or after is None:
                return told
            if view.behind():
                raise Busy(f"{len(view.behind())} shards do not follow the present map yet", 1.0)
            checks = [Check(PLAN, view.plan_revision), Check(ROSTER, view.roster_revision)]
            if (await self._engine.transact(checks, [Write(PLAN, encode_plan(after))])).done:
                return replaced(told, made=True)
        raise Unavailable(CONTENDED)

    async def _wish(self, text: str, value: bytes | None) -> bytes:
        for _ in range(ATTEMPTS):
            shard = find_shard(await self.view(), text)
            key = drain_key(shard)
            entry = await self._engine.get(key)
            if (entry is None) == (value is None):
                return shard
            revision = 0 if entry is None else entry.revision
            if (await self._engine.transact([Check(key, revision)], [Write(key, value)])).done:
                return shard
        raise Unavailable(CONTENDED)


def find_shard(view: PodView, text: str) -> bytes:
    """The shard that is called so: by the beginning of its id, or by its node if that has no other.

    Raises:
        InvalidArgument: there is none, or more than one.
    """
    nodes = {} if view.plan is None else {place.id: place.node for place in view.plan.pod_map.shards}
    nodes.update((shard, record.node) for shard, record in view.records.items())
    known = {*nodes, *view.drains}
    digits = text.lower()
    found = [shard for shard in known if len(digits) >= ID_DIGITS_MIN and shard.hex().startswith(digits)]
    found = found or [shard for shard, node in nodes.items() if node == text]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InvalidArgument(f"no shard of the pod is called {text!r}: mezzo pod status lists them")
    raise InvalidArgument(
        f"{text!r} is any of {', '.join(sorted(shard.hex()[:8] for shard in found))}: give more digits of the id"
    )


def seen(view: PodView, now_s: float) -> PodSeen:
    """A pod as its metadata say, at a Unix time."""
    settings, plan = view.settings, view.present
    if settings is None or plan is None:
        raise InvalidArgument("no pod was made on these metadata")
    pod_map = plan.pod_map
    owned, before = Counter(pod_map.table), Counter(pod_map.previous.values())
    units = units_of(view.members())
    shards = []
    for index, place in enumerate(pod_map.shards):
        record = view.records.get(place.id)
        shards.append(
            ShardSeen(
                place.id,
                place.node,
                place.rack,
                place.addresses,
                "gone" if record is None else place.state.name.lower(),
                0 if record is None else record.capacity_bytes,
                owned[index],
                before[index],
                0 if record is None else record.epoch,
                _done(plan, settings, index, owned[index], units, now_s),
                _left_s(plan, settings, index, now_s),
            )
        )
    placed = {place.id for place in pod_map.shards}
    for shard, new in sorted(view.records.items()):
        if shard not in placed:
            shards.append(
                ShardSeen(
                    shard,
                    new.node,
                    new.rack,
                    new.addresses,
                    "new",
                    new.capacity_bytes,
                    0,
                    0,
                    new.epoch,
                    0.0,
                    0.0,
                )
            )
    return PodSeen(
        settings.pod,
        pod_map.epoch,
        len(pod_map.table),
        len(pod_map.previous),
        len(view.behind()),
        tuple(shards),
    )


def _done(
    plan: Plan, settings: Settings, index: int, owned: int, units: Mapping[bytes, int], now_s: float
) -> float:
    place = plan.pod_map.shards[index]
    if place.state is ShardState.JOINING:
        due = due_slots(place.id, units, len(plan.pod_map.table))
        return min(1.0, owned / due) if due else 0.0
    if place.state is ShardState.DRAINING:
        left_s = _left_s(plan, settings, index, now_s)
        return 0.0 if owned else 1.0 - left_s / settings.asked_s if settings.asked_s else 1.0
    return 1.0


def _left_s(plan: Plan, settings: Settings, index: int, now_s: float) -> float:
    place = plan.pod_map.shards[index]
    if place.state is ShardState.JOINING and place.id in plan.began:
        # The last step is taken when the ramp is over.
        return max(0.0, plan.began[place.id] + settings.ramp_s - now_s)
    if place.state is ShardState.DRAINING:
        moved = [plan.moved[slot] for slot, before in plan.pod_map.previous.items() if before == index]
        return max(0.0, max(moved) + settings.asked_s - now_s) if moved else 0.0
    return 0.0
