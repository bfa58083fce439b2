"""The events of one namespace: numbered, kept within a window, read from any cursor in it. No I/O, no clock.

Invariants: event ``number`` is the ``number``-th that happened since the log began, and none is left out;
kept are the last ones, at most ``events_max`` of them and ``bytes_max`` bytes (more, for some moments, after
that was lowered); adding one costs the same
however many are kept and whoever reads, because nobody is handed anything before he asks.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mezzo.protocol.messages import GapReason

EVENT_BYTES = 96
"""Memory of an event besides its key: the key's object, a reference, a length and a kind."""
TRIM_EVENTS = 8
"""Old events that a new one displaces at most: it may be longer than they were, or the log's limit was lowered."""
SLACK_EVENTS = 4096
"""Events that are no longer kept and whose memory is given back together."""


class Batch(NamedTuple):
    """Events that follow a cursor."""

    next: int
    """number of the last one, or of the last that happened"""
    gap: GapReason
    kinds: bytes
    keys: Sequence[bytes]
    lengths: Sequence[int]


class EventLog:
    """One namespace's log. Owner of its events and of the list of who waits for the next one."""

    __slots__ = (
        "_bytes",
        "_gone",
        "_keys",
        "_kinds",
        "_lengths",
        "_waiting",
        "bytes_max",
        "events_max",
        "incarnation",
        "last",
        "over",
        "read_at",
    )

    def __init__(self, incarnation: bytes, *, events_max: int, bytes_max: int, now: float) -> None:
        self.incarnation = incarnation
        """names this log: a cursor of another one is no cursor of it"""
        self.events_max = events_max
        self.bytes_max = bytes_max
        """its owner may change it; what is over it then goes by and by (`trim`)"""
        self.over = False
        """its namespace was erased: a reader finds another log, and so a gap"""
        self.last = 0
        """number of the last event; 0: none has happened"""
        self.read_at = now
        """when somebody last asked; set by its owner"""
        self._kinds = bytearray()
        self._keys: list[bytes] = []
        self._lengths = array("Q")
        self._gone = 0
        """of those lists' beginning, how many are no longer kept"""
        self._bytes = 0
        self._waiting: list[Callable[[], None]] = []

    def __len__(self) -> int:
        """Events that are kept."""
        return len(self._keys) - self._gone

    @property
    def bytes_kept(self) -> int:
        """Memory of the events that are kept, about."""
        return self._bytes

    @property
    def waiting(self) -> int:
        """How many wait for the next event."""
        return len(self._waiting)

    def add(self, kind: int, key: bytes, length: int) -> None:
        """Something happened to a chunk."""
        self._kinds.append(kind)
        self._keys.append(key)
        self._lengths.append(length)
        self.last += 1
        self._bytes += EVENT_BYTES + len(key)
        if self._bytes > self.bytes_max or len(self._keys) - self._gone > self.events_max:
            self.trim(TRIM_EVENTS)
        if self._waiting:
            self.wake()

    def erased(self) -> None:
        """The namespace is gone as a whole: who waits is told to ask anew."""
        self.over = True
        self.wake()

    def read(self, incarnation: bytes, after: int, count_max: int) -> Batch:
        """What follows a cursor; with a gap, nothing but the newest cursor."""
        gap = GapReason.NONE
        if not incarnation:
            gap = GapReason.START
        elif incarnation != self.incarnation or after > self.last:
            gap = GapReason.RESTART
        elif after < self.last - len(self):
            gap = GapReason.BEHIND
        if gap:
            return Batch(self.last, gap, b"", (), ())
        first = len(self._keys) - (self.last - after)
        end = min(first + count_max, len(self._keys))
        return Batch(
            after + end - first,
            gap,
            bytes(self._kinds[first:end]),
            self._keys[first:end],
            self._lengths[first:end].tolist(),
        )

    def wait(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once, when there is another event, or the log is given up."""
        self._waiting.append(wake)

    def leave(self, wake: Callable[[], None]) -> None:
        """Undo `wait`, if it was not called yet."""
        if wake in self._waiting:
            self._waiting.remove(wake)

    def wake(self) -> None:
        """Call all who wait. They are to read later, not from within."""
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def trim(self, count_max: int) -> int:
        """Give up the oldest events while there is too much, ``count_max`` of them at most; how many."""
        keys = self._keys
        trimmed = 0
        while (
            trimmed < count_max
            and self._gone < len(keys)
            and (self._bytes > self.bytes_max or len(keys) - self._gone > self.events_max)
        ):
            self._bytes -= EVENT_BYTES + len(keys[self._gone])
            keys[self._gone] = b""
            self._gone += 1
            trimmed += 1
        if self._gone >= SLACK_EVENTS:
            del self._kinds[: self._gone]
            del keys[: self._gone]
            del self._lengths[: self._gone]
            self._gone = 0
        return trimmed
