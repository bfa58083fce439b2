"""Work of a shard that nobody waits for: tasks of the loop, begun as long as somebody says that there is one to begin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

Work = Coroutine[object, object, None]
STOP_S = 2.0
"""What is under way as a shard stops is waited for so long."""


class Background:
    """Owner of the tasks, and of the timer for the next. Used in the loop, until `stop`."""

    def __init__(
        self,
        begin: Callable[[], Work | None],
        wait_s: Callable[[], float | None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """``begin``: what is to be done now, None: nothing; ``wait_s``: when to ask again although nothing has happened."""
        self._next = begin
        self._wait_s = wait_s
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._begins = False
        self.stopped = False

    def soon(self) -> None:
        """There may be something to begin."""
        if not self._begins and not self.stopped:
            self._begins = True
            self._loop.call_soon(self._begin)

    async def stop(self, seconds: float) -> bool:
        """Begin nothing any more, and have what is under way end; whether it has, within so many seconds."""
        self.stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        if not self._tasks:
            return True
        _, left = await asyncio.wait(tuple(self._tasks), timeout=seconds)
        return not left

    def _begin(self) -> None:
        self._begins = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while not self.stopped and (work := self._next()) is not None:
            task = self._loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        wait_s = None if self.stopped else self._wait_s()
        if wait_s is not None:
            self._timer = self._loop.call_later(max(0.001, wait_s), self._begin)
