"""The superblock: what a device is. Two copies, the newer valid one counts.

Copies lie at the offsets `COPY_OFFSETS`, both in front of the first segment, so that a device can
grow without moving one.  They are written one after the other with a flush between.

Three things stay in every version: magic, version behind it, and the digest that ends the block.  So
a release can tell a newer device from a damaged one, and leave it alone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from mezzo.errors import FormatError
from mezzo_server.blockstore.clock import BOOT_ID_BYTES, Anchor
from mezzo_server.blockstore.format.block import BLOCK_BYTES, DIGEST_BYTES, VERSION, digest

MAGIC = b"MEZZO-SB"
COPY_OFFSETS = (0, 1 << 20)
DATA_OFFSET = 2 << 20
"""Where the first segment begins: behind both copies, on a boundary that suits erase blocks."""
SEGMENT_BYTES_MIN = 256 << 10
SEGMENT_BYTES_MAX = 4 << 30
MEMBERS_MAX = 32
RETIRED_MAX = 768
_SECRET = b"mezzo superblock"
LEFT_MARK = b"MEZZO-LEFT"
"""Begins a device that was drained out of its store: all else of what tells what a device holds is zeros.
A start does not take it for an empty one, so a configuration that still names it is noticed."""
_FIXED = struct.Struct("<8sHHI16s16sIIQQQIIQQI")
# magic version zero block_bytes store_id device_id set_generation member_count device_bytes
# segment_bytes data_offset segment_count features written created_s retired_count
_ANCHOR = struct.Struct(f"<QQ{BOOT_ID_BYTES}s")
# time_ms boot_ms boot_id: behind the lists' longest, in front of the digest; zeros: there is none
_ANCHOR_OFFSET = BLOCK_BYTES - DIGEST_BYTES - _ANCHOR.size
_IDS = slice(16, 48)
_ZEROS = bytes(64 << 10)


class Content(Enum):
    """What the beginning of a device looks like."""

    EMPTY = "empty"
    MEZZO = "mezzo"
    FOREIGN = "foreign"
    LEFT = "left"
    """it was drained, and holds nothing that anybody needs"""


@dataclass(frozen=True, slots=True)
class Superblock:
    """Geometry and identity of one device of a store."""

    store_id: bytes
    """128 random bits, the same on all devices of a shard"""
    device_id: bytes
    """128 random bits of this device"""
    members: tuple[bytes, ...]
    """device ids of the set; a start with fewer is refused unless the rest are given up"""
    set_generation: int
    """0: formatting has not ended, nothing is stored; raised when a device is given up, so that it cannot
    come back with old chunks"""
    device_bytes: int
    segment_bytes: int
    segment_count: int
    created_s: int
    """Unix time of formatting"""
    written: int = 1
    """raised with each write of the superblock; the highest valid copy counts"""
    features: int = 0
    """bits that a reader must know, or refuse the device"""
    retired: tuple[int, ...] = ()
    """segments never to be used again"""
    anchor: Anchor | None = None
    """what time it was when it was written down last"""

    def segment_offset(self, segment: int) -> int:
        """Byte offset of a segment on the device."""
        return DATA_OFFSET + segment * self.segment_bytes


def encode(superblock: Superblock) -> bytes:
    """One block. Raises FormatError for what the format cannot hold."""
    if len(superblock.retired) > RETIRED_MAX or len(superblock.members) > MEMBERS_MAX:
        raise FormatError(
            f"{len(superblock.retired)} retired segments and {len(superblock.members)} devices; "
            f"the superblock holds {RETIRED_MAX} and {MEMBERS_MAX}"
        )
    body = _FIXED.pack(
        MAGIC,
        VERSION,
        0,
        BLOCK_BYTES,
        superblock.store_id,
        superblock.device_id,
        superblock.set_generation,
        len(superblock.members),
        superblock.device_bytes,
        superblock.segment_bytes,
        DATA_OFFSET,
        superblock.segment_count,
        superblock.features,
        superblock.written,
        superblock.created_s,
        len(superblock.retired),
    )
    body += b"".join(superblock.members)
    body += struct.pack(f"<{len(superblock.retired)}I", *superblock.retired)
    body += bytes(_ANCHOR_OFFSET - len(body))
    anchor = superblock.anchor
    body += (
        bytes(_ANCHOR.size)
        if anchor is None
        else _ANCHOR.pack(anchor.time_ms, anchor.boot_ms, anchor.boot_id)
    )
    return body + digest(_SECRET, body)


class Unsupported(FormatError):
    """A whole superblock of a release that is newer than this one."""

    def __init__(self, message: str, written: int) -> None:
        super().__init__(message)
        self.written = written
        """as in `Superblock`; 0 where this release cannot know"""


def decode(block: bytes | memoryview) -> Superblock:
    """The superblock in one block; FormatError says what is wrong with it, `Unsupported` if it is whole."""
    data = bytes(block[:BLOCK_BYTES])
    if len(data) < BLOCK_BYTES:
        raise FormatError(f"a superblock has {BLOCK_BYTES} bytes, these are {len(data)}")
    if data[: len(MAGIC)] != MAGIC:
        raise FormatError(f"no superblock: it begins with {data[: len(MAGIC)]!r}, not {MAGIC!r}")
    if digest(_SECRET, data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise FormatError("the superblock's checksum does not match")
    fields = _FIXED.unpack_from(data)
    if fields[1] != VERSION:
        raise Unsupported(f"format version {fields[1]}; this release reads version {VERSION}", 0)
    if fields[12]:
        raise Unsupported(f"features {fields[12]:#x} are not known to this release", fields[13])
    if fields[3] != BLOCK_BYTES or fields[10] != DATA_OFFSET:
        raise FormatError(f"block size {fields[3]} and data offset {fields[10]} are not of this format")
    members, retired = fields[7], fields[15]
    if members > MEMBERS_MAX or retired > RETIRED_MAX:
        raise FormatError(
            f"{retired} retired segments and {members} devices; the superblock holds {RETIRED_MAX} and {MEMBERS_MAX}"
        )
    at = _FIXED.size
    superblock = Superblock(
        store_id=fields[4],
        device_id=fields[5],
        members=tuple(data[at + 16 * n : at + 16 * n + 16] for n in range(members)),
        set_generation=fields[6],
        device_bytes=fields[8],
        segment_bytes=fields[9],
        segment_count=fields[11],
        features=fields[12],
        written=fields[13],
        created_s=fields[14],
        retired=struct.unpack_from(f"<{retired}I", data, at + 16 * members),
        anchor=_anchor(data),
    )
    _verify(superblock)
    return superblock


def _anchor(data: bytes) -> Anchor | None:
    fields = _ANCHOR.unpack_from(data, _ANCHOR_OFFSET)
    return Anchor(*fields) if fields[0] else None


def _verify(superblock: Superblock) -> None:
    """What others rely on; the checksum says that it arrived as it was written, not that it is right."""
    segment_bytes = superblock.segment_bytes
    if segment_bytes % BLOCK_BYTES or not SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX:
        raise FormatError(f"segments of {segment_bytes} bytes are not of this format")
    if superblock.segment_offset(superblock.segment_count) > superblock.device_bytes:
        raise FormatError(
            f"{superblock.segment_count} segments of {segment_bytes} bytes do not fit into "
            f"the {superblock.device_bytes} bytes that the superblock names"
        )
    if max(superblock.retired, default=-1) >= superblock.segment_count:
        raise FormatError("the superblock retires a segment that the device does not have")
    members = set(superblock.members)
    if superblock.device_id not in members or len(members) < len(superblock.members):
        raise FormatError("the superblock's set of devices is not one, or not its own")


def newest(copies: Sequence[bytes]) -> Superblock | None:
    """The valid copy with the highest ``written``; None if there is none.

    `Unsupported` if a newer release wrote one that is as new.
    """
    valid: list[Superblock] = []
    newer: list[Unsupported] = []
    for copy in copies:
        try:
            valid.append(decode(copy))
        except Unsupported as error:
            newer.append(error)
        except FormatError:
            continue
    best = max(valid, key=lambda superblock: superblock.written, default=None)
    for unsupported in newer:
        if best is None or not unsupported.written or unsupported.written >= best.written:
            raise unsupported
    return best


def left_mark() -> bytes:
    """The first block of a device that was drained out of its store."""
    return LEFT_MARK + bytes(BLOCK_BYTES - len(LEFT_MARK))


def looks_ours(copy: bytes, known: Superblock) -> bool:
    """Whether a block that is no superblock may be a damaged copy of ``known``, and nobody else's data."""
    ids = known.store_id + known.device_id
    return copy[: len(MAGIC)] == MAGIC or copy[_IDS] == ids or _is_blank(copy)


def classify(copies: Sequence[bytes], *samples: bytes | memoryview) -> Content:
    """What a device holds, by the blocks of both copies and samples of other places, the beginning first."""
    rest: list[bytes | memoryview] = [
        *copies[1:],
        *(memoryview(sample)[BLOCK_BYTES:] for sample in samples[:1]),
    ]
    if copies[0] == left_mark() and all(map(_is_blank, rest)):
        return Content.LEFT
    if any(copy[: len(MAGIC)] == MAGIC for copy in copies):
        return Content.MEZZO
    return Content.EMPTY if all(map(_is_blank, (*copies, *samples))) else Content.FOREIGN


def _is_blank(sample: bytes | memoryview) -> bool:
    # Many at a time, as looking at megabytes of zeros byte by byte takes milliseconds; but no more than caches hold.
    view, step = memoryview(sample), len(_ZEROS)
    whole = len(view) - len(view) % step
    if any(bytes(view[at : at + step]) != _ZEROS for at in range(0, whole, step)):
        return False
    rest = bytes(view[whole:])
    return rest == _ZEROS[: len(rest)]
