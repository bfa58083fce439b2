"""Recovery: the index, from nothing but the devices.

    headers and trailers of all segments -> tables of sealed ones -> records of the others -> index

How the tables become the index is the business of `rebuild`.  Segments without a table get one at the
end, so that the next start is fast.  Nothing here writes before everything was read, so recovery can be killed and repeated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mezzo.errors import DeviceFailed, FormatError
from mezzo_server.blockstore import sync
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.device_log import DeviceLog
from mezzo_server.blockstore.format import segment_header, table
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.io import Op, Transfer
from mezzo_server.blockstore.rebuild import Found, rebuild
from mezzo_server.blockstore.scan import scan
from mezzo_server.blockstore.segment import Purpose, Segment, State
from mezzo_server.memory import Memory

SEQUENCE_GAP = 1 << 20
"""Sequences skipped at a start: more than puts in flight at a crash, whose records may be torn."""
SEGMENTS_AT_ONCE = 256
TABLES_AT_ONCE_BYTES = 64 << 20

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Recovered(Found):
    """What a recovery found."""

    segments_sealed: int = 0
    segments_scanned: int = 0
    records_torn: int = 0
    seconds: float = 0.0


def recover(context: Context, progress: Progress | None = None) -> tuple[Recovered, list[Segment]]:
    """Fill index, lives and free lists; (what was found, segments that need a table)."""
    found = Recovered()
    unsealed: list[Segment] = []
    total = sum(log.superblock.segment_count for log in context.logs)
    seen = 0
    for log in context.logs:
        for segments, trailers in _headers(log):
            _load_tables(log, segments, trailers, found, unsealed)
            seen += SEGMENTS_AT_ONCE
            if progress is not None:
                progress(min(seen, total), total)
    for segment in unsealed:
        _scan(segment, context, found)
    for log in context.logs:
        if log.io_errors > context.options.io_errors_max:
            raise DeviceFailed(f"device {log.device.name} cannot be read: {log.io_errors} I/O errors")
        # The kernel may hold what the former process wrote: nothing is built on it before it is durable.
        result = sync.flush(log.device)
        if result < 0:
            raise DeviceFailed(f"device {log.device.name} cannot be flushed: {os.strerror(-result)}")
    context.next_life = 1 + max(context.lives, default=0)
    context.next_sequence = max(map(_highest_sequence, context.lives.values()), default=0) + SEQUENCE_GAP
    rebuild(context, found)
    found.chunks = context.index.count
    return found, unsealed


def _highest_sequence(segment: Segment) -> int:
    return max(segment.opened_sequence, max(segment.table.sequence, default=0))


def _headers(log: DeviceLog) -> Iterator[tuple[list[Segment], list[bytes]]]:
    """Segments that have a life, with their last blocks; the others become free."""
    count = log.superblock.segment_count
    size = log.superblock.segment_bytes
    retired = set(log.superblock.retired)
    memory = Memory.anonymous(min(count, SEGMENTS_AT_ONCE) * 2 * BLOCK_BYTES)
    try:
        for first in range(0, count, SEGMENTS_AT_ONCE):
            numbers = [n for n in range(first, min(first + SEGMENTS_AT_ONCE, count)) if n not in retired]
            transfers = []
            for at, number in enumerate(numbers):
                offset = log.superblock.segment_offset(number)
                for place, where in ((2 * at, offset), (2 * at + 1, offset + size - BLOCK_BYTES)):
                    transfers.append(
                        Transfer(Op.READ, where, (memory.span(place * BLOCK_BYTES, BLOCK_BYTES),))
                    )
            sync.run(log.device, transfers)
            segments, trailers = [], []
            for at, number in enumerate(numbers):
                header, trailer = transfers[2 * at], transfers[2 * at + 1]
                if header.result < 0:
                    # Were it left alone, it could come back with chunks whose tombstones went meanwhile.
                    log.io_errors += 1
                    log.unreadable.append(number)
                    continue
                try:
                    life = segment_header.decode(header.spans[0].view, log.superblock.device_id, number)
                except FormatError:
                    log.free.append(number)
                    continue
                segments.append(_segment(log, life))
                trailers.append(bytes(trailer.spans[0].view) if trailer.result >= 0 else b"")
            yield segments, trailers
    finally:
        memory.close()


def _segment(log: DeviceLog, header: segment_header.SegmentHeader) -> Segment:
    segment = Segment(
        log,
        header.segment,
        header.life,
        header.incarnation,
        header.opened_sequence,
        Purpose(header.purpose),
        State.SEALED,
    )
    if header.life in log.context.lives:
        raise FormatError(f"two segments claim life {header.life}: is one device a copy of another?")
    log.segments[header.segment] = segment
    log.context.lives[header.life] = segment
    log.context.on_disk.add(header.life)
    return segment


def _load_tables(
    log: DeviceLog, segments: list[Segment], trailers: list[bytes], found: Recovered, unsealed: list[Segment]
) -> None:
    """Read the tables of those that have one, several at a time."""
    batch: list[tuple[Segment, table.Trailer]] = []
    size = 0
    for segment, block in zip(segments, trailers, strict=True):
        try:
            trailer = table.decode_trailer(block, log.segment_blocks, segment.incarnation)
        except FormatError:
            unsealed.append(segment)
            continue
        batch.append((segment, trailer))
        size += blocks_of(trailer.body_bytes) * BLOCK_BYTES
        if size >= TABLES_AT_ONCE_BYTES:
            _read_tables(log, batch, size, found, unsealed)
            batch, size = [], 0
    if batch:
        _read_tables(log, batch, size, found, unsealed)


def _read_tables(
    log: DeviceLog,
    batch: list[tuple[Segment, table.Trailer]],
    size: int,
    found: Recovered,
    unsealed: list[Segment],
) -> None:
    memory = Memory.anonymous(max(size, BLOCK_BYTES))
    transfers = []
    at = 0
    for segment, trailer in batch:
        length = blocks_of(trailer.body_bytes) * BLOCK_BYTES
        offset = segment.offset + trailer.table_block * BLOCK_BYTES
        transfers.append(Transfer(Op.READ, offset, (memory.span(at, length),)))
        at += length
    sync.run(log.device, [transfer for transfer in transfers if transfer.length])
    for (segment, trailer), transfer in zip(batch, transfers, strict=True):
        body = transfer.spans[0].view[: trailer.body_bytes]
        try:
            if transfer.result < 0:
                raise FormatError("the table cannot be read")
            segment.table = table.decode(trailer, body, segment.incarnation)
        except FormatError:
            unsealed.append(segment)
            continue
        finally:
            body.release()
        segment.next_block = trailer.data_end
        found.segments_sealed += 1
    transfers.clear()
    memory.close()


def _scan(segment: Segment, context: Context, found: Recovered) -> None:
    """Read a whole segment and keep what is proven."""
    log = segment.log
    size = log.superblock.segment_bytes
    memory = Memory.anonymous(size)
    step = 1 << 20
    transfers = [
        Transfer(Op.READ, segment.offset + at, (memory.span(at, min(step, size - at)),))
        for at in range(0, size, step)
    ]
    sync.run(log.device, transfers)
    for transfer in transfers:
        if transfer.result < 0:
            log.io_errors += 1
            segment.retire = log.retiring = True
            transfer.spans[0].view[:] = bytes(transfer.length)
    transfers.clear()
    for scanned in scan(memory.span(), log.segment_blocks, segment.incarnation, context.workers.checksum):
        for entry, whole in zip(scanned.record.entries, scanned.whole, strict=True):
            if whole:
                segment.table.append(entry, scanned.record.scope)
            else:
                found.records_torn += 1
        segment.next_block = scanned.record.block + scanned.record.record_blocks
    memory.close()
    found.segments_scanned += 1
