"""The shards that a front-end serves: a connection to each that asks how it is, and the map of them all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import structlog
from msgspec import structs

from mezzo import AsyncClient
from mezzo.errors import MezzoError, Unavailable
from mezzo.placement.pod_map import NAME_CHARACTERS_MAX, PodMap
from mezzo.pod import MapSource
from mezzo.protocol.messages import Welcome
from mezzo_server.config.shards import UNKNOWN_ID, ShardTold
from mezzo_server.pod.local import LocalPlan
from mezzo_server.pod.plan import Member

ANSWER_S_MAX = 1.0
"""How long one of several shards is waited for that is known already."""

log = structlog.get_logger("mezzo.frontend")


class ShardKnown:
    """One shard as it was when it last answered."""

    __slots__ = ("addresses", "asked_at", "capacity_bytes", "client", "id", "problem", "welcome")

    def __init__(self, told: ShardTold, client: AsyncClient) -> None:
        self.client = client
        """a connection that may ask for its numbers"""
        self.addresses = told.addresses
        self.asked_at = told.asked_at or told.addresses[0]
        """where we ask it ourselves"""
        self.id = told.id
        """of its store; zeros: not known yet"""
        self.capacity_bytes = told.capacity_bytes
        self.welcome: Welcome | None = None
        """what it said of itself when it last answered; None: it never did"""
        self.problem: MezzoError | None = None
        """why it did not answer when it was last asked"""

    @property
    def away(self) -> bool:
        """Whether it is known and did not answer: whoever watches its health asks it again."""
        return self.problem is not None and self.id != UNKNOWN_ID

    @property
    def incarnation(self) -> bytes:
        """Which of its lives answered last; empty: none did."""
        return b"" if self.welcome is None else self.welcome.shard_incarnation


class Seen(NamedTuple):
    """What the shards said when they were asked."""

    limits: Welcome
    """what all that answered allow"""
    epoch: int
    shards: tuple[ShardKnown, ...]
    """those that ever answered, whether or not they did now"""
    encoded: bytes
    """the map of several shards; empty: there is one"""


class NodeShards:
    """Owner of the connections, and of the plan of a node that is its own pod."""

    def __init__(
        self,
        told: Sequence[ShardTold],
        connect: Callable[[str], AsyncClient],
        node: str,
        *,
        plans: bool = True,
    ) -> None:
        """``connect`` makes a connection to an address that may ask for numbers; ``node``: this host's name.

        Not ``plans``: the map is made elsewhere, since there are other nodes.
        """
        self._plans = plans and len(told) > 1
        self.shards = tuple(ShardKnown(each, connect(each.asked_at or each.addresses[0])) for each in told)
        self.plan = LocalPlan()
        self._ours = (self.plan.pod_map, self.plan.pod_map)
        self._planning = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._node = node[:NAME_CHARACTERS_MAX]

    @property
    def clients(self) -> list[AsyncClient]:
        """The connections."""
        return [shard.client for shard in self.shards]

    @property
    def away(self) -> bool:
        """Whether none of them answered when it was last asked."""
        return all(shard.problem is not None for shard in self.shards)

    @property
    def map_source(self) -> MapSource | None:
        """For connections of ours to all of them; None: there is one, which has everything."""
        return self.pod_map if self._plans else None

    def pod_map(self) -> PodMap:
        """The map in force, for connections of ours: with the addresses where we ask shards ourselves, which may be
        others than clients are told.  Who asks for it lost a shard: it is also looked whether another map is due.

        Raises:
            Unavailable: not all shards were heard of yet.
        """
        pod_map = self.plan.pod_map
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look_again())
        if not pod_map.epoch:
            raise Unavailable("the shards of the node are not all known yet")
        if self._ours[0] is not pod_map:
            at = {shard.id: shard.asked_at for shard in self.shards}
            places = [
                structs.replace(place, addresses=tuple(dict.fromkeys((at[place.id], *place.addresses))))
                if place.id in at
                else place
                for place in pod_map.shards
            ]
            ours = PodMap(
                pod_map.pod, pod_map.epoch, pod_map.slots_log2, places, pod_map.table, pod_map.previous
            )
            self._ours = pod_map, ours
        return self._ours[1]

    async def ping(self, timeout_s: float) -> None:
        """Ask all of them whether they are there, and plan if there is no map. Raises MezzoError: none is."""
        if self.map_source is not None and not self.plan.pod_map.epoch:
            with suppress(MezzoError):
                await self.look(timeout_s)
        _one_of(await self._each(self.shards, lambda shard: shard.client.ping(timeout_s=timeout_s)))

    async def look(self, timeout_s: float) -> Seen:
        """Ask all of them how they are, and plan for what they said.

        Raises:
            MezzoError: none of them answered; or one that was never heard of did not, so that nobody knows which
                chunks it has.
        """

        async def ask(shard: ShardKnown) -> None:
            alone = len(self.shards) == 1 or shard.id == UNKNOWN_ID
            numbers = await shard.client.shard_stat(
                timeout_s=timeout_s if alone else min(timeout_s / 2, ANSWER_S_MAX)
            )
            welcome = shard.client.welcome
            if welcome is None:
                raise Unavailable("the connection to the shard was lost")
            shard.welcome, shard.id = welcome, welcome.shard_id
            shard.capacity_bytes = int(numbers.get("bytes_total", 0))

        # Nobody waits for a shard that was away a moment ago, unless all were.
        answers = await self._each([shard for shard in self.shards if not shard.away] or self.shards, ask)
        _one_of(answers)
        for shard, error in zip(self.shards, answers, strict=True):
            if self._plans and error is not None and shard.id == UNKNOWN_ID:
                raise error
        known = tuple(shard for shard in self.shards if shard.welcome is not None)
        limits = min(
            (shard.welcome for shard in known if shard.welcome is not None),
            key=lambda welcome: welcome.chunk_bytes_max,
        )
        if not self._plans:
            return Seen(limits, limits.epoch, known, b"")
        members = [
            Member(shard.id, self._node, "", shard.addresses, shard.capacity_bytes) for shard in self.shards
        ]
        async with self._planning:
            # A table takes longer than a loop may be held.
            if await asyncio.to_thread(self.plan.follow, members, time.time()):
                log.info("the shards have a new map", epoch=self.plan.pod_map.epoch, shards=len(members))
        return Seen(limits, self.plan.pod_map.epoch, known, self.plan.encoded)

    async def _look_again(self) -> None:
        with suppress(MezzoError):
            await self.ping(ANSWER_S_MAX)
            await self.look(2 * ANSWER_S_MAX)
        await asyncio.sleep(ANSWER_S_MAX)  # whoever asks meanwhile would be told the same

    async def close(self) -> None:
        """Close all connections."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        for shard in self.shards:
            await shard.client.close()

    async def _each(
        self, shards: Sequence[ShardKnown], ask: Callable[[ShardKnown], Coroutine[Any, Any, object]]
    ) -> list[MezzoError | None]:
        """Ask these at a time; what is the matter with each of all shards, None: it answered when it was last asked."""

        async def asked(shard: ShardKnown) -> None:
            try:
                await ask(shard)
            except MezzoError as error:
                shard.problem = error
            else:
                shard.problem = None

        await asyncio.gather(*map(asked, shards))
        return [shard.problem for shard in self.shards]


def _one_of(answers: Sequence[MezzoError | None]) -> None:
    """Raises what the first said, if none answered."""
    if answers and all(answers):
        raise next(error for error in answers if error is not None)
