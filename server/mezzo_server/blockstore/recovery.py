"""Recovery: the index, from nothing but the devices.

    headers and trailers of all segments -> tables of sealed ones -> records of the others -> index

Of several copies of a key the highest sequence wins, be it a chunk or a tombstone; of equal ones, the
copy in the later life.  Segments without a table get one at the end, so that the next start is fast.
Nothing here writes before everything was read, so recovery can be killed and repeated.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mezzo.errors import DeviceFailed, FormatError
from mezzo_server.blockstore import sync
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.device_log import DeviceLog
from mezzo_server.blockstore.format import segment_header, table
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.index import HASH_SHIFT, SPREAD_AT, NamespaceIndex
from mezzo_server.blockstore.io import Op, Transfer
from mezzo_server.blockstore.scan import scan
from mezzo_server.blockstore.segment import Purpose, Segment, State, life_of, number_of
from mezzo_server.memory import Memory

SEQUENCE_GAP = 1 << 20
"""Sequences skipped at a start: more than puts in flight at a crash, whose records may be torn."""
SEGMENTS_AT_ONCE = 256
TABLES_AT_ONCE_BYTES = 64 << 20

Progress = Callable[[int, int], None]
Key = tuple[Scope, bytes]


@dataclass(slots=True)
class Recovered:
    """What a recovery found."""

    segments_sealed: int = 0
    segments_scanned: int = 0
    records_torn: int = 0
    chunks: int = 0
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
    _build(context)
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


# -- the index ---------------------------------------------------------------------------------


def _build(context: Context) -> None:
    stale: defaultdict[Key, list[tuple[int, int]]] = defaultdict(list)
    tombstones: list[tuple[Segment, int]] = []
    for life in sorted(context.lives):
        segment = context.lives[life]
        _account(segment)
        for namespace, key, loser in _insert(context, segment, tombstones):
            _lost(context, namespace, key, loser, stale)
    covered: dict[Key, int] = {}
    for segment, number in tombstones:
        entries = segment.table
        scope, key, sequence = (
            entries.scopes[entries.scope[number]],
            entries.keys[number],
            entries.sequence[number],
        )
        namespace = context.index.recover(scope)
        location = namespace.get(key)
        if location is not None and _sequence(context, location) < sequence:
            namespace.remove(key)
            _lost(context, namespace, key, location, stale)
        older = frozenset(life for life, written in stale.get((scope, key), ()) if written < sequence)
        if older:
            segment.blockers[number] = older
        covered[scope, key] = max(covered.get((scope, key), 0), sequence)
    for (scope, key), copies in stale.items():
        lives = frozenset(life for life, sequence in copies if sequence > covered.get((scope, key), 0))
        if lives:
            context.index.recover(scope).shadows[key] = lives


def _insert(
    context: Context, segment: Segment, tombstones: list[tuple[Segment, int]]
) -> Iterator[tuple[NamespaceIndex, bytes, int]]:
    """Enter a segment's chunks; yields (namespace, key, location that lost) for each conflict."""
    entries = segment.table
    if len(entries.scopes) == 1 and not entries.tombstones:
        namespace = context.index.recover(entries.scopes[0])
        if namespace.count + len(entries) >= SPREAD_AT and not namespace.mask:
            namespace.spread()
        rows: Iterator[tuple[bytes, int]] = zip(
            entries.keys, range(segment.base, segment.base + len(entries)), strict=True
        )
        yield from _enter(context, namespace, rows)
        return
    for number, key in enumerate(entries.keys):
        if not entries.parts[number]:
            tombstones.append((segment, number))
            continue
        namespace = context.index.recover(entries.scopes[entries.scope[number]])
        if namespace.count >= SPREAD_AT and not namespace.mask:
            namespace.spread()
        yield from _enter(context, namespace, iter(((key, segment.base + number),)))


def _enter(
    context: Context, namespace: NamespaceIndex, rows: Iterator[tuple[bytes, int]]
) -> Iterator[tuple[NamespaceIndex, bytes, int]]:
    shards, mask = namespace.shards, namespace.mask
    count = 0
    for key, location in rows:
        shard = shards[hash(key) >> HASH_SHIFT & mask]
        former = shard.setdefault(key, location)
        if former == location:
            count += 1
            continue
        # Lives come in rising order, so at equal sequences the later place wins.
        if _sequence(context, location) >= _sequence(context, former):
            shard[key] = location
            yield namespace, key, former
        else:
            yield namespace, key, location
    namespace.count += count


def _sequence(context: Context, location: int) -> int:
    return context.lives[life_of(location)].table.sequence[number_of(location)]


def _lost(
    context: Context,
    namespace: NamespaceIndex,
    key: bytes,
    location: int,
    stale: defaultdict[Key, list[tuple[int, int]]],
) -> None:
    segment = context.lives[life_of(location)]
    number = number_of(location)
    segment.account(number, -1)
    stale[namespace.scope, key].append((segment.life, segment.table.sequence[number]))


def _account(segment: Segment) -> None:
    """All entries live at first, in bulk."""
    entries = segment.table
    segment.live_count = len(entries) - entries.tombstones
    if not segment.live_count:
        return
    if min(entries.length) == max(entries.length):
        blocks = blocks_of(entries.length[0]) * len(entries)
    else:
        blocks = sum(map(blocks_of, entries.length))
    segment.live_bytes = blocks * BLOCK_BYTES
    tenant_bytes = segment.log.tenant_bytes
    if len(entries.scopes) == 1:
        tenant_bytes[entries.scopes[0].tenant] += segment.live_bytes
        return
    for number, scope in enumerate(entries.scope):
        tenant_bytes[entries.scopes[scope].tenant] += blocks_of(entries.length[number]) * BLOCK_BYTES
