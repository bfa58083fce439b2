"""The ways to other shards of the pod: opened when something is to be pulled, with a credential of our own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from mezzo.address import parse
from mezzo.connecting import Surroundings
from mezzo.errors import Busy, InvalidArgument, MezzoError, Unavailable, Unsupported, WrongEpoch
from mezzo.operations import Operation
from mezzo.tls import TLS
from mezzo_server.access.peers import CONNECTION_S, GOOD_S, PeerCredential, PeerKey
from mezzo_server.pod.records import MemberRecord
from mezzo_server.pod.standing import Standing
from mezzo_server.shard.peer_admission import RECORD_AGAIN_S, Members
from mezzo_server.shard.peer_client import PeerClient
from mezzo_server.shard.peer_operations import OfferChunks, PullChunks

IDLE_S = 60.0
"""A way that was not gone for so long is closed."""
LOOK_S = 12.0
"""How long is waited for a member record: as long as who looks it up may take, and a little."""


class _Way:
    __slots__ = ("client", "opened", "used", "users")

    def __init__(self, client: PeerClient, now: float) -> None:
        self.client = client
        self.opened = self.used = now
        self.users = 0


class PeerWays:
    """Owner of the connections. Used in the loop."""

    def __init__(
        self,
        shard: bytes,
        key: PeerKey,
        members: Members,
        standing: Standing,
        tls: TLS,
        now: Callable[[], float],
        node: str,
        *,
        surroundings: Surroundings | None = None,
        wall_s: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """``shard``: our own id; ``key``: what we sign with; ``node``: where we are; ``wall_s``: Unix time."""
        self._surroundings = surroundings
        self._wall_s = wall_s
        self._entropy = entropy
        self._node = node
        self._shard = shard
        self._key = key
        self._members = members
        self._standing = standing
        self._tls = tls
        self._now = now
        self._ways: dict[bytes, _Way] = {}
        self._opening: dict[bytes, asyncio.Lock] = {}
        self._leaving: dict[_Way, None] = {}
        """that are closed when nobody uses them any more"""
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def pull(self, shard: bytes, operation: PullChunks) -> None:
        """See `puller.Peers`."""
        await self._ask(shard, operation)

    async def offer(self, shard: bytes, operation: OfferChunks) -> None:
        """See `copies.Peers`."""
        await self._ask(shard, operation)

    async def _ask(self, shard: bytes, operation: Operation) -> None:
        way = await self._way(shard)
        way.users += 1
        try:
            await way.client.ask(operation)
        except (Busy, WrongEpoch):
            raise
        except MezzoError:
            # Perhaps it started anew, hangs, or is elsewhere by now: looked at again when it is asked next.
            self._leave(shard, way)
            raise
        finally:
            way.users -= 1
            way.used = self._now()
            self._close_unused()

    async def close(self) -> None:
        """See `puller.Peers`."""
        if self._timer is not None:
            self._timer.cancel()
        for way in (*self._ways.values(), *self._leaving):
            await way.client.close()
        self._ways.clear()
        self._leaving.clear()
        if self._closing:
            await asyncio.wait(tuple(self._closing))

    async def _way(self, shard: bytes) -> _Way:
        lock = self._opening.setdefault(shard, asyncio.Lock())
        async with lock:
            way = self._ways.get(shard)
            if way is not None and self._now() - way.opened < CONNECTION_S / 2:
                return way
            if way is not None:
                self._leave(shard, way)
            record = await self._record(shard)
            way = _Way(self._client(shard, record), self._now())
            self._ways[shard] = way
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(IDLE_S, self._close_idle)
            return way

    def _client(self, shard: bytes, record: MemberRecord) -> PeerClient:
        def credential() -> bytes:
            pod_map = self._standing.pod_map
            if pod_map is None or not self._standing.serving:
                raise Unavailable("this shard serves nothing now, and pulls nothing")
            now_s = int(self._wall_s())
            return self._key.sign(
                self._shard,
                PeerCredential(
                    pod_map.pod, shard, record.incarnation, self._entropy(16), now_s, now_s + GOOD_S
                ),
            )

        addresses = _ways_to(record, self._node)
        return PeerClient(shard, addresses, self._tls, credential, self._surroundings)

    async def _record(self, shard: bytes) -> MemberRecord:
        looked: asyncio.Future[MemberRecord | MezzoError | None] = asyncio.get_running_loop().create_future()

        def told(record: MemberRecord | MezzoError | None) -> None:
            if not looked.done():
                looked.set_result(record)

        self._members.look(shard, RECORD_AGAIN_S, told)
        try:
            async with asyncio.timeout(LOOK_S):
                record = await looked
        except TimeoutError:
            raise Unavailable("the metadata did not say in time where the other shard is") from None
        if isinstance(record, MezzoError):
            raise record
        if record is None:
            raise Unavailable(f"the shard {shard.hex()} is not there")
        if not record.public:
            raise Unsupported(f"the shard {shard.hex()} moves no chunks")
        return record

    def _leave(self, shard: bytes, way: _Way) -> None:
        """It is not to be gone any more."""
        if self._ways.get(shard) is way:
            del self._ways[shard]
        self._leaving[way] = None

    def _close_unused(self) -> None:
        for way in [way for way in self._leaving if not way.users]:
            self._leaving.pop(way, None)
            task = asyncio.get_running_loop().create_task(way.client.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _close_idle(self) -> None:
        self._timer = None
        now = self._now()
        for shard, way in tuple(self._ways.items()):
            if not way.users and now - way.used >= IDLE_S:
                self._leave(shard, way)
        self._close_unused()
        if self._ways:
            self._timer = asyncio.get_running_loop().call_later(IDLE_S, self._close_idle)


def _ways_to(record: MemberRecord, node: str) -> tuple[str, ...]:
    """The addresses at which a shard is gone to.

    A path or a loopback address names something else on each host: whoever listens there on ours could take what is
    shown to him to the shard that it is for.  So one on another node is gone to by its others, if it has any.
    """
    if record.node == node:
        return record.addresses
    return tuple(text for text in record.addresses if not _is_local(text)) or record.addresses


def _is_local(text: str) -> bool:
    try:
        return parse(text).is_local
    except InvalidArgument:
        return False  # of a later release; it is left out by who knows no way there
