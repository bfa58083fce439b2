"""Puts: which chunks of a request are ours to write, and what becomes of each.

    consider (exists? under way?) -> cut into records -> each is written (put_record.py) -> answered

A key is marked busy from the first step to the last, so that a second put waits for the outcome of
the first: committed, it answers EXISTS; failed, it goes on itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from mezzo.errors import DeadlineExceeded
from mezzo_server.blockstore.api import PutChunk, PutDone, PutOutcome, PutStatus
from mezzo_server.blockstore.arrivals import admitted, arrivals
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import DeviceTime
from mezzo_server.blockstore.put_checks import checked
from mezzo_server.blockstore.put_record import PutRecord, erased
from mezzo_server.blockstore.tenant_space import TenantSpace
from mezzo_server.blockstore.writer import Writer

SLICE_CHUNKS = 128
"""Chunks considered in one turn."""


class Puts:
    """Begins puts and counts what they hold. Owner of their limits."""

    def __init__(self, context: Context, writer: Writer, space: TenantSpace) -> None:
        self.context = context
        self.writer = writer
        self.space = space
        self.waiting_bytes = 0
        self.in_flight = 0

    def begin(
        self,
        namespace: NamespaceIndex,
        chunks: Sequence[PutChunk],
        done: PutDone,
        deadline: float,
        limit: int,
        time: DeviceTime | None = None,
    ) -> PutTicket:
        """Check, then begin. Raises Busy, OverQuota, TooLarge or InvalidArgument before anything is done.

        ``limit`` is the longest chunk that fits, bytes.
        """
        context = self.context
        tenant = namespace.scope.tenant
        sealed = context.sealer.seals(tenant)
        size, sizes = checked(chunks, limit, sealed=sealed)
        if self.waiting_bytes:
            self.space.check_waiting(tenant, self.waiting_bytes, size)
        if context.shares.capacity_bytes_max(tenant):
            self.space.admit_new(namespace, [chunk.key for chunk in chunks], sizes)
        self.waiting_bytes += size
        return PutTicket(self, namespace, chunks, done, deadline, sizes, sealed, time)


class PutTicket:
    """One put request under way."""

    __slots__ = (
        "_done",
        "_left",
        "_outcome",
        "_sizes",
        "abandoned",
        "chunks",
        "deadline",
        "namespace",
        "puts",
        "records",
        "sealed",
        "time",
    )

    def __init__(
        self,
        puts: Puts,
        namespace: NamespaceIndex,
        chunks: Sequence[PutChunk],
        done: PutDone,
        deadline: float,
        sizes: Sequence[int],
        sealed: bool,
        time: DeviceTime | None,
    ) -> None:
        """``sizes``: what each chunk takes on a device, bytes; ``sealed``: they are encrypted."""
        self.puts = puts
        self.namespace = namespace
        self.chunks = chunks
        self.deadline = deadline
        self.sealed = sealed
        self.time = time
        self._sizes = sizes
        self._done = done
        self._left = len(chunks)
        self._outcome = PutOutcome([PutStatus.FAILED] * len(chunks))
        self.abandoned = False
        self.records: list[PutRecord] = []
        """those under way"""
        if not chunks:
            puts.context.call(done, self._outcome)
            return
        puts.space.put_began(namespace.scope.tenant, sum(sizes))
        puts.in_flight += 1
        namespace.users += 1
        self._consider(0)

    def abandon(self) -> None:
        """Give up what has not been handed to a device; ``done`` is still called, once."""
        self.abandoned = True
        for one in list(self.records):
            one.abandon()

    def _consider(self, start: int) -> None:
        fresh: list[int] = []
        self.puts.context.policy.request()
        end = min(start + SLICE_CHUNKS, len(self.chunks))
        for number in range(start, end):
            if self._claim(number):
                fresh.append(number)
        self._write(fresh)
        if end < len(self.chunks):
            self.puts.context.later.add(lambda: self._consider(end))

    def _claim(self, number: int) -> bool:
        """Whether this chunk is ours to write; if not, its answer is given or will be."""
        key = self.chunks[number].key
        namespace = self.namespace
        if key in namespace.busy:
            namespace.wait(key, lambda: self._again(number))
            return False
        known = namespace.get(key) is not None
        if known:
            place = self.puts.context.find(namespace, key)
            if place is not None:
                # whoever puts it has just had use for it
                self.puts.context.policy.used(*place)
                self.answer(number, PutStatus.EXISTS)
                return False
        if self.abandoned:
            self.answer(number, PutStatus.FAILED, DeadlineExceeded("the put was given up"))
            return False
        if namespace.erased:
            self.answer(number, PutStatus.FAILED, erased())
            return False
        if known:
            self.puts.context.make_way(namespace, key)
        guard = self.puts.context.guard
        if guard is not None and guard.bars(namespace.scope, key):
            self.answer(number, PutStatus.DECLINED)
            return False
        namespace.begin(key)
        return True

    def _again(self, number: int) -> None:
        if self._claim(number):
            self._write([number])

    def _write(self, numbers: Sequence[int]) -> None:
        context, namespace = self.puts.context, self.namespace
        taken = numbers if context.admission.takes_all else admitted(context, namespace, self.chunks, numbers)
        for arriving in arrivals(context, namespace, self.chunks, taken, self._sizes):
            one = PutRecord(self, arriving)
            self.records.append(one)
            one.begin()
        for number in set(numbers).difference(taken) if len(taken) < len(numbers) else ():
            self.answer(number, PutStatus.DECLINED)
            namespace.end(self.chunks[number].key)

    def answer(self, number: int, status: PutStatus, error: Exception | None = None) -> None:
        """How the put of one chunk ended."""
        outcome = self._outcome
        outcome.statuses[number] = status
        if error is not None:
            outcome.error = error
        self._left -= 1
        puts = self.puts
        puts.waiting_bytes -= sum(self.chunks[number].parts)
        puts.space.put_ended(self.namespace.scope.tenant, self._sizes[number])
        if not self._left:
            puts.in_flight -= 1
            self.namespace.users -= 1
            puts.context.call(self._done, outcome)
