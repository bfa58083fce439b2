"""Offline verification of one segment: header, records, payloads, table.

Never fooled by payload that imitates structures: records are walked with the segment's incarnation,
and a proven record's payload is skipped, not searched.  What a crash may leave (writes that had not
ended, in a segment that was not sealed yet) is a note; everything else that does not verify is a
problem.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from mezzo.checksum import chunk_seed, part_seed
from mezzo.errors import FormatError
from mezzo_server.blockstore import sync
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.entries import EntryTable
from mezzo_server.blockstore.format import segment_header, table
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.record import Entry
from mezzo_server.blockstore.format.segment_header import SegmentHeader
from mezzo_server.blockstore.format.superblock import Superblock
from mezzo_server.blockstore.io import Device, Op, Transfer
from mezzo_server.blockstore.scan import scan
from mezzo_server.memory import Memory
from mezzo_server.workers import checksum_spans

READ_BYTES = 1 << 20
READS_AT_ONCE = 16
FINDINGS_MAX = 100
"""Problems, and notes, that a report names; all are counted."""
_DEVICE_ID = slice(16, 32)
_NO_KEY = b""

Identity = tuple[Scope, bytes, int, int]


class Finding(msgspec.Struct, frozen=True):
    """Something that a check found."""

    segment: int
    """-1: in front of the segments"""
    block: int
    """counted from the segment's beginning; in front of the segments, from the device's"""
    key: str
    """of the chunk, in hex; empty: it concerns no single chunk"""
    what: str

    def __str__(self) -> str:
        where = f"segment {self.segment}, block {self.block}" if self.segment >= 0 else f"block {self.block}"
        return f"{where}{f', key {self.key}' if self.key else ''}: {self.what}"


class Findings:
    """Problems and notes: the first `FINDINGS_MAX` of each, and how many there were. Owner: one check."""

    def __init__(self) -> None:
        self.problems: list[Finding] = []
        self.notes: list[Finding] = []
        self.problem_count = 0
        self.note_count = 0

    def problem(self, what: str, segment: int = -1, block: int = 0, key: bytes = _NO_KEY) -> None:
        """Something that was proven once is so no more."""
        self.problem_count += 1
        if len(self.problems) < FINDINGS_MAX:
            self.problems.append(Finding(segment, block, key.hex(), what))

    def note(self, what: str, segment: int = -1, block: int = 0, key: bytes = _NO_KEY) -> None:
        """Something that people may want to know."""
        self.note_count += 1
        if len(self.notes) < FINDINGS_MAX:
            self.notes.append(Finding(segment, block, key.hex(), what))


@dataclass(slots=True)
class _Known:
    """An entry as a record describes it."""

    entry: Entry
    whole: bool


class SegmentCheck:
    """Checks segments of one device, one after the other, in one buffer of a segment's size.

    ``counts`` are segments by what they are, and records, chunks, tombstones, chunk_bytes.
    """

    def __init__(self, device: Device, superblock: Superblock, findings: Findings) -> None:
        self._device = device
        self._superblock = superblock
        self._findings = findings
        self._blocks = superblock.segment_bytes // BLOCK_BYTES
        self._content = Memory.anonymous(superblock.segment_bytes)
        self._lives: dict[int, int] = {}
        self.counts: Counter[str] = Counter()

    def close(self) -> None:
        """Give the buffer back."""
        self._content.close()

    def check(self, number: int) -> None:
        """Verify one segment."""
        if number in self._superblock.retired:
            self.counts["segments_retired"] += 1
            return
        findings = self._findings
        offset = self._superblock.segment_offset(number)
        result = sync.read(self._device, offset, self._content.span(0, BLOCK_BYTES))
        if result < 0:
            self.counts["segments_unreadable"] += 1
            findings.problem(f"the segment's header cannot be read: {os.strerror(-result)}", number)
            return
        block = bytes(self._content.view[:BLOCK_BYTES])
        try:
            header = segment_header.decode(block, self._superblock.device_id, number)
        except FormatError:
            self.counts["segments_free"] += 1
            if _was_header(block, self._superblock.device_id, number):
                findings.problem("the segment's header is damaged: what it held is lost", number)
            return
        other = self._lives.setdefault(header.life, number)
        if other != number:
            findings.problem(f"segments {other} and {number} claim the same life {header.life}", number)
        self._read(number, offset)
        entries = self._table(number, header)
        if entries is None:
            self.counts["segments_unsealed"] += 1
            findings.note("not sealed: the store was not stopped in order, or could not write", number)
            self._check_unsealed(number, header)
        else:
            self.counts["segments_sealed"] += 1
            self._check_sealed(number, header, *entries)

    # -- reading -----------------------------------------------------------------------------

    def _read(self, number: int, offset: int) -> None:
        """The whole segment; blocks that cannot be read become zeros, and problems."""
        size = self._superblock.segment_bytes
        failed = self._transfer(offset, range(0, size, READ_BYTES), READ_BYTES)
        for at in failed:
            end = min(at + READ_BYTES, size)
            bad = self._transfer(offset, range(at, end, BLOCK_BYTES), BLOCK_BYTES)
            for place, error in bad.items():
                self._content.view[place : place + BLOCK_BYTES] = bytes(BLOCK_BYTES)
                what = f"cannot be read: {os.strerror(error)}"
                self._findings.problem(what, number, place // BLOCK_BYTES)

    def _transfer(self, offset: int, places: range, length: int) -> dict[int, int]:
        """Read pieces, a few at a time; error numbers of those that failed."""
        failed: dict[int, int] = {}
        size = self._superblock.segment_bytes
        for first in range(0, len(places), READS_AT_ONCE):
            transfers = []
            for at in places[first : first + READS_AT_ONCE]:
                span = self._content.span(at, min(length, size - at))
                transfers.append(Transfer(Op.READ, offset + at, (span,), context=at))
            sync.run(self._device, transfers)
            failed.update(
                {transfer.spans[0].offset: -transfer.result for transfer in transfers if transfer.result < 0}
            )
        return failed

    # -- verifying ---------------------------------------------------------------------------

    def _table(self, number: int, header: SegmentHeader) -> tuple[table.Trailer, EntryTable] | None:
        """The segment's table; None: there is none of this life, or it is damaged, which is a problem."""
        last = self._blocks - 1
        block = bytes(self._content.view[last * BLOCK_BYTES :])
        try:
            trailer = table.decode_trailer(block, self._blocks, header.incarnation)
        except FormatError as error:
            if table.is_damaged_trailer(block, header.incarnation):
                self._findings.problem(f"the table's trailer is damaged: {error}", number, last)
            return None
        first = trailer.table_block * BLOCK_BYTES
        body = bytes(self._content.view[first : first + trailer.body_bytes])
        try:
            entries = table.decode(trailer, memoryview(body), header.incarnation)
        except FormatError as error:
            self._findings.problem(f"the table is damaged: {error}", number, trailer.table_block)
            return None
        if trailer.life != header.life:
            what = f"the table is of life {trailer.life}, the header of life {header.life}"
            self._findings.problem(what, number, last)
        return trailer, entries

    def _records(self, number: int, header: SegmentHeader, data_end: int) -> Iterator[tuple[Scope, _Known]]:
        for scanned in scan(self._content.span(), self._blocks, header.incarnation, checksum_spans):
            self.counts["records"] += 1
            record = scanned.record
            if record.block + record.record_blocks > data_end:
                self._findings.problem(
                    f"a record reaches beyond block {data_end}, where the table says that records end",
                    number,
                    record.block,
                )
            for entry, whole in zip(record.entries, scanned.whole, strict=True):
                yield record.scope, _Known(entry, whole)

    def _check_unsealed(self, number: int, header: SegmentHeader) -> None:
        for _, known in self._records(number, header, self._blocks):
            if known.whole:
                self._count(known.entry)
            else:
                self._findings.note(
                    "the payload does not match its checksum: its write had not ended, or it has rotted since",
                    number,
                    known.entry.block,
                    known.entry.key,
                )

    def _check_sealed(
        self, number: int, header: SegmentHeader, trailer: table.Trailer, entries: EntryTable
    ) -> None:
        findings = self._findings
        recorded: dict[Identity, _Known] = {}
        for scope, known in self._records(number, header, trailer.data_end):
            recorded[_identity(scope, known.entry)] = known
        for place in range(len(entries)):
            entry = entries.entry(place)
            scope = entries.scopes[entries.scope[place]]
            found = recorded.pop(_identity(scope, entry), None)
            if found is None:
                findings.problem("in the table, but in no record", number, entry.block, entry.key)
                whole = self._whole(scope, entry)
            else:
                if found.entry != entry:
                    findings.problem("table and record disagree", number, entry.block, entry.key)
                whole = found.whole
            if whole:
                self._count(entry)
            else:
                findings.problem("the payload does not match its checksum", number, entry.block, entry.key)
        for known in recorded.values():
            entry = known.entry
            if known.whole:
                findings.problem("in a record, but not in the table", number, entry.block, entry.key)
            else:
                findings.note("a write that never ended", number, entry.block, entry.key)

    def _whole(self, scope: Scope, entry: Entry) -> bool:
        seed = chunk_seed(scope.tenant + scope.namespace, entry.key)
        at = entry.block * BLOCK_BYTES
        for part, (length, checksum) in enumerate(zip(entry.parts, entry.checksums, strict=True)):
            if checksum_spans([self._content.span(at, length)], part_seed(seed, part)) != checksum:
                return False
            at += length
        return True

    def _count(self, entry: Entry) -> None:
        self.counts["chunks" if entry.parts else "tombstones"] += 1
        self.counts["chunk_bytes"] += entry.length


def _identity(scope: Scope, entry: Entry) -> Identity:
    return scope, entry.key, entry.sequence, entry.block


def _was_header(block: bytes, device_id: bytes, number: int) -> bool:
    """Whether a block without a valid header once had one of this device: damaged, not erased or foreign."""
    magic = segment_header.MAGIC

    def verifies(data: bytes, owner: bytes) -> bool:
        try:
            segment_header.decode(data, owner, number)
        except FormatError:
            return False
        return True

    if block[: len(magic)] == magic:
        # A former store's header is whole, under that store's device id.
        return not verifies(block, block[_DEVICE_ID])
    return block[_DEVICE_ID] == device_id or verifies(magic + block[len(magic) :], device_id)
