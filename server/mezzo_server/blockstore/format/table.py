"""The table that ends a sealed segment: its entries in columns, and a trailer in its last block.

It is written after a flush, so it proves that everything it names is whole; a segment without a
valid one is read through, record by record.  Columns load by `array.frombytes`, which is what makes
a restart fast.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass

from mezzo.errors import FormatError
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.entries import ENTRY_MASK, SEALED, EntryTable
from mezzo_server.blockstore.format.block import BLOCK_BYTES, DIGEST_BYTES, VERSION, blocks_of, digest, padded
from mezzo_server.blockstore.format.record import PARTS_MAX

MAGIC = b"MEZZOTBL"
_TRAILER = struct.Struct("<8sHHIIIIIIIQ")
# magic version zero table_block body_bytes entry_count part_rows key_bytes scope_count data_end life
# digest of the body, mark of the life; the digest of all that ends the block
_SCOPE = struct.Struct("<16s16sII")
_COLUMNS = ("block", "length", "sequence", "checksum", "parts", "scope", "position", "expiry_ms", "flags")
_ROW_BYTES = 1 + 4 + 4 + 8 + 8 + 2 + 2 + 4 + 8 + 1
_PART_ROW_BYTES = 12


@dataclass(frozen=True, slots=True)
class Trailer:
    """Where the table of a segment is and how large its columns are."""

    table_block: int
    body_bytes: int
    entry_count: int
    part_rows: int
    key_bytes: int
    scope_count: int
    data_end: int
    """first block behind the last record"""
    life: int
    body_digest: bytes


def body_bytes(entries: int, part_rows: int, key_bytes: int, scopes: int) -> int:
    """Size of a table's columns."""
    return scopes * _SCOPE.size + key_bytes + entries * _ROW_BYTES + part_rows * _PART_ROW_BYTES


def table_blocks(entries: int, part_rows: int, key_bytes: int, scopes: int) -> int:
    """Blocks that a table takes, trailer included."""
    return blocks_of(body_bytes(entries, part_rows, key_bytes, scopes)) + 1


def _little(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


def encode(
    table: EntryTable, segment_blocks: int, data_end: int, life: int, incarnation: bytes
) -> tuple[int, bytes]:
    """(first block, bytes) of the table; the bytes end with the segment."""
    keys = b"".join(table.keys) if table.key_blob is None else table.key_blob
    lengths = bytes(map(len, table.keys)) if table.key_blob is None else table.key_lengths
    pieces: list[bytes | bytearray] = [
        _SCOPE.pack(scope.tenant, scope.namespace, scope.tenant_generation, scope.namespace_generation)
        for scope in table.scopes
    ]
    pieces += [lengths, keys]
    pieces.extend(_little(getattr(table, name)) for name in _COLUMNS)
    pieces += [_little(table.part_length), _little(table.part_checksum)]
    body = b"".join(pieces)
    first = segment_blocks - 1 - blocks_of(len(body))
    if first < data_end:
        raise FormatError(f"a table of {len(body)} bytes does not fit behind block {data_end}")
    trailer = _TRAILER.pack(
        MAGIC,
        VERSION,
        0,
        first,
        len(body),
        len(table),
        len(table.part_length),
        len(keys),
        len(table.scopes),
        data_end,
        life,
    )
    trailer += digest(incarnation, b"table", body) + _mark(incarnation)
    trailer += bytes(BLOCK_BYTES - DIGEST_BYTES - len(trailer))
    trailer += digest(incarnation, b"trailer", trailer)
    return first, padded(body) + trailer


def _mark(incarnation: bytes) -> bytes:
    """Says which life a trailer is of, even if the rest of it is damaged."""
    return digest(incarnation, b"life")


def is_damaged_trailer(block: bytes | memoryview, incarnation: bytes) -> bool:
    """Whether a block that is no valid trailer was one of this life; else it is what a former life left."""
    data = bytes(block[:BLOCK_BYTES])
    at = _TRAILER.size + DIGEST_BYTES
    mark = _mark(incarnation)
    restored = MAGIC + data[len(MAGIC) : at] + mark + data[at + DIGEST_BYTES :]
    return (
        data[at : at + DIGEST_BYTES] == mark
        or digest(incarnation, b"trailer", restored[:-DIGEST_BYTES]) == restored[-DIGEST_BYTES:]
    )


def decode_trailer(block: bytes | memoryview, segment_blocks: int, incarnation: bytes) -> Trailer:
    """The trailer in a segment's last block; FormatError if it is none of this life."""
    data = bytes(block[:BLOCK_BYTES])
    if len(data) < BLOCK_BYTES or data[: len(MAGIC)] != MAGIC:
        raise FormatError("no table")
    if digest(incarnation, b"trailer", data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise FormatError("the table's trailer is not of this life of the segment")
    _, version, _, first, size, entries, part_rows, keys, scopes, data_end, life = _TRAILER.unpack_from(data)
    if version != VERSION:
        raise FormatError(f"table version {version}; this release reads {VERSION}")
    body_digest = data[_TRAILER.size : _TRAILER.size + DIGEST_BYTES]
    if size != body_bytes(entries, part_rows, keys, scopes) or first + blocks_of(size) != segment_blocks - 1:
        raise FormatError("the table's trailer lies about its size")
    if not 1 <= data_end <= first or entries > ENTRY_MASK:
        raise FormatError("the table's trailer lies about what is in front of the table")
    return Trailer(first, size, entries, part_rows, keys, scopes, data_end, life, body_digest)


def decode(trailer: Trailer, body: memoryview, incarnation: bytes) -> EntryTable:
    """The entries of a sealed segment; FormatError if the body is not the trailer's."""
    if len(body) != trailer.body_bytes or digest(incarnation, b"table", body) != trailer.body_digest:
        raise FormatError("the table's checksum does not match")
    table = EntryTable()
    table.freeze()
    at = 0

    def take(size: int) -> memoryview:
        nonlocal at
        at += size
        return body[at - size : at]

    for fields in _SCOPE.iter_unpack(take(trailer.scope_count * _SCOPE.size)):
        table.scope_number(Scope(*fields))
    count = trailer.entry_count
    key_lengths = bytes(take(count))
    keys = bytes(take(trailer.key_bytes))
    if sum(key_lengths) != len(keys) or len(table.scopes) != trailer.scope_count:
        raise FormatError("the table's keys do not add up")
    table.keys = _split(keys, key_lengths)
    for name in _COLUMNS:
        column = getattr(table, name)
        column.frombytes(take(count * column.itemsize))
    table.part_length.frombytes(take(trailer.part_rows * 4))
    table.part_checksum.frombytes(take(trailer.part_rows * 8))
    if sys.byteorder == "big":
        for name in (*_COLUMNS, "part_length", "part_checksum"):
            getattr(table, name).byteswap()
    table.touched = array("I", bytes(4 * count))
    table.tombstones = table.parts.count(0)
    table.has_sealed = max(table.flags, default=0) >= SEALED
    _verify(table, trailer)
    return table


def _split(keys: bytes, lengths: bytes) -> list[bytes]:
    if lengths and lengths.count(lengths[0]) == len(lengths):
        size = lengths[0]
        return [keys[at : at + size] for at in range(0, len(keys), size)]
    result = []
    at = 0
    for size in lengths:
        result.append(keys[at : at + size])
        at += size
    return result


def _verify(table: EntryTable, trailer: Trailer) -> None:
    """Bounds that the rest of the store relies on; a checksum says who wrote, not that he was right."""
    if not len(table):
        return
    if max(table.scope) >= len(table.scopes) or not min(map(len, table.keys)):
        raise FormatError("the table names a scope or key that it does not hold")
    if not min(table.block) or max(map(_end_of, table.block, table.length)) > trailer.data_end:
        raise FormatError("the table names a place outside of the segment's records")
    if max(table.parts) > PARTS_MAX:
        raise FormatError("the table names a chunk of too many parts")
    if not trailer.part_rows and max(table.parts) > 1:
        raise FormatError("the table names parts that it does not hold")
    for number, count in enumerate(table.parts) if trailer.part_rows else ():
        row = table.checksum[number]
        if count > 1 and sum(table.part_length[row : row + count]) != table.length[number]:
            raise FormatError("the table names parts that it does not hold")
        if count > 1 and row + count > trailer.part_rows:
            raise FormatError("the table names parts that it does not hold")


def _end_of(block: int, length: int) -> int:
    return block + blocks_of(length)
