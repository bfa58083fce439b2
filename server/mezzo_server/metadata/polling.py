"""The watch of an engine that is asked what is new: at once when this process wrote, else now and then."""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from mezzo_server.metadata.engine import Change, Engine

POLL_S = 0.1
"""How late a watch may see what another process wrote, and that a lease has ended."""


class Look(NamedTuple):
    """What a look at the changes found."""

    changes: Sequence[Change]
    revision: int
    """up to which these are all"""
    state: object
    """equal as long as nothing at all has changed"""


class PollingEngine(Engine):
    """An engine that implements `look`. Owner of the events by which its watches are woken."""

    def __init__(self) -> None:
        self.closed = False
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @abstractmethod
    async def look(self, prefix: str, after: int, state: object, *, more: bool) -> Look | None:
        """The first changes of revisions over ``after``; None: the engine still is in ``state``.

        ``more``: look even so, since the last look may not have told everything.

        Raises:
            Compacted: some of them are not kept any more.
        """

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Change]]:
        state: object = None
        more = True
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        with self._lock:
            self._waiting[event] = loop
        try:
            while not self.closed:
                event.clear()
                found = await self.look(prefix, after, state, more=more)
                if found is None:
                    try:
                        # Not `wait_for`: until Python 3.12 that loses a cancellation that comes with the event.
                        async with asyncio.timeout(POLL_S):
                            await event.wait()
                    except TimeoutError:
                        pass
                    continue
                after, state, more = found.revision, found.state, bool(found.changes)
                if more:
                    yield found.changes
        finally:
            with self._lock:
                del self._waiting[event]

    def wake(self) -> None:
        """Let all watches look now; from any thread."""
        with self._lock:
            for event, loop in self._waiting.items():
                with suppress(RuntimeError):  # it has ended
                    loop.call_soon_threadsafe(event.set)
