"""A simulated front-end: plans for the pod, and opens sessions. What it tells is what the real one tells."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from mezzo.errors import ConnectionLost, MezzoError, Unavailable
from mezzo.placement.pod_map import PodMap, encode_map
from mezzo.pod import MapHad
from mezzo.protocol.messages import KEYS_MAX
from mezzo.v1 import session_pb2
from mezzo_server.frontend.pod import BASES_MAX, PodKnown, PodShard, differences_to, without_previous
from mezzo_server.pod.planning import Planning
from mezzo_server.pod.records import Settings
from mezzo_server.testing.simulation.clockwork import Clockwork, Future, Process
from mezzo_server.testing.simulation.limits import CHUNK_BYTES_MAX, LIMITS
from mezzo_server.testing.simulation.metadata import Driver, FarEngine, Metadata
from mezzo_server.testing.simulation.network import Host, Network

TICKET_MS = 10**9
"""Longer than any run: tickets are not renewed here."""


class Frontend:
    """A front-end, in lives. Stateless: nothing stays."""

    def __init__(
        self,
        name: str,
        clockwork: Clockwork,
        network: Network,
        metadata: Metadata,
        settings: Settings,
        tickets: Mapping[str, bytes],
        *,
        seed: str,
    ) -> None:
        """``tickets``: what opens shards to a tenant's clients, by what these say who they are."""
        self.name = name
        self.host = Host(name)
        self.address = f"grpc://{name}:7600"
        self.process: Process | None = None
        self.planning: Planning | None = None
        self.wall_off_s = 0.0
        self._lives = 0
        self._seed = seed
        self._settings = settings
        self._tickets = tickets
        self._clockwork = clockwork
        self._network = network
        self._metadata = metadata
        self._known: PodKnown | None = None
        self._bases: deque[PodMap] = deque(maxlen=BASES_MAX)
        self._revision = 0

    def start(self) -> None:
        """Begin a life, unless there is one."""
        if self.process is not None:
            return
        self._known, self._revision = None, 0
        self._bases.clear()
        self._lives += 1
        randomness = random.Random(f"{self._seed}/{self.name}/{self._lives}")
        process = self.process = Process(
            self._clockwork,
            f"{self.name}.{self._lives}",
            rate=1.0 + randomness.uniform(-0.0005, 0.0005),
            offset=randomness.random() * 1e4,
            wall=self.wall_off_s,
        )
        planning = self.planning = Planning(self._settings, self._complain, randomness.random)
        engine = FarEngine(self._metadata, process, self.host)
        Driver(process, planning, engine, self._moved)

    def kill(self) -> None:
        """SIGKILL."""
        process, self.process, self.planning = self.process, None, None
        if process is not None:
            self.say("killed")
            process.end()

    def say(self, what: str) -> None:
        """A line of the trace."""
        self._clockwork.trace.add(self._clockwork.now, self.name, what)

    def open_session(self, message: bytes, tenant: str) -> bytes:
        """The answer to ``OpenSession`` of a tenant's client. Raises Unavailable: it has no map."""
        known = self._known
        if known is None:
            raise Unavailable("the pod has no map yet")
        request = session_pb2.OpenSessionRequest.FromString(message)
        told = known.told(MapHad(request.pod_had, request.epoch_had))
        epoch = known.pod_map.epoch
        if told.as_had or told.difference:
            placement = session_pb2.PlacementMap(epoch=epoch, difference=told.difference, as_had=told.as_had)
        else:
            shards = [
                session_pb2.Shard(incarnation=shard.incarnation, addresses=shard.addresses)
                for shard in known.shards
            ]
            placement = session_pb2.PlacementMap(epoch=epoch, shards=shards, encoded=told.encoded)
        answer = session_pb2.OpenSessionResponse(
            ticket=self._tickets[tenant],
            ticket_ms=TICKET_MS,
            map=placement,
            limits=session_pb2.Limits(
                keys_max=KEYS_MAX,
                chunk_bytes_max=CHUNK_BYTES_MAX,
                put_bytes_max=1 << 20,
                message_bytes_max=1 << 20,
                lease_ms_max=LIMITS.lease_ms_max,
            ),
        )
        return bytes(answer.SerializeToString())

    def _moved(self) -> None:
        view = None if self.planning is None else self.planning.view
        if view is None or view.plan is None or view.revision == self._revision:
            return
        self._revision = view.revision
        pod_map, before = view.plan.pod_map, self._known
        if before is not None and before.pod_map is pod_map:
            encoded: bytes = before.encoded
            differences = before.differences
        else:
            encoded = encode_map(pod_map)
            if before is not None:
                self._bases.append(without_previous(before.pod_map))
            differences = _Differences(pod_map, tuple(self._bases), len(encoded))
            self.say(f"knows epoch {pod_map.epoch}")
        records = [view.records.get(place.id) for place in pod_map.shards]
        shards = [
            PodShard(b"" if record is None else record.incarnation, place.addresses, 0)
            for place, record in zip(pod_map.shards, records, strict=True)
        ]
        self._known = PodKnown(pod_map, encoded, tuple(shards), differences)

    def _complain(self, key: str, why: str) -> None:
        self.say(f"complains of {key}: {why}")


class _Differences(Mapping[int, bytes]):
    """Differences to a map, each made when somebody asks for it; most are asked for by nobody."""

    def __init__(self, pod_map: PodMap, bases: Sequence[PodMap], whole_bytes: int) -> None:
        self._pod_map = pod_map
        self._bases = {base.epoch: base for base in bases}
        self._whole_bytes = whole_bytes
        self._made: dict[int, bytes] = {}

    def __getitem__(self, epoch: int) -> bytes:
        base = self._bases.pop(epoch, None)
        if base is not None:
            self._made.update(differences_to(self._pod_map, [base], self._whole_bytes))
        return self._made[epoch]

    def __iter__(self) -> Iterator[int]:
        self._made.update(differences_to(self._pod_map, self._bases.values(), self._whole_bytes))
        self._bases.clear()
        return iter(self._made)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Calls:
    """Calls of clients to front-ends: one message there, one back."""

    def __init__(self, clockwork: Clockwork, network: Network, frontends: dict[str, Frontend]) -> None:
        self._clockwork = clockwork
        self._network = network
        self._frontends = frontends

    def open_session(
        self, process: Process, host: Host, address: str, message: bytes, tenant: str
    ) -> Future[bytes]:
        """Asks a front-end; fails with `MezzoError`, or never ends."""
        answer: Future[bytes] = Future(process)
        frontend = self._frontends[address]
        delay_s = self._network.delay_s(host, frontend.host)
        self._clockwork.after(delay_s, self._arrive, answer, host, frontend, message, tenant)
        return answer

    def _arrive(
        self, answer: Future[bytes], host: Host, frontend: Frontend, message: bytes, tenant: str
    ) -> None:
        network = self._network
        if not network.passes(host, frontend.host):
            return
        back_s = network.delay_s(frontend.host, host)
        if frontend.process is None:
            self._clockwork.after(
                back_s, answer.fail, ConnectionLost(f"{frontend.address}: connection refused")
            )
            return
        frontend.process.take(self._answer, answer, host, frontend, message, tenant, back_s)

    def _answer(
        self,
        answer: Future[bytes],
        host: Host,
        frontend: Frontend,
        message: bytes,
        tenant: str,
        back_s: float,
    ) -> None:
        try:
            data = frontend.open_session(message, tenant)
        except MezzoError as error:
            self._clockwork.after(back_s, answer.fail, error)
            return
        if self._network.passes(frontend.host, host):
            self._clockwork.after(back_s, answer.finish, data)
