"""A pod in virtual time: shards and planners over one metadata engine, whose calls take as long as a test wants."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from mezzo.errors import FormatError, MezzoError, Unavailable
from mezzo.placement.slots import hash_key, namespace_seed
from mezzo_server.blockstore.api import Scope
from mezzo_server.metadata.engine import Compacted, Write
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.pod.membership import Membership
from mezzo_server.pod.plan import Plan
from mezzo_server.pod.planning import Planning
from mezzo_server.pod.records import ROSTER, MemberRecord, Settings, drain_key, encode, shard_of
from mezzo_server.pod.standing import NEVER, SECOND, Situation, Standing
from mezzo_server.pod.steps import Commit, End, Grant, Keep, Look, Machine, Step, Wait
from mezzo_server.pod.view import PodView
from mezzo_server.quota.part import NEWCOMER

T = TypeVar("T")
LEASE_S = 90.0
POD = bytes(range(16))
SCOPE = Scope(b"t" * 16, b"n" * 16)
LOG2 = 4


def shard_id(number: int) -> bytes:
    return bytes([number]) * 16


def record(number: int, life: int = 0, node: str = "") -> MemberRecord:
    address = f"tcp://n{number}:7700"
    return MemberRecord(node or f"n{number}", "", (address,), 64 << 30, bytes([number, life]) * 8)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of what waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


def key_of(slot: int) -> bytes:
    """A key in this slot."""
    seed = namespace_seed(SCOPE.tenant, SCOPE.namespace)
    return next(
        key for key in (b"%d" % n for n in range(10_000)) if hash_key(key, seed) >> (64 - LOG2) == slot
    )


KEYS = [key_of(slot) for slot in range(1 << LOG2)]


class World:
    """The engine and the time."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.now = 1000.0
        self.engine = MemoryEngine(lambda: self.now)
        self.settings = settings or Settings(POD, LOG2, ramp_s=600.0, asked_s=3600.0)
        self.away = False
        self.complaints: list[tuple[str, str]] = []
        self.actors: list[Actor] = []
        self.writes = 0
        """transactions that were to change something"""
        self.late: set[bytes] = set()
        """shards that registered; whoever reads it takes out whom he has seen"""

    def complain(self, key: str, why: str) -> None:
        self.complaints.append((key, why))

    def shard(self, number: int, life: int = 0, *, node: str = "", rate: float = 1.0) -> Shard:
        shard = Shard(self, number, life, node, rate)
        self.actors.append(shard)
        return shard

    def planner(self, spread: float = 0.0) -> Planner:
        planner = Planner(self, spread)
        self.actors.append(planner)
        return planner

    def drain(self, number: int, wanted: bool = True) -> None:
        value = b'{"since_s":0}' if wanted else None
        at_once(self.engine.transact([], [Write(drain_key(shard_id(number)), value)]))

    def settle(self) -> None:
        """Everybody does what he wants to do now."""
        for _ in range(200):
            did = [actor.turn() for actor in tuple(self.actors)]
            if True not in did:
                return
        raise AssertionError("it never settles")

    def run(self, seconds: float, step_s: float = 0.5) -> None:
        """Time passes, and everybody acts meanwhile."""
        until = self.now + seconds
        self.settle()
        while self.now < until:
            self.now = min(until, self.now + step_s)
            self.settle()

    def view(self) -> PodView:
        """What is stored."""
        view = PodView(self.complain)
        view.load(at_once(self.engine.scan("pod/")))
        return view

    def plan(self) -> Plan:
        plan = self.view().plan
        assert plan is not None
        return plan

    @property
    def epoch(self) -> int:
        plan = self.view().plan
        return 0 if plan is None else plan.pod_map.epoch


class Actor:
    """Does what a machine wants, in three phases: a step is sent, it reaches the engine, its answer comes."""

    def __init__(self, world: World, machine: Machine, rate: float = 1.0) -> None:
        self.world = world
        self.machine = machine
        self.rate = rate
        self.cut = False
        self.lose_answer = False
        self.ended = False
        self.step: Step | None = None
        self._sent = 0.0
        self._result: Any = None
        self._reached = False
        self._watched: int | None = None

    def clock(self) -> float:
        return self.world.now * self.rate

    def turn(self) -> bool:
        """One phase; False: there is nothing to do now."""
        if self.ended:
            return False
        news = self.follow()
        if self.step is None:
            step = self.machine.next_step(self.clock(), self.world.now)
            if isinstance(step, End):
                self.ended = True
            if isinstance(step, End | Wait):
                return news
            self.step, self._sent, self._reached = step, self.clock(), False
            self.world.writes += isinstance(step, Commit) and bool(step.writes)
        elif not self._reached:
            self._result, self._reached = self._reach(self.step), True
        else:
            step, result, self.step = self.step, self._result, None
            self._answer(step, result)
        return True

    def follow(self) -> bool:
        """What the watch has to tell; whether anything."""
        wanted, self_at = self.machine.watch, self._watched
        if wanted is None:
            self._watched = None
            return False
        at = wanted.after if self_at is None else self_at
        if self.cut or self.world.away:
            self._watched = None
            self.machine.watch_ended(self.clock())
            return True
        try:
            look = at_once(self.world.engine.look(wanted.prefix, at, None, more=True))
            assert look is not None
            self._watched = look.revision
            if look.changes:
                self.machine.changed(look.changes, self.clock())
            return bool(look.changes)
        except Compacted:
            self._watched = None
            self.machine.watch_ended(self.clock())
        except FormatError as error:
            self.machine.failed(error, self.clock())
        return True

    def _reach(self, step: Step) -> Any:
        engine = self.world.engine
        if self.cut or self.world.away:
            return Unavailable("cut off")
        try:
            if isinstance(step, Look):
                result: Any = at_once(engine.scan(step.prefix))
            elif isinstance(step, Commit):
                result = at_once(engine.transact(step.checks, step.writes))
                if result.done and any(write.key == ROSTER for write in step.writes):
                    self.world.late.add(shard_of(step.writes[0].key))
            elif isinstance(step, Grant):
                result = at_once(engine.grant(step.ttl_s))
            elif isinstance(step, Keep):
                result = at_once(engine.keep(step.lease))
            else:
                result = at_once(engine.revoke(step.lease))
        except MezzoError as error:
            return error
        if self.lose_answer:
            self.lose_answer = False
            return Unavailable("the answer was lost")
        return result

    def _answer(self, step: Step, result: Any) -> None:
        machine, now = self.machine, self.clock()
        try:
            if isinstance(result, MezzoError):
                raise result
            if isinstance(step, Look):
                machine.looked(result, now)
            elif isinstance(step, Commit):
                machine.committed(result, now)
            elif isinstance(step, Grant):
                machine.granted(result, self._sent, now)
            elif isinstance(step, Keep):
                machine.kept(result, self._sent, now)
            else:
                machine.revoked(now)
        except MezzoError as error:
            machine.failed(error, now)


class Shard(Actor):
    """A shard: its membership, and the standing of its loop. ``rate``: of its clock."""

    def __init__(self, world: World, number: int, life: int, node: str, rate: float) -> None:
        self.number = number
        self.life = life
        self.id = shard_id(number)
        self.membership = Membership(self.id, record(number, life, node), LEASE_S, lambda: 1.0)
        super().__init__(world, self.membership, rate)
        self.standing = Standing(self.clock, self.clock)
        self.handed: list[Situation | None] = []
        """to the loop; None: it is asked for a sign of life"""
        self._last = Situation()
        self._renewed_at = NEVER
        self.part = NEWCOMER
        """of quotas, which the loop enforces"""
        self.rows: Mapping[tuple[bytes, int], tuple[int, int]] = {}
        self.loop_stands = False
        self.crashed = False
        self.retired = False

    def turn(self) -> bool:
        if self.crashed:
            return False
        did = super().turn()
        if self.membership.renewed_at != self._renewed_at:
            self._renewed_at = self.membership.renewed_at
            self.handed.append(None)
            did = True
        if self.membership.situation != self._last:
            self._last = self.membership.situation
            self.handed.append(self._last)
            did = True
        return (not self.loop_stands and self.loop_turn()) or did

    def loop_turn(self) -> bool:
        """The loop takes what it was handed."""
        handed, self.handed = self.handed, []
        for situation in handed:
            if situation is None:
                self.membership.heard(self.clock())
            else:
                self.standing.take(situation)
                self.membership.followed(situation.share.epoch)
                if situation.until != NEVER and situation.part is not self.part:
                    self.part = situation.part
                    self.membership.enforces(self.part.mark)
                    self.tells(self.rows)
        return bool(handed)

    def tells(self, rows: Mapping[tuple[bytes, int], tuple[int, int]]) -> None:
        """What tenants use and want, beside which all rows are told of that are weighed."""
        self.rows = rows
        weighed = [(tenant, limit) for tenant, limits in self.part.exceptions.items() for limit in limits]
        told = dict.fromkeys(weighed, (0, 0)) | dict(rows)
        self.membership.uses([(*row, *points) for row, points in told.items()])

    def leave(self) -> None:
        """A clean stop."""
        self.standing.end()
        self.membership.leave()

    def crash(self) -> None:
        self.crashed = True
        self.standing.end()

    @property
    def serves(self) -> bool:
        return self.standing.serving

    def slots(self) -> set[int]:
        """Slots of which it would acknowledge a write at this moment; not those that it is only second for."""
        return {
            slot
            for slot, key in enumerate(KEYS)
            if self.standing.objection(SCOPE, [key], float("-inf")) is None
            and self.standing.share.answers[slot] != SECOND
        }


class Planner(Actor):
    """Whoever plans."""

    def __init__(self, world: World, spread: float, *, makes: bool = True) -> None:
        """``makes``: it makes the pod if there is none."""
        self.planning = Planning(world.settings if makes else None, world.complain, lambda: spread)
        super().__init__(world, self.planning)


def write_settings(world: World) -> None:
    at_once(world.engine.transact([], [Write("pod/settings", encode(world.settings))]))
