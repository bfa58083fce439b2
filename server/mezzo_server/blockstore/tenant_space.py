"""Space by tenant: what its chunks take, and how one that may have no more gets room for new ones.

A cache that is full forgets; so a tenant over its hard limit of capacity is not refused for ever, its own
oldest chunks make room for its new ones (*trimming*).  They leave the index at once, entry by entry, in the
order in which they were put; their space comes back with their segments.  Leased chunks stay.  Invariant:
bytes of visible chunks and of puts under way are never more than the limit, but for what was there when it
was lowered, and what a restart finds again.

A trimmed chunk is still on its device, so the life that it is in is a blocker of its tenant's tombstones
(`Deletes.blockers`) as long as a restart could find it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mezzo.errors import Busy, OverQuota, TooLarge
from mezzo.protocol.messages import EventKind
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.sealing import OVERHEAD_BYTES
from mezzo_server.blockstore.segment import Segment, State
from mezzo_server.blockstore.tasks import Task

STEP_ENTRIES = 1024
"""Entries considered in one turn, and for one put: some hundred microseconds."""
PASSED_OVER = 16
"""Entries of other tenants that are as much work as one that is considered."""
TENANTS_PER_TICK = 64
HEADROOM_SHARE = 32
HEADROOM_BYTES_MAX = 256 << 20
"""Trimming begins before the limit is reached, so that puts seldom meet it: at the limit less a 32nd of it,
or less this."""
WAITING_TIMES_FREE = 2
RETRY_TRIMMING_S = 0.02
RETRY_HELD_S = 0.5
"""When to try again: chunks are being trimmed; or all that there is is leased, or being put."""


def block_bytes(parts: Sequence[int], sealed: bool) -> int:
    """Bytes that a chunk takes, in whole blocks; ``sealed``: it is encrypted."""
    return blocks_of(sum(parts) + (OVERHEAD_BYTES * len(parts) if sealed else 0)) * BLOCK_BYTES


class _Trimming:
    """How far the trimming of one tenant has come."""

    __slots__ = ("fruitless_at", "gained", "most", "places", "task")

    def __init__(self) -> None:
        self.places: deque[tuple[int, int]] = deque()
        """(life, entry number) to go on at: the segments of one pass, the oldest first"""
        self.gained = True
        """whether this pass freed anything"""
        self.fruitless_at = -1
        """`Context.changes` when a whole pass had found nothing"""
        self.most = 0
        """bytes that may be left, for the task"""
        self.task: Task | None = None


class TenantSpace:
    """Bytes by tenant, and trimming. Owner: `BlockStore`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._putting: dict[bytes, int] = {}
        """bytes of puts under way, in whole blocks"""
        self._trimmings: dict[bytes, _Trimming] = {}
        """of tenants that have, or had, a limit"""
        self._kept: tuple[NamespaceIndex, set[bytes]] | None = None
        """what is not to be trimmed now: it is being put again"""
        self._kept_some = False
        """whether that kept any in the pass that was begun last"""
        self._running = 0
        self._to_look_at: list[bytes] = []

    def live_bytes(self, tenant: bytes) -> int:
        """Bytes of its visible chunks, in whole blocks."""
        return sum([log.tenant_bytes[tenant] for log in self._context.logs])

    def used_bytes(self, tenant: bytes) -> int:
        """`live_bytes`, and those of puts under way."""
        return self.live_bytes(tenant) + self._putting.get(tenant, 0)

    def namespace_use(self, scope: Scope) -> tuple[int, int]:
        """(visible chunks of a namespace, their bytes in whole blocks)."""
        context = self._context
        nbytes = sum([log.namespace_bytes[scope.namespace] for log in context.logs])
        return context.index.peek(scope).count, max(0, nbytes)

    def tenants(self) -> set[bytes]:
        """All tenants that have chunks."""
        return {
            tenant for log in self._context.logs for tenant, nbytes in log.tenant_bytes.items() if nbytes > 0
        }

    def device_work(self) -> dict[bytes, tuple[int, float]]:
        """What the devices were given for each tenant since the start, bytes, and how long that had waited, s."""
        work: dict[bytes, tuple[int, float]] = {}
        for log in self._context.logs:
            for tenant, flow in log.schedule.flows.items():
                nbytes, wait_s = work.get(tenant, (0, 0.0))
                work[tenant] = (nbytes + flow.bytes, wait_s + flow.wait_s)
        return work

    # -- puts

    def check_waiting(self, tenant: bytes, waiting_bytes: int, nbytes: int) -> None:
        """Busy if too many bytes of puts wait already; where several share, if the tenant has had its part.

        Its part is twice what is free, so that something is left for who comes (as in staging.py).
        """
        most = self._context.options.waiting_bytes_max
        if waiting_bytes and waiting_bytes + nbytes > most:
            raise Busy(f"{waiting_bytes} bytes of puts are waiting already", retry_after_s=0.05)
        own = self._putting.get(tenant, 0)
        if (
            own
            and self._context.shares.divided
            and own + nbytes > WAITING_TIMES_FREE * (most - waiting_bytes)
        ):
            raise Busy(f"{own} bytes of the tenant's puts are waiting already", retry_after_s=0.05)

    def admit_new(self, namespace: NamespaceIndex, keys: Sequence[bytes], sizes: Sequence[int]) -> None:
        """Room for those of some chunks (``sizes``: bytes in whole blocks) that are not there yet; see `_admit`.

        For tenants with a limit: who asks has looked whether there is one, since mostly there is none.
        """
        find, busy = self._context.find, namespace.busy
        # What is there and busy may be on its way out.
        new = [
            nbytes
            for key, nbytes in zip(keys, sizes, strict=True)
            if find(namespace, key) is None or key in busy
        ]
        # Nor may room for some be made of others that are put again.
        self._kept = namespace, set(keys)
        try:
            self._admit(namespace.scope.tenant, sum(new), max(new, default=0))
        finally:
            self._kept = None

    def _admit(self, tenant: bytes, nbytes: int, longest: int) -> None:
        """Room for a put that adds ``nbytes``, by trimming if it must be; ``longest``: of its longest chunk.

        Raises:
            TooLarge: it is more than the tenant may have in all.
            OverQuota: there is no room yet, or all that the tenant has is held; or it is more than the part of
                the quota that is this shard's, which may grow.
        """
        context = self._context
        limit = context.shares.capacity_bytes_max(tenant)
        if not limit:
            return
        if nbytes > limit:
            limit, whole = context.shares.capacity_bytes_for(tenant, longest)
            if nbytes > whole:
                raise TooLarge(
                    f"a put of {nbytes} bytes is over the tenant's limit (capacity_bytes, {whole})"
                )
            if nbytes > limit:
                context.shares.refused(tenant)
                raise OverQuota(
                    f"capacity_bytes: a put of {nbytes} bytes is over this shard's part ({limit}) of what is "
                    f"allowed ({whole}); put less at a time",
                    RETRY_HELD_S,
                )
        used = self.used_bytes(tenant)
        most = limit - min(limit // HEADROOM_SHARE, HEADROOM_BYTES_MAX)
        if used + nbytes <= most:
            return
        trimming = self._trimmings.setdefault(tenant, _Trimming())
        if used + nbytes > limit:
            used -= self._trim(tenant, trimming, used + nbytes - limit)
        fits = used + nbytes <= limit
        # what is admitted counts as used when the trimming begins
        self._start(tenant, trimming, most if fits else max(0, most - nbytes))
        if not fits:
            context.shares.refused(tenant)
            leaving = trimming.task is not None and trimming.fruitless_at != context.changes
            what = "its oldest chunks are leaving" if leaving else "the rest is leased, or being put"
            raise OverQuota(
                f"capacity_bytes: {limit} are allowed, {used} are used, {nbytes} more are wanted; {what}",
                RETRY_TRIMMING_S if leaving else RETRY_HELD_S,
            )

    def put_began(self, tenant: bytes, nbytes: int) -> None:
        """So many bytes are being put."""
        self._putting[tenant] = self._putting.get(tenant, 0) + nbytes

    def put_ended(self, tenant: bytes, nbytes: int) -> None:
        """Their put has ended: they are visible, or gone."""
        left = self._putting[tenant] - nbytes
        if left:
            self._putting[tenant] = left
        else:
            del self._putting[tenant]

    @property
    def putting_bytes(self) -> int:
        """Bytes of all puts under way, in whole blocks."""
        return sum(self._putting.values())

    # -- trimming

    def tick(self) -> None:
        """Trim whoever is over his limit, since it was lowered or a restart found chunks again."""
        if not self._to_look_at:
            there = self.tenants()
            self._to_look_at = list(there)
            self._forget_all_but(there)
        for _ in range(min(TENANTS_PER_TICK, len(self._to_look_at))):
            tenant = self._to_look_at.pop()
            limit = self._context.shares.capacity_bytes_max(tenant)
            if limit and self.used_bytes(tenant) > limit:
                self._start(tenant, self._trimmings.setdefault(tenant, _Trimming()), limit)

    def _forget_all_but(self, there: set[bytes]) -> None:
        """Of tenants that have no chunks any more nothing is kept but what a restart could find."""
        for tenant in self._trimmings.keys() - there:
            if self._trimmings[tenant].task is None:
                del self._trimmings[tenant]
        trimmed, on_disk = self._context.trimmed, self._context.on_disk
        for tenant in trimmed.keys() - there:
            trimmed[tenant] &= on_disk
            if not trimmed[tenant]:
                del trimmed[tenant]

    @property
    def running(self) -> bool:
        """Whether any tenant's chunks are being trimmed."""
        return self._running > 0

    def _start(self, tenant: bytes, trimming: _Trimming, most: int) -> None:
        """Trim in the background until no more than ``most`` bytes are used."""
        context = self._context
        trimming.most = most
        if trimming.task is None and trimming.fruitless_at != context.changes and not context.closing:
            self._running += 1
            trimming.task = context.start(self._run(tenant, trimming))

    async def _run(self, tenant: bytes, trimming: _Trimming) -> None:
        context = self._context
        try:
            while True:
                await context.later.turn()
                excess = self.used_bytes(tenant) - trimming.most
                if excess <= 0 or trimming.fruitless_at == context.changes or context.closing:
                    return
                self._trim(tenant, trimming, excess)
        finally:
            self._running -= 1
            trimming.task = None

    def _trim(self, tenant: bytes, trimming: _Trimming, excess: int) -> int:
        """Forget the oldest chunks until ``excess`` bytes came free, or a step's work was done; bytes."""
        context = self._context
        gained = 0
        steps = STEP_ENTRIES
        while gained < excess and steps > 0 and trimming.fruitless_at != context.changes:
            if not trimming.places:
                if not trimming.gained:
                    trimming.gained = True
                    if not self._kept_some:
                        trimming.fruitless_at = context.changes
                    break
                self._begin_pass(tenant, trimming)
            life, start = trimming.places.popleft()
            segment = context.lives.get(life)
            steps -= 1
            if segment is None or segment.state is State.RECLAIMING or not segment.live_count:
                continue
            freed, work, at = self._trim_segment(tenant, segment, start, excess - gained, steps)
            gained += freed
            steps -= work
            if at < len(segment.table):
                trimming.places.appendleft((life, at))
            trimming.gained = trimming.gained or freed > 0
        return gained

    def _begin_pass(self, tenant: bytes, trimming: _Trimming) -> None:
        context = self._context
        trimmed = context.trimmed.get(tenant)
        if trimmed:
            trimmed &= context.on_disk
        trimming.places.extend((life, 0) for life in sorted(context.lives))
        trimming.gained = False
        self._kept_some = False
        if not trimming.places:
            trimming.places.append((0, 0))

    def _trim_segment(
        self, tenant: bytes, segment: Segment, start: int, excess: int, steps: int
    ) -> tuple[int, int, int]:
        """Forget the tenant's chunks of a segment from ``start`` on: (bytes, work done, where to go on)."""
        table = segment.table
        own = {number for number, scope in enumerate(table.scopes) if scope.tenant == tenant}
        work = len(table.scopes) // PASSED_OVER
        if not own:
            return 0, work, len(table)
        scopes, parts = table.scope, table.parts
        freed = 0
        number = start
        end = min(len(table), start + steps * PASSED_OVER)
        while number < end and freed < excess and work < steps:
            if scopes[number] in own and parts[number]:
                freed += self._forget(tenant, segment, number)
                work += 1
            number += 1
        return freed, work + (number - start) // PASSED_OVER, number

    def _forget(self, tenant: bytes, segment: Segment, number: int) -> int:
        """Make one chunk invisible, if it is and may be; its bytes."""
        context = self._context
        table = segment.table
        key = table.keys[number]
        namespace = context.index.peek(table.scopes[table.scope[number]])
        if key in namespace.pins or key in namespace.busy:
            return 0
        if self._kept is not None and namespace is self._kept[0] and key in self._kept[1]:
            self._kept_some = True
            return 0
        if not context.forget(namespace, key, segment, number, why=EventKind.EVICTED):
            return 0
        context.trimmed.setdefault(tenant, set()).add(segment.life)
        context.counters["chunks_trimmed"] += 1
        context.counters["bytes_trimmed"] += table.length[number]
        return blocks_of(table.length[number]) * BLOCK_BYTES
