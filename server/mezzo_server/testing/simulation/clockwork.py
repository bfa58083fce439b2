"""Virtual time: what happens next, to which process, and coroutines that wait for it. One thread, no clock.

Everything that happens is a call at a time. Calls of the same time happen in the order in which they were asked
for, so a run is a matter of its seed alone.  A call belongs to a `Process`: one that is paused (SIGSTOP) gets its
calls when it goes on, in their order; one that has ended gets none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

from mezzo.errors import MezzoError
from mezzo_server.testing.simulation.trace import Trace

T = TypeVar("T")

EVENTS_MAX = 2_000_000
"""A run that needs more turns in circles."""
CLOSES = 4
"""A coroutine that is let go of may wait for others as it ends: it is told again, so often at most."""


class Clockwork:
    """Owner of the true time, which no process sees, and of what is due."""

    def __init__(self, trace: Trace) -> None:
        self.now = 0.0
        """seconds since the run began"""
        self.trace = trace
        self.events = 0
        """calls made"""
        self.tasks: set[Task[Any]] = set()
        """that have not ended"""
        self.closing: list[Callable[[], None]] = []
        """called when the run is over: to end what processes have under way, those that are gone too"""
        self._count = 0
        self._due: list[tuple[float, int, Process | None, Callable[..., None], tuple[Any, ...]]] = []
        self._soon: deque[tuple[Process | None, Callable[..., None], tuple[Any, ...]]] = deque()
        """due now, behind all in ``_due`` that is"""

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call at a time; one that is past means now, behind what is due now already."""
        self.put(when, None, call, arguments)

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call in so many seconds."""
        self.put(self.now + seconds, None, call, arguments)

    def put(
        self, when: float, process: Process | None, call: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        """Call at a time, in a process if there is one."""
        if when <= self.now:
            self._soon.append((process, call, arguments))
        else:
            self._count += 1
            heappush(self._due, (when, self._count, process, call, arguments))

    def put_soon(
        self, process: Process | None, call: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        """Call now, behind what is due now already."""
        self._soon.append((process, call, arguments))

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> None:
        """Let everything happen up to a time; no further once ``stop`` says so.

        Raises:
            RuntimeError: what is due never ends.
        """
        due, soon = self._due, self._soon
        while True:
            if soon and not (due and due[0][0] <= self.now):
                process, call, arguments = soon.popleft()
            elif due and due[0][0] <= until:
                self.now, _, process, call, arguments = heappop(due)
            else:
                break
            self.events = events = self.events + 1
            if process is None:
                call(*arguments)
            elif process.paused:
                process.take(call, *arguments)
            elif process.alive:
                call(*arguments)
                look = process.look
                if look is not None:
                    look()
            if stop is not None and stop():
                return
            if events > EVENTS_MAX:
                raise RuntimeError(f"over {EVENTS_MAX} events by {self.now:.3f} s")
        self.now = max(self.now, until)

    def close(self) -> None:
        """The run is over: all that is under way ends, and nothing is due any more."""
        self._due, self._soon = [], deque()
        tasks, self.tasks = self.tasks, set()
        for task in tasks:
            task.drop()
        closing, self.closing = self.closing, []
        for call in closing:
            call()
        self._due, self._soon = [], deque()
        # What is finalized later asks for calls, too: they would keep all of the run.
        self.put = self.put_soon = _never  # type: ignore[method-assign,assignment]


def _never(*arguments: object) -> None:
    """A call that is asked for when the run is over."""


class Process:
    """One process, or one thread of it: its calls, and its clocks. Owner of what waits while it is paused."""

    def __init__(
        self, clockwork: Clockwork, name: str, *, rate: float = 1.0, offset: float = 0.0, wall: float = 0.0
    ) -> None:
        """``rate`` of its clock; ``offset``: its reading when the run begins; ``wall``: by which its wall clock is off."""
        self.clockwork = clockwork
        self.name = name
        self.alive = True
        self.paused = False
        self.wall_off_s = wall
        self.look: Callable[[], None] | None = None
        """called after each step of it: whether all is as it must be"""
        self._rate = rate
        self._offset = offset
        self._held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def now(self) -> float:
        """Its clock that never jumps, and goes on while it is paused."""
        return self._offset + self.clockwork.now * self._rate

    def wall_s(self) -> float:
        """Unix time as its machine has it."""
        return 1.7e9 + self.clockwork.now + self.wall_off_s

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call in so many seconds, if it is still there then."""
        clockwork = self.clockwork
        clockwork.put(clockwork.now + seconds, self, call, arguments)

    def soon(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call in a later turn."""
        self.clockwork.put_soon(self, call, arguments)

    def take(self, call: Callable[..., None], *arguments: Any) -> None:
        """A call that is due."""
        if not self.alive:
            return
        if self.paused:
            self._held.append((call, arguments))
        else:
            call(*arguments)

    def pause(self) -> None:
        """Nothing happens in it from now on."""
        self.paused = True

    def resume(self) -> None:
        """It goes on, with all that came meanwhile."""
        self.paused = False
        held, self._held = self._held, []
        for call, arguments in held:
            self.soon(call, *arguments)

    def end(self) -> None:
        """It is gone."""
        self.alive = False
        self._held = []

    def run(self, work: Coroutine[Any, Any, T]) -> Task[T]:
        """Begin a coroutine in it."""
        return Task(self, work)

    def sleep(self, seconds: float) -> Future[None]:
        """To be awaited."""
        future: Future[None] = Future(self)
        self.after(seconds, future.finish, None)
        return future


class Future(Generic[T]):
    """What a coroutine of a process waits for."""

    __slots__ = ("_process", "_value", "_waiting", "done", "error")

    def __init__(self, process: Process) -> None:
        self._process = process
        self.done = False
        self.error: BaseException | None = None
        self._value: T | None = None
        self._waiting: list[Callable[[], None]] = []

    def finish(self, value: T) -> None:
        """It came to its end; what comes later counts for nothing."""
        if not self.done:
            self._value = value
            self.done = True
            if self._waiting:
                self._end()

    def fail(self, error: BaseException) -> None:
        """It failed; what comes later counts for nothing."""
        if not self.done:
            self.error = error
            self.done = True
            self._end()

    def result(self) -> T:
        """Its value. Raises what it failed with."""
        if self.error is not None:
            raise self.error
        value: T = self._value  # type: ignore[assignment]
        return value

    def then(self, call: Callable[[], None]) -> None:
        """Call in the process's next turn after its end."""
        if self.done:
            self._process.clockwork.put_soon(self._process, call, ())
        else:
            self._waiting.append(call)

    def _end(self) -> None:
        waiting, self._waiting = self._waiting, []
        process = self._process
        soon = process.clockwork.put_soon
        for call in waiting:
            soon(process, call, ())

    def __await__(self) -> Generator[Future[Any], None, T]:
        if not self.done:
            yield self
        if self.error is not None:
            raise self.error
        value: T = self._value  # type: ignore[assignment]
        return value


class Task(Future[T]):
    """A coroutine that runs in a process."""

    __slots__ = ("_work",)

    def __init__(self, process: Process, work: Coroutine[Any, Any, T]) -> None:
        super().__init__(process)
        self._work = work
        process.clockwork.tasks.add(self)
        process.soon(self._step)

    def _step(self) -> None:
        try:
            waits_for = self._work.send(None)
        except StopIteration as stop:
            self._process.clockwork.tasks.discard(self)
            self.finish(stop.value)
        except BaseException as error:
            self._process.clockwork.tasks.discard(self)
            self.fail(error)
            if not isinstance(error, MezzoError):
                raise  # a fault, and not an error that whoever waits is told of
        else:
            waits_for.then(self._step)

    def drop(self) -> None:
        """Nobody goes on with it."""
        close(self._work)


def close(work: Coroutine[Any, Any, Any] | Generator[Any, Any, Any]) -> None:
    """End a coroutine where it stands, whatever it would do in the end."""
    for _ in range(CLOSES):
        try:
            work.close()
        except Exception:  # noqa: S112 - it waits for others once more, or finds no task
            continue
        return


async def done(process: Process, future: Future[Any], seconds: float | None = None) -> bool:
    """Wait until it has ended; False: it has not within so many seconds."""
    if future.done:
        return True
    woken: Future[bool] = Future(process)
    future.then(partial(woken.finish, True))
    if seconds is not None:
        process.after(max(0.0, seconds), woken.finish, False)
    return await woken


class Lock:
    """One at a time, in the order in which they came."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._held = False
        self._waiting: list[Future[bool]] = []

    async def acquire(self, seconds: float) -> bool:
        """Whether it was had within so many seconds."""
        if not self._held:
            self._held = True
            return True
        turn: Future[bool] = Future(self._process)
        self._waiting.append(turn)
        self._process.after(max(0.0, seconds), turn.finish, False)
        return await turn

    def release(self) -> None:
        """Let the next one have it."""
        while self._waiting:
            turn = self._waiting.pop(0)
            if not turn.done:
                turn.finish(True)
                return
        self._held = False
