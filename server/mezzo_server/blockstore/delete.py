"""Deletes and tombstones.

A tombstone says: every copy of this key with a lower sequence is void.  It is carried forward as long
as a *blocker* is on a device: the life that held the chunk when it was deleted, and lives that were
in limbo then (evicted, but still to be found by a restart).  So there are never more tombstones than
outdated copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mezzo.errors import MezzoError
from mezzo_server.blockstore.api import DeleteDone, Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.device_log import DeviceLog
from mezzo_server.blockstore.format import record
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.segment import Purpose, Segment
from mezzo_server.blockstore.tasks import Event
from mezzo_server.blockstore.writer import RecordWrite, Writer
from mezzo_server.memory import Memory

GROUP_KEYS = 512

Tombstone = tuple[record.Entry, frozenset[int]]


class Deletes:
    """Deletes chunks and writes tombstones."""

    def __init__(self, context: Context, writer: Writer) -> None:
        self.context = context
        self.writer = writer
        self.in_flight = 0

    def begin(self, namespace: NamespaceIndex, keys: Sequence[bytes], done: DeleteDone) -> None:
        """Delete; answered when the tombstones are flushed."""
        self.in_flight += 1
        self.context.start(self._delete(namespace, keys, done))

    def drop(self, namespace: NamespaceIndex, key: bytes, segment: Segment, number: int) -> None:
        """A chunk turned out to be corrupt or unreadable: it leaves the index for good."""
        context = self.context
        if not context.forget(namespace, key, segment, number):
            return
        context.counters["chunks_lost"] += 1
        if key in namespace.busy:
            return  # being rewritten or deleted: that ends it, and finds it gone
        namespace.begin(key)
        blockers = self._blockers(namespace, key, segment)

        async def bury() -> None:
            await self.write(segment.log, namespace.scope, [(record.Entry(key, 0), blockers)])
            namespace.end(key)

        context.start(bury())

    def _blockers(self, namespace: NamespaceIndex, key: bytes, segment: Segment | None) -> frozenset[int]:
        own = () if segment is None else (segment.life,)
        return self.context.limbo().union(own, namespace.shadows.get(key, ()))

    async def _delete(self, namespace: NamespaceIndex, keys: Sequence[bytes], done: DeleteDone) -> None:
        context = self.context
        deleted = [False] * len(keys)
        error: Exception | None = None
        for start in range(0, len(keys), GROUP_KEYS):
            claimed: list[bytes] = []
            groups: defaultdict[DeviceLog, list[Tombstone]] = defaultdict(list)
            for number in range(start, min(start + GROUP_KEYS, len(keys))):
                key = keys[number]
                if key in claimed:
                    continue
                while key in namespace.busy:
                    event: Event[None] = Event()
                    namespace.wait(key, lambda event=event: event(None))  # type: ignore[misc]
                    await event
                place = context.find(namespace, key)
                blockers = self._blockers(namespace, key, place[0] if place else None)
                if place is not None:
                    context.forget(namespace, key, *place)
                    deleted[number] = True
                elif not blockers:
                    continue
                namespace.begin(key)
                claimed.append(key)
                log = self._log_for(place[0].log if place else None)
                groups[log].append((record.Entry(key, 0), blockers))
            for log, tombstones in groups.items():
                error = await self.write(log, namespace.scope, tombstones) or await log.flushed() or error
            context.counters["chunks_deleted"] += sum(deleted[start : start + GROUP_KEYS])
            for key in claimed:
                if error is None:
                    namespace.shadows.pop(key, None)
                namespace.end(key)
            if start + GROUP_KEYS < len(keys):
                await context.later.turn()
        self.in_flight -= 1
        done(deleted, error)

    def _log_for(self, log: DeviceLog | None) -> DeviceLog:
        """Beside the chunk, so that both are lost together; else on any device that serves."""
        if log is None or log.fenced is not None:
            return next((other for other in self.context.logs if other.fenced is None), self.context.logs[0])
        return log

    async def write(self, log: DeviceLog, scope: Scope, tombstones: Sequence[Tombstone]) -> Exception | None:
        """Write tombstones as one record and remember their blockers."""
        entries = [entry for entry, _ in tombstones]
        memory = Memory.anonymous(blocks_of(record.header_bytes(entries)) * BLOCK_BYTES)
        event: Event[Exception | None] = Event()
        write = RecordWrite(
            scope,
            entries,
            [()] * len(entries),
            memory.span(),
            event,
            Purpose.TOMBSTONES,
            log,
            deadline=self.context.now() + self.context.options.put_wait_s,
        )
        self.writer.write(write)
        error = await event
        if error is None:
            for number, (_, blockers) in zip(write.numbers, tombstones, strict=True):
                if blockers:
                    write.segment.blockers[number] = blockers
            self.context.counters["tombstones_written"] += len(entries)
        elif not isinstance(error, MezzoError):
            raise error
        memory.close()
        return error
