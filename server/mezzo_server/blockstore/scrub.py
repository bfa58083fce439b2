"""Scrub: reads what nobody reads, at a bounded rate, and finds what has rotted.

Walks the sealed segments by life, for ever; each live chunk is read into staging and verified like
any get, so that a confirmed mismatch is dropped and counted.  Checksums cover what is stored, so one
that is encrypted needs no key for that.
"""

from __future__ import annotations

from mezzo_server.blockstore.budget import Budget
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.device_log import DeviceLog
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.get import submit
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.read import ChunkRead, Drop
from mezzo_server.blockstore.schedule import BACKGROUND
from mezzo_server.blockstore.segment import Segment, State

BURST_S = 0.5
"""Unused budget is kept for at most this long."""


class Scrub:
    """Scrubs one device. Driven by `tick`."""

    def __init__(self, context: Context, log: DeviceLog, drop: Drop) -> None:
        self._context = context
        self._log = log
        self._drop = drop
        self._budget = Budget(context.options.scrub_bytes_per_s, BURST_S, context.now())
        self._life = 0
        self._here: Segment | None = None
        self._entry = 0
        self._reading = False
        self.rounds = 0
        """how often the whole device was walked through"""

    def tick(self) -> None:
        """Go on as far as the rate allows: one chunk is under way at a time."""
        self._budget.fill(self._context.now())
        idle = self._reading or self._log.fenced is not None or self._context.closing
        if self._budget.bytes > 0 and not idle:
            self._step()

    def _step(self) -> None:
        """Find the next live chunk, looking at a bounded number of entries."""
        segment = self._segment()
        if segment is None:
            if self._life:
                self.rounds += 1
                self._context.counters["scrub_rounds"] += 1
            self._life = self._entry = 0
            return
        table = segment.table
        for number in range(self._entry, min(self._entry + 256, len(table))):
            self._entry = number + 1
            if not table.parts[number]:
                continue
            namespace = self._context.index.peek(table.scopes[table.scope[number]])
            if namespace.get(table.keys[number]) == segment.base + number:
                self._read(segment, number, namespace)
                return
        if self._entry >= len(table):
            self._life, self._entry = segment.life + 1, 0
        # looking costs a little of the budget, so that a device full of dead entries is walked slowly too
        self._budget.bytes -= BLOCK_BYTES
        self._context.later.add(self.tick)

    def _segment(self) -> Segment | None:
        """The sealed segment that we are in, or the next one."""
        segments = self._log.segments
        here = self._here
        if here is not None and here.life == self._life and here.state is State.SEALED:
            return here
        sealed = (s for s in segments.values() if s.state is State.SEALED and s.life >= self._life)
        segment = self._here = min(sealed, key=lambda s: s.life, default=None)
        if segment is not None and segment.life != self._life:
            self._life, self._entry = segment.life, 0
        return segment

    def _read(self, segment: Segment, number: int, namespace: NamespaceIndex) -> None:
        length = segment.table.length[number]
        size = blocks_of(length) * BLOCK_BYTES
        staging = self._context.staging
        span = staging.take(size)
        if span is None:
            return  # others need the memory more; the next tick tries again
        self._reading = True
        self._budget.bytes -= size

        def done(found: bool) -> None:
            staging.give(span)
            self._reading = False
            self._context.counters["scrubbed_chunks"] += 1
            self._context.counters["scrubbed_bytes"] += size
            self._context.later.add(self.tick)

        read = ChunkRead(
            self._context,
            namespace,
            segment.table.keys[number],
            (segment, number),
            (0, 0),
            [span.part(0, length)],
            done,
            self._drop,
            room=span,
        )
        read.tenant = BACKGROUND
        read.prepare()
        submit([read])
