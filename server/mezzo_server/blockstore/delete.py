"""Deletes and tombstones.

A tombstone says: every copy of this key with a lower sequence is void.  It is carried forward as long
as a *blocker* is on a device: the life that held the chunk when it was deleted, lives that hold a
shadow of it (`NamespaceIndex.shadows`), lives that were in limbo then (evicted, but still to be found by a
restart), and lives that its tenant was trimmed in (`Context.trimmed`).  So there are never more tombstones
than outdated copies, but for tenants that are trimmed.

What holds everywhere: a copy on a device that the index does not point to is in limbo, or a shadow, or in a
life that its tenant was trimmed in, or covered by a tombstone that has its life among the blockers.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from mezzo.errors import MezzoError
from mezzo.protocol.messages import EventKind
from mezzo_server.blockstore.api import DeleteDone, Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.device_log import DeviceLog
from mezzo_server.blockstore.format import record
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import DeviceTime
from mezzo_server.blockstore.segment import Purpose, Segment, life_of, number_of
from mezzo_server.blockstore.tasks import Event
from mezzo_server.blockstore.writer import RecordWrite, Writer
from mezzo_server.memory import Memory

GROUP_KEYS = 512

Tombstone = tuple[record.Entry, frozenset[int]]
Burial = tuple[bytes, frozenset[int]]
"""A key and its blockers."""


class Deletes:
    """Deletes chunks and writes tombstones."""

    def __init__(self, context: Context, writer: Writer) -> None:
        self.context = context
        self.writer = writer
        self.in_flight = 0

    def begin(
        self,
        namespace: NamespaceIndex,
        keys: Sequence[bytes],
        done: DeleteDone,
        time: DeviceTime | None = None,
    ) -> None:
        """Delete; answered when the tombstones are flushed."""
        self.in_flight += 1
        namespace.users += 1
        self.context.start(self._delete(namespace, keys, done, time))

    def drop(self, namespace: NamespaceIndex, key: bytes, segment: Segment, number: int) -> None:
        """A chunk turned out to be corrupt or unreadable: it leaves the index for good."""
        context = self.context
        if not context.forget(namespace, key, segment, number):
            return
        context.counters["chunks_lost"] += 1
        if key in namespace.busy:
            # being rewritten: that ends it, and finds it gone
            namespace.shade(key, segment.life)
            return
        blockers = self.blockers(namespace, key, segment.life, context.limbo())
        namespace.begin(key)

        async def bury() -> None:
            await self.bury(namespace, {segment.log: [(key, blockers)]}, flush=False)
            namespace.end(key)

        context.start(bury())

    def blockers(
        self, namespace: NamespaceIndex, key: bytes, life: int | None, limbo: frozenset[int]
    ) -> frozenset[int]:
        """Lives that a restart could find an outdated copy of the key in."""
        shadows = namespace.shadows.get(key)
        trimmed = self.context.trimmed.get(namespace.scope.tenant)
        if trimmed:
            limbo = limbo.union(trimmed & self.context.on_disk)
        if shadows is None and life is None:
            return limbo
        own = () if life is None else (life,)
        return limbo.union(own, (shadows or frozenset()) & self.context.on_disk)

    async def _delete(
        self,
        namespace: NamespaceIndex,
        keys: Sequence[bytes],
        done: DeleteDone,
        time: DeviceTime | None,
    ) -> None:
        """Rounds: whatever is free is deleted together; a key that is busy is waited for with nothing held.

        Two deletes that each held a key and waited for the other's would wait for ever.
        """
        context = self.context
        deleted = [False] * len(keys)
        error: Exception | None = None
        first: dict[bytes, int] = {}
        for number, key in enumerate(keys):
            first.setdefault(key, number)
        left = deque(first.items())
        while left:
            claimed: list[bytes] = []
            busy: list[tuple[bytes, int]] = []
            groups: defaultdict[DeviceLog, list[Burial]] = defaultdict(list)
            limbo = context.limbo()
            for _ in range(min(len(left), GROUP_KEYS)):
                key, number = left.popleft()
                if key in namespace.busy:
                    busy.append((key, number))
                    continue
                deleted[number] = self._claim(namespace, key, limbo, groups, claimed)
                context.counters["chunks_deleted"] += deleted[number]
            began = context.now()
            error = await self.bury(namespace, groups) or error
            if time is not None and groups:
                # tombstones and their flush: one way to the device
                time.device_began = time.device_began or began
                time.device_ended = context.now()
            for key in claimed:
                namespace.end(key)
            left.extend(busy)
            if busy and not claimed:
                await self._end_of(namespace, busy[0][0])
            elif left:
                await context.later.turn()
        self.in_flight -= 1
        namespace.users -= 1
        try:
            done(deleted, error)
        except Exception as fault:
            context.failures.append(fault)

    @staticmethod
    async def _end_of(namespace: NamespaceIndex, key: bytes) -> None:
        """Wait for what is under way for a key."""
        event: Event[None] = Event()
        namespace.wait(key, lambda: event(None))
        await event

    def _claim(
        self,
        namespace: NamespaceIndex,
        key: bytes,
        limbo: frozenset[int],
        groups: defaultdict[DeviceLog, list[Burial]],
        claimed: list[bytes],
    ) -> bool:
        """Make a key invisible and note the tombstones that it needs. False: it was not visible."""
        context = self.context
        location = namespace.get(key)
        segment = None if location is None else context.lives[life_of(location)]
        visible = context.find(namespace, key) is not None
        blockers = self.blockers(namespace, key, None if segment is None else segment.life, limbo)
        if segment is not None and location is not None:
            context.forget(namespace, key, segment, number_of(location), why=EventKind.DELETED)
            context.changes += 1
        if blockers:
            namespace.begin(key)
            claimed.append(key)
            for log in self._logs_for(namespace, key, segment):
                groups[log].append((key, blockers))
        return visible

    def _logs_for(self, namespace: NamespaceIndex, key: bytes, segment: Segment | None) -> set[DeviceLog]:
        """Beside each copy, so that both are lost together; else on any device that serves."""
        lives = self.context.lives
        copies = [lives[life] for life in namespace.shadows.get(key, ()) if life in lives]
        if segment is not None:
            copies.append(segment)
        serving = {copy.log for copy in copies if copy.log.fenced is None}
        if serving:
            return serving
        return {self.context.log_for_tombstones()}

    async def bury(
        self, namespace: NamespaceIndex, groups: Mapping[DeviceLog, list[Burial]], *, flush: bool = True
    ) -> Exception | None:
        """Write tombstones, and flush them; failing that, keep in mind what a restart could find.

        The keys are busy meanwhile.
        """
        failure: Exception | None = None
        for log, burials in groups.items():
            tombstones = [(record.Entry(key, 0), blockers) for key, blockers in burials]
            error = await self.write(log, namespace.scope, tombstones, flush=flush)
            failure = error or failure
        for burials in groups.values():
            for key, blockers in burials:
                if failure is None:
                    namespace.shadows.pop(key, None)
                else:
                    namespace.shadows[key] = blockers
        return failure

    async def write(
        self, log: DeviceLog, scope: Scope, tombstones: Sequence[Tombstone], *, flush: bool = False
    ) -> Exception | None:
        """Write tombstones as one record and remember their blockers; make it durable if ``flush``."""
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
            if flush:
                # A drain may have carried them to another device since, which was flushed then.
                error = await self.context.still_there(write.segment.log).flushed()
        elif not isinstance(error, MezzoError):
            raise error
        memory.close()
        return error
