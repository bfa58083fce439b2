"""How a simulated shard reaches others, and lets them in: what `shard.peers` and `shard.members` do with sockets and threads.

Real: `shard.puller`, `pod.moving`, `peer_admission`, keys and credentials, and every frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mezzo.calls import CONNECT, Call, Run
from mezzo.connecting import Surroundings
from mezzo.credentials import Ticket
from mezzo.errors import ConnectionLost, DeadlineExceeded, MezzoError, Unavailable, WrongEpoch
from mezzo.operations import Operation
from mezzo.tls import TLS
from mezzo_server.access.peers import GOOD_S, PeerCredential, PeerKey
from mezzo_server.pod.records import MemberRecord, decode, member_key
from mezzo_server.pod.standing import Standing
from mezzo_server.shard.peer_admission import Known
from mezzo_server.shard.peer_client import PeerClient
from mezzo_server.shard.peer_operations import OfferChunks, PullChunks
from mezzo_server.testing.simulation.client import Performing
from mezzo_server.testing.simulation.clockwork import Process, Task
from mezzo_server.testing.simulation.metadata import FarEngine
from mezzo_server.testing.simulation.network import Host, Network

TIMEOUT_S = 5.0


class Members:
    """Reads member records; implements `peer_admission.Members`."""

    def __init__(self, process: Process, engine: FarEngine) -> None:
        self._process = process
        self._engine = engine

    def look(self, shard: bytes, fresh_s: float, told: Known, *, unproven: bool = False) -> None:
        """See `peer_admission.Members`."""
        self._process.run(self._look(shard, told))

    async def read(self, shard: bytes) -> MemberRecord | None:
        """The record of a shard; None: it is not registered. Raises MezzoError."""
        key = member_key(shard)
        entry = await self._engine.get(key)
        return None if entry is None else decode(MemberRecord, key, entry.value)

    async def _look(self, shard: bytes, told: Known) -> None:
        try:
            told(await self.read(shard))
        except MezzoError as error:
            told(error)


class Way(Performing):
    """A connection to another shard, as `peer_client.PeerClient`."""

    _shard: bytes
    _known: Any
    _reach_once = PeerClient._reach_once
    _is_meant = PeerClient._is_meant

    async def ask(self, operation: Operation) -> None:
        """Have it done. Raises MezzoError."""
        await self._perform(_run(operation), TIMEOUT_S)

    def end(self, error: MezzoError) -> None:
        """End the connection."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            link.end(error)


def _run(operation: Operation) -> Call[None]:
    link = yield CONNECT
    yield Run(link, (operation,))


class Peers:
    """Ways to other shards; implements `puller.Peers`. Owner of the ways."""

    def __init__(
        self,
        shard: bytes,
        key: PeerKey,
        members: Members,
        standing: Standing,
        process: Process,
        host: Host,
        network: Network,
        entropy: Callable[[int], bytes],
        random: Callable[[], float],
    ) -> None:
        self._shard = shard
        self._key = key
        self._members = members
        self._standing = standing
        self._process = process
        self._host = host
        self._network = network
        self._entropy = entropy
        self._random = random
        self._ways: dict[bytes, Way] = {}

    async def pull(self, shard: bytes, operation: PullChunks) -> None:
        """See `puller.Peers`."""
        await self._have(shard, operation)

    async def offer(self, shard: bytes, operation: OfferChunks) -> None:
        """See `copies.Peers`."""
        await self._have(shard, operation)

    async def _have(self, shard: bytes, operation: Operation) -> None:
        """Runs in the virtual loop; what it awaits is done by the process."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asking: Task[None] = self._process.run(self._ask(shard, operation))

        def tell() -> None:
            if ended.done():
                return
            if asking.error is not None:
                ended.set_exception(asking.error)
            else:
                ended.set_result(None)

        asking.then(tell)
        try:
            await ended
        except asyncio.CancelledError:
            self._leave(shard)  # nothing is received into memory that is given back now
            raise

    async def close(self) -> None:
        """See `puller.Peers`."""
        for shard in tuple(self._ways):
            self._leave(shard)

    async def _ask(self, shard: bytes, operation: Operation) -> None:
        way = self._ways.get(shard)
        if way is None:
            record = await self._members.read(shard)
            if record is None or not record.public:
                raise Unavailable("the shard is not there, or does not let others pull from it")
            way = self._ways.get(shard)
            if way is None:
                way = self._ways[shard] = self._way(shard, record)
        try:
            await way.ask(operation)
        except (WrongEpoch, DeadlineExceeded):
            raise
        except MezzoError:
            self._leave(shard)
            raise

    def _leave(self, shard: bytes) -> None:
        way = self._ways.pop(shard, None)
        if way is not None:
            way.end(ConnectionLost("it is left"))

    def _way(self, shard: bytes, record: MemberRecord) -> Way:
        def ticket() -> Ticket:
            pod_map = self._standing.pod_map
            if pod_map is None or not self._standing.serving:
                raise Unavailable("this shard serves nothing now, and pulls nothing")
            now_s = int(self._process.wall_s())
            credential = PeerCredential(
                pod_map.pod, shard, record.incarnation, self._entropy(16), now_s, now_s + GOOD_S
            )
            return Ticket(self._key.sign(self._shard, credential))

        way = Way(
            record.addresses[0],
            name="shard",
            timeout_s=TIMEOUT_S,
            shm=False,
            tls=TLS(),
            token="",
            ticket=ticket,
            surroundings=Surroundings(self._process.now, self._random, _never),
        )
        way._process, way._host, way._network = self._process, self._host, self._network
        way._shard, way._known = shard, (way.address,)
        return way


def _never(seconds: float) -> None:
    raise RuntimeError("nothing sleeps here")
