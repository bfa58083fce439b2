"""An event loop in virtual time, for what a shard has as coroutines of one: each turn is a call of its process.

There are no sockets, no threads and no clock in it; `asyncio`'s own futures, tasks and timeouts run on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from mezzo_server.testing.simulation.clockwork import Process


class VirtualLoop(asyncio.AbstractEventLoop):
    """Of one process. Ends with it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._fault: BaseException | None = None
        self.tasks: list[asyncio.Task[Any]] = []
        """that were made and may not have ended"""

    def get_debug(self) -> bool:
        """See `asyncio`."""
        return False

    def is_running(self) -> bool:
        """See `asyncio`."""
        return True

    def is_closed(self) -> bool:
        """See `asyncio`."""
        return not self._process.alive

    def time(self) -> float:
        """The process's clock."""
        return self._process.now()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio`."""
        handle = asyncio.Handle(callback, args, self, context)
        self._process.soon(self._turn, handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio`."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio`."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._process.after(max(0.0, when - self.time()) + 1e-6, self._turn, handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """See `asyncio`."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        """See `asyncio`."""
        task = asyncio.Task(coro, loop=self, **options)
        self.tasks = [one for one in self.tasks if not one.done()]
        self.tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A fault ends the run."""
        fault = context.get("exception")
        if isinstance(fault, BaseException):
            self._fault = fault

    def drop(self) -> None:
        """The process is gone, and with it all that was under way."""
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.tasks = []

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return

    def _turn(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(before)
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault


# What there is no use for here (sockets, processes, signals) is not there: whoever calls it gets NotImplementedError.
VirtualLoop.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
