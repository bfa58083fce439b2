"""The bodies of frames. docs/protocol.md explains each; this file is their one definition.

A body is MessagePack of a struct's fields in order (an array), so a later minor version may
append fields with defaults: an older reader skips what it does not know, a newer one fills in
what is missing. Every collection has a bound here; a body that breaks one is a protocol error.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct

VERSION_MIN = 1
VERSION_MAX = 1

KEY_BYTES_MAX = 64
KEYS_MAX = 4096
PARTS_MAX = 256
EXTENTS_MAX = 65536

U32_MAX = 2**32 - 1
I63_MAX = 2**63 - 1

U = Annotated[int, Meta(ge=0, le=I63_MAX)]
U64 = Annotated[int, Meta(ge=0)]
U32 = Annotated[int, Meta(ge=0, le=U32_MAX)]
Key = Annotated[bytes, Meta(min_length=1, max_length=KEY_BYTES_MAX)]
Keys = Annotated[list[Key], Meta(min_length=1, max_length=KEYS_MAX)]
Bitmap = Annotated[bytes, Meta(max_length=KEYS_MAX // 8)]
Text = Annotated[str, Meta(max_length=1024)]
Name = Annotated[str, Meta(max_length=128)]
Id16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Lengths = Annotated[list[U32], Meta(min_length=1, max_length=KEYS_MAX)]
Parts = Annotated[list[U32], Meta(min_length=1, max_length=PARTS_MAX)]
# one target or source: [offset, length, offset, length, ...] within the request's region
ExtentList = Annotated[list[U], Meta(min_length=2, max_length=2 * EXTENTS_MAX)]


class Kind(IntEnum):
    """Frame kinds. Numbers are never used twice; requests are odd, their answers even."""

    HELLO = 1
    WELCOME = 2
    REFUSE = 4
    ERROR = 6
    PING = 7
    PONG = 8
    REGION_ADD = 17
    REGION_ADDED = 18
    REGION_REMOVE = 19
    REGION_REMOVED = 20
    LOOKUP = 33
    LOOKED_UP = 34
    GET = 35
    GOT = 36
    GET_DATA = 38
    PUT = 39
    PUT_DONE = 40
    PUT_GRANT = 42
    PUT_DATA = 43
    DELETE = 45
    DELETED = 46
    ACQUIRE = 47
    ACQUIRED = 48
    RELEASE = 49
    RELEASED = 50
    STAT = 51
    STATED = 52
    SHARD_STAT = 53
    SHARD_STATED = 54
    CANCEL = 55
    CANCELLED = 56
    ARENA_OPEN = 57
    ARENA_OPENED = 58
    DEVICES = 59
    DEVICES_ARE = 60
    DEVICE_CHANGE = 61
    DEVICE_CHANGED = 62


class InPlace(IntEnum):
    """What an `Acquire` wants to know of the hot tier."""

    NO = 0
    HOT = 1
    """where the leased chunks lie that are hot"""
    LOAD = 2
    """those that are not are read into the hot tier first, as far as it has room"""


class DeviceAction(IntEnum):
    """What a `DeviceChange` asks for."""

    ADD = 1
    DRAIN = 2
    """move its chunks to the other devices, then take it out of the store"""
    REPLACE = 3
    """add another, then drain this one into what is there"""
    GROW = 4
    """use what the file or block device has become larger by"""
    CANCEL = 5
    """give up a drain: the device takes chunks again"""


class Body(Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """Base of all bodies."""


class Hello(Body, frozen=True):
    """First frame of a client. Its layout never changes but by appending."""

    version_min: U32
    version_max: U32
    client: Name = ""
    namespace: Name = "default"
    ticket: Annotated[bytes, Meta(max_length=4096)] = b""
    epoch: U = 0


class Welcome(Body, frozen=True):
    """The server's answer to `Hello`; limits are those of this connection."""

    version: U32
    server: Name
    shard_incarnation: Id16
    epoch: U
    tenant_id: Id16
    namespace_id: Id16
    keys_max: U32
    key_bytes_max: U32
    chunk_bytes_max: U
    body_bytes_max: U32
    requests_max: U32
    """requests in flight on one connection; one more is answered `Busy`"""
    regions_max: U32
    region_bytes_max: U
    """bytes in all regions of one connection"""
    lease_ms_max: U
    block_bytes: U32
    """alignment (address and length) at which shm needs no bounce copy"""
    shm: bool
    """whether this connection may register regions (a Unix socket)"""


class Refuse(Body, frozen=True):
    """The last frame on a connection: why the server (or client) ends it."""

    code: U32
    message: Text
    version_min: U32 = VERSION_MIN
    version_max: U32 = VERSION_MAX


class ErrorReply(Body, frozen=True):
    """The answer to one request that failed as a whole."""

    code: U32
    message: Text
    retry_after_ms: U32 = 0


class Ping(Body, frozen=True):
    """Asks for a `Pong`; allowed at any time after `Welcome`."""


class Pong(Body, frozen=True):
    """Answer to `Ping`."""


class RegionAdd(Body, frozen=True):
    """Registers a region; exactly one descriptor comes with the frame (SCM_RIGHTS).

    ``offset`` (page-aligned) and ``length`` bound what the server may touch of it.
    """

    region: U32
    """number that the client gives it, unique on this connection"""
    offset: U
    length: U


class RegionAdded(Body, frozen=True):
    """``mapped``: sealed, so the server maps it (no copies). ``registered``: with the ring too."""

    mapped: bool
    registered: bool


class RegionRemove(Body, frozen=True):
    """Forgets a region, after what is in flight on it has ended."""

    region: U32


class RegionRemoved(Body, frozen=True):
    """From here on the server touches the region no more."""


class Lookup(Body, frozen=True):
    """How many of ``keys``, from the first on, are present?"""

    keys: Keys


class LookedUp(Body, frozen=True):
    """``prefix`` keys from the first on are present, ``bytes`` in all."""

    prefix: U32
    bytes: U
    load_us: U
    """estimate of the time that a get of them would take now, microseconds"""


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
    """position of ``keys[0]`` in its prefix; the others follow"""
    deadline_ms: U32 = 0


class PutGrant(Body, frozen=True):
    """tcp: send the payload of these chunks, in this order, as `PutData`. More may follow."""

    indexes: Annotated[list[U32], Meta(max_length=KEYS_MAX)]


class PutData(Body, frozen=True):
    """Precedes the payload of ``keys[index]``; same request id as its `Put`."""

    index: U32
    checksums: Annotated[list[U64], Meta(min_length=1, max_length=PARTS_MAX)]


class PutDone(Body, frozen=True):
    """End of a put. A key in neither bitmap was not stored (its sender's bytes did not check)."""

    stored: Bitmap
    exists: Bitmap
    stored_count: U32
    exists_count: U32


class Delete(Body, frozen=True):
    """Delete chunks; flushed before it is answered."""

    keys: Keys


class Deleted(Body, frozen=True):
    """Bit i: ``keys[i]`` was there."""

    count: U32
    deleted: Bitmap


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


class Release(Body, frozen=True):
    """End a lease now."""

    lease: U


class Released(Body, frozen=True):
    """``held``: the lease was still held."""

    held: bool


class Stat(Body, frozen=True):
    """What is known of these chunks?"""

    keys: Keys


class ChunkStat(Body, frozen=True):
    """One present chunk."""

    bytes: U
    parts: U32
    sequence: U64
    leased: bool


class Stated(Body, frozen=True):
    """One entry for each key, None for a miss."""

    chunks: Annotated[list[ChunkStat | None], Meta(max_length=KEYS_MAX)]


class ShardStat(Body, frozen=True):
    """How is the shard?"""


class ShardStated(Body, frozen=True):
    """Numbers by name (docs/protocol.md lists them)."""

    numbers: Annotated[dict[Name, int | float], Meta(max_length=1024)]


class Devices(Body, frozen=True):
    """Which devices does the store have? Allowed to the server's own user, on a Unix socket."""


class DeviceState(Body, frozen=True):
    """One device of the store."""

    name: Text
    state: Text
    """``serving``, ``draining``, ``gone`` (drained, and out of the store) or ``fenced: why``"""
    bytes_total: U
    bytes_live: U
    chunks: U
    segments_total: U32
    segments_free: U32
    segments_retired: U32
    change: Name = ""
    """what is being done to it, or was last: ``add``, ``drain``, ``replace``, ``grow``"""
    change_state: Text = ""
    """``running``, ``done`` or ``failed: why``"""
    change_bytes: U = 0
    """bytes that are to be moved for it"""
    change_bytes_done: U = 0
    change_s: float = 0.0
    """seconds since it began, or that it took"""


class DevicesAre(Body, frozen=True):
    """The answer to `Devices`."""

    devices: Annotated[list[DeviceState], Meta(max_length=128)]


class DeviceChange(Body, frozen=True):
    """Change the store's devices; answered when the change has begun, `Devices` tells how it goes."""

    action: U32
    """`DeviceAction`"""
    device: Text
    """as its server names it: a path, mostly"""
    by: Text = ""
    """``REPLACE``: the device that is added"""
    capacity_bytes: U = 0
    """size of a file that is added or grown; 0: as large as it is"""
    format: bool = False
    """a device that is added may be erased if it holds anything but a store of ours"""


class DeviceChanged(Body, frozen=True):
    """The change has begun."""


class Cancel(Body, frozen=True):
    """Give up the request with this frame's request id."""


class Cancelled(Body, frozen=True):
    """The request is over and the server touches none of its memory any more.

    Its own answer may have come before; after this none comes.
    """


BODIES: dict[Kind, type[Body]] = {
    Kind.HELLO: Hello,
    Kind.WELCOME: Welcome,
    Kind.REFUSE: Refuse,
    Kind.ERROR: ErrorReply,
    Kind.PING: Ping,
    Kind.PONG: Pong,
    Kind.REGION_ADD: RegionAdd,
    Kind.REGION_ADDED: RegionAdded,
    Kind.REGION_REMOVE: RegionRemove,
    Kind.REGION_REMOVED: RegionRemoved,
    Kind.LOOKUP: Lookup,
    Kind.LOOKED_UP: LookedUp,
    Kind.GET: Get,
    Kind.GOT: Got,
    Kind.GET_DATA: GetData,
    Kind.PUT: Put,
    Kind.PUT_DONE: PutDone,
    Kind.PUT_GRANT: PutGrant,
    Kind.PUT_DATA: PutData,
    Kind.DELETE: Delete,
    Kind.DELETED: Deleted,
    Kind.ACQUIRE: Acquire,
    Kind.ACQUIRED: Acquired,
    Kind.RELEASE: Release,
    Kind.RELEASED: Released,
    Kind.STAT: Stat,
    Kind.STATED: Stated,
    Kind.SHARD_STAT: ShardStat,
    Kind.SHARD_STATED: ShardStated,
    Kind.CANCEL: Cancel,
    Kind.CANCELLED: Cancelled,
    Kind.ARENA_OPEN: ArenaOpen,
    Kind.ARENA_OPENED: ArenaOpened,
    Kind.DEVICES: Devices,
    Kind.DEVICES_ARE: DevicesAre,
    Kind.DEVICE_CHANGE: DeviceChange,
    Kind.DEVICE_CHANGED: DeviceChanged,
}
