"""The block store of one shard: the face of everything in this folder.

Single-threaded and without I/O of its own: calls queue transfers and jobs, `pump` hands them to
devices and workers and runs the callbacks of what has ended.  Who runs the store calls `pump` after a
batch of calls and whenever an event descriptor is readable, and `tick` every few milliseconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from mezzo.errors import ClientClosed
from mezzo.protocol.messages.types import PRIORITY_MAX
from mezzo_server.blockstore.anchoring import Anchoring
from mezzo_server.blockstore.api import (
    ChunkInfo,
    DeleteDone,
    DeviceStatus,
    GetChunk,
    GetDone,
    PutChunk,
    PutDone,
    Scope,
    StandingOf,
    StoreReport,
)
from mezzo_server.blockstore.attach import attach
from mezzo_server.blockstore.clock import Clock, MachineClock, machine_of
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.counters import NO_HOT_TIER
from mezzo_server.blockstore.delete import Deletes
from mezzo_server.blockstore.device_log import DeviceLog
from mezzo_server.blockstore.device_parts import DeviceParts
from mezzo_server.blockstore.entries import SEALED
from mezzo_server.blockstore.get import Gets
from mezzo_server.blockstore.guarding import Guarding
from mezzo_server.blockstore.hot_scrub import HotScrub
from mezzo_server.blockstore.io import Device, DeviceTime, Workers
from mezzo_server.blockstore.join import SEGMENT_OVERHEAD_BYTES, JoinTerms
from mezzo_server.blockstore.keeping import Keeping
from mezzo_server.blockstore.loads import Loads
from mezzo_server.blockstore.membership import Membership
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.pins import Pins
from mezzo_server.blockstore.pumping import Pumping
from mezzo_server.blockstore.put import Puts, PutTicket
from mezzo_server.blockstore.reclaim import Reclaim
from mezzo_server.blockstore.recovery import Progress, Recovered, recover
from mezzo_server.blockstore.scrub import Scrub
from mezzo_server.blockstore.sealing import plain_parts
from mezzo_server.blockstore.segment import Segment, State
from mezzo_server.blockstore.shares import Shares
from mezzo_server.blockstore.streams import Stream, Streams
from mezzo_server.blockstore.telling import Telling
from mezzo_server.blockstore.tenant_space import TenantSpace, block_bytes
from mezzo_server.blockstore.writer import Writer
from mezzo_server.hot.slots import ArenaMemory
from mezzo_server.hot.tier import HotTier
from mezzo_server.memory import Memory
from mezzo_server.staging import StagingPool


class BlockStore(Pumping, Keeping, Telling, Guarding):
    """Chunks on devices: put, get, lookup, delete, pin. Made by `open`."""

    def __init__(self, context: Context, recovered: Recovered) -> None:
        self._context = context
        self.pins = Pins(context)
        """what leases do to many chunks at once"""
        self._writer = Writer(context)
        self._deletes = Deletes(context, self._writer)
        self.space = TenantSpace(context)
        """what each tenant takes of the devices"""
        self._puts = Puts(context, self._writer, self.space)
        self._gets = Gets(context, self._deletes.drop)
        self._streams = Streams(context, self._gets)
        self.loads = Loads(context, self._puts)
        """how long loads take"""
        self._parts = DeviceParts(context, self._writer, self._deletes)
        self._hot_scrub = None if context.hot is None else HotScrub(context, context.hot)
        if context.hot is not None:
            context.hot.memory.made = self._made
            context.hot.memory.unmade = self._unmade
            for arena in context.hot.arenas():
                self.register(arena.memory)
        self.membership = Membership(context, self._parts)
        """adds, drains, replaces and grows devices while the store serves"""
        self._writer.need_space = self._kick
        self._closed = False
        self._anchoring = Anchoring(context)
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
        hot: HotTier | None = None,
        ciphers: Workers | None = None,
        standing: StandingOf | None = None,
        clock: MachineClock | None = None,
    ) -> BlockStore:
        """Attach, format or recover; blocks until the store can serve.

        ``hot`` is an empty hot tier, which the caller closes after the store; None: there is none.
        ``ciphers`` are workers with the interpreter, for encryption; None: it is done in the loop.
        ``standing`` tells which scopes are erased or unknown: nothing of these is recovered.  None: all live.

        ``clock`` is what deadlines of chunks are measured by, across restarts too; None: by ``now`` alone.

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
        anchors = [block.anchor for block in blocks if block.anchor is not None]
        time_ms = Clock(machine_of(now) if clock is None else clock, anchors)
        context = Context(options, workers, staging, now, entropy, time_ms, ciphers)
        context.logs = [
            DeviceLog(context, device, block) for device, block in zip(devices, blocks, strict=True)
        ]
        began = now()
        context.hot = hot
        context.index.vet(standing)
        recovered, unsealed = recover(context, progress)
        context.begin_policy()
        store = cls(context, recovered)
        store._settle(unsealed)
        if clock is not None:
            store._anchoring.begin()
            store._run_until(lambda: not store._anchoring.writing)
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
    def all_workers(self) -> Sequence[Workers]:
        """The workers and, if there are such, those that encrypt: for their event descriptors."""
        return self._context.all_workers

    def set_tenant_keys(self, keys: Mapping[bytes, bytes], without: Iterable[bytes] = ()) -> None:
        """The keys of the tenants whose chunks are encrypted at rest, by tenant id.

        New chunks of these are encrypted; encrypted chunks of others are misses.  Puts of tenants that are
        ``without`` the key that they need are refused as `Unavailable`.
        """
        self._context.sealer.set_keys(keys, without)

    @property
    def staging(self) -> StagingPool:
        """The store's own memory, for its fill."""
        return self._context.staging

    @property
    def chunk_bytes_max(self) -> int:
        """Longest chunk that can be put: the configured limit, or what fits into a segment."""
        segment = self._context.segment_bytes_min
        return min(self._context.options.chunk_bytes_max, segment - SEGMENT_OVERHEAD_BYTES)

    @property
    def now_ms(self) -> int:
        """The time that deadlines of chunks are measured by: near Unix time, in milliseconds."""
        return self._context.clock.now_ms()

    @property
    def capacity_bytes(self) -> int:
        """Space in segments of all devices that take chunks."""
        return sum(
            (log.superblock.segment_count - len(log.superblock.retired)) * log.superblock.segment_bytes
            for log in self._context.logs
            if log.takes_chunks
        )

    @property
    def shares(self) -> Shares:
        """What the store is told of its tenants."""
        return self._context.shares

    @shares.setter
    def shares(self, shares: Shares) -> None:
        self._context.shares = shares

    # -- chunks ------------------------------------------------------------------------------

    def check_put(self, scope: Scope, keys: Sequence[bytes], lengths: Sequence[int]) -> None:
        """Whether the scope's tenant may put these chunks now, for who is about to ask for their bytes.

        Raises TooLarge or OverQuota, as `put` would; a chunk that is there already takes nothing.
        """
        if self._context.shares.capacity_bytes_max(scope.tenant):
            sizes = [block_bytes((length,), sealed=False) for length in lengths]
            self.space.admit_new(self._context.index.peek(scope), keys, sizes)

    def takes(self, scope: Scope, chunk: PutChunk) -> bool:
        """Whether a chunk that is not there would be taken, for who is about to ask for its bytes.

        Asked once: the put says so (`PutChunk.admitted`).
        """
        admission, guard = self._context.admission, self._context.guard
        if guard is not None and guard.bars(scope, chunk.key):
            return False
        return admission.takes_all or admission.takes(self._context.index.peek(scope).salt, chunk)

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
        self._gets.begin(self._context.index.peek(scope), chunks, done, first_part, part_count, time)

    def stream(
        self,
        scope: Scope,
        key: bytes,
        *,
        first_part: int = 0,
        part_count: int = 0,
        time: DeviceTime | None = None,
    ) -> Stream | None:
        """One chunk, or parts of it, as pieces in order; None: a miss."""
        self._check_open()
        return self._streams.open(self._context.index.peek(scope), key, (first_part, part_count), time)

    def delete(
        self, scope: Scope, keys: Sequence[bytes], done: DeleteDone, *, time: DeviceTime | None = None
    ) -> None:
        """Delete chunks; ``done`` is called when that is durable."""
        self._check_open()
        self._deletes.begin(self._context.index.namespace(scope), keys, done, time)

    def heed(self, standing: StandingOf | None) -> None:
        """Whatever ``standing`` calls erased is out of reach when this returns; its space follows.

        What is under way under such a scope ends as a miss, or as `Gone`, and never becomes visible.  A
        scope that is *unknown* stays until the next start: no session reaches it.
        """
        self._context.erasure.heed(standing)

    def prefix(self, scope: Scope, keys: Sequence[bytes]) -> tuple[int, int]:
        """(how many of ``keys`` from the first on are present, their bytes). Prolongs nothing."""
        return self._context.prefix(self._context.index.peek(scope), keys)

    def info(self, scope: Scope, key: bytes) -> ChunkInfo | None:
        """What is known of a chunk; None: it is not present."""
        namespace = self._context.index.peek(scope)
        place = self._context.find(namespace, key)
        if place is None or scope.tenant in self._context.sealer.without:
            return None
        segment, number = place
        entry = segment.table.entry(number)
        parts = tuple(plain_parts(segment.table, number))
        return ChunkInfo(
            sum(parts),
            parts,
            entry.sequence,
            entry.position,
            key in namespace.pins,
            entry.expiry_ms,
            entry.flags & PRIORITY_MAX,
            () if entry.flags >= SEALED else entry.checksums,
        )

    def _made(self, arena: ArenaMemory) -> None:
        self.register(arena.memory)

    def _unmade(self, arena: ArenaMemory) -> None:
        self.unregister(arena.memory)

    # -- memory ------------------------------------------------------------------------------

    def register(self, memory: Memory) -> bool:
        """Tell the devices of memory that will be read into and written from. True: it was pinned."""
        return self._parts.register(memory)

    def unregister(self, memory: Memory) -> None:
        """Undo `register`; nothing of the memory is in flight."""
        self._parts.unregister(memory)

    # -- running -----------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        context = self._context
        return bool(
            context.in_flight
            or self.eager
            or self._puts.in_flight
            or self._gets.in_flight
            or self._deletes.in_flight
        )

    def tick(self) -> None:
        """What time brings: refusals of what waited too long for space or memory, reclaim, scrub, drains."""
        self._writer.space_came()
        self._writer.expire(self._context.now())
        self._context.staging.tick()
        self.space.tick()
        self._context.expiry.tick()
        self._anchoring.tick()
        for reclaim in self._reclaims:
            reclaim.tick()
        for scrub in self._scrubs:
            scrub.tick()
        if self._hot_scrub is not None:
            self._hot_scrub.tick()
        self.membership.tick()

    @property
    def _reclaims(self) -> Sequence[Reclaim]:
        return self._parts.reclaims

    @property
    def _scrubs(self) -> Sequence[Scrub]:
        return self._parts.scrubs

    def devices_state(self) -> list[DeviceStatus]:
        """All devices and what is done to them; those that left since the start too."""
        return self.membership.states()

    def join_terms(self) -> JoinTerms:
        """What a device must comply with to join. Raises if none may join now."""
        self._check_open()
        return self.membership.terms(self.chunk_bytes_max)

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
        live = sum(device.bytes_live for device in devices)
        counters = dict(context.counters)
        counters["chunks_erasing"] = context.erasure.chunks
        counters["chunks_unknown"] = self.recovered.chunks_unknown
        counters["deadlines"] = context.expiry.places
        counters["anchor_age_s"] = context.clock.anchor_age_ms // 1000
        counters["chunks_expired_at_start"] = self.recovered.chunks_expired
        counters["puts_waiting"] = self._writer.waiting
        counters.update(context.admission.report(counters["bytes_put"]))
        counters["put_bytes_waiting"] = self._puts.waiting_bytes
        counters["put_block_bytes_under_way"] = self.space.putting_bytes
        if context.hot is not None:
            counters.update(context.hot.report())
        else:
            counters.update(NO_HOT_TIER)
        return StoreReport(context.index.count, live, devices, counters)

    def close(self) -> None:
        """End what is in flight, write the tables of open segments, flush. The devices stay open."""
        if self._closed:
            return
        self._closed = True
        context = self._context
        context.closing = True
        self._writer.expire(float("inf"))
        self.membership.tick()
        self._run_until(
            lambda: (
                not (self._puts.in_flight or self._gets.in_flight or self._deletes.in_flight)
                and not any(reclaim.running for reclaim in self._reclaims)
                and not self.membership.running
            )
        )
        for log in context.logs:
            for segment in list(log.open.values()):
                log.close_segment(segment)
        self._run_until(self._at_rest)
        if self._anchoring.wanted:
            self._anchoring.begin()
            self._run_until(lambda: not self._anchoring.writing)
        for log in context.logs:
            if log.fenced is None:
                context.start(self._last_flush(log))
        self._run_until(self._at_rest)
        if context.hot is not None:
            for arena in context.hot.arenas():
                self.unregister(arena.memory)

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
        return not (sealing or running or context.in_flight or self.eager)
