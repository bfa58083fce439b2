"""Hypothesis strategies for the structures of the format."""

from __future__ import annotations

from hypothesis import strategies as st

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.clock import Anchor
from mezzo_server.blockstore.entries import EntryTable
from mezzo_server.blockstore.format import record
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.format.segment_header import SegmentHeader
from mezzo_server.blockstore.format.superblock import DATA_OFFSET, SEGMENT_BYTES_MIN, Superblock

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
IDS = st.binary(min_size=16, max_size=16)
SCOPES = st.builds(Scope, IDS, IDS, U32, U32)
SEGMENT_BLOCKS = 1 << 20


@st.composite
def superblocks(draw: st.DrawFn) -> Superblock:
    members = tuple(draw(st.lists(IDS, min_size=1, max_size=32, unique=True)))
    segment_bytes = draw(st.integers(SEGMENT_BYTES_MIN // BLOCK_BYTES, 1 << 16)) * BLOCK_BYTES
    count = draw(st.integers(1, 1 << 20))
    return Superblock(
        store_id=draw(IDS),
        device_id=draw(st.sampled_from(members)),
        members=members,
        set_generation=draw(U32),
        device_bytes=DATA_OFFSET + count * segment_bytes + draw(st.integers(0, 1 << 30)),
        segment_bytes=segment_bytes,
        segment_count=count,
        created_s=draw(U64),
        written=draw(U64),
        retired=tuple(draw(st.lists(st.integers(0, count - 1), max_size=768, unique=True))),
        anchor=draw(st.none() | st.builds(Anchor, st.integers(1, 2**64 - 1), U64, IDS)),
    )


SEGMENT_HEADERS = st.builds(SegmentHeader, IDS, U32, IDS, U64, U64, st.integers(0, 2))


@st.composite
def entries(draw: st.DrawFn, parts_max: int = 5) -> record.Entry:
    """An entry without a place."""
    parts = tuple(draw(st.lists(st.integers(1, 3 * BLOCK_BYTES), max_size=parts_max)))
    checksums = tuple(draw(st.lists(U64, min_size=len(parts), max_size=len(parts))))
    key = draw(st.binary(min_size=1, max_size=64))
    return record.Entry(
        key, draw(U64), parts, checksums, draw(U32), draw(U64), draw(st.integers(0, record.FLAGS_MAX))
    )


def place(block: int, described: list[record.Entry]) -> int:
    """Give the entries of a record at ``block`` their places; the record's blocks."""
    at = block + blocks_of(record.header_bytes(described))
    for entry in described:
        entry.block = at
        at += blocks_of(entry.length)
    return at - block


@st.composite
def records(draw: st.DrawFn) -> record.Record:
    described = draw(st.lists(entries(), max_size=20))
    block = draw(st.integers(1, SEGMENT_BLOCKS - 100))
    blocks = place(block, described)
    return record.Record(draw(SCOPES), block, blocks, tuple(described))


@st.composite
def tables(draw: st.DrawFn) -> tuple[EntryTable, int]:
    """A table and the first block behind its records."""
    scopes = draw(st.lists(SCOPES, min_size=1, max_size=4))
    table = EntryTable()
    end = 1
    for _ in range(draw(st.integers(0, 5))):
        described = draw(st.lists(entries(), max_size=8))
        end += place(end, described)
        scope = draw(st.sampled_from(scopes))
        for entry in described:
            table.append(entry, scope)
    return table, end
