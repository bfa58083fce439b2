"""The first block of a segment: which life of the segment follows.

A segment's life begins when its header is written and ends when the header is overwritten.  The
incarnation is secret and random: records and tables are checked with it, so that nothing from a
former life, and no bytes that a client made up, can pass for one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mezzo.errors import FormatError
from mezzo_server.blockstore.format.block import BLOCK_BYTES, DIGEST_BYTES, VERSION, digest

MAGIC = b"MEZZOSEG"
INCARNATION_BYTES = 16
PURPOSE_MAX = 2
_FIXED = struct.Struct("<8sHHI16s16sQQ")
# magic version purpose segment device_id incarnation life opened_sequence


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """One life of one segment."""

    device_id: bytes
    segment: int
    incarnation: bytes
    life: int
    """number of this life in the whole store; later lives have higher ones"""
    opened_sequence: int
    """the sequence that the next put would have drawn when the segment was opened"""
    purpose: int
    """0: new chunks, 1: survivors of reclaim, 2: tombstones"""


def _secret(device_id: bytes, segment: int) -> bytes:
    return b"segment" + device_id + segment.to_bytes(4, "little")


def encode(header: SegmentHeader) -> bytes:
    """One block."""
    body = _FIXED.pack(
        MAGIC,
        VERSION,
        header.purpose,
        header.segment,
        header.device_id,
        header.incarnation,
        header.life,
        header.opened_sequence,
    )
    body += bytes(BLOCK_BYTES - DIGEST_BYTES - len(body))
    return body + digest(_secret(header.device_id, header.segment), body)


def decode(block: bytes | memoryview, device_id: bytes, segment: int) -> SegmentHeader:
    """The header, if this block is one of this very segment; else FormatError."""
    data = bytes(block[:BLOCK_BYTES])
    if len(data) < BLOCK_BYTES or data[: len(MAGIC)] != MAGIC:
        raise FormatError("no segment header")
    if digest(_secret(device_id, segment), data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise FormatError("the segment header's checksum does not match")
    _, version, purpose, number, owner, incarnation, life, opened = _FIXED.unpack_from(data)
    if version != VERSION:
        raise FormatError(f"segment header version {version}; this release reads {VERSION}")
    if number != segment or owner != device_id or purpose > PURPOSE_MAX:
        raise FormatError(f"the segment header is of segment {number} and purpose {purpose}")
    return SegmentHeader(owner, number, incarnation, life, opened, purpose)
