"""Writes records: finds room, builds the header, moves header and payloads to the device.

All writes of a record go out at once.  It counts when all of them, and its segment's header, have
completed; what proves it after a crash are the payloads' own checksums (docs/format.md, "Commit").
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from mezzo.errors import Busy, DeviceFailed, FormatError
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.device_log import DeviceLog, Role
from mezzo_server.blockstore.format import record
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.io import DeviceTime, Op, Transfer
from mezzo_server.blockstore.options import Durability
from mezzo_server.blockstore.pace import BATCH_BYTES, SLOW
from mezzo_server.blockstore.schedule import BACKGROUND
from mezzo_server.blockstore.segment import Purpose, Segment
from mezzo_server.blockstore.spans import SPANS_PER_TRANSFER_MAX, total
from mezzo_server.blockstore.waiting import Waiting
from mezzo_server.memory import PAGE_BYTES, Span

TRANSFER_BYTES = 1 << 20
"""A record's payloads go out in transfers of about this size, never splitting a chunk's span."""
TRIED_S = 10.0
"""A slow device of which nothing was heard for so long may be as fast as ever."""
SPARE_BLOCKS = 16
"""of a segment, for its header and table: what is larger is not tried where segments are small"""

Written = Callable[[Exception | None], None]


class RecordWrite:
    """One record on its way. ``payloads[i]`` are whole blocks for ``entries[i]``, nothing for a tombstone.

    ``header`` is staging memory for the header.  After ``done(None)``, ``segment`` and ``numbers``
    tell where the entries are.
    """

    __slots__ = (
        "_error",
        "_left",
        "align_bytes",
        "began",
        "deadline",
        "done",
        "entries",
        "entry_blocks",
        "header",
        "lane",
        "log",
        "not_on",
        "numbers",
        "payloads",
        "purpose",
        "scope",
        "segment",
        "time",
    )

    def __init__(
        self,
        scope: Scope,
        entries: Sequence[record.Entry],
        payloads: Sequence[Sequence[Span]],
        header: Span,
        done: Written,
        purpose: Purpose = Purpose.CHUNKS,
        log: DeviceLog | None = None,
        deadline: float = float("inf"),
        time: DeviceTime | None = None,
        *,
        not_on: DeviceLog | None = None,
        align_bytes: int = PAGE_BYTES,
        lane: int = 0,
    ) -> None:
        self.scope = scope
        self.entries = entries
        self.entry_blocks = [blocks_of(sum(entry.parts)) for entry in entries]
        """blocks of each entry's payload"""
        self.payloads = payloads
        self.header = header
        self.done = done
        self.purpose = purpose
        self.log = log
        """the device it must go to; None: any"""
        self.not_on = not_on
        """the device it must not go to"""
        self.align_bytes = align_bytes
        """what its memory is aligned to at least: a device that came meanwhile may ask for more"""
        self.lane = lane
        """what the policy keeps apart from others"""
        self.deadline = deadline
        self.time = time
        self.segment: Segment
        self.numbers: range
        self.began = False
        """handed to a device: ``segment`` is set"""
        self._left = 0
        self._error: Exception | None = None

    @property
    def tenant(self) -> bytes | None:
        """For whose work the device is used; None for tombstones, which others wait for and which are small."""
        if self.purpose is Purpose.TOMBSTONES:
            return None
        return (
            BACKGROUND if self.purpose is Purpose.SURVIVORS or self.not_on is not None else self.scope.tenant
        )

    @property
    def blocks(self) -> int:
        """Blocks that the record takes."""
        return blocks_of(self.header.length) + sum(self.entry_blocks)


class Writer:
    """Finds room for records and writes them. Owner of those that wait for space."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting = Waiting(lambda: context.shares)
        self.need_space: Callable[[], None] = lambda: None

    @property
    def waiting(self) -> int:
        """Records that wait for space."""
        return len(self._waiting)

    def write(self, write: RecordWrite) -> None:
        """Write now or, in order, when there is space."""
        behind = self._waiting and write.purpose is Purpose.CHUNKS
        if behind or not self._try(write):
            self._wait(write)

    def _wait(self, write: RecordWrite) -> None:
        """Puts wait (waiting.py), tombstones before them; survivors do not: only reclaim makes space."""
        if write.purpose is Purpose.SURVIVORS or self._context.closing:
            self._context.later.add(lambda: write.done(Busy("no free segment")))
            return
        self._context.counters["writes_waited"] += 1
        if self._waiting.add(write):
            # None of its tenant's waits: it may fit where others do not.
            self.space_came()
        self.need_space()

    def space_came(self) -> None:
        """Go on with what waits."""
        moved = True
        while moved and self._waiting:
            moved = False
            for write in self._waiting.heads():
                if self._try(write):
                    self._waiting.went(write)
                    moved = True
                    break

    def expire(self, now: float) -> None:
        """Refuse what has waited for too long."""
        # All before any callback: one may add to those that wait, or take back some.
        for write in self._waiting.take_late(now):
            write.done(Busy("no space on the devices came free in time", retry_after_s=0.1))

    def drop(self, write: RecordWrite) -> bool:
        """Take back a record that waits; False: it does not wait."""
        return self._waiting.remove(write)

    def _try(self, write: RecordWrite) -> bool:
        """Begin the write if there is room (or none will ever come: then it fails)."""
        serving = self._candidates(write)
        if not serving:
            failure = (write.log or self._context.logs[0]).failure()
            self._context.later.add(lambda: write.done(failure))
            return True
        blocks = write.blocks
        for log in self._in_order(serving) if len(serving) > 1 else serving:
            try:
                place = log.allocate(write.purpose, write.scope, blocks, write.entries, write.lane)
            except FormatError as error:
                self._context.later.add(partial(write.done, error))
                return True
            if place is not None:
                self._begin(write, log, *place, blocks)
                return True
        return False

    def _candidates(self, write: RecordWrite) -> list[DeviceLog]:
        """The devices that it may go to."""
        if write.log is not None:
            log = self._context.still_there(write.log)
            return [] if log.fenced is not None else [log]
        logs = self._context.logs
        serving = [log for log in logs if log.takes_chunks and log is not write.not_on]
        if len(serving) > 1:
            need = write.blocks + SPARE_BLOCKS
            fit = [
                log
                for log in serving
                if need <= log.segment_blocks and log.device.memory_align_bytes <= write.align_bytes
            ]
            return fit or serving
        if not serving and write.not_on is None:
            # All others failed: better on a device that is being drained than nowhere.
            return [log for log in logs if log.fenced is None and log.role is Role.DRAINING]
        return serving

    def _in_order(self, serving: Sequence[DeviceLog]) -> list[DeviceLog]:
        """The best first. One that has become far slower than others comes last, but is tried now and then."""
        now, times = self._context.now(), [log.pace.lone_s(BATCH_BYTES) for log in serving]
        bound_s = SLOW * min(times)
        slow = {
            log
            for log, seconds in zip(serving, times, strict=True)
            if seconds > bound_s and log.pace.idle_s(now) < TRIED_S
        }
        return sorted(serving, key=lambda log: (log in slow, *_load(log)))

    def _begin(self, write: RecordWrite, log: DeviceLog, segment: Segment, block: int, blocks: int) -> None:
        context = self._context
        write.segment = segment
        write.began = True
        at = block + blocks_of(write.header.length)
        for entry, size in zip(write.entries, write.entry_blocks, strict=True):
            if not entry.sequence:
                entry.sequence = context.draw_sequence()
            entry.block = at
            at += size
        header = record.encode(write.scope, block, blocks, write.entries, segment.incarnation)
        write.header.view[: len(header)] = header
        pieces: list[list[Span]] = [[write.header.part(0, len(header))], *map(list, write.payloads)]
        log.queued_bytes += blocks * BLOCK_BYTES
        log.written_blocks += blocks

        def ended(transfer: Transfer) -> None:
            if transfer.result < 0:
                write._error = DeviceFailed(
                    f"write to {log.device.name} failed: {os.strerror(-transfer.result)}"
                )
                log.io_error(segment, -transfer.result, "write of a record")
            write._left -= 1
            if not write._left:
                log.queued_bytes -= blocks * BLOCK_BYTES
                if (
                    write._error is None
                    and context.options.durability is not Durability.POWER
                    and segment.opened.was(True)
                ):
                    self._finish(write, log, None)  # `_completed`, for all but a segment's first record
                    return
                segment.opened.subscribe(lambda: self._completed(write, log))

        offset = segment.offset + block * BLOCK_BYTES
        transfers = _gather(offset, pieces)
        write._left = len(transfers)
        segment.hold()
        segment.writes += 1
        tenant = write.tenant
        for start, spans in transfers:
            log.transfer(Op.WRITE, start, spans, ended, write.time, tenant=tenant)

    def _completed(self, write: RecordWrite, log: DeviceLog) -> None:
        """All writes ended, also that of the segment's header."""

        async def header_failed() -> bool:
            return not await write.segment.opened

        async def finish() -> None:
            error = write._error
            if error is None and await header_failed():
                error = DeviceFailed(f"a segment of {log.device.name} could not be opened")
            if error is None and self._context.options.durability is Durability.POWER:
                error = await log.flushed()
                if write.time is not None:
                    write.time.device_ended = self._context.now()
            self._finish(write, log, error)

        self._context.start(finish())

    def _finish(self, write: RecordWrite, log: DeviceLog, error: Exception | None) -> None:
        segment = write.segment
        if error is None and log.fenced is not None:
            error = log.failure()
        if error is None:
            first = len(segment.table)
            for entry in write.entries:
                segment.table.append(entry, write.scope)
            write.numbers = range(first, first + len(write.entries))
        write.done(error)
        log.write_ended(segment)


def _load(log: DeviceLog) -> tuple[int, float, float]:
    """Least queued first, then most free: none evicts while another one has room. Then least written."""
    count = log.superblock.segment_count
    return log.queued_bytes, -len(log.free) / count, log.written_blocks / count


def _gather(offset: int, pieces: Sequence[Sequence[Span]]) -> list[tuple[int, list[Span]]]:
    """(offset, spans) of the transfers that write ``pieces`` one after the other."""
    result: list[tuple[int, list[Span]]] = []
    spans: list[Span] = []
    size = 0
    for piece in pieces:
        if spans and (size >= TRANSFER_BYTES or len(spans) + len(piece) > SPANS_PER_TRANSFER_MAX):
            result.append((offset, spans))
            offset += size
            spans, size = [], 0
        spans.extend(piece)
        size += total(piece)
    result.append((offset, spans))
    return result
