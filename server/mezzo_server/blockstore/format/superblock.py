"""The superblock: what a device is. Two copies, the newer valid one counts.

Copies lie at the offsets `COPY_OFFSETS`, both in front of the first segment, so that a device can
grow without moving one.  They are written one after the other with a flush between.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from mezzo.errors import FormatError
from mezzo_server.blockstore.format.block import BLOCK_BYTES, DIGEST_BYTES, VERSION, digest

MAGIC = b"MEZZO-SB"
COPY_OFFSETS = (0, 1 << 20)
DATA_OFFSET = 2 << 20
"""Where the first segment begins: behind both copies, on a boundary that suits erase blocks."""
RETIRED_MAX = 768
_SECRET = b"mezzo superblock"
_FIXED = struct.Struct("<8sHHI16s16sHHIQQQIIQQI")
# magic version zero block_bytes store_id device_id device_index device_count set_generation
# device_bytes segment_bytes data_offset segment_count features written created_s retired_count


class Content(Enum):
    """What the beginning of a device looks like."""

    EMPTY = "empty"
    MEZZO = "mezzo"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Superblock:
    """Geometry and identity of one device of a store."""

    store_id: bytes
    """128 random bits, the same on all devices of a shard"""
    device_id: bytes
    """128 random bits of this device"""
    device_index: int
    device_count: int
    """devices in the set; a start with fewer is refused unless the rest are given up"""
    set_generation: int
    """raised when a device is given up, so that it cannot come back with old chunks"""
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

    def segment_offset(self, segment: int) -> int:
        """Byte offset of a segment on the device."""
        return DATA_OFFSET + segment * self.segment_bytes


def encode(superblock: Superblock) -> bytes:
    """One block. Raises FormatError for what the format cannot hold."""
    if len(superblock.retired) > RETIRED_MAX:
        raise FormatError(f"{len(superblock.retired)} retired segments; the superblock holds {RETIRED_MAX}")
    body = _FIXED.pack(
        MAGIC,
        VERSION,
        0,
        BLOCK_BYTES,
        superblock.store_id,
        superblock.device_id,
        superblock.device_index,
        superblock.device_count,
        superblock.set_generation,
        superblock.device_bytes,
        superblock.segment_bytes,
        DATA_OFFSET,
        superblock.segment_count,
        superblock.features,
        superblock.written,
        superblock.created_s,
        len(superblock.retired),
    )
    body += struct.pack(f"<{len(superblock.retired)}I", *superblock.retired)
    body += bytes(BLOCK_BYTES - DIGEST_BYTES - len(body))
    return body + digest(_SECRET, body)


def decode(block: bytes | memoryview) -> Superblock:
    """The superblock in one block; FormatError says what is wrong with it."""
    data = bytes(block[:BLOCK_BYTES])
    if len(data) < BLOCK_BYTES:
        raise FormatError(f"a superblock has {BLOCK_BYTES} bytes, these are {len(data)}")
    if data[: len(MAGIC)] != MAGIC:
        raise FormatError(f"no superblock: it begins with {data[: len(MAGIC)]!r}, not {MAGIC!r}")
    fields = _FIXED.unpack_from(data)
    if fields[1] != VERSION:
        raise FormatError(f"format version {fields[1]}; this release reads version {VERSION}")
    if digest(_SECRET, data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise FormatError("the superblock's checksum does not match")
    if fields[3] != BLOCK_BYTES or fields[11] != DATA_OFFSET:
        raise FormatError(f"block size {fields[3]} and data offset {fields[11]} are not of this format")
    if fields[13]:
        raise FormatError(f"features {fields[13]:#x} are not known to this release")
    count = fields[16]
    if count > RETIRED_MAX:
        raise FormatError(f"{count} retired segments; the superblock holds {RETIRED_MAX}")
    superblock = Superblock(
        store_id=fields[4],
        device_id=fields[5],
        device_index=fields[6],
        device_count=fields[7],
        set_generation=fields[8],
        device_bytes=fields[9],
        segment_bytes=fields[10],
        segment_count=fields[12],
        features=fields[13],
        written=fields[14],
        created_s=fields[15],
        retired=struct.unpack_from(f"<{count}I", data, _FIXED.size),
    )
    if superblock.segment_offset(superblock.segment_count) > superblock.device_bytes:
        raise FormatError(
            f"{superblock.segment_count} segments of {superblock.segment_bytes} bytes do not fit into "
            f"the {superblock.device_bytes} bytes that the superblock names"
        )
    return superblock


def newest(copies: list[bytes]) -> Superblock | None:
    """The valid copy with the highest ``written``; None if there is none."""
    valid = []
    for copy in copies:
        try:
            valid.append(decode(copy))
        except FormatError:
            continue
    return max(valid, key=lambda superblock: superblock.written, default=None)


def classify(copies: list[bytes], rest: bytes | memoryview) -> Content:
    """What a device holds, by the blocks of both copies and a sample of its beginning."""
    if any(copy[: len(MAGIC)] == MAGIC for copy in copies):
        return Content.MEZZO
    if any(bytes(copy).strip(b"\0") for copy in copies) or bytes(rest).strip(b"\0"):
        return Content.FOREIGN
    return Content.EMPTY
