"""What happens in a namespace, as an iterator: chunks stored and removed, in order, and explicit gaps.

For a router that wants to know where which prefix is.  A stream resumes by itself, also after the connection
or the shard was lost; where it cannot tell what happened meanwhile it says so with a `Gap`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Self, TypeAlias

from msgspec import Struct

from mezzo.backoff import Backoff
from mezzo.errors import Busy, ClientClosed, DeadlineExceeded, InvalidArgument, TooLarge, Unavailable
from mezzo.protocol.messages import (
    EVENTS_MAX,
    I63_MAX,
    PARTS_LISTED_MAX,
    EventKind,
    Events,
    EventsAre,
    GapReason,
)

WAIT_S = 10.0
"""How long one question waits for an event before it is asked again."""
PART_KEYS = 512
"""Keys that one answer of a listing should have: far below what it may have, since chunks come and go."""


class Cursor(NamedTuple):
    """A place in a namespace's events. As text (``str``, `parse`) it can be kept and used later."""

    incarnation: bytes
    """of the log that numbers the events"""
    number: int
    """of the last event that is known"""

    def __str__(self) -> str:
        return f"{self.incarnation.hex()}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """A cursor from its text. Raises InvalidArgument."""
        incarnation, _, number = text.partition("-")
        try:
            cursor = cls(bytes.fromhex(incarnation), int(number))
        except ValueError:
            cursor = cls(b"", -1)
        if len(cursor.incarnation) != 16 or not 0 <= cursor.number <= I63_MAX:
            raise InvalidArgument(f"{text!r} is no cursor of events")
        return cursor


class Event(Struct, frozen=True):
    """Something that became of a chunk."""

    kind: EventKind
    """`EventKind.STORED`, or why it is not there any more"""
    key: bytes
    bytes: int
    """of the chunk"""
    cursor: Cursor
    """where the stream stands after it"""
    listed: bool = False
    """it did not happen now: the chunk was found when the namespace was listed"""

    @property
    def stored(self) -> bool:
        """Whether the chunk is there; else it was removed."""
        return self.kind is EventKind.STORED


class Gap(Struct, frozen=True):
    """Events are missing: forget what was believed to be present. What follows is in order again."""

    reason: GapReason
    cursor: Cursor
    """where the stream stands after it"""


Happening: TypeAlias = Event | Gap


class EventReader:
    """What to ask next, and what the answers mean. No I/O: `EventStream` and `AsyncEventStream` drive it."""

    def __init__(self, after: Cursor | None, snapshot: bool) -> None:
        self.cursor = after
        """of what was taken last; None: nothing is known yet"""
        self._snapshot = snapshot
        self._parts = 0
        self._part = 0

    @property
    def listing(self) -> bool:
        """Whether the namespace is being listed."""
        return self._part < self._parts

    @property
    def resumable(self) -> Cursor | None:
        """Where to resume when all that was taken was given out."""
        return None if self.listing else self.cursor

    def behind(self, happened: Happening) -> Cursor | None:
        """Where to resume when this was given out, and not all that was taken with it."""
        listed = self._snapshot if isinstance(happened, Gap) else happened.listed
        return None if listed else happened.cursor

    def question(self, wait_s: float) -> Events:
        """The next question."""
        cursor = self.cursor or Cursor(b"", 0)
        if self.listing:
            return Events(cursor.incarnation, cursor.number, part=self._part, parts=self._parts)
        return Events(cursor.incarnation, cursor.number, EVENTS_MAX, max(0, round(wait_s * 1000)))

    def take(self, answer: EventsAre) -> list[Happening]:
        """What an answer to the last question tells."""
        if self.listing and self.cursor is not None:
            return self._listed(answer, self.cursor)
        cursor = Cursor(answer.incarnation, answer.next)
        self.cursor = cursor
        if answer.gap:
            if self._snapshot:
                self._list(1 << max(0, (answer.chunks // PART_KEYS).bit_length()))
            return [Gap(GapReason(answer.gap) if answer.gap in _REASONS else GapReason.RESTART, cursor)]
        first = answer.next - len(answer.keys) + 1
        return [
            Event(
                EventKind(kind) if kind in _KINDS else EventKind.LOST, key, length, Cursor(cursor[0], number)
            )
            for number, (kind, key, length) in enumerate(
                zip(answer.kinds, answer.keys, answer.lengths, strict=True), first
            )
        ]

    def refused(self) -> None:
        """A part of the listing was too large for an answer: list anew, in smaller ones."""
        if self._parts >= PARTS_LISTED_MAX:
            raise TooLarge(f"a namespace cannot be listed in {self._parts} parts")
        self._list(2 * self._parts)

    def _list(self, parts: int) -> None:
        self._part, self._parts = 0, min(parts, PARTS_LISTED_MAX)

    def _listed(self, answer: EventsAre, cursor: Cursor) -> list[Happening]:
        if answer.incarnation != cursor.incarnation:
            # Another life of the shard: the next question tells of a gap, and the list begins anew.
            self._parts = 0
            return []
        self._part += 1
        return [
            Event(EventKind.STORED, key, length, cursor, True)
            for key, length in zip(answer.keys, answer.lengths, strict=True)
        ]


class EventStream:
    """The events of a client's namespace, for one thread: iterate, or `poll`. Made by `Client.events`.

    Iterating waits for ever; `close`, from any thread, ends it within ``wait_s``.
    """

    def __init__(
        self,
        ask: Callable[[Events, float], EventsAre | None],
        reader: EventReader,
        backoff: Backoff,
        now: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._ask = ask
        self._reader = reader
        self._backoff = backoff
        self._now = now
        self._sleep = sleep
        self._ready: deque[Happening] = deque()
        self._given: Cursor | None = reader.cursor
        self._closed = False
        self.wait_s = WAIT_S
        """how long one question waits for an event"""

    @property
    def cursor(self) -> Cursor | None:
        """Where to resume with ``after=``: behind what was given out last.

        None: from nothing, also while a listing is under way, since it could not be resumed in the middle.
        """
        return self._given if self._ready else self._reader.resumable

    def poll(self, timeout_s: float) -> tuple[Happening, ...]:
        """What has happened, in order; waits for up to ``timeout_s`` if that is nothing.

        Empty if nothing happened, or if the server cannot be reached (it is asked again after a while).

        Raises:
            CallerError: what is asked is not allowed, or not known to the server.
            ClientClosed: the client was closed.
        """
        deadline = self._now() + timeout_s
        while not self._ready and not self._closed:
            left_s = deadline - self._now()
            wait_s = max(0.0, min(left_s, self.wait_s))
            pause_s = self._attempt(wait_s)
            if pause_s:
                self._sleep(min(pause_s, max(0.0, deadline - self._now())))
            if self._now() >= deadline:
                break
        happened = tuple(self._ready)
        self._ready.clear()
        return happened

    def close(self) -> None:
        """End the iteration."""
        self._closed = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Happening:
        while not self._ready and not self._closed:
            pause_s = self._attempt(self.wait_s)
            if pause_s:
                self._sleep(pause_s)
        if not self._ready:
            raise StopIteration
        happened = self._ready.popleft()
        self._given = self._reader.behind(happened)
        return happened

    def _attempt(self, wait_s: float) -> float:
        """One question; how long to wait before the next."""
        try:
            answer = self._ask(self._reader.question(wait_s), wait_s)
        except Exception as error:
            return pause(error, self._reader, self._backoff, self._now())
        self._backoff.succeeded()
        if answer is None:  # the client is disabled: nothing ever happens
            return wait_s
        self._ready.extend(self._reader.take(answer))
        return 0.0


class AsyncEventStream:
    """`EventStream` for one task; `async for`, or ``await poll``. Made by `AsyncClient.events`."""

    def __init__(
        self,
        ask: Callable[[Events, float], Awaitable[EventsAre | None]],
        reader: EventReader,
        backoff: Backoff,
        now: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._reader = reader
        self._backoff = backoff
        self._now = now
        self._ready: deque[Happening] = deque()
        self._given: Cursor | None = reader.cursor
        self._closed = False
        self.wait_s = WAIT_S
        """how long one question waits for an event"""

    @property
    def cursor(self) -> Cursor | None:
        """See `EventStream.cursor`."""
        return self._given if self._ready else self._reader.resumable

    async def poll(self, timeout_s: float) -> tuple[Happening, ...]:
        """See `EventStream.poll`."""
        deadline = self._now() + timeout_s
        while not self._ready and not self._closed:
            wait_s = max(0.0, min(deadline - self._now(), self.wait_s))
            pause_s = await self._attempt(wait_s)
            if pause_s:
                await asyncio.sleep(min(pause_s, max(0.0, deadline - self._now())))
            if self._now() >= deadline:
                break
        happened = tuple(self._ready)
        self._ready.clear()
        return happened

    def close(self) -> None:
        """End the iteration."""
        self._closed = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Happening:
        while not self._ready and not self._closed:
            pause_s = await self._attempt(self.wait_s)
            if pause_s:
                await asyncio.sleep(pause_s)
        if not self._ready:
            raise StopAsyncIteration
        happened = self._ready.popleft()
        self._given = self._reader.behind(happened)
        return happened

    async def _attempt(self, wait_s: float) -> float:
        try:
            answer = await self._ask(self._reader.question(wait_s), wait_s)
        except Exception as error:
            return pause(error, self._reader, self._backoff, self._now())
        self._backoff.succeeded()
        if answer is None:
            return wait_s
        self._ready.extend(self._reader.take(answer))
        return 0.0


def pause(error: Exception, reader: EventReader, backoff: Backoff, now: float) -> float:
    """How long to wait after a question that failed; raises what no waiting will mend."""
    if isinstance(error, TooLarge) and reader.listing:
        reader.refused()
        return 0.0
    if isinstance(error, ClientClosed) or not isinstance(error, Unavailable | Busy | DeadlineExceeded):
        raise error
    pause_s = backoff.failed(now)
    return max(pause_s, error.retry_after_s) if isinstance(error, Busy) else pause_s


_KINDS = frozenset(EventKind)
_REASONS = frozenset(GapReason)
