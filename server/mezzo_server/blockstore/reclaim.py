"""Reclaim: makes segments free again, rewriting what must or should live on.

    victim -> survivors rewritten -> nothing in flight -> flushed -> header erased -> free

Leased chunks always survive, and those of tenants within their quota; beyond them a policy chooses, within
the budget of `RewriteBudget` and at most a share of the segment.  Evicted chunks stay in limbo (a restart would find them) until the erased header is flushed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from itertools import compress

from mezzo.protocol.messages import EventKind
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.arrivals import GROUP_SEGMENT_SHARE
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.delete import Deletes, Tombstone
from mezzo_server.blockstore.device_log import RESERVE_SEGMENTS, DeviceLog, Role
from mezzo_server.blockstore.format import record
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.io import Op, Transfer
from mezzo_server.blockstore.rewrite import BATCH_BYTES, BATCH_CHUNKS, Rewriter, batches, namespace_of
from mezzo_server.blockstore.schedule import BACKGROUND
from mezzo_server.blockstore.segment import Segment, State
from mezzo_server.blockstore.tasks import Event
from mezzo_server.blockstore.writer import Writer

FREE_SHARE = 0.02
"""Reclaim keeps this share of a device's segments free, and at least `FREE_MIN` beyond the reserve."""
FREE_MIN = 2
STEP_ENTRIES = 512
"""Entries looked at in one turn."""
PINNED_SHARE_MAX = 0.75
"""A victim with more leased bytes than this frees too little, as long as there are others."""
SURVIVORS_SHARE_MAX = 0.75
"""Most of a victim that a policy may have rewritten: the rest is what reclaim gains."""
PICKS_MAX = 16
"""Segments looked at for one victim when most of them must be rewritten."""
GAIN_SHARE_MIN = 1 / 16
"""A victim that would free less is not worth its rewriting."""
LASTING_SHARE = 0.1
"""What expires before this share of the device has been reclaimed is not worth rewriting."""
INTERVAL_WEIGHT = 0.1
NO_LIFE = float("inf")
"""above all lives"""
TRY_BYTES = 1 << 20
STREAM_STALL_S = 0.1
STREAM_PATIENCE_S = 2.0
"""A stream from a wanted segment is cut off when its client took nothing for so long, or in any case
after so long: a miss is legal, a client that holds all others up is not."""


class Reclaim:
    """Keeps segments free on one device. One victim at a time."""

    def __init__(
        self, context: Context, log: DeviceLog, writer: Writer, deletes: Deletes, freed: Callable[[], None]
    ) -> None:
        self._context = context
        self._log = log
        self._writer = writer
        self._deletes = deletes
        self._freed = freed
        self.running = False
        self._fruitless_at = -1
        """`Context.changes` when all segments had been rewritten and no space was gained"""
        self._draining: Segment | None = None
        self._drains_since = 0.0
        self._reclaimed_at = 0.0
        self._interval_s = 0.0
        """between two victims, on average"""
        self._rewriter = Rewriter(context, log, writer, deletes)

    @property
    def free_target(self) -> int:
        """Free segments below which reclaim begins."""
        return RESERVE_SEGMENTS + max(FREE_MIN, int(self._log.superblock.segment_count * FREE_SHARE))

    def kick(self) -> None:
        """Begin if segments are short."""
        if self._wanted() and not self.running and self._fruitless_at != self._context.changes:
            self.running = True
            self._context.start(self._run())

    def tick(self) -> None:
        """Begin if needed; cut off streams to slow clients from the segment that is wanted now."""
        self.kick()
        if self._draining is not None:
            now = self._context.now()
            late = now - self._drains_since > STREAM_PATIENCE_S
            for stream in tuple(self._draining.streams):
                if late or now - stream.moved_at > STREAM_STALL_S:
                    stream.revoke()

    def _wanted(self) -> bool:
        log = self._log
        wanted = self._short or log.retiring
        return wanted and log.role is Role.SERVING and log.fenced is None and not self._context.closing

    @property
    def _short(self) -> bool:
        """Whether segments must be freed, and not only failed ones left."""
        return len(self._log.free) < self.free_target

    async def _run(self) -> None:
        log = self._log
        most, newest = log.gained, self._context.next_life
        vain: set[int] = set()
        """lives that could not be reclaimed"""
        below = NO_LIFE
        """only lives below it: what was there before space was last gained"""
        try:
            while self._wanted():
                await self._context.erasure.over()
                victim = self._choose(vain, below)
                if victim is None:
                    if below != NO_LIFE and self._short:
                        # What was there when space was last gained has all been rewritten: leased, or too
                        # large to lie closer. Again would not help before something changes.
                        self._fruitless_at = self._context.changes
                    break
                if not await self._reclaim(victim):
                    # Its survivors found no room, maybe: another one may have none.
                    vain.add(victim.life)
                    continue
                log.retiring = any(segment.retire for segment in log.segments.values())
                if log.gained > most:
                    most, newest, below = log.gained, self._context.next_life, NO_LIFE
                elif victim.life >= newest:
                    # The policy would have what was just rewritten again: first what it passed over.
                    below = newest
                self._freed()
        finally:
            self.running = False

    def _choose(self, vain: Container[int] = (), below: float = NO_LIFE) -> Segment | None:
        everything = [segment for segment in self._log.segments.values() if segment.state is State.SEALED]
        sealed = [segment for segment in everything if segment.life not in vain]
        # Empty and failed segments first: they cost nothing, or should be left as soon as possible.
        for segment in sealed:
            if segment.retire or not (segment.live_count or self._carries(segment)):
                return segment
        if not self._short:
            # A failed segment is to be left, and cannot be yet: that is no reason to evict anything else.
            return None
        most = PINNED_SHARE_MAX * self._log.superblock.segment_bytes
        sealed = [segment for segment in sealed if segment.life < below]
        fit = [segment for segment in sealed if segment.live_count and segment.pinned_bytes <= most]
        victim = self._pick(fit)
        # Nothing but tombstones that are still needed: rewriting them gains little, so they take their
        # turn by age, and could otherwise be rewritten for ever.
        buried = min((s for s in sealed if not s.live_count), key=lambda s: s.life, default=None)
        if victim is None or (buried is not None and buried.life < min(s.life for s in fit)):
            victim = buried
        if victim is not None:
            return victim
        if (
            not everything
            and self._writer.waiting
            and not any(s.state is State.SEALING for s in self._log.segments.values())
        ):
            # all space is in open segments: close the one written longest ago
            for segment in self._log.open.values():
                self._log.close_segment(segment)
                break
        return None

    def _pick(self, fit: Sequence[Segment]) -> Segment | None:
        """The policy's choice among those that may be reclaimed: of tenants over their share, if there are."""
        context, shares = self._context, self._context.shares
        if not fit:
            return None
        everything = list(self._log.segments.values())
        if not shares.divided:
            return context.policy.victim(fit, everything)
        most = PINNED_SHARE_MAX * self._log.superblock.segment_bytes
        over = [s for s in fit if any(shares.over_share(scope.tenant) for scope in s.table.scopes)]
        for candidates in (over, fit):
            left = list(candidates)
            for _ in range(min(len(left), PICKS_MAX)):
                victim = context.policy.victim(left, everything)
                if self._kept_bytes(victim) <= most:
                    return victim
                left.remove(victim)
        # All that were looked at have little that may go: the one with most of it.
        looked = sorted(over or fit, key=lambda s: s.live_bytes)[:PICKS_MAX]
        victim = min(looked, key=self._kept_bytes)
        gain = self._log.superblock.segment_bytes - self._kept_bytes(victim)
        return victim if gain >= GAIN_SHARE_MIN * self._log.superblock.segment_bytes else None

    def _kept_bytes(self, segment: Segment) -> int:
        """Bytes that would have to be rewritten: leased, or of tenants within their quota."""
        shares, table = self._context.shares, segment.table
        safe = [shares.within_quota(scope.tenant) for scope in table.scopes]
        if all(safe):
            return segment.live_bytes
        if not any(safe):
            return segment.pinned_bytes
        size = sum(compress(table.live_bytes, safe))
        return min(segment.live_bytes, size + segment.pinned_bytes)

    def _carries(self, segment: Segment) -> bool:
        """Whether it has tombstones that are still needed."""
        on_disk, table = self._context.on_disk, segment.table
        for number, blockers in segment.blockers.items():
            needed = any(life != segment.life and life in on_disk for life in blockers)
            if needed and not self._context.index.is_erased(table.scopes[table.scope[number]]):
                return True
        return False

    async def _reclaim(self, victim: Segment) -> bool:
        """Reclaim one segment; False if it could not be."""
        log = self._log
        victim.state = State.RECLAIMING
        log.limbo.add(victim.life)
        self._context.counters["segments_reclaimed"] += 1
        keep, tombstones = await self._sort(victim)
        most = min(BATCH_BYTES, log.superblock.segment_bytes // GROUP_SEGMENT_SHARE)
        for batch in batches(victim, keep, most):
            await self._rewriter.move(victim, batch)
        await self._context.erasure.over()
        # Leased after it was looked at, or not to be rewritten for want of space: still here.
        if victim.live_count and await self._evict_rest(victim):
            return self._give_up(victim)
        # Only now: a victim that is given up keeps its tombstones, and must not leave copies of them.
        for scope, group in tombstones.items():
            for start in range(0, len(group), BATCH_CHUNKS):
                if await self._deletes.write(log, scope, group[start : start + BATCH_CHUNKS]) is not None:
                    return self._give_up(victim)
        idle: Event[None] = Event()
        victim.when_idle(lambda: idle(None))
        self._draining, self._drains_since = victim, self._context.now()
        await idle
        self._draining = None
        # Also if nothing was rewritten now: survivors of an attempt that was given up may be unflushed.
        if await log.flushed() is not None:
            return False
        return await self.free(victim)

    def _give_up(self, victim: Segment) -> bool:
        if self._log.fenced is None:
            victim.state = State.SEALED
        return False

    async def _sort(self, victim: Segment) -> tuple[list[int], dict[Scope, list[Tombstone]]]:
        """Which entries are rewritten; the others are evicted here and now."""
        context = self._context
        table = victim.table
        erased = [context.index.is_erased(scope) for scope in table.scopes]
        live: list[int] = []
        keep: list[int] = []
        over: list[int] = []
        shares = context.shares
        tombstones: defaultdict[Scope, list[Tombstone]] = defaultdict(list)
        for number in range(len(table)):
            if number % STEP_ENTRIES == STEP_ENTRIES - 1:
                await context.later.turn()
            scope = table.scopes[table.scope[number]]
            if erased[table.scope[number]]:
                continue
            if not table.parts[number]:
                blockers = victim.blockers.get(number, frozenset()) & context.on_disk
                if blockers - {victim.life}:
                    tombstones[scope].append(
                        (record.Entry(table.keys[number], table.sequence[number]), blockers)
                    )
                continue
            namespace = context.index.peek(scope)
            if namespace.get(table.keys[number]) != victim.base + number:
                continue
            if victim.expires_ms and context.is_over(victim, number):
                context.expiry.end(namespace, victim, number)
                continue
            if table.keys[number] in namespace.pins or (shares.divided and shares.within_quota(scope.tenant)):
                keep.append(number)
            elif shares.divided and shares.over_share(scope.tenant):
                over.append(number)
            else:
                live.append(number)
        self._choose_survivors(victim, live, keep)
        kept = set(keep)
        live += over
        for step, number in enumerate(live):
            if number not in kept:
                self._evict(victim, number)
            if step % STEP_ENTRIES == STEP_ENTRIES - 1:
                await context.later.turn()
        return keep, tombstones

    def _choose_survivors(self, victim: Segment, live: Sequence[int], keep: list[int]) -> None:
        """Add to ``keep`` what the policy wants to live on, as far as the budget goes."""
        context, table = self._context, victim.table
        segment_bytes = self._log.superblock.segment_bytes
        forced = sum(blocks_of(table.length[number]) for number in keep) * BLOCK_BYTES
        context.rewrites.spend(forced)
        if victim.retire:
            # An I/O error is no reason to lose what can be read.
            wanted, budget = list(live), float(segment_bytes)
        else:
            sealed = [segment for segment in self._log.segments.values() if segment.state is State.SEALED]
            lasting = self._lasting(victim, live)
            wanted = context.policy.survivors(victim, lasting, [victim, *sealed])
            budget = min(context.rewrites.credit, SURVIVORS_SHARE_MAX * segment_bytes - forced)
        spent = 0
        for number in wanted:
            size = blocks_of(table.length[number]) * BLOCK_BYTES
            if spent + size > budget:
                break
            spent += size
            keep.append(number)
        context.rewrites.spend(spent)

    def _lasting(self, victim: Segment, live: Sequence[int]) -> Sequence[int]:
        """Those of the live entries that do not expire soon: before a share of the device is written again."""
        expiry_ms = victim.table.expiry_ms
        now = self._context.now()
        if self._reclaimed_at:
            self._interval_s += INTERVAL_WEIGHT * (now - self._reclaimed_at - self._interval_s)
        self._reclaimed_at = now
        if not any(expiry_ms):
            return live
        turnover_s = self._interval_s * self._log.superblock.segment_count
        least = self._context.clock.now_ms() + int(1000 * LASTING_SHARE * turnover_s)
        return [number for number in live if not 0 < expiry_ms[number] < least]

    def _evict(self, victim: Segment, number: int) -> None:
        namespace = namespace_of(self._context, victim, number)
        key = victim.table.keys[number]
        shares = self._context.shares
        if shares.divided and shares.within_quota(namespace.scope.tenant):
            return
        # A lease may have come since, and a key that is being deleted is not ours to touch.
        if key in namespace.pins or namespace.get(key) != victim.base + number:
            return
        self._context.policy.evicted(victim, number, namespace.salt)
        self._context.forget(namespace, key, victim, number, why=EventKind.EVICTED)
        self._context.counters["chunks_evicted"] += 1
        self._context.counters["bytes_evicted"] += victim.table.length[number]

    async def _evict_rest(self, victim: Segment) -> bool:
        """Evict what could not be rewritten, unless it is leased. True: leased chunks remain."""
        late: list[int] = []
        for number in range(len(victim.table)):
            if number % STEP_ENTRIES == STEP_ENTRIES - 1:
                await self._context.later.turn()
            if not victim.table.parts[number]:
                continue
            namespace = namespace_of(self._context, victim, number)
            if namespace.get(victim.table.keys[number]) == victim.base + number:
                self._evict(victim, number)
                if namespace.get(victim.table.keys[number]) == victim.base + number:
                    late.append(number)
        for number in late:
            await self._rewriter.move(victim, [number])
        return victim.live_count > 0

    # -- the end of a life -------------------------------------------------------------------

    async def free(self, victim: Segment) -> bool:
        """Nothing points here any more: erase the header, then free or retire the segment."""
        log = self._log
        if victim.suspects and not victim.retire and not await self._try_out(victim):
            victim.retire = True
        if not await log.erase(victim):
            victim.retire = True
            if log.fenced is not None:
                return False
        victim.state = State.GONE
        del log.segments[victim.number]
        del self._context.lives[victim.life]
        if not victim.retire:
            log.free.append(victim.number)
            log.gained += 1
            return True
        return await log.retire(victim.number, victim.life)

    async def _try_out(self, victim: Segment) -> bool:
        """Write a pattern where mismatches were confirmed and read it back: does the place hold bytes?"""
        buffer = self._rewriter.room(TRY_BYTES)
        for block, count in victim.suspects:
            for start in range(0, count * BLOCK_BYTES, TRY_BYTES):
                size = min(TRY_BYTES, count * BLOCK_BYTES - start)
                pattern = self._context.entropy(BLOCK_BYTES) * (size // BLOCK_BYTES)
                span = buffer.span(0, size)
                span.view[:] = pattern
                offset = victim.offset + block * BLOCK_BYTES + start
                for op in (Op.WRITE, Op.READ):
                    event: Event[Transfer] = Event()
                    self._log.transfer(op, offset, (span,), event, tenant=BACKGROUND)
                    if (await event).result < 0:
                        return False
                    if op is Op.WRITE:
                        span.view[:] = bytes(size)
                if span.view != pattern:
                    return False
        victim.suspects.clear()
        return True
