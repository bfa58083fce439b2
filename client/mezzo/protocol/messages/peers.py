"""Bodies between two shards of a pod: chunks that move from one to the other, asked for by who wants them; and what an
owner tells of what there is to be wanted.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mezzo.protocol.messages.types import (
    LIFE_MS_MAX,
    PARTS_MAX,
    PRIORITY_DEFAULT,
    U32,
    U64,
    Bitmap,
    Body,
    Id16,
    Key,
    Parts,
    Priority,
    U,
)

PULL_KEYS_MAX = 64
"""Keys in one `Pull`: the answer may have the lengths of 256 parts for each."""
OFFER_KEYS_MAX = 256


class Pull(Body, frozen=True):
    """What is there of these chunks of a tenant's namespace, and their bytes if room for them is named.

    Only a peer may ask.  The generations must be those that the asked shard knows, else nothing is there.
    """

    tenant: Id16
    namespace: Id16
    tenant_generation: U
    namespace_generation: U
    keys: Annotated[list[Key], Meta(min_length=1, max_length=PULL_KEYS_MAX)]
    capacities: Annotated[list[U], Meta(max_length=PULL_KEYS_MAX)] = []
    """empty: no bytes are sent. Else room for each chunk; the bytes come in `GetData` frames, those of a longer one do not"""


class PulledChunk(Body, frozen=True):
    """One present chunk."""

    parts: Parts
    """their lengths, bytes"""
    ttl_ms: Annotated[int, Meta(ge=-1, le=LIFE_MS_MAX)] = -1
    """milliseconds that are left of its life; -1: it has no end"""
    position: U32 = 0
    """in its prefix"""
    priority: Priority = PRIORITY_DEFAULT
    checksums: Annotated[list[U64], Meta(max_length=PARTS_MAX)] = []
    """of the parts, if no bytes are asked for; empty: they are not known without reading it"""


class Pulled(Body, frozen=True):
    """End of a pull: one entry for each key. None: a miss, or its bytes were asked for and did not come right."""

    chunks: Annotated[list[PulledChunk | None], Meta(max_length=PULL_KEYS_MAX)]


class Offer(Body, frozen=True):
    """The owner of these chunks tells the second of their slots of them, to be pulled as far as it does not have them.

    Only a peer may tell.  Of what is ``gone`` or told ``anew`` the second gives nothing any more before it answers.
    """

    tenant: Id16
    namespace: Id16
    keys: Annotated[list[Key], Meta(max_length=OFFER_KEYS_MAX)]
    lives_ms: Annotated[int, Meta(ge=0, le=LIFE_MS_MAX)] = 0
    """for so long at most, since they are popular, and first of all to go; 0: as long as the first copy"""
    lengths: Annotated[list[U], Meta(max_length=OFFER_KEYS_MAX)] = []
    """bytes of each, with ``lives_ms``"""
    gone: Annotated[list[Key], Meta(max_length=OFFER_KEYS_MAX)] = []
    """that have left the owner, and may be put there anew"""
    anew: bool = False
    """nothing that the second has of this owner's counts any more, before it was compared"""


class Offered(Body, frozen=True):
    """It was heard. Bit i of ``there``: it has ``keys[i]``. What it does not have it pulls, if it can; it does not say."""

    count: U32
    there: Bitmap
