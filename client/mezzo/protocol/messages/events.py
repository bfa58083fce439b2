"""Bodies about events: which chunks of a namespace were stored and removed, in order."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from mezzo.protocol.messages.types import U32, Body, Key, U

EVENTS_MAX = 2048
"""Events, or keys that are listed, in one answer: such an answer stays below 256 KiB."""
PARTS_LISTED_MAX = 1 << 24
"""Parts that a namespace may be listed in."""


class EventKind(IntEnum):
    """What became of a chunk. All but ``STORED`` say why it is not there any more."""

    STORED = 0
    EVICTED = 1
    """space was needed"""
    DELETED = 2
    """a client deleted it"""
    EXPIRED = 3
    """its time to live was over"""
    ERASED = 4
    """its namespace was purged, or its tenant deleted"""
    LOST = 5
    """it was corrupt, or its device failed"""


class GapReason(IntEnum):
    """Why events that came before are not told: nothing is known of what is present."""

    NONE = 0
    """there is no gap"""
    START = 1
    """the reader has no cursor yet"""
    BEHIND = 2
    """the events that follow the cursor are no longer kept"""
    RESTART = 3
    """the cursor is of another life of the shard, or of the log of this namespace"""


class Events(Body, frozen=True):
    """Asks for the events of the session's namespace that follow a cursor, or for a list of its chunks.

    A cursor is an ``incarnation`` and the number of the last event known (``after``); empty: none.  If
    nothing has happened since, the answer waits for up to ``wait_ms`` (a minute at most).

    With ``parts`` > 0 (a power of two) it asks instead for the keys that are present now and belong to part
    ``part`` of so many: each key belongs to one of them, and to the same for as long as the shard lives.
    """

    incarnation: Annotated[bytes, Meta(max_length=16)] = b""
    after: U = 0
    count_max: U32 = EVENTS_MAX
    wait_ms: U32 = 0
    part: U32 = 0
    parts: U32 = 0


class EventsAre(Body, frozen=True):
    """The events after the cursor, in order; ``incarnation`` and ``next`` are the new one.

    ``gap`` other than `GapReason.NONE`: what was present is not known to the reader any more.  Then there are
    no events in this answer, and those after its cursor follow.  To know what is present, list all parts
    *after* this answer, and then apply the events that follow its cursor: a set that did so is right as soon as
    it has applied all that had happened when the listing ended.
    """

    incarnation: Annotated[bytes, Meta(min_length=16, max_length=16)]
    next: U
    gap: U32 = 0
    """`GapReason`"""
    kinds: Annotated[bytes, Meta(max_length=EVENTS_MAX)] = b""
    """`EventKind` of each event, one byte each"""
    keys: Annotated[list[Key], Meta(max_length=EVENTS_MAX)] = []
    """of each event; or, of a list, the keys that are present"""
    lengths: Annotated[list[U], Meta(max_length=EVENTS_MAX)] = []
    """bytes of each chunk"""
    chunks: U = 0
    """chunks present in the namespace now: how many parts to list it in is for the reader to choose"""
