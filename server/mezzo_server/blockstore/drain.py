"""Draining: everything that a device holds moves to the other devices of the store, segment by segment.

    chunks moved -> tombstones carried on -> nothing in flight -> flushed -> header erased

Each segment ends its life as in reclaim, so a drain may be killed, given up or cancelled at any point:
what has moved has moved, the rest is where it was.  It ends because nothing new is written to the
device but tombstones of its own chunks, and because a record that the others cannot take is tried a
few times only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.arrivals import GROUP_SEGMENT_SHARE
from mezzo_server.blockstore.budget import Budget
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.delete import Deletes, Tombstone
from mezzo_server.blockstore.device_log import DeviceLog
from mezzo_server.blockstore.format import record
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.reclaim import STEP_ENTRIES, Reclaim
from mezzo_server.blockstore.rewrite import (
    BATCH_BYTES,
    BATCH_CHUNKS,
    Rewriter,
    Rewritten,
    batches,
    lies_here,
    namespace_of,
)
from mezzo_server.blockstore.segment import Segment, State
from mezzo_server.blockstore.writer import Writer

FAILURES_MAX = 3
"""Records in a row that the other devices did not take (each waited for space) before it is given up."""
BURST_S = 0.25
"""Unused budget is kept for at most this long."""
STREAM_PATIENCE_S = 10.0
"""A stream from a segment that is otherwise empty is cut off after so long."""
SALVAGE_PASSES = 3
"""Walks through a fenced device: keys that were busy in one may be free in the next."""


class CannotDrain(Exception):
    """Why a drain ends before the device is empty."""


class Drain:
    """Empties one device. Driven by the coroutine `run`, which waits for time in ``pause``.

    ``pause`` is awaited between steps: it returns at the next tick, and raises if the drain is to end.
    """

    def __init__(
        self,
        context: Context,
        log: DeviceLog,
        reclaim: Reclaim,
        writer: Writer,
        deletes: Deletes,
        pause: Callable[[], Awaitable[None]],
        check: Callable[[], None],
    ) -> None:
        """``check`` raises if the drain is to end."""
        self._context = context
        self._log = log
        self._reclaim = reclaim
        self._deletes = deletes
        self._pause = pause
        self._check = check
        self._rewriter = Rewriter(context, log, writer, deletes)
        self._budget = Budget(context.options.drain_bytes_per_s, BURST_S, context.now())
        self._failures = 0
        self.bytes = log.bytes_live
        """to be moved, when it began"""
        self._salvaged_bytes = 0
        self._salvaging = False
        self.lost = 0
        """chunks that could not be read"""

    @property
    def bytes_done(self) -> int:
        """Of `bytes`: moved, or gone by other ways."""
        left = self.bytes - self._salvaged_bytes if self._salvaging else self._log.bytes_live
        return max(0, self.bytes - left)

    async def run(self) -> None:
        """Until the device holds nothing that is needed. CannotDrain says why it could not be emptied."""
        log = self._log
        while self._reclaim.running:
            await self._pause()
        while log.fenced is None:
            self._check()
            for segment in list(log.open.values()):
                log.close_segment(segment)
            sealed = [segment for segment in log.segments.values() if segment.state is State.SEALED]
            # Oldest first, so that they are the first to go if the others have no room for all of them;
            # tombstones last, when most of what they cover is gone.
            first = min(sealed, key=lambda s: (not s.live_count, s.life), default=None)
            if first is not None:
                await self._empty(first)
            elif log.segments:
                await self._pause()
            else:
                await log.flushed()
                break
        if log.fenced is not None:
            await self._salvage()

    # -- a device that works -----------------------------------------------------------------

    async def _empty(self, segment: Segment) -> None:
        """Move what one segment holds, and end its life."""
        log = self._log
        segment.state = State.RECLAIMING
        log.limbo.add(segment.life)
        try:
            while segment.live_count and log.fenced is None:
                await self._move(segment)
            for target, scopes in (await self._tombstones(segment)).items():
                await self._bury(target, scopes)
            await self._idle(segment)
            await self._flush()
            if log.fenced is None:
                await self._reclaim.free(segment)
        finally:
            if segment.state is State.RECLAIMING and log.fenced is None:
                segment.state = State.SEALED

    async def _move(self, segment: Segment) -> None:
        """One walk through the segment's live entries."""
        moved = 0
        for batch in batches(segment, await self._live(segment), self._batch_bytes):
            self._check()
            if self._log.fenced is not None:
                return
            done = await self._rewriter.move(segment, batch, away=True)
            moved += done.chunks
            self.lost += len(done.lost)
            await self._judge(done)
            await self._pace(done.bytes)
        if not moved and segment.live_count:
            await self._pause()  # busy keys: what is under way for them ends soon

    async def _live(self, segment: Segment) -> list[int]:
        table = segment.table
        live = []
        for number in range(len(table)):
            if number % STEP_ENTRIES == STEP_ENTRIES - 1:
                await self._context.later.turn()
            if table.parts[number]:
                namespace = namespace_of(self._context, segment, number)
                if namespace.get(table.keys[number]) == segment.base + number:
                    live.append(number)
        return live

    async def _idle(self, segment: Segment) -> None:
        """Until nothing is in flight in the segment."""
        since = self._context.now()
        while segment.refs:
            if self._context.now() - since > STREAM_PATIENCE_S:
                for stream in tuple(segment.streams):
                    stream.revoke()
            await self._pause()

    # -- tombstones --------------------------------------------------------------------------

    async def _tombstones(self, segment: Segment) -> dict[DeviceLog, dict[Scope, list[Tombstone]]]:
        """Those that are still needed, by the device of the outdated copies that they cover."""
        context, log, table = self._context, self._log, segment.table
        here = log.lives_on_disk()
        result: dict[DeviceLog, dict[Scope, list[Tombstone]]] = {}
        for number in range(len(table)):
            if number % STEP_ENTRIES == STEP_ENTRIES - 1:
                await context.later.turn()
            blockers = segment.blockers.get(number, frozenset()) & context.on_disk
            if table.parts[number] or not blockers - {segment.life}:
                continue
            homes: defaultdict[DeviceLog, set[int]] = defaultdict(set)
            for life in blockers - {segment.life}:
                if life in here:
                    if log.fenced is None:
                        homes[log].add(life)
                    # else they leave together with this device
                    continue
                place = context.lives.get(life)
                stays = place is not None and place.log.fenced is None
                homes[place.log if place is not None and stays else context.log_for_tombstones()].add(life)
            for home, lives in homes.items():
                entry = record.Entry(table.keys[number], table.sequence[number])
                scopes = result.setdefault(home, {})
                scopes.setdefault(table.scopes[table.scope[number]], []).append((entry, frozenset(lives)))
        return result

    async def _bury(self, target: DeviceLog, scopes: dict[Scope, list[Tombstone]]) -> None:
        for scope, group in scopes.items():
            for start in range(0, len(group), BATCH_CHUNKS):
                error = await self._deletes.write(target, scope, group[start : start + BATCH_CHUNKS])
                if error is not None and (target is not self._log or target.fenced is None):
                    raise CannotDrain(f"tombstones could not be written: {error}")

    # -- a device that is fenced -------------------------------------------------------------

    async def _salvage(self) -> None:
        """Move what can be read; give the rest up."""
        log = self._log
        while log.purging is not None and not log.purging.done:
            await self._pause()
        self._salvaging = True
        given_up: set[tuple[int, int]] = set()
        for _ in range(SALVAGE_PASSES):
            found = await self._only_here(given_up)
            if not found:
                break
            sizes = sum(
                blocks_of(segment.table.length[number]) * BLOCK_BYTES
                for segment, numbers in found.items()
                for number in numbers
            )
            self.bytes = self._salvaged_bytes + sizes
            for segment, numbers in found.items():
                for batch in batches(segment, numbers, self._batch_bytes):
                    self._check()
                    done = await self._rewriter.salvage(segment, batch)
                    self.lost += len(done.lost)
                    given_up.update((segment.life, number) for number in done.lost)
                    self._salvaged_bytes += sum(
                        blocks_of(segment.table.length[number]) * BLOCK_BYTES for number in batch
                    )
                    await self._judge(done)
                    await self._pace(done.bytes)
        for segment in list(log.segments.values()):
            for target, scopes in (await self._tombstones(segment)).items():
                await self._bury(target, scopes)
        await self._flush()
        for segment in list(log.segments.values()):
            await self._idle(segment)

    async def _only_here(self, given_up: set[tuple[int, int]]) -> dict[Segment, list[int]]:
        """Entries that are the newest, and only, copies of their keys."""
        context = self._context
        best: dict[tuple[Scope, bytes], tuple[int, Segment, int]] = {}
        for segment in self._log.segments.values():
            table = segment.table
            for number in range(len(table)):
                if number % STEP_ENTRIES == STEP_ENTRIES - 1:
                    await context.later.turn()
                if not table.parts[number] or not lies_here(
                    segment, namespace_of(context, segment, number), number
                ):
                    continue
                name = (table.scopes[table.scope[number]], table.keys[number])
                one = (table.sequence[number], segment, number)
                if name not in best or best[name][0] < one[0]:
                    best[name] = one
        found: dict[Segment, list[int]] = {}
        for _, segment, number in best.values():
            if (segment.life, number) not in given_up:
                found.setdefault(segment, []).append(number)
        return found

    # -- pace --------------------------------------------------------------------------------

    @property
    def _batch_bytes(self) -> int:
        return min(BATCH_BYTES, self._context.segment_bytes_min // GROUP_SEGMENT_SHARE)

    async def _judge(self, done: Rewritten) -> None:
        """Go on, or give up if the others take no more."""
        if done.error is None:
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            left = self.bytes - self.bytes_done
            raise CannotDrain(f"the other devices do not take the {left} bytes that are left: {done.error}")
        await self._pause()

    async def _pace(self, count: int) -> None:
        """Wait until so many bytes fit into the rate."""
        budget = self._budget
        if not budget.bytes_per_s:
            return
        budget.bytes -= count
        budget.fill(self._context.now())
        while budget.bytes < 0:
            await self._pause()
            budget.fill(self._context.now())

    async def _flush(self) -> None:
        """What was moved must be durable before the places that it came from are given up."""
        for log in self._context.logs:
            if log.fenced is None:
                await log.flushed()
