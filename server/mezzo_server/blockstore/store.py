"""The block store of one shard: the face of everything in this folder.

Single-threaded and without I/O of its own: calls queue transfers and jobs, `pump` hands them to
devices and workers and runs the callbacks of what has ended.  Who runs the store calls `pump` after a
batch of calls and whenever an event descriptor is readable, and `tick` every few milliseconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from mezzo.errors import ClientClosed, DeviceFailed, InvalidArgument
from mezzo_server.blockstore.api import (
    ChunkInfo,
    DeleteDone,
    GetChunk,
    GetDone,
    GetOutcome,
    PutChunk,
    PutDone,
    Scope,
    StoreReport,
)
from mezzo_server.blockstore.attach import attach
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.delete import Deletes
from mezzo_server.blockstore.device_log import DeviceLog
from mezzo_server.blockstore.estimate import LoadEstimate
from mezzo_server.blockstore.get import Gets
from mezzo_server.blockstore.io import Device, DeviceTime, Workers
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.put import Puts, PutTicket
from mezzo_server.blockstore.reclaim import Reclaim
from mezzo_server.blockstore.recovery import Progress, Recovered, recover
from mezzo_server.blockstore.scrub import Scrub
from mezzo_server.blockstore.segment import Segment, State
from mezzo_server.blockstore.stream import ChunkStream
from mezzo_server.blockstore.writer import Writer
from mezzo_server.memory import Memory
from mezzo_server.staging import StagingPool

STEPS_PER_PUMP = 64
"""Deferred steps run in one turn; each takes some tens of microseconds."""
ROUNDS_PER_PUMP = 8
QUIET_S_MAX = 60.0
"""Opening and closing give up when nothing came back for so long."""
SEGMENT_OVERHEAD_BYTES = 64 << 10
"""Header, record header and table beside the largest chunk that fits into a segment."""


class BlockStore:
    """Chunks on devices: put, get, lookup, delete, pin. Made by `open`."""

    def __init__(self, context: Context, recovered: Recovered) -> None:
        self._context = context
        self._writer = Writer(context)
        self._deletes = Deletes(context, self._writer)
        self._puts = Puts(context, self._writer)
        self._gets = Gets(context, self._deletes.drop)
        self._estimate = LoadEstimate()
        self._reclaims = [
            Reclaim(context, log, self._writer, self._deletes, self._writer.space_came)
            for log in context.logs
        ]
        self._scrubs = [Scrub(context, log, self._deletes.drop) for log in context.logs]
        self._writer.need_space = self._kick
        self._closed = False
        self.recovered = recovered
        """what the start found on the devices"""

    @classmethod
    def open(
        cls,
        devices: Sequence[Device],
        workers: Workers,
        staging: StagingPool,
        options: StoreOptions,
        *,
        now: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = os.urandom,
        created_s: int = 0,
        format_foreign: bool = False,
        progress: Progress | None = None,
    ) -> BlockStore:
        """Attach, format or recover; blocks until the store can serve.

        ``now`` is a monotonic clock in seconds, ``created_s`` the Unix time noted when formatting.
        FormatError says what is wrong with the devices, DeviceFailed that one cannot be used.
        """
        blocks = attach(
            devices,
            format_foreign=format_foreign,
            segment_bytes=options.segment_bytes,
            allow_missing=options.allow_missing_devices,
            created_s=created_s,
            entropy=entropy,
        )
        context = Context(options, workers, staging, now, entropy)
        context.logs = [
            DeviceLog(context, device, block) for device, block in zip(devices, blocks, strict=True)
        ]
        began = now()
        recovered, unsealed = recover(context, progress)
        store = cls(context, recovered)
        store._settle(unsealed)
        recovered.seconds = now() - began
        return store

    def _settle(self, unsealed: Sequence[Segment]) -> None:
        """Give a table to what has none; free what is empty; retire what cannot be read."""
        context = self._context
        tasks = [context.start(log.retire(number)) for log in context.logs for number in log.unreadable]
        for segment in unsealed:
            log = segment.log
            if len(segment.table):
                segment.state = State.SEALING
                tasks.append(context.start(log._seal(segment)))
                continue
            del log.segments[segment.number]
            del context.lives[segment.life]
            context.on_disk.discard(segment.life)
            if segment.retire:
                tasks.append(context.start(log.retire(segment.number)))
            else:
                log.free.append(segment.number)
        self._run_until(lambda: all(task.done for task in tasks))

    def _run_until(self, reached: Callable[[], bool]) -> None:
        """Pump until a condition holds. DeviceFailed if nothing moves for a minute."""
        context = self._context
        moved_at = context.now()
        while True:
            moved = self.pump()
            if reached():
                return
            if moved or self.eager:
                moved_at = context.now()
                continue
            busy: list[Device | Workers] = [log.device for log in context.logs if log.device.in_flight]
            if context.workers.in_flight:
                busy.append(context.workers)
            if not busy:
                raise DeviceFailed("the store waits for something that is not under way")
            if context.now() - moved_at >= QUIET_S_MAX:
                raise DeviceFailed(f"nothing came back from devices and workers for {QUIET_S_MAX:g} s")
            busy[0].wait(QUIET_S_MAX if len(busy) == 1 else 0.001)

    # -- identity ----------------------------------------------------------------------------

    @property
    def store_id(self) -> bytes:
        """128 random bits, drawn when the store was formatted."""
        return self._context.logs[0].superblock.store_id

    @property
    def devices(self) -> Sequence[Device]:
        """The devices, for their event descriptors."""
        return [log.device for log in self._context.logs]

    @property
    def workers(self) -> Workers:
        """The workers, for their event descriptor."""
        return self._context.workers

    @property
    def staging(self) -> StagingPool:
        """The store's own memory, for its fill."""
        return self._context.staging

    @property
    def chunk_bytes_max(self) -> int:
        """Longest chunk that can be put: the configured limit, or what fits into a segment."""
        segment = min(log.superblock.segment_bytes for log in self._context.logs)
        return min(self._context.options.chunk_bytes_max, segment - SEGMENT_OVERHEAD_BYTES)

    @property
    def capacity_bytes(self) -> int:
        """Space in segments of all devices that serve."""
        return sum(
            (log.superblock.segment_count - len(log.superblock.retired)) * log.superblock.segment_bytes
            for log in self._context.logs
            if log.fenced is None
        )

    # -- chunks ------------------------------------------------------------------------------

    def put(
        self,
        scope: Scope,
        chunks: Sequence[PutChunk],
        done: PutDone,
        *,
        deadline: float | None = None,
        time: DeviceTime | None = None,
    ) -> PutTicket:
        """Store chunks; ``done`` is called once, when none of their sources is touched any more.

        ``deadline`` (of ``now``) bounds the wait for space; ``time`` learns how long devices worked
        for it.  Raises Busy, TooLarge, InvalidArgument or
        ClientClosed before anything is done.
        """
        self._check_open()
        limit = self._context.now() + self._context.options.put_wait_s
        namespace = self._context.index.namespace(scope)
        deadline = min(limit, deadline or limit)
        return self._puts.begin(namespace, chunks, done, deadline, self.chunk_bytes_max, time)

    def get(
        self,
        scope: Scope,
        chunks: Sequence[GetChunk],
        done: GetDone,
        *,
        first_part: int = 0,
        part_count: int = 0,
        time: DeviceTime | None = None,
    ) -> None:
        """Read chunks, or parts of them, into their targets; verified before ``done``.

        Raises TooLarge, before anything is read, if a chunk is longer than its target.
        """
        self._check_open()
        began = self._context.now()
        size = sum(span.length for chunk in chunks for span in chunk.target)
        self._estimate.begin(size, began)

        def ended(outcome: GetOutcome) -> None:
            self._estimate.end(size, began, self._context.now())
            done(outcome)

        try:
            self._gets.begin(self._context.index.peek(scope), chunks, ended, first_part, part_count, time)
        except Exception:
            self._estimate.end(size, began, began)
            raise

    def stream(
        self,
        scope: Scope,
        key: bytes,
        *,
        first_part: int = 0,
        part_count: int = 0,
        time: DeviceTime | None = None,
    ) -> ChunkStream | None:
        """One chunk, or parts of it, as pieces in order; None: a miss."""
        self._check_open()
        if first_part < 0 or part_count < 0:
            raise InvalidArgument(f"parts {first_part}+{part_count} make no sense")
        context = self._context
        namespace = context.index.peek(scope)
        place = context.find(namespace, key)
        if place is None or first_part >= place[0].table.parts[place[1]]:
            context.counters["chunks_missed"] += 1
            return None
        segment, number = place
        stamp = context.policy.read()
        segment.touched_sum += stamp - segment.table.touched[number]
        segment.table.touched[number] = stamp
        stream = ChunkStream(context, namespace, key, place, (first_part, part_count), self._deletes.drop)
        stream.time = time
        context.counters["chunks_got"] += 1
        context.counters["bytes_got"] += stream.length
        context.counters["chunks_got_device"] += 1
        context.counters["bytes_got_device"] += stream.length
        return stream

    def delete(
        self, scope: Scope, keys: Sequence[bytes], done: DeleteDone, *, time: DeviceTime | None = None
    ) -> None:
        """Delete chunks; ``done`` is called when that is durable."""
        self._check_open()
        self._deletes.begin(self._context.index.namespace(scope), keys, done, time)

    def prefix(self, scope: Scope, keys: Sequence[bytes]) -> tuple[int, int]:
        """(how many of ``keys`` from the first on are present, their bytes). Prolongs nothing."""
        return self._context.prefix(self._context.index.peek(scope), keys)

    def info(self, scope: Scope, key: bytes) -> ChunkInfo | None:
        """What is known of a chunk; None: it is not present."""
        namespace = self._context.index.peek(scope)
        place = self._context.find(namespace, key)
        if place is None:
            return None
        segment, number = place
        entry = segment.table.entry(number)
        return ChunkInfo(
            entry.length, entry.parts, entry.checksums, entry.sequence, entry.position, key in namespace.pins
        )

    def pin(self, scope: Scope, key: bytes) -> int:
        """Keep a chunk from eviction until `unpin`; its bytes, or 0 if it is not present."""
        namespace = self._context.index.peek(scope)
        place = self._context.find(namespace, key)
        if place is None:
            return 0
        segment, number = place
        pins = namespace.pins.get(key, 0)
        if not pins:
            segment.pinned_bytes += segment.table.length[number]
        namespace.pins[key] = pins + 1
        return segment.table.length[number]

    def unpin(self, scope: Scope, key: bytes) -> None:
        """Undo one `pin`. KeyError if there was none."""
        namespace = self._context.index.peek(scope)
        pins = namespace.pins[key] - 1
        if pins:
            namespace.pins[key] = pins
            return
        del namespace.pins[key]
        self._context.changes += 1
        place = self._context.find(namespace, key)
        if place is not None:
            place[0].pinned_bytes -= place[0].table.length[place[1]]

    def pin_all(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """`pin` for many that are all present, as `prefix` has just told. KeyError if one is not."""
        namespace = self._context.index.peek(scope)
        pins, shards, mask, lives = namespace.pins, namespace.shards, namespace.mask, self._context.lives
        for key in keys:
            # `pin`, written out: its calls would cost three times as much.
            before = pins.get(key)
            if before:
                pins[key] = before + 1
                continue
            location = shards[hash(key) >> HASH_SHIFT & mask][key]
            segment = lives[life_of(location)]
            segment.pinned_bytes += segment.table.length[number_of(location)]
            pins[key] = 1

    def unpin_all(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """`unpin` for many. KeyError if one was not pinned."""
        context = self._context
        namespace = context.index.peek(scope)
        pins, shards, mask = namespace.pins, namespace.shards, namespace.mask
        for key in keys:
            left = pins[key] - 1
            if left:
                pins[key] = left
                continue
            del pins[key]
            location = shards[hash(key) >> HASH_SHIFT & mask].get(key)
            if location is not None:
                segment = context.lives[life_of(location)]
                if segment.log.fenced is None:
                    segment.pinned_bytes -= segment.table.length[number_of(location)]
        context.changes += 1

    def load_estimate_s(self, size: int) -> float:
        """Expected seconds that a get of ``size`` bytes would take now."""
        return self._estimate.seconds(size)

    # -- memory ------------------------------------------------------------------------------

    def register(self, memory: Memory) -> bool:
        """Tell the devices of memory that will be read into and written from. True: it was pinned."""
        pinned = [log.device.register(memory) for log in self._context.logs]
        return any(pinned)

    def unregister(self, memory: Memory) -> None:
        """Undo `register`; nothing of the memory is in flight."""
        for log in self._context.logs:
            log.device.unregister(memory)

    # -- running -----------------------------------------------------------------------------

    def pump(self) -> int:
        """Submit what is queued and run the callbacks of what ended; how much ended.

        Ends after a bounded number of rounds: `eager` says that there is more to do at once.
        """
        context = self._context
        # Once, and none of those that these add: a slice of a long request goes on in the next turn.
        context.later.run(STEPS_PER_PUMP, context.failures.append)
        context.inline_left = context.options.inline_bytes
        moved = 0
        for _ in range(ROUNDS_PER_PUMP):
            self._submit()
            ended = 0
            for log in context.logs:
                reaped = log.device.reap()
                now = context.now() if reaped else 0.0
                for transfer in reaped:
                    ended += 1
                    if transfer.time is not None:
                        transfer.time.device_ended = now
                    if transfer.done is not None:
                        context.call(transfer.done, transfer)
            for job in context.workers.reap():
                ended += 1
                if job.done is not None:
                    context.call(job.done, job)
            if not ended:
                break
            moved += ended
        self._submit()
        if context.failures:
            raise context.failures.pop(0)
        return moved

    def _submit(self) -> None:
        context = self._context
        if context.jobs:
            jobs, context.jobs = context.jobs, []
            context.workers.submit(jobs)
        for log in context.logs:
            if log.queue:
                log.submit()

    @property
    def eager(self) -> bool:
        """Whether `pump` should be called again at once, without waiting for an event."""
        context = self._context
        return bool(len(context.later) or context.jobs or any(log.queue for log in context.logs))

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        context = self._context
        flying = any(log.device.in_flight for log in context.logs) or context.workers.in_flight
        return bool(
            flying or self.eager or self._puts.in_flight or self._gets.in_flight or self._deletes.in_flight
        )

    def tick(self) -> None:
        """What time brings: refusals of puts that waited too long, reclaim, scrub."""
        self._writer.space_came()
        self._writer.expire(self._context.now())
        for reclaim in self._reclaims:
            reclaim.tick()
        for scrub in self._scrubs:
            scrub.tick()

    def _kick(self) -> None:
        for reclaim in self._reclaims:
            reclaim.kick()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the store is closed")

    def report(self) -> StoreReport:
        """State at this moment."""
        context = self._context
        devices = [log.report() for log in context.logs]
        live = sum(segment.live_bytes for segment in context.lives.values() if segment.log.fenced is None)
        counters = dict(context.counters)
        counters["puts_waiting"] = self._writer.waiting
        counters["put_bytes_waiting"] = self._puts.waiting_bytes
        return StoreReport(context.index.count, live, devices, counters)

    def close(self) -> None:
        """End what is in flight, write the tables of open segments, flush. The devices stay open."""
        if self._closed:
            return
        self._closed = True
        context = self._context
        context.closing = True
        self._writer.expire(float("inf"))
        self._run_until(
            lambda: (
                not (self._puts.in_flight or self._gets.in_flight or self._deletes.in_flight)
                and not any(reclaim.running for reclaim in self._reclaims)
            )
        )
        for log in context.logs:
            for segment in list(log.open.values()):
                log.close_segment(segment)
        self._run_until(self._at_rest)
        for log in context.logs:
            if log.fenced is None:
                context.start(self._last_flush(log))
        self._run_until(self._at_rest)

    async def _last_flush(self, log: DeviceLog) -> None:
        await log.flushed()

    def _at_rest(self) -> bool:
        context = self._context
        sealing = any(
            segment.state is State.SEALING
            for log in context.logs
            if log.fenced is None
            for segment in log.segments.values()
        )
        running = any(reclaim.running for reclaim in self._reclaims)
        flying = any(log.device.in_flight for log in context.logs) or context.workers.in_flight
        return not (sealing or running or flying or self.eager)
