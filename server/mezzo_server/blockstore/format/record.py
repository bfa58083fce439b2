"""A record: a header that describes chunks (or tombstones), then their payloads.

The header takes whole blocks, each payload begins on a block boundary and is padded with zeros.
A header is checked with its segment's incarnation: its fixed part first, which alone names sizes, so
that bytes that only look like a header cost next to nothing.  Whether the payloads arrived whole is
proven by their own checksums (docs/format.md, "Commit").
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from mezzo.errors import FormatError
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.format.block import BLOCK_BYTES, DIGEST_BYTES, VERSION, blocks_of, digest, padded

MAGIC = b"MZRECORD"
HEADER_BYTES_MAX = 1 << 20
ENTRIES_MAX = 4096
PARTS_MAX = 256
KEY_BYTES_MAX = 255
"""What the field holds; the store allows less."""
FLAGS_MAX = 255
_FIXED = struct.Struct("<8sHHIIII16s16sII16s")
# magic version zero header_bytes record_blocks block entry_count tenant namespace generations
# digest of the entries; behind it the digest of this fixed part
_ENTRY = struct.Struct("<BBHIQQII")
# key_bytes flags part_count position sequence expiry_ms length block
_PART = struct.Struct("<IQ")


@dataclass(slots=True)
class Entry:
    """One chunk, or a tombstone (no parts), as a record describes it."""

    key: bytes
    sequence: int
    parts: tuple[int, ...] = ()
    """part lengths in bytes"""
    checksums: tuple[int, ...] = ()
    """of the parts, as `mezzo.checksum` defines them"""
    position: int = 0
    expiry_ms: int = 0
    """on the store's time, milliseconds; 0: never"""
    flags: int = 0
    """8 bits, kept when the chunk is rewritten: its priority, and `entries.SEALED`"""
    block: int = 0
    """first block of the payload, counted from the segment's beginning"""

    @property
    def length(self) -> int:
        """Payload bytes."""
        return sum(self.parts)


@dataclass(frozen=True, slots=True)
class Record:
    """A decoded header."""

    scope: Scope
    block: int
    """of the header, counted from the segment's beginning"""
    record_blocks: int
    """header and payloads"""
    entries: tuple[Entry, ...]


def header_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of the header before padding."""
    size = _FIXED.size + DIGEST_BYTES
    for entry in entries:
        size += _ENTRY.size + len(entry.key) + len(entry.parts) * _PART.size
    return size


def encode(
    scope: Scope, block: int, record_blocks: int, entries: Sequence[Entry], incarnation: bytes
) -> bytes:
    """The header, padded to whole blocks. ``block`` is where it goes in its segment."""
    pieces = []
    for entry in entries:
        count = len(entry.parts)
        pieces.append(
            _ENTRY.pack(
                len(entry.key),
                entry.flags,
                count,
                entry.position,
                entry.sequence,
                entry.expiry_ms,
                sum(entry.parts),
                entry.block,
            )
        )
        pieces.append(entry.key)
        for length, checksum in zip(entry.parts, entry.checksums, strict=True):
            pieces.append(_PART.pack(length, checksum))
    tail = b"".join(pieces)
    size = _FIXED.size + DIGEST_BYTES + len(tail)
    if size > HEADER_BYTES_MAX or len(entries) > ENTRIES_MAX:
        raise FormatError(f"a record of {len(entries)} entries needs a header of {size} bytes")
    head = _FIXED.pack(
        MAGIC,
        VERSION,
        0,
        size,
        record_blocks,
        block,
        len(entries),
        scope.tenant,
        scope.namespace,
        scope.tenant_generation,
        scope.namespace_generation,
        digest(incarnation, b"entries", tail),
    )
    return padded(head + digest(incarnation, b"record", head) + tail)


def decode(data: memoryview, block: int, segment_blocks: int, incarnation: bytes) -> Record:
    """The record whose header begins ``data`` and block ``block`` of a segment; else FormatError."""
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise FormatError("no record")
    if len(data) < BLOCK_BYTES:
        raise FormatError("a record's header is cut off")
    start = _FIXED.size + DIGEST_BYTES
    if digest(incarnation, b"record", data[: _FIXED.size]) != bytes(data[_FIXED.size : start]):
        raise FormatError("the record's checksum does not match")
    # What follows is ours, as the checksum proves; the bounds are still checked: a decoder must
    # not trust its own encoder of another release.
    _, version, _, size, record_blocks, own_block, count, *scope_fields, tail_digest = _FIXED.unpack_from(
        data
    )
    if version != VERSION:
        raise FormatError(f"record version {version}; this release reads {VERSION}")
    if not start <= size <= min(HEADER_BYTES_MAX, len(data)):
        raise FormatError(f"a record's header of {size} bytes does not fit")
    if digest(incarnation, b"entries", data[start:size]) != tail_digest:
        raise FormatError("the checksum of the record's entries does not match")
    if (
        own_block != block
        or count > ENTRIES_MAX
        or not blocks_of(size) <= record_blocks <= segment_blocks - block
    ):
        raise FormatError("the record lies about its place")
    entries = []
    at = start
    payloads = block + blocks_of(size)
    for _ in range(count):
        if at + _ENTRY.size > size:
            raise FormatError("the record's entries are cut off")
        key_bytes, flags, part_count, position, sequence, expiry_ms, length, first = _ENTRY.unpack_from(
            data, at
        )
        at += _ENTRY.size
        end = at + key_bytes + part_count * _PART.size
        if end > size or part_count > PARTS_MAX or not key_bytes:
            raise FormatError("the record's entries are cut off")
        key = bytes(data[at : at + key_bytes])
        parts = tuple(_PART.iter_unpack(data[at + key_bytes : end]))
        at = end
        lengths = tuple(part[0] for part in parts)
        inside = payloads <= first and first + blocks_of(length) <= block + record_blocks
        if sum(lengths) != length or (part_count and not inside):
            raise FormatError("an entry of the record lies about its payload")
        entries.append(
            Entry(key, sequence, lengths, tuple(part[1] for part in parts), position, expiry_ms, flags, first)
        )
    if at != size:
        raise FormatError("bytes follow the record's last entry")
    return Record(Scope(*scope_fields), block, record_blocks, tuple(entries))
