"""Every structure of the format: what is written is read, and nothing else is believed."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import FormatError
from mezzo_server.blockstore.clock import Anchor
from mezzo_server.blockstore.entries import EntryTable
from mezzo_server.blockstore.format import record, segment_header, superblock, table
from mezzo_server.blockstore.format.block import BLOCK_BYTES, DIGEST_BYTES, blocks_of, digest
from tests.unit.mezzo_server.blockstore_format.strategies import (
    IDS,
    SEGMENT_BLOCKS,
    SEGMENT_HEADERS,
    entries,
    place,
    records,
    superblocks,
    tables,
)

INCARNATION = b"incarnation-----"
OTHER = b"another life----"
# Structures are pure functions of some kilobytes: many small examples, no shrinking of timings.
FEW = settings(max_examples=60)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def rows(entry_table: EntryTable) -> list[tuple[record.Entry, object]]:
    return [
        (entry_table.entry(number), entry_table.scopes[entry_table.scope[number]])
        for number in range(len(entry_table))
    ]


def encode_record(value: record.Record, incarnation: bytes = INCARNATION) -> bytes:
    return record.encode(value.scope, value.block, value.record_blocks, value.entries, incarnation)


def decode_record(data: bytes, block: int, incarnation: bytes = INCARNATION) -> record.Record:
    return record.decode(memoryview(data), block, SEGMENT_BLOCKS, incarnation)


def decode_table(data: bytes, incarnation: bytes = INCARNATION) -> tuple[table.Trailer, EntryTable]:
    trailer = table.decode_trailer(data[-BLOCK_BYTES:], SEGMENT_BLOCKS, incarnation)
    return trailer, table.decode(trailer, memoryview(data)[: trailer.body_bytes], incarnation)


# -- round trips ---------------------------------------------------------------------------------


@FEW
@given(superblocks())
def test_superblock_round_trips(value: superblock.Superblock) -> None:
    data = superblock.encode(value)
    assert len(data) == BLOCK_BYTES
    assert superblock.decode(data) == value


@FEW
@given(SEGMENT_HEADERS)
def test_segment_header_round_trips(value: segment_header.SegmentHeader) -> None:
    data = segment_header.encode(value)
    assert len(data) == BLOCK_BYTES
    assert segment_header.decode(data, value.device_id, value.segment) == value


@FEW
@given(records())
def test_record_round_trips(value: record.Record) -> None:
    data = encode_record(value)
    assert len(data) == blocks_of(record.header_bytes(value.entries)) * BLOCK_BYTES
    assert decode_record(data, value.block) == value


@FEW
@given(tables(), st.integers(1, 2**64 - 1))
def test_table_round_trips(value: tuple[EntryTable, int], life: int) -> None:
    entry_table, end = value
    first, data = table.encode(entry_table, SEGMENT_BLOCKS, end, life, INCARNATION)
    assert first * BLOCK_BYTES + len(data) == SEGMENT_BLOCKS * BLOCK_BYTES
    trailer, found = decode_table(data)
    assert (trailer.table_block, trailer.data_end, trailer.life) == (first, end, life)
    assert rows(found) == rows(entry_table)
    assert found.tombstones == entry_table.tombstones
    keys = sum(len(key) for key in entry_table.keys)
    blocks = table.table_blocks(len(entry_table), len(entry_table.part_length), keys, len(entry_table.scopes))
    assert blocks * BLOCK_BYTES == len(data), "what is reserved for a table is what it takes"


def test_a_frozen_table_is_encoded_alike() -> None:
    entry_table = EntryTable()
    described = [record.Entry(b"key%d" % n, n, (5,), (n,)) for n in range(10)]
    end = 1 + place(1, described)
    for entry in described:
        entry_table.append(entry, records_scope())
    before = table.encode(entry_table, SEGMENT_BLOCKS, end, 1, INCARNATION)
    entry_table.freeze()
    assert table.encode(entry_table, SEGMENT_BLOCKS, end, 1, INCARNATION) == before


def records_scope() -> record.Scope:
    return record.Scope(b"t" * 16, b"n" * 16, 3, 4)


def test_a_record_of_the_largest_size() -> None:
    parts = (1,) * record.PARTS_MAX
    described = [record.Entry(b"k" * 64, 1, parts, parts) for _ in range(300)]
    blocks = place(1, described)
    data = record.encode(records_scope(), 1, blocks, described, INCARNATION)
    assert decode_record(data, 1).entries == tuple(described)
    described *= 2
    with pytest.raises(FormatError):
        record.encode(records_scope(), 1, blocks, described, INCARNATION)


def test_design_fields_are_there() -> None:
    """Tenant, namespace, generations, sequence, expiry, position, flags: in records and in tables."""
    entry = record.Entry(b"key", 7, (10, 20), (1, 2), position=9, expiry_ms=11, flags=0xA5)
    blocks = place(1, [entry])
    (found,) = decode_record(encode_record(record.Record(records_scope(), 1, blocks, (entry,))), 1).entries
    assert (found.sequence, found.position, found.expiry_ms, found.flags) == (7, 9, 11, 0xA5)
    entry_table = EntryTable()
    entry_table.append(found, records_scope())
    _, data = table.encode(entry_table, SEGMENT_BLOCKS, 1 + blocks, 5, INCARNATION)
    assert rows(decode_table(data)[1]) == [(entry, records_scope())]


# -- damage --------------------------------------------------------------------------------------


@FEW
@given(superblocks(), st.data())
def test_a_flipped_bit_in_a_superblock(value: superblock.Superblock, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, BLOCK_BYTES * 8 - 1))
    with pytest.raises(FormatError):
        superblock.decode(flipped(superblock.encode(value), bit))


@FEW
@given(SEGMENT_HEADERS, st.integers(0, BLOCK_BYTES * 8 - 1))
def test_a_flipped_bit_in_a_segment_header(value: segment_header.SegmentHeader, bit: int) -> None:
    with pytest.raises(FormatError):
        segment_header.decode(flipped(segment_header.encode(value), bit), value.device_id, value.segment)


def test_every_flipped_bit_in_small_structures() -> None:
    """Exhaustive where it is cheap: each bit of one record header and of one table."""
    described = [record.Entry(b"key", 1, (100, 7), (3, 4)), record.Entry(b"gone", 2)]
    blocks = place(1, described)
    data = record.encode(records_scope(), 1, blocks, described, INCARNATION)
    for bit in range(record.header_bytes(described) * 8):
        with pytest.raises(FormatError):
            decode_record(flipped(data, bit), 1)
    entry_table = EntryTable()
    for entry in described:
        entry_table.append(entry, records_scope())
    _, data = table.encode(entry_table, SEGMENT_BLOCKS, 1 + blocks, 1, INCARNATION)
    body = table.decode_trailer(data[-BLOCK_BYTES:], SEGMENT_BLOCKS, INCARNATION).body_bytes
    bits = [*range(body * 8), *range((len(data) - BLOCK_BYTES) * 8, len(data) * 8)]
    for bit in bits:
        with pytest.raises(FormatError):
            decode_table(flipped(data, bit))


@FEW
@given(records(), st.data())
def test_a_flipped_bit_in_a_record(value: record.Record, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, record.header_bytes(value.entries) * 8 - 1))
    with pytest.raises(FormatError):
        decode_record(flipped(encode_record(value), bit), value.block)


@FEW
@given(records(), st.data())
def test_a_truncated_record(value: record.Record, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, record.header_bytes(value.entries) - 1))
    with pytest.raises(FormatError):
        decode_record(encode_record(value)[:size], value.block)


@FEW
@given(superblocks(), SEGMENT_HEADERS, st.integers(0, BLOCK_BYTES - 1))
def test_truncated_blocks(
    value: superblock.Superblock, header: segment_header.SegmentHeader, size: int
) -> None:
    for decode in (
        lambda: superblock.decode(superblock.encode(value)[:size]),
        lambda: segment_header.decode(segment_header.encode(header)[:size], header.device_id, header.segment),
        lambda: table.decode_trailer(
            table.encode(EntryTable(), SEGMENT_BLOCKS, 1, 1, INCARNATION)[1][:size],
            SEGMENT_BLOCKS,
            INCARNATION,
        ),
    ):
        with pytest.raises(FormatError):
            decode()


@FEW
@given(records(), tables())
def test_another_life_or_place_is_not_believed(
    value: record.Record, of_table: tuple[EntryTable, int]
) -> None:
    data = encode_record(value)
    with pytest.raises(FormatError):
        decode_record(data, value.block, OTHER)
    with pytest.raises(FormatError):
        decode_record(data, value.block + 1)
    _, data = table.encode(*(of_table[0], SEGMENT_BLOCKS, of_table[1], 1, INCARNATION))
    with pytest.raises(FormatError):
        decode_table(data, OTHER)


@FEW
@given(SEGMENT_HEADERS, IDS, st.integers(0, 2**32 - 1))
def test_a_segment_header_elsewhere(
    header: segment_header.SegmentHeader, device_id: bytes, segment: int
) -> None:
    if (device_id, segment) == (header.device_id, header.segment):
        return
    with pytest.raises(FormatError):
        segment_header.decode(segment_header.encode(header), device_id, segment)


# -- whole but wrong: what another release, or a bug, might write -----------------------------------


def signed_block(data: bytes, secret: tuple[bytes, ...], offset: int, form: str, value: int) -> bytes:
    """A block with another value in one field, and the checksum that proves it."""
    changed = bytearray(data)
    struct.pack_into(form, changed, offset, value)
    body = bytes(changed[:-DIGEST_BYTES])
    return body + digest(*secret, body)


SUPERBLOCK = superblock.Superblock(
    b"s" * 16, b"d" * 16, (b"d" * 16,), 1, superblock.DATA_OFFSET + (8 << 20), 1 << 20, 8, 0, retired=(7,)
)
SUPERBLOCK_SECRET = (b"mezzo superblock",)


def test_the_anchor_stands_behind_the_longest_lists() -> None:
    """Where a release without anchors has zeros, so it is nobody's change of the format."""
    many = replace(
        SUPERBLOCK,
        members=(*(bytes([n]) * 16 for n in range(31)), b"d" * 16),
        retired=(7,) * 768,
        anchor=Anchor(0x0102030405060708, 9, b"b" * 16),
    )
    block = superblock.encode(many)
    assert block[4048:4080] == bytes.fromhex("0807060504030201 0900000000000000") + b"b" * 16
    assert superblock.decode(block) == many
    without = superblock.encode(replace(many, anchor=None))
    assert not any(without[108 + 32 * 16 + 768 * 4 : 4080])
    assert superblock.decode(without).anchor is None


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (8, "<H", 2),  # version
        (12, "<I", 512),  # block size
        (48 + 4, "<I", 33),  # members
        (48 + 4, "<I", 0),
        (56, "<Q", superblock.DATA_OFFSET + (8 << 20) - 1),  # device bytes
        (64, "<Q", 0),  # segment bytes
        (64, "<Q", (1 << 20) + 512),
        (64, "<Q", 1 << 40),
        (72, "<Q", 1 << 20),  # data offset
        (80, "<I", 9),  # segment count
        (80, "<I", 7),  # the retired segment 7 is not there
        (84, "<I", 1),  # features
        (104, "<I", 769),  # retired
    ],
)
def test_a_superblock_that_lies(offset: int, form: str, value: int) -> None:
    data = superblock.encode(SUPERBLOCK)
    with pytest.raises(FormatError):
        superblock.decode(signed_block(data, SUPERBLOCK_SECRET, offset, form, value))


def test_newer_superblocks_are_told_from_damaged_ones() -> None:
    data = superblock.encode(SUPERBLOCK)
    for offset, form, value in ((8, "<H", 2), (84, "<I", 4)):
        newer = signed_block(data, SUPERBLOCK_SECRET, offset, form, value)
        with pytest.raises(superblock.Unsupported):
            superblock.decode(newer)
        with pytest.raises(superblock.Unsupported):
            superblock.newest([data, newer])
        damaged = flipped(newer, 5000)
        assert superblock.newest([data, damaged]) == SUPERBLOCK
    later = superblock.encode(replace(SUPERBLOCK, written=2))
    outdated = signed_block(data, SUPERBLOCK_SECRET, 84, "<I", 4)
    assert superblock.newest([outdated, later]) == replace(SUPERBLOCK, written=2)


def test_a_superblock_that_cannot_be_written() -> None:
    with pytest.raises(FormatError):
        superblock.encode(replace(SUPERBLOCK, retired=tuple(range(769))))
    with pytest.raises(FormatError):
        superblock.encode(replace(SUPERBLOCK, members=tuple(bytes([n] * 16) for n in range(33))))


def test_the_newest_copy_counts() -> None:
    older, newer = superblock.encode(SUPERBLOCK), superblock.encode(replace(SUPERBLOCK, written=2))
    for copies in ([older, newer], [newer, older], [bytes(4096), newer], [newer, b""]):
        found = superblock.newest(copies)
        assert found is not None
        assert found.written == 2
    assert superblock.newest([bytes(4096), flipped(newer, 99)]) is None


def test_a_segment_header_of_another_version_or_purpose() -> None:
    header = segment_header.SegmentHeader(b"d" * 16, 5, INCARNATION, 1, 1, 0)
    secret = (b"segment" + header.device_id + (5).to_bytes(4, "little"),)
    for offset, value in ((8, 2), (10, 3)):
        data = signed_block(segment_header.encode(header), secret, offset, "<H", value)
        with pytest.raises(FormatError):
            segment_header.decode(data, header.device_id, 5)


def signed_record(data: bytes, size: int, change: Callable[[bytearray], None]) -> bytes:
    fixed = 84
    changed = bytearray(data)
    change(changed)
    changed[68:84] = digest(INCARNATION, b"entries", bytes(changed[fixed + DIGEST_BYTES : size]))
    changed[fixed : fixed + DIGEST_BYTES] = digest(INCARNATION, b"record", bytes(changed[:fixed]))
    return bytes(changed)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (8, "<H", 2),  # version
        (12, "<I", 99),  # header bytes: below the fixed part
        (12, "<I", 4097),  # beyond what is there
        (12, "<I", 140),  # in the middle of an entry
        (16, "<I", 0),  # record blocks
        (16, "<I", SEGMENT_BLOCKS),
        (20, "<I", 2),  # own block
        (24, "<I", 0),  # entry count
        (24, "<I", 2),
        (24, "<I", 5000),
        (100, "<B", 0),  # key bytes
        (100, "<B", 255),
        (102, "<H", 257),  # parts
        (102, "<H", 0),
        (124, "<I", 101),  # length is not the sum of the parts
        (128, "<I", 1),  # the payload's block: the header's own
        (128, "<I", 3),  # behind the record
    ],
)
def test_a_record_that_lies(offset: int, form: str, value: int) -> None:
    entry = record.Entry(b"key", 1, (100,), (3,))
    blocks = place(1, [entry])
    data = record.encode(records_scope(), 1, blocks, [entry], INCARNATION)
    size = record.header_bytes([entry])
    assert decode_record(signed_record(data, size, lambda _: None), 1).entries == (entry,)

    def change(header: bytearray) -> None:
        struct.pack_into(form, header, offset, value)

    with pytest.raises(FormatError):
        decode_record(signed_record(data, size, change), 1)


@pytest.mark.parametrize(
    ("column", "value"),
    [("scope", 1), ("block", 0), ("block", 9), ("length", 5 * BLOCK_BYTES), ("parts", 300), ("parts", 3)],
)
def test_a_table_that_lies(column: str, value: int) -> None:
    described = [record.Entry(b"one", 1, (100,), (3,)), record.Entry(b"two", 2, (1, 2), (4, 5))]
    end = 1 + place(1, described)
    entry_table = EntryTable()
    for entry in described:
        entry_table.append(entry, records_scope())
    decode_table(table.encode(entry_table, SEGMENT_BLOCKS, end, 1, INCARNATION)[1])
    getattr(entry_table, column)[1] = value
    _, data = table.encode(entry_table, SEGMENT_BLOCKS, end, 1, INCARNATION)
    with pytest.raises(FormatError):
        decode_table(data)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (8, "<H", 2),  # version
        (12, "<I", 5),  # table block
        (16, "<I", 1),  # body bytes
        (20, "<I", 1 << 24),  # entries
        (28, "<I", 1 << 31),  # key bytes
        (36, "<I", 0),  # data end
        (36, "<I", SEGMENT_BLOCKS),
    ],
)
def test_a_trailer_that_lies(offset: int, form: str, value: int) -> None:
    _, data = table.encode(EntryTable(), SEGMENT_BLOCKS, 1, 1, INCARNATION)
    block = signed_block(data[-BLOCK_BYTES:], (INCARNATION, b"trailer"), offset, form, value)
    with pytest.raises(FormatError):
        table.decode_trailer(block, SEGMENT_BLOCKS, INCARNATION)


def test_a_table_goes_behind_the_records_or_nowhere() -> None:
    with pytest.raises(FormatError):
        table.encode(EntryTable(), 10, 10, 1, INCARNATION)
    assert table.encode(EntryTable(), 10, 9, 1, INCARNATION)[0] == 9


def test_a_damaged_trailer_is_told_from_a_former_one() -> None:
    _, data = table.encode(EntryTable(), SEGMENT_BLOCKS, 1, 1, INCARNATION)
    block = data[-BLOCK_BYTES:]
    for bit in range(len(block) * 8):
        assert table.is_damaged_trailer(flipped(block, bit), INCARNATION)
    assert not table.is_damaged_trailer(block, OTHER)
    assert not table.is_damaged_trailer(bytes(BLOCK_BYTES), INCARNATION)


@FEW
@given(entries())
def test_every_field_of_an_entry_is_compared(entry: record.Entry) -> None:
    """Equality is what the other tests rest on: no field is left out of it."""
    assert all(field.compare for field in dataclasses.fields(entry))
