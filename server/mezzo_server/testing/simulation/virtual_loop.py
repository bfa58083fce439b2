"""An event loop in virtual time, for what a shard has as coroutines of one: each turn is a call of its process.

There are no threads and no clock in it; `asyncio`'s own futures, tasks and timeouts run on it.  Its sockets are ends of
simulated streams: they take all that is sent, and are read when something came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any, TypeVar

from mezzo_server.testing.simulation.clockwork import Future, Process, close
from mezzo_server.testing.simulation.network import End

T = TypeVar("T")

CANCELS = 4
"""What is under way when a run is over may wait for others as it ends: it is told again, so often at most."""
_running, _run_in = asyncio._get_running_loop, asyncio._set_running_loop
LAST_TURNS_MAX = 10_000
"""after each time that it was told"""


class VirtualSocket:
    """One end of a stream, as a socket that never blocks. Owned by who opened it, in a loop's process."""

    family = None

    def __init__(self, loop: VirtualLoop, end: End) -> None:
        self._loop = loop
        self._end = end
        self._pieces: deque[memoryview] = deque()
        self._over = False
        self._number = loop.number(self)
        end.received = self._received
        end.ended = self._ended

    @property
    def readable(self) -> bool:
        """Whether there is something to be read, be it the end."""
        return bool(self._pieces) or self._over

    def setblocking(self, flag: bool) -> None:
        """It never does."""

    def fileno(self) -> int:
        """Its number in its loop."""
        return self._number

    def recv_into(self, buffer: memoryview) -> int:
        """See `socket.socket`."""
        if not self._pieces:
            if self._over:
                return 0
            raise BlockingIOError
        piece = self._pieces[0]
        count = min(len(buffer), len(piece))
        buffer[:count] = piece[:count]
        if count < len(piece):
            self._pieces[0] = piece[count:]
        else:
            self._pieces.popleft()
        return count

    def send(self, data: bytes | memoryview) -> int:
        """See `socket.socket`."""
        self._end.send(bytes(data))
        return len(data)

    def sendmsg(self, buffers: Sequence[bytes | memoryview], ancillary: Sequence[Any] = ()) -> int:
        """See `socket.socket`; no descriptor can be passed."""
        if ancillary:
            raise RuntimeError("no descriptors are passed over a network")
        return self.send(b"".join(buffers))

    def shutdown(self, how: int) -> None:
        """See `socket.socket`."""
        self.close()

    def close(self) -> None:
        """See `socket.socket`."""
        self._end.close()

    def _received(self, data: bytes) -> None:
        self._pieces.append(memoryview(data))
        self._loop.came(self._number)

    def _ended(self) -> None:
        self._over = True
        self._loop.came(self._number)


class VirtualLoop(asyncio.AbstractEventLoop):
    """Of one process. Ends with it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._fault: BaseException | None = None
        self._sockets: dict[int, VirtualSocket] = {}
        self._readers: dict[int, asyncio.Handle] = {}
        self._count = 0
        self.tasks: list[asyncio.Task[Any]] = []
        """that were made and may not have ended"""
        self._tasks_most = 8
        """so many of them, and those that have ended are forgotten"""
        self._ready: dict[asyncio.Handle, None] = {}
        """whose turn is to come; of a process that is gone: never came"""
        self._over = False
        """the run is: turns are taken here, and time stands still"""
        self._closed = False
        process.clockwork.closing.append(self._close)

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
        """See `asyncio`. Raises RuntimeError: the run is over, and the loop is closed."""
        if self._closed:
            raise RuntimeError("the loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._ready[handle] = None
        if not self._over:
            process = self._process
            process.clockwork.put_soon(process, self._turn, (handle,))
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
        if not self._over:
            self._process.after(max(0.0, when - self.time()) + 1e-6, self._turn, handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio`; there are no threads."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """See `asyncio`; done at once, unless it gives something that is to be waited for."""
        made = func(*args)
        if isinstance(made, Future):
            return self.of(made)
        done = self.create_future()
        done.set_result(made)
        return done

    def of(self, future: Future[T]) -> asyncio.Future[T]:
        """What its process waits for, to be awaited here."""
        ended: asyncio.Future[T] = self.create_future()

        def tell() -> None:
            if ended.done():
                return
            if future.error is not None:
                ended.set_exception(future.error)
            else:
                ended.set_result(future.result())

        future.then(tell)
        return ended

    def have(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a coroutine here; its end, to be awaited by the process."""
        ended: Future[T] = Future(self._process)

        def tell(task: asyncio.Task[T]) -> None:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is not None:
                ended.fail(error)
            else:
                ended.finish(task.result())

        self.create_task(work).add_done_callback(tell)
        return ended

    # -- sockets

    def number(self, opened: VirtualSocket) -> int:
        """Of a socket that was opened."""
        self._count += 1
        self._sockets[self._count] = opened
        return self._count

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """See `asyncio`."""
        self._readers[fd] = asyncio.Handle(callback, args, self, None)
        if self._sockets[fd].readable:
            self._process.soon(self.came, fd)

    def remove_reader(self, fd: int) -> bool:  # type: ignore[override]
        """See `asyncio`."""
        self._sockets.pop(fd, None)
        return self._readers.pop(fd, None) is not None

    def came(self, number: int) -> None:
        """Something is to be read."""
        reader = self._readers.get(number)
        if reader is None:
            return
        self._turn(reader)
        left = self._sockets.get(number)
        if left is not None and left.readable and number in self._readers:
            self._process.soon(self.came, number)

    # -- tasks

    def create_future(self) -> asyncio.Future[Any]:
        """See `asyncio`."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        """See `asyncio`."""
        task = asyncio.Task(coro, loop=self, **options)
        if len(self.tasks) >= self._tasks_most:
            self.tasks = [one for one in self.tasks if not one.done()]
            self._tasks_most = 2 * len(self.tasks) + 8
        self.tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A fault ends the run."""
        fault = context.get("exception")
        if isinstance(fault, BaseException):
            self._fault = fault

    def _close(self) -> None:
        """The run is over: end what is under way, as a loop that closes does, and leave nothing to the garbage collector.

        What it does in the end comes to nobody: nothing that is sent now is delivered.
        """
        self._over = True
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            for attempt in range(2 * CANCELS):
                tasks, self.tasks = [task for task in self.tasks if not task.done()], []
                if not tasks and not self._ready:
                    break
                if attempt < CANCELS:
                    for task in tasks:
                        task.cancel()
                    self.tasks = tasks
                else:  # it waits for what nobody does any more
                    for task in tasks:
                        task._log_destroy_pending = False  # type: ignore[attr-defined]
                        close(task.get_coro())
                self._take_last_turns()
        finally:
            asyncio._set_running_loop(before)
        self._ready, self._readers, self._sockets, self._fault = {}, {}, {}, None
        # Who is finalized later hears so, and leaves nothing behind that would keep all of the run.
        self._closed = True

    def _take_last_turns(self) -> None:
        for _ in range(LAST_TURNS_MAX):
            if not self._ready:
                return
            handle = next(iter(self._ready))
            del self._ready[handle]
            if not handle.cancelled():
                handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return

    def _turn(self, handle: asyncio.Handle) -> None:
        self._ready.pop(handle, None)
        if handle._cancelled:
            return
        before = _running()
        _run_in(self)
        try:
            handle._run()
        finally:
            _run_in(before)
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault


# What there is no use for here (sockets, processes, signals) is not there: whoever calls it gets NotImplementedError.
VirtualLoop.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
