"""One watch of an engine for all who watch the same: an etcd has a few, and not several for each process of a pod.

A *hub* watches one prefix and hands on what it is told.  Who comes later joins it if there is nothing that the hub has
handed on and he has not had.  Else he has a watch of his own, until that one is as far as the hub: from then on he
is told by the hub as well.  So nobody misses anything, and nothing is kept for those who may come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from mezzo.errors import MezzoError, Unavailable
from mezzo_server.metadata.engine import Change, Compacted, Engine

AHEAD_MAX = 64
"""Batches that wait for one who watches; who is further behind begins anew where he is."""

Told = Sequence[Change] | MezzoError
"""what came, or how it ended"""


class Hub:
    """The watch of one prefix, as long as somebody is told by it. Owner of the task that follows the engine."""

    def __init__(self, engine: Engine, prefix: str) -> None:
        self._engine = engine
        self._prefix = prefix
        self._queues: set[asyncio.Queue[Told]] = set()
        self._task: asyncio.Task[None] | None = None
        self._told = 0
        """all changes after this revision are still to come"""

    async def watch(self, after: int) -> AsyncGenerator[Sequence[Change], None]:
        """As `Engine.watch`, and raises Unavailable if the engine's watch ends."""
        # The engine itself looks at where its watches begin.
        if self._task is not None and after > (await self._engine.transact([], [])).revision:
            raise Compacted(f"there was no revision {after} yet")
        # Again when the own watch is closed: meanwhile the hub may have handed on more.
        while self._is_ahead_of(after):
            async with aclosing(_generator(self._engine.watch(self._prefix, after))) as own:
                async for changes in own:
                    after = changes[-1].revision
                    yield changes
                    if not self._is_ahead_of(after):
                        break
                else:
                    raise Unavailable("the metadata engine was closed")
        async with aclosing(self._joined(after)) as told:
            async for changes in told:
                yield changes

    def _is_ahead_of(self, after: int) -> bool:
        """Whether it may have handed on something of a later revision."""
        return self._task is not None and after < self._told

    async def _joined(self, after: int) -> AsyncGenerator[Sequence[Change], None]:
        """Told by the hub. There is nothing after ``after`` that it has handed on."""
        queue: asyncio.Queue[Told] = asyncio.Queue()
        if self._task is None:
            self._told = after
            self._task = asyncio.ensure_future(self._follow())
        self._queues.add(queue)
        try:
            while True:
                told = await queue.get()
                if isinstance(told, MezzoError):
                    raise told
                new = [change for change in told if change.revision > after]
                if new:
                    after = new[-1].revision
                    yield new
        finally:
            self._queues.discard(queue)
            if not self._queues and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _follow(self) -> None:
        last: MezzoError = Unavailable("the metadata engine was closed")
        try:
            async with aclosing(_generator(self._engine.watch(self._prefix, self._told))) as watch:
                async for changes in watch:
                    if self._task is not asyncio.current_task():
                        return  # it was told to end, and did not hear it; another may be behind this one
                    self._told = changes[-1].revision
                    for queue in tuple(self._queues):
                        self._hand(queue, changes)
        except MezzoError as error:
            last = error
        except Exception as error:  # a fault of ours: who watches must hear that nothing comes any more
            last = Unavailable(f"a fault in watching the engine: {error!r}")
        if self._task is not asyncio.current_task():
            return  # it was told to end, and made an error of that; who watches now has another
        self._task = None
        queues, self._queues = self._queues, set()
        for queue in queues:
            queue.put_nowait(last)

    def _hand(self, queue: asyncio.Queue[Told], changes: Sequence[Change]) -> None:
        if queue.qsize() < AHEAD_MAX:
            queue.put_nowait(changes)
            return
        self._queues.discard(queue)
        queue.put_nowait(Unavailable(f"{AHEAD_MAX} batches of changes were not taken in time"))


class Hubs:
    """Those of one engine, by prefix."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._hubs: dict[str, tuple[Hub, int]] = {}
        """each with the number of those who watch, by it or beside it"""

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        """As `Hub.watch`."""
        if prefix not in self._hubs:
            self._hubs[prefix] = Hub(self._engine, prefix), 0
        hub, count = self._hubs[prefix]
        self._hubs[prefix] = hub, count + 1
        try:
            async with aclosing(hub.watch(after)) as told:
                async for changes in told:
                    yield changes
        finally:
            hub, count = self._hubs[prefix]
            if count > 1:
                self._hubs[prefix] = hub, count - 1
            else:
                del self._hubs[prefix]


def _generator(watch: Any) -> AsyncGenerator[Sequence[Change], None]:
    """An engine's watch as what it is: to be closed."""
    generator: AsyncGenerator[Sequence[Change], None] = watch
    return generator
