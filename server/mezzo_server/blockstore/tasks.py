"""Coroutines without an event loop: background work of the store as straight code.

A `Task` runs a coroutine until it awaits an `Event` that has not happened, and goes on when it
does.  No clock, no threads, no sockets: the order of everything follows from the order of
completions, so a simulation can replay it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Event(Generic[T]):
    """Happens once, with a value. ``await`` gives the value. Callable, to serve as a callback."""

    __slots__ = ("_happened", "_value", "_waiters")

    def __init__(self) -> None:
        self._happened = False
        self._value: T
        self._waiters: list[Callable[[], None]] = []

    def __call__(self, value: T) -> None:
        """Make it happen. RuntimeError when it has already."""
        if self._happened:
            raise RuntimeError("an event happens once")
        self._happened = True
        self._value = value
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()

    def __await__(self) -> Generator[Event[T], None, T]:
        while not self._happened:
            yield self
        return self._value

    def was(self, value: T) -> bool:
        """Whether it has happened, with this value."""
        return self._happened and self._value == value

    def subscribe(self, waiter: Callable[[], None]) -> None:
        """Call ``waiter`` when it happens."""
        if self._happened:
            waiter()
        else:
            self._waiters.append(waiter)


class Task:
    """A running coroutine. ``failed`` gets what it raised; ``done`` tells that it ended."""

    __slots__ = ("_coroutine", "_failed", "done")

    def __init__(
        self, coroutine: Coroutine[Event[Any], None, object], failed: Callable[[Exception], None]
    ) -> None:
        self._coroutine = coroutine
        self._failed = failed
        self.done = False
        self._step()

    def _step(self) -> None:
        try:
            event = self._coroutine.send(None)
        except StopIteration:
            self.done = True
        except Exception as error:
            self.done = True
            self._failed(error)
        else:
            event.subscribe(self._step)


class Later:
    """Things to go on with in a later turn, so that no turn holds the loop for long."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, step: Callable[[], None]) -> None:
        """Run ``step`` in a later turn."""
        self._queue.append(step)

    def turn(self) -> Event[None]:
        """An event that happens in a later turn."""
        event: Event[None] = Event()
        self._queue.append(lambda: event(None))
        return event

    def run(self, most: int, failed: Callable[[Exception], None]) -> int:
        """Run at most ``most`` of the steps that wait now; how many ran. ``failed`` gets what they raise."""
        count = min(most, len(self._queue))
        for _ in range(count):
            try:
                self._queue.popleft()()
            except Exception as error:
                failed(error)
        return count
