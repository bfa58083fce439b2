"""Types, bounds and the base of bodies."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

VERSION_MIN = 1
VERSION_MAX = 2
EPOCH_VERSION = 2
"""from which on a server may send `EPOCH`"""

KEY_BYTES_MAX = 64
KEYS_MAX = 4096
PARTS_MAX = 256
EXTENTS_MAX = 65536

TTL_S_MAX = 1e9
"""of a chunk that has an end: 31 years"""
LIFE_MS_MAX = int(TTL_S_MAX) * 1000
"""no chunk lives longer, other than without end: its deadline is a number that is stored"""
PRIORITY_MAX = 7
PRIORITY_DEFAULT = 3
"""of a chunk, from 0: the higher, the longer the server tries to keep it"""

U32_MAX = 2**32 - 1
I63_MAX = 2**63 - 1

U = Annotated[int, Meta(ge=0, le=I63_MAX)]
Priority = Annotated[int, Meta(ge=0, le=PRIORITY_MAX)]
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


class Body(Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """Base of all bodies."""
