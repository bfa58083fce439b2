"""Erasure: what a raised generation makes unreadable at once, and how its space comes back.

    told (`Erasure.heed`) -> out of reach -> streams cut off -> slots dropped, counts put right -> dead space

The index is keyed by scope, and a scope has generations: so no session that begins after the raise can
name what came before.  What was under way under the old scope ends as a miss or an error, and never
becomes visible.  Putting the counts right takes a step for each chunk, so it is done in slices; reclaim
waits for it, since it goes by these counts.  On the device the records stay until their segments are
reclaimed; no restart brings them back (`recovery`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mezzo_server.blockstore.api import StandingOf
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.segment import life_of, number_of

if TYPE_CHECKING:
    from mezzo_server.blockstore.context import Context

STEP_CHUNKS = 128
"""Chunks cleared away in one turn."""
STEP_SCOPES = 512
"""Namespaces looked at in one turn."""


class Remains:
    """What is left to clear away of one erased namespace."""

    __slots__ = ("namespace", "shadows", "shards")

    def __init__(self, namespace: NamespaceIndex) -> None:
        self.namespace = namespace
        self.shards, self.shadows = namespace.erase()
        """as they were in the namespace"""


class Erasure:
    """Owner of the remains of erased namespaces."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._remains: deque[Remains] = deque()
        self._sweeps = 0
        context.index.erased = self._erased

    @property
    def running(self) -> bool:
        """Whether counts still include what was erased."""
        return bool(self._remains or self._sweeps)

    @property
    def remains(self) -> Iterator[Remains]:
        """What is left to clear away."""
        return iter(self._remains)

    @property
    def chunks(self) -> int:
        """Chunks that are out of reach and not cleared away yet."""
        return sum(len(shard) for remains in self._remains for shard in remains.shards)

    def heed(self, standing: StandingOf | None) -> None:
        """What ``standing`` calls erased is out of reach when this returns."""
        self._context.index.vet(standing)
        if standing is not None:
            self._sweeps += 1
            self._context.start(self._sweep(standing))

    async def over(self) -> None:
        """Until counts are right, or the store closes."""
        while self.running and not self._context.closing:
            await self._context.later.turn()

    async def _sweep(self, standing: StandingOf) -> None:
        """Find the namespaces that were erased; those that are touched meanwhile find themselves."""
        index = self._context.index
        for place, scope in enumerate(index.scopes()):
            if place % STEP_SCOPES == STEP_SCOPES - 1:
                await self._context.later.turn()
            index.sift(scope)
        self._sweeps -= 1

    def _erased(self, namespace: NamespaceIndex) -> None:
        """A namespace has left the index."""
        context = self._context
        for stream in [stream for stream in context.streams if stream.namespace is namespace]:
            stream.revoke()
        self._remains.append(Remains(namespace))
        if len(self._remains) == 1:
            context.start(self._clear())

    async def _clear(self) -> None:
        context = self._context
        while self._remains:
            remains = self._remains[0]
            await self._clear_one(remains)
            if context.closing:
                return
            self._remains.popleft()
            context.changes += 1

    async def _clear_one(self, remains: Remains) -> None:
        context = self._context
        step = 0
        for shard in remains.shards:
            while shard:
                if step % STEP_CHUNKS == 0:
                    # the first time too: whoever erases is not the one who pays
                    await context.later.turn()
                    if context.closing:
                        return
                step += 1
                key, location = shard.popitem()
                self._end(remains.namespace, key, location)
        # To let go of a large dictionary takes as long as to empty it.
        for rest in (remains.shadows, remains.namespace.pins):
            while rest:
                rest.popitem()
                step += 1
                if step % STEP_CHUNKS == 0:
                    await context.later.turn()
        # What was being filled when the namespace was erased, and is no chunk of the index yet.
        hot = context.hot
        for slot in list(remains.namespace.hot) if hot is not None else ():
            if hot is not None:
                hot.drop(slot)

    def _end(self, namespace: NamespaceIndex, key: bytes, location: int) -> None:
        context = self._context
        if context.hot is not None:
            slot = namespace.hot.get(key)
            if slot is not None:
                context.hot.drop(slot)
        segment = context.lives.get(life_of(location))
        if segment is None:
            return  # its device has left the store meanwhile
        number = number_of(location)
        segment.account(number, -1)
        if namespace.pins.get(key):
            segment.pinned_bytes -= segment.table.length[number]
        context.counters["chunks_erased"] += 1
        context.counters["bytes_erased"] += segment.table.length[number]
