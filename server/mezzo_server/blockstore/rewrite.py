"""Rewriting: live chunks of a segment are read, verified and written to another place.

A chunk moves when its new record counts; until then, and if anything fails, it stays where it is.
Reclaim rewrites survivors within a device, a drain rewrites everything onto other devices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mezzo_server.blockstore.arrivals import record_weight
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.delete import Deletes
from mezzo_server.blockstore.device_log import DeviceLog
from mezzo_server.blockstore.format import record
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import Op, Transfer
from mezzo_server.blockstore.schedule import BACKGROUND
from mezzo_server.blockstore.segment import Purpose, Segment
from mezzo_server.blockstore.tasks import Event
from mezzo_server.blockstore.writer import RecordWrite, Writer
from mezzo_server.memory import Memory, Span

BATCH_BYTES = 2 << 20
BATCH_CHUNKS = 128


@dataclass(slots=True)
class Rewritten:
    """What became of a batch."""

    chunks: int = 0
    bytes: int = 0
    lost: list[int] = field(default_factory=list)
    """entries that could not be read, or did not verify"""
    error: Exception | None = None
    """why records could not be written; their chunks are where they were"""


class Rewriter:
    """Rewrites chunks of one device, one batch at a time. Owner of the buffer that they pass through."""

    def __init__(self, context: Context, log: DeviceLog, writer: Writer, deletes: Deletes) -> None:
        self._context = context
        self._log = log
        self._writer = writer
        self._deletes = deletes
        self._buffer: Memory | None = None

    async def move(self, victim: Segment, numbers: Sequence[int], *, away: bool = False) -> Rewritten:
        """Rewrite live entries: on the same device as survivors, or ``away`` to any other one.

        Entries that are busy, or not live any more, are left alone.
        """
        done = Rewritten()
        for namespace, group in self._groups(victim, numbers):
            claimed = [number for number in group if self._claim(namespace, victim, number)]
            good = await self._read(victim, namespace, claimed, done)
            if good:
                await self._write(victim, namespace, good, away, done)
            for number in claimed:
                namespace.end(victim.table.keys[number])
        self._context.counters["chunks_rewritten"] += done.chunks
        self._context.counters["rewritten_bytes"] += done.bytes
        return done

    async def salvage(self, victim: Segment, numbers: Sequence[int]) -> Rewritten:
        """Make entries of a fenced device visible again, elsewhere: those whose keys nothing else has.

        A device that is fenced has lost its chunks from the index; their places are remembered as
        shadows, and their tables are in memory.
        """
        done = Rewritten()
        table = victim.table
        for namespace, group in self._groups(victim, numbers):
            claimed = [
                n for n in group if table.keys[n] not in namespace.busy and lies_here(victim, namespace, n)
            ]
            for number in claimed:
                namespace.begin(table.keys[number])
            good = await self._read(victim, namespace, claimed, done)
            if good:
                await self._write(victim, namespace, good, True, done)
            for number in claimed:
                namespace.end(table.keys[number])
        self._context.counters["chunks_rewritten"] += done.chunks
        self._context.counters["rewritten_bytes"] += done.bytes
        return done

    def room(self, size: int) -> Memory:
        """Our own buffer, so that reclaim never waits for staging that waits for reclaim."""
        need = max(size, BATCH_BYTES)
        if self._buffer is None or self._buffer.length < need:
            if self._buffer is not None:
                self._buffer.close()
            self._buffer = Memory.anonymous(need)
        return self._buffer

    def _groups(self, victim: Segment, numbers: Sequence[int]) -> Iterator[tuple[NamespaceIndex, list[int]]]:
        by_namespace: defaultdict[int, list[int]] = defaultdict(list)
        for number in numbers:
            by_namespace[victim.table.scope[number]].append(number)
        for group in by_namespace.values():
            yield namespace_of(self._context, victim, group[0]), group

    def _claim(self, namespace: NamespaceIndex, victim: Segment, number: int) -> bool:
        key = victim.table.keys[number]
        if key in namespace.busy or namespace.get(key) != victim.base + number:
            return False
        namespace.begin(key)
        return True

    async def _read(
        self, victim: Segment, namespace: NamespaceIndex, numbers: Sequence[int], done: Rewritten
    ) -> list[tuple[int, Span]]:
        """The chunks' blocks in our buffer, verified; what does not verify is lost."""
        context = self._context
        table = victim.table
        sizes = [blocks_of(table.length[number]) * BLOCK_BYTES for number in numbers]
        buffer = self.room(sum(sizes))
        good: list[tuple[int, Span]] = []
        at = 0
        events = []
        for number, size in zip(numbers, sizes, strict=True):
            span = buffer.span(at, size)
            at += size
            event: Event[Transfer] = Event()
            victim.hold()
            offset = victim.offset + table.block[number] * BLOCK_BYTES
            self._log.transfer(Op.READ, offset, (span,), event, tenant=BACKGROUND, though_fenced=True)
            events.append((number, span, event))
        for number, span, event in events:
            transfer = await event
            victim.release()
            if transfer.result >= 0:
                verdict: Event[bool] = Event()
                lengths, checksums = table.part_lengths(number), table.part_checksums(number)
                seed = context.seed(namespace, table.keys[number])
                spans = [span.part(0, table.length[number])]
                context.verify(seed, 0, lengths, checksums, spans, verdict, BACKGROUND)
                if await verdict:
                    good.append((number, span))
                    continue
                # server memory only, so there is nobody to have scribbled: it is confirmed
                context.counters["chunks_corrupt"] += 1
                victim.suspects.append((table.block[number], blocks_of(table.length[number])))
            else:
                self._log.io_error(victim, -transfer.result, "read of a survivor")
            done.lost.append(number)
            await self._lose(victim, namespace, number)
        return good

    async def _lose(self, victim: Segment, namespace: NamespaceIndex, number: int) -> None:
        context = self._context
        key = victim.table.keys[number]
        if context.forget(namespace, key, victim, number):
            context.counters["chunks_lost"] += 1
        blockers = self._deletes.blockers(namespace, key, victim.life, context.limbo())
        await self._deletes.bury(namespace, {self._log: [(key, blockers)]}, flush=False)

    async def _write(
        self,
        victim: Segment,
        namespace: NamespaceIndex,
        good: list[tuple[int, Span]],
        away: bool,
        done: Rewritten,
    ) -> None:
        context = self._context
        table = victim.table
        entries = [table.entry(number) for number, _ in good]
        header = Memory.anonymous(blocks_of(record.header_bytes(entries)) * BLOCK_BYTES)
        event: Event[Exception | None] = Event()
        payloads = [(span,) for _, span in good]
        write = RecordWrite(
            namespace.scope,
            entries,
            payloads,
            header.span(),
            event,
            # What reclaim rewrites may use its reserve; what comes from elsewhere waits like a put.
            Purpose.CHUNKS if away else Purpose.SURVIVORS,
            None if away else self._log,
            context.now() + context.options.put_wait_s,
            not_on=self._log if away else None,
        )
        self._writer.write(write)
        error = await event
        header.close()
        if error is not None:
            done.error = error
            if write.began:
                for number, _ in good:
                    namespace.shade(table.keys[number], write.segment.life)
            return
        segment = write.segment
        for new, (number, _) in zip(write.numbers, good, strict=True):
            key = table.keys[number]
            context.policy.rewritten(victim, number, segment, new)
            moves = context.forget(namespace, key, victim, number, moves=True)
            if moves or lies_here(victim, namespace, number):
                context.appear(namespace, key, segment, new, moves=moves)
            else:
                # lost while it was rewritten: the new copy must not outlive the old one's tombstone
                namespace.shade(key, segment.life)
        done.chunks += len(good)
        done.bytes += sum(entry.length for entry in entries)


def batches(victim: Segment, numbers: Sequence[int], most_bytes: int) -> Iterator[list[int]]:
    """``numbers`` in the order of their places, in batches that make one record each."""
    batch: list[int] = []
    size = 0
    for number in sorted(numbers, key=lambda number: victim.table.block[number]):
        weight = record_weight(victim.table.part_lengths(number))
        if batch and (size + weight > most_bytes or len(batch) >= BATCH_CHUNKS):
            yield batch
            batch, size = [], 0
        batch.append(number)
        size += weight
    if batch:
        yield batch


def namespace_of(context: Context, segment: Segment, number: int) -> NamespaceIndex:
    """The index that an entry belongs to."""
    return context.index.peek(segment.table.scopes[segment.table.scope[number]])


def lies_here(segment: Segment, namespace: NamespaceIndex, number: int) -> bool:
    """Whether an entry on a fenced device is the only copy that there is of its key."""
    key = segment.table.keys[number]
    return (
        segment.log.fenced is not None
        and namespace.get(key) is None
        and segment.life in namespace.shadows.get(key, ())
    )
