"""Bodies about chunks: lookup, get, put, delete, stat."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mezzo.protocol.messages.types import (
    KEYS_MAX,
    PARTS_MAX,
    PRIORITY_DEFAULT,
    U32,
    U64,
    Bitmap,
    Body,
    ExtentList,
    Keys,
    Lengths,
    Name,
    Parts,
    Priority,
    U,
)


class Lookup(Body, frozen=True):
    """How many of ``keys``, from the first on, are present?"""

    keys: Keys


class LookedUp(Body, frozen=True):
    """``prefix`` keys from the first on are present, ``bytes`` in all."""

    prefix: U32
    bytes: U
    load_us: U
    """estimate of the time that a get of them on this connection would take now, microseconds"""
    hot_prefix: U32 = 0
    """keys that are in the hot tier, from the first on"""
    hot_bytes: U = 0
    """bytes of the prefix that are in the hot tier"""
    hot_load_us: U = 0
    """of the estimate, what the hot bytes take"""
    device_load_us: U = 0
    """of the estimate, what the others take; over a stream the two and the sending go on at the same time"""
    load_high_us: U = 0
    """nine of ten such gets take no longer"""
    load_wait_us: U = 0
    """of the estimate, what passes before the first byte: what is queued ahead, and latencies"""


class Get(Body, frozen=True):
    """Read chunks, or the parts ``first_part`` to ``first_part + part_count - 1`` of each.

    With ``region`` > 0 (shm) ``targets[i]`` says where in it the bytes of ``keys[i]`` go; with
    ``region`` 0 (tcp) ``targets`` is empty and the bytes come in `GetData` frames.
    """

    keys: Keys
    region: U32 = 0
    targets: Annotated[list[ExtentList], Meta(max_length=KEYS_MAX)] = []
    first_part: U32 = 0
    part_count: U32 = 0
    """0: all parts"""
    capacities: Annotated[list[U], Meta(max_length=KEYS_MAX)] = []
    """tcp: room for each key; a longer chunk fails the request (`TooLarge`) before any byte"""
    deadline_ms: U32 = 0
    """0: none; else the request fails once it cannot end within so many milliseconds"""


class GetData(Body, frozen=True):
    """Precedes the payload of ``keys[index]``; not to be believed before `Got` says so."""

    index: U32
    first_part: U32
    part_bytes: Parts
    checksums: Annotated[list[U64], Meta(min_length=1, max_length=PARTS_MAX)]


class Got(Body, frozen=True):
    """End of a get. Bit i of ``found`` (LSB first): the bytes of ``keys[i]`` are there, checked."""

    count: U32
    found: Bitmap
    lengths: Annotated[list[U], Meta(max_length=KEYS_MAX)]
    """bytes delivered for each key, 0 for a miss"""
    popular: Bitmap = b""
    """those that the slot's second has too, for as long as they are got often; empty: none"""


class Put(Body, frozen=True):
    """Store chunks.  ``parts`` is empty (each chunk is one part), or has one list for all chunks,
    or one for each.  shm: ``sources`` as in `Get`; tcp (``region`` 0): the payload follows credit.
    """

    keys: Keys
    lengths: Lengths
    parts: Annotated[list[Parts], Meta(max_length=KEYS_MAX)] = []
    region: U32 = 0
    sources: Annotated[list[ExtentList], Meta(max_length=KEYS_MAX)] = []
    position: U32 = 0
    """position of ``keys[0]`` in its prefix; the others follow, unless ``positions`` says otherwise"""
    deadline_ms: U32 = 0
    ttl_ms: U = 0
    """milliseconds that the chunks live, if their namespace and tenant allow; 0: as these say"""
    priority: Priority = PRIORITY_DEFAULT
    """the higher, the longer the server tries to keep them"""
    positions: Annotated[list[U32], Meta(max_length=KEYS_MAX)] = []
    """of each key in its prefix, where they do not follow each other: shards of a pod get every n-th"""


class PutGrant(Body, frozen=True):
    """tcp: send the payload of these chunks, in this order, as `PutData`. More may follow."""

    indexes: Annotated[list[U32], Meta(max_length=KEYS_MAX)]


class PutData(Body, frozen=True):
    """Precedes the payload of ``keys[index]``; same request id as its `Put`."""

    index: U32
    checksums: Annotated[list[U64], Meta(min_length=1, max_length=PARTS_MAX)]


class PutDone(Body, frozen=True):
    """End of a put. A key in no bitmap was not stored (its sender's bytes did not check)."""

    stored: Bitmap
    exists: Bitmap
    stored_count: U32
    exists_count: U32
    declined: Bitmap = b""
    """not taken, since they are not worth the device's writes now; empty: none"""
    declined_count: U32 = 0


class Delete(Body, frozen=True):
    """Delete chunks; flushed before it is answered."""

    keys: Keys


class Deleted(Body, frozen=True):
    """Bit i: ``keys[i]`` was there."""

    count: U32
    deleted: Bitmap


class Stat(Body, frozen=True):
    """What is known of these chunks?"""

    keys: Keys


class ChunkStat(Body, frozen=True):
    """One present chunk."""

    bytes: U
    parts: U32
    sequence: U64
    leased: bool
    ttl_ms: Annotated[int, Meta(ge=-1)] = -1
    """milliseconds that are left of its life; -1: it has no end"""
    priority: Priority = PRIORITY_DEFAULT


class Stated(Body, frozen=True):
    """One entry for each key, None for a miss."""

    chunks: Annotated[list[ChunkStat | None], Meta(max_length=KEYS_MAX)]


class ShardStat(Body, frozen=True):
    """How is the shard?"""


class ShardStated(Body, frozen=True):
    """Numbers by name (docs/protocol.md lists them)."""

    numbers: Annotated[dict[Name, int | float], Meta(max_length=1024)]
