"""A whole pod in one thread, from one seed: shards, front-ends, metadata, clients, and what goes wrong with them.

    outcome = simulate(17)
    outcome.failure     what must never happen, and happened; None: all is well
    outcome.digest      hash of the trace: of the same seed and options always the same

A run has three parts: the pod gathers; clients call while faults strike; all faults are over, and the pod has to
heal.  docs/simulation.md says what is real in it, and how to read a trace.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from mezzo_server.blockstore.format.superblock import DATA_OFFSET
from mezzo_server.blockstore.options import Durability
from mezzo_server.metadata.engine import Write
from mezzo_server.pod.moving import Why
from mezzo_server.pod.plan_format import decode_plan
from mezzo_server.pod.records import PLAN, Settings, member_key
from mezzo_server.quota.part import NEWCOMER_POINTS, POINTS, SLACK_POINTS
from mezzo_server.shard.session import Session
from mezzo_server.testing.simulation.catalog import Space, Spaces
from mezzo_server.testing.simulation.client import Client
from mezzo_server.testing.simulation.clockwork import Clockwork, Process
from mezzo_server.testing.simulation.faults import Faults
from mezzo_server.testing.simulation.frontend import Calls, Frontend
from mezzo_server.testing.simulation.history import History
from mezzo_server.testing.simulation.metadata import Metadata
from mezzo_server.testing.simulation.network import Host, Network
from mezzo_server.testing.simulation.options import DEFAULTS, Options
from mezzo_server.testing.simulation.placement import Placement
from mezzo_server.testing.simulation.shard import SEGMENT_BYTES, Life, Shard
from mezzo_server.testing.simulation.trace import LINES_KEPT, Trace
from mezzo_server.testing.simulation.violation import Violation
from mezzo_server.testing.simulation.witness import Witness
from mezzo_server.testing.simulation.workload import Worker

GATHER_S = 4.0
HEAL_S = 30.0
"""After the last fault has ended, everybody serves and follows one map within so long."""
QUIET_S = 8.0
"""After the last client has gone nothing is left of them within so long."""
LEASE_S = 4.0
SHARDS_MAX = 6
TENANTS = ((1,), (1, 1), (2,), (2, 1))
"""for each tenant, how many copies are kept of its chunks"""
POPULAR_GETS_PER_S = (0.0, 0.0, 0.1)
"""by which a chunk is popular; 0: none ever is"""
CLIENTS = 3
KEYS = 24
SEGMENTS = 12


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    seed: int
    failure: str | None
    digest: str
    """of the trace"""
    lines: tuple[str, ...]
    """the last ones of the trace"""
    numbers: dict[str, int | float]
    """what happened, counted"""


@dataclass(slots=True)
class ClientAt:
    """A client and its host."""

    host: Host
    worker: Worker


class Pod:
    """Owner of everything in a run."""

    def __init__(self, seed: int, options: Options, trace: Trace) -> None:
        name = self.seed = str(seed)
        self.options = options
        self.trace = trace
        self.random = random.Random(f"{name}/pod")
        draw = self.random
        self.clockwork = Clockwork(trace)
        self.network = Network(self.clockwork, name)
        self.metadata = Metadata(self.clockwork, self.network, name, draw.choice((4, 32, 10_000)))
        self.metadata.on_write = self._written
        self.lease_s = LEASE_S
        self.durability = draw.choice((Durability.PROCESS, Durability.POWER))
        self.popular_gets_per_s = draw.choice(POPULAR_GETS_PER_S)
        settings = Settings(
            draw.randbytes(16),
            draw.choice((4, 5, 6)),
            ramp_s=draw.choice((0.0, 3.0)),
            asked_s=draw.choice((3.0, 60.0)),
            remembered_s=draw.choice((2.0, 86_400.0)),
        )
        self.spaces = Spaces(self.metadata, random.Random(f"{name}/spaces"), draw.choice(TENANTS))
        copies = self.popular_gets_per_s > 0 or any(space.copies > 1 for space in self.spaces.all)
        self.placement = Placement(settings.slots_log2, lambda: self.clockwork.now, copies=copies)
        self.history = History(name, self.placement)
        self.shards: list[Shard] = []
        self._witnesses: dict[str, Witness] = {}
        self.frontends: dict[str, Frontend] = {}
        for number in range(2):
            frontend = Frontend(
                f"fe{number}",
                self.clockwork,
                self.network,
                self.metadata,
                settings,
                {space.tenant: space.ticket for space in self.spaces.all},
                seed=name,
            )
            self.frontends[frontend.address] = frontend
        calls = Calls(self.clockwork, self.network, self.frontends)
        keys = [b"k%d" % number for number in range(KEYS)]
        self.clients = [self._client(number, calls, keys) for number in range(CLIENTS)]
        self.faults_end = GATHER_S + options.seconds
        self.faults = Faults(self, name, options.faults, options.kinds)
        for _ in range(draw.choice((2, 3, 3, 4))):
            self.add_shard()
        for frontend in self.frontends.values():
            self.clockwork.after(draw.random(), frontend.start)

    def run(self) -> None:
        """Play it. Raises Violation."""
        clockwork = self.clockwork
        self.trace.add(
            0.0,
            "pod",
            f"seed {self.seed}: {len(self.shards)} shards, durability {self.durability.value}, faults of "
            f"{' '.join(self.faults.chosen) or 'no kind'}",
        )
        clockwork.run(GATHER_S)
        for client in self.clients:
            client.worker.start()
        self.faults.schedule(GATHER_S, GATHER_S + self.options.seconds)
        clockwork.run(self.faults_end)
        self.trace.add(clockwork.now, "pod", "no more faults")
        for shard in self.shards:
            if not shard.host.up:
                shard.power_on()
            shard.start_later()
        for frontend in self.frontends.values():
            frontend.start()
        self._wait(self._healed, HEAL_S, "the pod has not healed")
        self.trace.add(clockwork.now, "pod", "healed")
        for client in self.clients:
            client.worker.stopped = True
        self._wait(lambda: all(client.worker.idle for client in self.clients), 10.0, "calls have not ended")
        self._read_all()
        self._check_shards()

    def close(self) -> None:
        """The run is over, however it ended: all that is under way ends, unheard."""
        self.trace.end()
        logging = structlog.get_config()
        structlog.reset_defaults()
        structlog.configure(processors=[_unheard])
        try:
            self.clockwork.close()
        finally:
            structlog.configure(**logging)

    # -- parts

    def add_shard(self) -> None:
        """Another shard comes."""
        if len(self.shards) >= SHARDS_MAX:
            return
        number = len(self.shards)
        shard = Shard(
            f"s{number}",
            self.clockwork,
            self.network,
            self.metadata,
            seed=self.seed,
            lease_s=self.lease_s,
            segments=SEGMENTS,
            durability=self.durability,
            popular_gets_per_s=self.popular_gets_per_s,
        )
        witness = Witness(shard, self.metadata, self.placement, self.spaces)
        shard.watcher = witness
        shard.on_start = self._started
        shard.on_follow = self._followed
        self._witnesses[shard.name] = witness
        self.shards.append(shard)
        shard.start_later(self.random.random())

    def witness(self, shard: Shard) -> Witness:
        """Of a shard."""
        return self._witnesses[shard.name]

    def frontend_hosts(self) -> list[str]:
        """Names of the hosts of front-ends."""
        return [frontend.host.name for frontend in self.frontends.values()]

    def chunks_within(self, shard: Shard) -> tuple[int, int]:
        """Where chunks are on a shard's device."""
        return DATA_OFFSET, DATA_OFFSET + SEGMENTS * SEGMENT_BYTES

    def _client(self, number: int, calls: Calls, keys: list[bytes]) -> ClientAt:
        host = Host(f"c{number}")
        randomness = random.Random(f"{self.seed}/c{number}")
        process = Process(
            self.clockwork,
            host.name,
            rate=1.0 + randomness.uniform(-0.0005, 0.0005),
            offset=randomness.random() * 1e4,
        )
        addresses = list(self.frontends)
        randomness.shuffle(addresses)
        space = self.spaces.all[number % len(self.spaces.all)]
        client = Client.made(
            process,
            host,
            self.network,
            calls,
            addresses,
            randomness.random,
            tenant=space.tenant,
            timeout_s=3.0,
        )
        return ClientAt(host, Worker(process, client, self.history, space, keys, randomness, self.trace))

    # -- what happens

    def _written(self, writes: Sequence[Write]) -> None:
        for write in writes:
            if write.key == PLAN and write.value is not None:
                pod_map = decode_plan(write.value).pod_map
                self.placement.planned(pod_map)
                counts = [list(pod_map.table).count(index) for index in range(len(pod_map.shards))]
                told = " ".join(
                    f"{self._name(p.id)}:{n}" for p, n in zip(pod_map.shards, counts, strict=True)
                )
                self.trace.add(
                    self.clockwork.now,
                    "plan",
                    f"epoch {pod_map.epoch}: {told}, {len(pod_map.previous)} asked before",
                )

    def _name(self, shard_id: bytes) -> str:
        return next((shard.name for shard in self.shards if shard.id == shard_id), shard_id.hex()[:8])

    def _started(self, shard: Shard) -> None:
        witness = self.witness(shard)
        witness.forget_requests()
        if shard.life is not None:
            witness.check(shard.life)
        self._followed()

    def _followed(self) -> None:
        lives = [shard.life for shard in self.shards if shard.life is not None]
        if not self.spaces.settled:
            self.spaces.followed_by(life.service.catalog for life in lives)
        for shard in self.shards:
            if shard.life is not None and shard.life.standing.epoch:
                self.witness(shard).follows(shard.life.standing.share)
        serving = [life for life in lives if life.standing.serving]
        epochs = [life.standing.epoch for life in serving]
        self.placement.acted_by(epochs)
        self.history.begun = self.history.begun or (len(serving) == len(self.shards) and all(epochs))
        parts = [life.service.accounts.part.default for life in serving]
        if sum(parts) > POINTS + SLACK_POINTS + NEWCOMER_POINTS * len(parts):
            raise Violation(f"parts of quotas are together {sum(parts) / POINTS:.3f} of them")

    def logged(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        """What the product writes into its log is a line of the trace; a fault ends the run."""
        self.trace.add(self.clockwork.now, "log", f"{event.get('event')}: {event.get('reason', '')}"[:150])
        if method in ("error", "exception", "critical"):
            raise Violation(f"the log tells of a fault: {event.get('event')} {event.get('reason', '')}")
        raise structlog.DropEvent

    # -- the end

    def _healed(self) -> bool:
        epoch = self.placement.epoch
        for shard in self.shards:
            if shard.left:
                continue
            life = shard.life
            if life is None or not life.standing.serving or life.standing.epoch != epoch:
                return False
            if not self.metadata.holds(member_key(shard.id)) or not life.service.accounts.part.settled:
                return False
        if not self.spaces.settled:
            return False
        pod_map = self.placement.pod_map
        there = {shard.id for shard in self.shards if not shard.left}
        return pod_map is not None and {place.id for place in pod_map.shards} == there

    def _wait(self, reached: Callable[[], bool], seconds: float, otherwise: str) -> None:
        until = self.clockwork.now + seconds
        while not reached():
            if self.clockwork.now >= until:
                raise Violation(f"{otherwise} within {seconds:g} s")
            self.clockwork.run(self.clockwork.now + 0.25)

    def _read_all(self) -> None:
        """A client of each tenant asks for every key: all that is there at its owner must come, and none be left out."""
        keys = [b"k%d" % number for number in range(KEYS)]
        for client in self.clients[: len(self.spaces.all)]:
            for start in range(0, KEYS, 8):
                self._read(client.worker, keys[start : start + 8])

    def _read(self, worker: Worker, keys: list[bytes]) -> None:
        space = worker.space
        for _ in range(4):  # a client may be behind by a map, and has to hear of shards that are back
            found, unanswered = self._finish(worker, worker.get_all(keys, 3.0))
            lost = [
                key for key, there in zip(keys, found, strict=True) if not there and self._holder(space, key)
            ]
            if not unanswered and not lost:
                return
            self.clockwork.run(self.clockwork.now + 3.0)
        if unanswered:
            raise Violation(f"the pod has healed, and nobody answers for {unanswered} keys")
        for key in lost:
            raise Violation(
                f"{key!r} of {space.tenant} is at {self._holder(space, key)}, who is asked for it, and a client does "
                "not find it"
            )

    def _holder(self, space: Space, key: bytes) -> str | None:
        """Who is asked for a key, and is bound to have it."""
        pod_map, slot = self.placement.pod_map, self.placement.slot(space, key)
        if pod_map is None:
            return None
        asked = [place.id for place in (pod_map.owner(slot), pod_map.owner_before(slot)) if place is not None]
        for shard in self.shards:
            if shard.id in asked and shard.life is not None:
                scope = shard.life.service.directory.scope_of(space.tenant_id, space.namespace_id)
                if scope is not None and self.witness(shard).binds(shard.life, scope, key):
                    return shard.name
        return None

    def _finish(
        self, worker: Worker, work: Coroutine[Any, Any, tuple[list[bool], int]]
    ) -> tuple[list[bool], int]:
        task = worker.process.run(work)
        self._wait(lambda: task.done, 10.0, "a call has not ended")
        return task.result()

    def _check_shards(self) -> None:
        for client in self.clients:
            client.worker.client.forget_connections()
        until = self.clockwork.now + QUIET_S
        while any(shard.life is not None and any(left(shard.life).values()) for shard in self.shards):
            if self.clockwork.now >= until:
                break
            self.clockwork.run(self.clockwork.now + 0.5)
        for shard in self.shards:
            life = shard.life
            if life is None:
                continue
            self.witness(shard).check(life)
            for what, count in left(life).items():
                if count:
                    raise Violation(f"{shard.name} still has {count} {what}, and nobody uses it")


def left(life: Life) -> dict[str, int]:
    """What a shard has for its clients."""
    service = life.service
    return {
        "sessions": sum(not _is_peer(session) for session in service.sessions),
        "leases": len(service.leases),
        "pieces of staging memory": life.staging.pieces_taken + life.store_staging.pieces_taken,
        "requests": sum(len(one.session.requests) for one in life.connections.values()),
    }


def _is_peer(session: Session) -> bool:
    """Whether it is another shard's."""
    return session.guest is not None and session.guest.peer != b""


def _unheard(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    """What is said when the run is over."""
    raise structlog.DropEvent


def simulate(
    seed: int,
    options: Options | None = None,
    *,
    lines_kept: int = LINES_KEPT,
    tell: Callable[[str], None] | None = None,
) -> Outcome:
    """Play a pod from a seed; ``tell`` gets each line of the trace as it comes."""
    trace = Trace(lines_kept, tell)
    pod = Pod(seed, options or DEFAULTS, trace)
    failure: str | None = None
    logging = structlog.get_config()
    structlog.reset_defaults()  # whatever level and format the process has: what is logged is of the trace
    structlog.configure(processors=[pod.logged])
    try:
        pod.run()
    except Violation as violation:
        failure = str(violation)
    except Exception as fault:
        failure = f"a fault: {type(fault).__name__}: {fault}"
        where = fault.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        if where is not None:
            failure += f" ({where.tb_frame.f_code.co_filename}:{where.tb_lineno})"
    finally:
        structlog.configure(**logging)
    if failure is not None:
        trace.add(pod.clockwork.now, "VIOLATION", failure)
    workers = [client.worker for client in pod.clients]
    numbers: dict[str, int | float] = {
        "seconds": round(pod.clockwork.now, 3),
        "events": pod.clockwork.events,
        "epochs": pod.placement.epoch,
        "calls": sum(worker.calls for worker in workers),
        "errors": sum(worker.errors for worker in workers),
        "early": sum(worker.early for worker in workers),
        "gets": pod.history.gets,
        "hits": pod.history.hits,
        "puts_stored": pod.history.puts_stored,
        "deletes": pod.history.deletes,
        "moved": sum(shard.moved[Why.READ] for shard in pod.shards),
        "copied": sum(shard.moved[Why.COPY] for shard in pod.shards),
        "popular": sum(shard.moved[Why.POPULAR] for shard in pod.shards),
        "lives": sum(shard.lives for shard in pod.shards),
    }
    pod.close()
    return Outcome(seed, failure, trace.digest, tuple(trace.lines), numbers)
