"""One device as a log of segments: free ones, open ones, sealed ones; flushes; fencing.

    free -> open -> sealing -> sealed -> reclaiming -> gone (free again, or retired)

Rules that others rely on: a record counts as written only after its segment's header is; a table is
written after a flush, and only when nothing is in flight in its segment; the last
`RESERVE_SEGMENTS` free segments are for survivors and tombstones, so that reclaim and deletes always
find room.
"""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum

from mezzo.errors import DeviceFailed, FormatError
from mezzo_server.blockstore.api import DeviceReport, Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.entries import ENTRY_MASK
from mezzo_server.blockstore.format import segment_header, superblock, table
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.record import Entry
from mezzo_server.blockstore.format.superblock import COPY_OFFSETS, RETIRED_MAX, Superblock
from mezzo_server.blockstore.io import Device, DeviceTime, Op, Transfer
from mezzo_server.blockstore.lifetime import Class, class_of, over_open_max
from mezzo_server.blockstore.pace import Pace
from mezzo_server.blockstore.schedule import RATE_START, SPLIT_ABOVE_BYTES, Schedule, split
from mezzo_server.blockstore.segment import Purpose, Segment, State
from mezzo_server.blockstore.tasks import Event, Task
from mezzo_server.memory import Memory, Span, Spares

RESERVE_SEGMENTS = 2
RESERVED_FROM = {Purpose.CHUNKS: RESERVE_SEGMENTS, Purpose.SURVIVORS: 1, Purpose.TOMBSTONES: 0}
"""Free segments that a purpose leaves to the others: tombstones find room even when survivors do not."""
SCOPES_MAX = 60_000
"""namespaces in one segment: a table counts them with 16 bits"""
Place = tuple[Segment, int]


LATENCY_START_S = 200e-6
"""What a lone transfer is believed to take besides its bytes, before any has ended."""


class Role(Enum):
    """What a device is to the store."""

    JOINING = "joining"
    """its superblock does not name the set yet: nothing is written to it"""
    SERVING = "serving"
    DRAINING = "draining"
    """takes no new chunks; those that it has move to the others"""
    LEFT = "leaving"
    """it is empty, and none of the set any more"""


class DeviceLog:
    """State of one device. Owner: `BlockStore`."""

    def __init__(self, context: Context, device: Device, block: Superblock) -> None:
        self.context = context
        self.device = device
        self.superblock = block
        self.segment_blocks = block.segment_bytes // BLOCK_BYTES
        self.free: deque[int] = deque()
        self.segments: dict[int, Segment] = {}
        """by segment number: the life that is there now"""
        self.open: dict[Class, Segment] = {}
        """least recently written first"""
        self.role = Role.SERVING
        self.fenced: str | None = None
        self.purging: Task | None = None
        """forgets the chunks of a fenced device"""
        self.limbo: set[int] = set()
        self.tenant_bytes: Counter[bytes] = Counter()
        self.namespace_bytes: Counter[bytes] = Counter()
        self.expiring = 0
        """visible chunks with a deadline"""
        self.io_errors = 0
        self.retiring = False
        """a segment with an I/O error waits to be reclaimed and retired"""
        self.unreadable: list[int] = []
        """segments whose header the start could not read: retired, since what they hold is unknown"""
        self.gained = 0
        """segments that reclaim freed, less those that it took for survivors and tombstones"""
        self.queue: list[Transfer] = []
        """what came since the last `submit`"""
        self.pace = Pace(RATE_START, LATENCY_START_S)
        """how fast the device does what it is given"""
        self.schedule: Schedule[Transfer] = Schedule(
            context.options.device_queue_s, context.options.background_share, context.now()
        )
        self.queued_bytes = 0
        """of records whose transfers were queued and have not ended"""
        self.written_blocks = 0
        """of all records since the start"""
        self._flush_waiters: list[Callable[[Exception | None], None]] = []
        self._flushing = False
        self._erased: set[int] = set()
        self._spares = Spares()
        self._superblock_written: Event[None] | None = None

    def report(self) -> DeviceReport:
        """State at this moment."""
        segments = list(self.segments.values())
        states = [segment.state for segment in segments]
        in_flight = self.device.in_flight
        return DeviceReport(
            self.device.name,
            self.state,
            self.superblock.segment_count * self.superblock.segment_bytes,
            self.superblock.segment_count,
            len(self.free),
            len(self.superblock.retired),
            segments_open=states.count(State.OPEN),
            segments_sealing=states.count(State.SEALING),
            segments_sealed=states.count(State.SEALED),
            segments_reclaiming=states.count(State.RECLAIMING),
            bytes_live=0 if self.fenced is not None else sum([segment.live_bytes for segment in segments]),
            transfers_in_flight=in_flight,
            transfers_waiting=max(0, in_flight - getattr(self.device, "depth", in_flight)),
            transfers_scheduled=self.schedule.waiting,
            bytes_scheduled=self.schedule.waiting_bytes,
            io_errors=self.io_errors,
            bytes_written=self.written_blocks * BLOCK_BYTES,
        )

    # -- transfers ---------------------------------------------------------------------------

    def transfer(
        self,
        op: Op,
        offset: int,
        spans: Sequence[Span],
        done: Callable[[Transfer], None],
        time: DeviceTime | None = None,
        *,
        tenant: bytes | None = None,
        though_fenced: bool = False,
    ) -> None:
        """Queue a transfer for ``tenant`` (None: it is urgent, and small); ``done`` gets it back.

        On a fenced device it fails in a later turn, unless it is to be tried ``though_fenced``.
        """
        transfer = Transfer(op, offset, spans, done, None, time, tenant)
        if self.fenced is not None and not though_fenced:
            transfer.result = -errno.EIO
            self.context.later.add(lambda: done(transfer))
            return
        if transfer.length > SPLIT_ABOVE_BYTES:
            self.queue.extend(split(transfer))
        else:
            self.queue.append(transfer)

    def submit(self) -> None:
        """Hand the device what it should have now, of what came and of what waits."""
        queue, self.queue = self.queue, []
        now = self.context.now()
        queue = self.schedule.next(queue, self.context.shares, now)
        nbytes = 0
        for transfer in queue:
            nbytes += transfer.length
            time = transfer.time
            if time is not None and not time.device_began:
                time.device_began = now
        if queue:
            self.pace.begin(nbytes, now)
            self.device.submit(queue)

    def io_error(self, segment: Segment | None, code: int, what: str) -> None:
        """A read or write failed: the segment is not to be used again; too many fence the device."""
        self.context.counters["io_errors"] += 1
        self.io_errors += 1
        if segment is not None:
            segment.retire = self.retiring = True
            self.close_segment(segment)
        if self.io_errors > self.context.options.io_errors_max:
            self.fence(f"{self.io_errors} I/O errors, the last: {what}: {os.strerror(code)}")

    def fence(self, why: str) -> None:
        """Stop using the device: its chunks are misses from now on."""
        if self.fenced is not None:
            return
        self.fenced = why
        self.context.counters["fences"] += 1
        self.open.clear()
        self.free.clear()
        self.purging = self.context.start(self._purge())
        waiters, self._flush_waiters = self._flush_waiters, []
        for waiter in waiters:
            waiter(self.failure())

    @property
    def takes_chunks(self) -> bool:
        """Whether new chunks may go to it."""
        return self.role is Role.SERVING and self.fenced is None

    @property
    def left(self) -> bool:
        """Whether it is none of the set any more."""
        return self.role is Role.LEFT

    @property
    def state(self) -> str:
        """For people: ``serving``, ``joining``, ``draining`` or ``fenced: why``."""
        return self.role.value if self.fenced is None else f"fenced: {self.fenced}"

    @property
    def bytes_live(self) -> int:
        """Bytes of visible chunks, in whole blocks."""
        return sum(segment.live_bytes for segment in self.segments.values())

    def lives_on_disk(self) -> frozenset[int]:
        """Lives that a restart could find on this device."""
        return frozenset(segment.life for segment in self.segments.values()) | self.limbo | self._erased

    def failure(self) -> DeviceFailed:
        """The error for who wanted something of this fenced device."""
        why = f"fenced: {self.fenced}" if self.fenced is not None else self.role.value
        return DeviceFailed(f"device {self.device.name} is {why}")

    async def _purge(self) -> None:
        """Forget the chunks, and remember their places: the next start may find them again."""
        context = self.context
        for segment in list(self.segments.values()):
            entries = segment.table
            for number in range(len(entries)):
                if entries.parts[number]:
                    namespace = context.index.peek(entries.scopes[entries.scope[number]])
                    if context.forget(namespace, entries.keys[number], segment, number):
                        namespace.shade(entries.keys[number], segment.life)
                if number % 512 == 511:
                    await context.later.turn()
            await context.later.turn()

    # -- flush -------------------------------------------------------------------------------

    def flush(self, done: Callable[[Exception | None], None]) -> None:
        """Make durable what was written before; calls that come meanwhile share the next flush."""
        if self.left:
            # Nothing on it is needed any more, and nobody may move its transfers any more.
            self.context.later.add(lambda: done(None))
            return
        if self.fenced is not None:
            error = self.failure()
            self.context.later.add(lambda: done(error))
            return
        self._flush_waiters.append(done)
        if not self._flushing:
            self._flush_next()

    def _flush_next(self) -> None:
        self._flushing = True
        waiters, self._flush_waiters = self._flush_waiters, []
        erased = frozenset(self._erased)
        self.context.counters["flushes"] += 1

        def ended(transfer: Transfer) -> None:
            self._flushing = False
            error: Exception | None = None
            if transfer.result < 0:
                # A failed flush is never retried: the kernel may have dropped the dirty pages and
                # report success next time (https://lwn.net/Articles/752063/).
                self.fence(f"flush failed: {os.strerror(-transfer.result)}")
                error = self.failure()
            else:
                self._erased -= erased
                self.limbo -= erased
                self.context.on_disk -= erased
            for waiter in waiters:
                waiter(error)
            if self._flush_waiters and not self._flushing:
                self._flush_next()

        self.transfer(Op.FLUSH, 0, (), ended)

    async def flushed(self) -> Exception | None:
        """`flush`, to be awaited."""
        event: Event[Exception | None] = Event()
        self.flush(event)
        return await event

    # -- segments ----------------------------------------------------------------------------

    def allocate(
        self, purpose: Purpose, scope: Scope, blocks: int, entries: Sequence[Entry], lane: int = 0
    ) -> Place | None:
        """Room for a record: its segment and first block. None: no space before reclaim makes some."""
        if self.fenced is not None:
            return None
        kind = class_of(self, purpose, scope.tenant, lane, entries[0].expiry_ms if entries else 0)
        rows = sum([len(entry.parts) for entry in entries if len(entry.parts) > 1])
        key_bytes = sum([len(entry.key) for entry in entries])
        need = (blocks, len(entries), rows, key_bytes)
        segment = self.open.pop(kind, None)
        short = len(self.free) <= RESERVED_FROM[kind[0]]
        if segment is None and (kind[0] is Purpose.TOMBSTONES or (short and kind[0] is Purpose.SURVIVORS)):
            # Also survivors, rather than that reclaim cannot go on.
            for other_kind, other in self.open.items():
                if self._fits(other, *need):
                    segment, kind = other, other_kind
                    break
        if segment is not None and not self._fits(segment, *need):
            self.close_segment(segment)
            segment = None
        if segment is None:
            if short:
                return None
            segment = self._open(kind)
            if not self._fits(segment, *need):
                self.open[kind] = segment
                raise FormatError(f"a record of {blocks} blocks does not fit into an empty segment")
        self.open.pop(kind, None)
        self.open[kind] = segment
        block = segment.next_block
        segment.next_block += blocks
        segment.last_block = self.written_blocks
        segment.table.scope_number(scope)
        segment.reserved_entries += len(entries)
        segment.reserved_key_bytes += key_bytes
        segment.reserved_rows += rows
        return segment, block

    def _fits(self, segment: Segment, blocks: int, entries: int, rows: int, key_bytes: int) -> bool:
        tail = table.table_blocks(
            segment.reserved_entries + entries,
            segment.reserved_rows + rows,
            segment.reserved_key_bytes + key_bytes,
            len(segment.table.scopes) + 1,
        )
        room = segment.next_block + blocks + tail <= self.segment_blocks
        return (
            room
            and len(segment.table.scopes) < SCOPES_MAX
            and segment.reserved_entries + entries < ENTRY_MASK
        )

    def _open(self, kind: Class) -> Segment:
        context = self.context
        full = over_open_max(self) if kind[0] is Purpose.CHUNKS else None
        if full is not None:
            self.close_segment(full)
        number = self.free.popleft()
        self.gained -= kind[0] is not Purpose.CHUNKS
        segment = Segment(
            self,
            number,
            context.draw_life(),
            context.entropy(16),
            context.next_sequence,
            kind[0],
            lane=kind[2],
        )
        context.policy.opened(segment)
        self.segments[number] = segment
        context.lives[segment.life] = segment
        context.on_disk.add(segment.life)
        header = segment_header.SegmentHeader(
            self.superblock.device_id,
            number,
            segment.incarnation,
            segment.life,
            segment.opened_sequence,
            kind[0],
        )
        memory = self._spares.take(BLOCK_BYTES)
        memory.view[:BLOCK_BYTES] = segment_header.encode(header)
        segment.hold()
        segment.writes += 1

        def written(transfer: Transfer) -> None:
            self._spares.give(memory)
            segment.opened(transfer.result >= 0)
            if transfer.result < 0:
                self.io_error(segment, -transfer.result, "write of a segment header")
            self.write_ended(segment)

        self.transfer(Op.WRITE, segment.offset, (memory.span(0, BLOCK_BYTES),), written)
        return segment

    def write_ended(self, segment: Segment) -> None:
        """One write in a segment ended: release it, and seal it if that was waited for."""
        segment.writes -= 1
        segment.release()
        if segment.state is State.SEALING and not segment.writes:
            self.context.start(self._seal(segment))

    def close_segment(self, segment: Segment) -> None:
        """Take no more records; the table follows when writes in flight have ended."""
        if segment.state is not State.OPEN:
            return
        segment.state = State.SEALING
        for kind, other in list(self.open.items()):
            if other is segment:
                del self.open[kind]
        if not segment.writes:
            self.context.start(self._seal(segment))

    async def _seal(self, segment: Segment) -> None:
        """Flush, then the table: it proves that all it names is whole (docs/format.md)."""
        if self.fenced is None and not await self.flushed():
            error = await self.write_table(segment)
            if error:
                self.io_error(segment, error, "write of a table")
        segment.table.freeze()
        segment.state = State.SEALED
        self.context.counters["segments_sealed"] += 1
        self.sealed(segment)

    def sealed(self, segment: Segment) -> None:
        """Hook: reclaim learns of a segment that it may take."""

    async def write_table(self, segment: Segment) -> int:
        """Write a segment's table; 0 or the error number."""
        first, data = table.encode(
            segment.table, self.segment_blocks, segment.next_block, segment.life, segment.incarnation
        )
        memory = self._spares.take(len(data))
        memory.view[: len(data)] = data
        event: Event[Transfer] = Event()
        segment.hold()
        self.transfer(Op.WRITE, segment.offset + first * BLOCK_BYTES, (memory.span(0, len(data)),), event)
        transfer = await event
        segment.release()
        self._spares.give(memory)
        return max(0, -transfer.result)

    async def erase(self, segment: Segment) -> bool:
        """End a life: overwrite its header. The segment is not free yet. False: it could not be."""
        memory = self._spares.take(BLOCK_BYTES)
        memory.view[:BLOCK_BYTES] = bytes(BLOCK_BYTES)
        event: Event[Transfer] = Event()
        self.transfer(Op.WRITE, segment.offset, (memory.span(0, BLOCK_BYTES),), event)
        transfer = await event
        self._spares.give(memory)
        if transfer.result < 0:
            self.io_error(segment, -transfer.result, "write of an erased segment header")
            return False
        self._erased.add(segment.life)
        return True

    async def retire(self, number: int, life: int = 0) -> bool:
        """Never use a segment again, and remember that in the superblock. False: the device is fenced."""
        self.context.counters["segments_given_up"] += 1

        def retired(block: Superblock) -> Superblock:
            return replace(block, retired=(*block.retired, number))

        if not await self.change_superblock(retired):
            return False
        # No restart looks there any more, whatever became of the header.
        self.limbo.discard(life)
        self.context.on_disk.discard(life)
        return True

    async def change_superblock(self, change: Callable[[Superblock], Superblock]) -> bool:
        """Write a changed superblock, after those that are being written. False: the device is fenced."""
        while self._superblock_written is not None:
            await self._superblock_written
        changed = change(self.superblock)
        if len(changed.retired) > RETIRED_MAX:
            self.fence(f"more than {RETIRED_MAX} segments are retired")
        if self.fenced is not None:
            return False
        written = self._superblock_written = Event()
        self.superblock = replace(changed, written=self.superblock.written + 1)
        await self._write_superblock()
        self._superblock_written = None
        written(None)
        return self.fenced is None

    async def _write_superblock(self) -> None:
        """Both copies, a flush after each; a failure fences the device."""
        memory = Memory.anonymous(BLOCK_BYTES)
        memory.view[:] = superblock.encode(self.superblock)
        for offset in COPY_OFFSETS:
            event: Event[Transfer] = Event()
            self.transfer(Op.WRITE, offset, (memory.span(),), event)
            transfer = await event
            if transfer.result < 0:
                self.fence(f"write of the superblock failed: {os.strerror(-transfer.result)}")
                break
            if await self.flushed():
                break
        memory.close()
