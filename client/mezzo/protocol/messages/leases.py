"""Bodies about leases, and about chunks that are used in place."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from mezzo.protocol.messages.types import KEYS_MAX, U32, U64, Body, Keys, U


class InPlace(IntEnum):
    """What an `Acquire` wants to know of the hot tier."""

    NO = 0
    HOT = 1
    """where the leased chunks lie that are hot"""
    LOAD = 2
    """those that are not are read into the hot tier first, as far as it has room"""


class Acquire(Body, frozen=True):
    """Look up as `Lookup` does and lease the prefix found for ``lease_ms``."""

    keys: Keys
    lease_ms: U32
    in_place: U32 = InPlace.NO
    """`InPlace`; other than ``NO`` only where the server passes descriptors (a Unix socket)"""


PLACE_NUMBERS = 4
"""Numbers of one place in `Acquired`: arena, page, bytes, generation."""


class Acquired(Body, frozen=True):
    """``lease`` is 0 when ``prefix`` is.

    With `InPlace`, ``places`` has four numbers for each key of the prefix: the arena, the page of its
    data at which the chunk begins, its length in bytes, and the generation of its slot; generation 0
    says that the chunk is not hot.  A place may be read as long as its generation is the one here,
    checked *after* the read: the word of the page in the arena's head (`ArenaOpened`).
    """

    lease: U
    prefix: U32
    bytes: U
    lease_ms: U32
    load_us: U
    places: Annotated[list[U64], Meta(max_length=PLACE_NUMBERS * KEYS_MAX)] = []
    hot_prefix: U32 = 0
    """this and what follows: as in `LookedUp`"""
    hot_bytes: U = 0
    hot_load_us: U = 0
    device_load_us: U = 0
    load_high_us: U = 0
    load_wait_us: U = 0


class ArenaOpen(Body, frozen=True):
    """Asks for the descriptor of an arena of the hot tier that `Acquired` named.

    One end of a Unix stream socket pair comes with the frame (SCM_RIGHTS); the server sends the
    arena's descriptor over it with one byte, closes it, and answers.
    """

    arena: U32


class ArenaOpened(Body, frozen=True):
    """The descriptor was sent. Map it shared and for reading: nothing else is allowed by its seals.

    Word i (64 bits, little endian) at its beginning is the generation of the slot that begins at page
    i of the data; the data begins at ``data_offset``.
    """

    bytes: U
    """of the whole arena, head included"""
    data_offset: U
    page_bytes: U32


Incarnation = Annotated[bytes, Meta(max_length=16)]
"""Of the shard that granted a lease (`Welcome.shard_incarnation`); empty: not said."""


class LeaseRenew(Body, frozen=True):
    """Let a lease last for ``lease_ms`` from now; never for less than it would have lasted anyway.

    Answered with `ErrorCode.GONE` if the connection holds no such lease: it has expired, was released, or is
    of another life of the shard.
    """

    lease: U
    lease_ms: U32
    incarnation: Incarnation = b""


class LeaseRenewed(Body, frozen=True):
    """The lease ends by itself ``lease_ms`` from now: at most the server's longest lease."""

    lease_ms: U32


class Release(Body, frozen=True):
    """End a lease now."""

    lease: U
    incarnation: Incarnation = b""


class Released(Body, frozen=True):
    """``held``: the lease was still held."""

    held: bool
