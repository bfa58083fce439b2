"""Leases: who may count on which chunks until when, and who uses them in place. No I/O, no clock.

Invariants: every key of a lease is pinned in the store exactly once for that lease and unpinned
exactly once when it ends, however it ends (released, expired, its connection closed); the bytes of
all leases never exceed ``bytes_max``, nor their chunks ``chunks_max``.  A chunk in two leases counts twice.

A lease *in place* also holds the hot slots that its places name: once each, until it is released or
its connection ends.  When only its time is over it is *overdue*: its pins are gone, its slots stay,
because its owner may still be reading them; whoever runs the table ends the connection of the
`longest_overdue` when the room is wanted.  Leases, overdue ones included, never exceed ``leases_max``.

No tenant has more of them, or of their chunks, than its part of each limit: what one tenant does never keeps
another from leasing.

Numbers of leases rise from ``first`` on, which its owner draws at random for each life of the shard: a
number of a former life names nothing in this one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mezzo.errors import Busy, MezzoError, OverQuota, TooLarge
from mezzo_server.blockstore.api import Scope
from mezzo_server.hot.slots import Slot

RETRY_S_MAX = 1.0
COUNTS_KEPT = 1024
"""Tenants without leases are forgotten when there are more than so many."""


class Pins(Protocol):
    """What leases need of a block store."""

    def prefix(self, scope: Scope, keys: Sequence[bytes]) -> tuple[int, int]:
        """How many of ``keys``, from the first on, are present, and their bytes."""

    def pin_all(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """Keep chunks, all of which are present."""

    def unpin_all(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """Undo one `pin_all`."""

    def hold_all(self, scope: Scope, keys: Sequence[bytes]) -> Sequence[Slot | None]:
        """Hold the slots of chunks; None for one that is not hot, or may not be held."""

    def let_go_all(self, slots: Sequence[Slot]) -> None:
        """Undo one `hold_all`."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease on the present prefix; ``lease`` is 0 when nothing of it is present."""

    lease: int
    prefix: int
    bytes: int
    lease_s: float
    slots: Sequence[Slot | None] = ()
    """for each key of the prefix, if it was acquired in place"""


@dataclass(slots=True)
class _Counts:
    """What one tenant has, and may have."""

    leases_max: int
    chunks_max: int
    leases: int = 0
    """overdue ones included"""
    chunks: int = 0
    """in those that are not"""


@dataclass(slots=True)
class _Lease:
    owner: object
    scope: Scope
    keys: Sequence[bytes]
    bytes: int
    ends_at: float
    held: Sequence[Slot]
    """slots that it holds"""
    counts: _Counts
    """its tenant's"""


@dataclass(frozen=True, slots=True)
class Overdue:
    """A lease in place that has expired and was not released."""

    owner: object
    chunks: int
    """that it holds in place"""
    bytes: int
    since: float
    """when it expired, on the clock of the table"""


class LeaseTable:
    """All leases of a shard. Owner of their pins and held slots; driven by `expire` from a timer."""

    def __init__(
        self,
        store: Pins,
        *,
        bytes_max: int,
        leases_max: int,
        chunks_max: int,
        lease_s_max: float,
        now: Callable[[], float],
        tenant_bytes_max: Callable[[bytes], int] | None = None,
        tenant_bytes_whole: Callable[[bytes], int] | None = None,
        tenant_part: Callable[[bytes], float] | None = None,
        first: int = 1,
    ) -> None:
        """``tenant_bytes_max``: how much the leases of a tenant may hold; None: as much as all may.
        ``tenant_bytes_whole``: the most that this can ever become, where it is a part of a quota; None: it stays.

        ``tenant_part``: the part of ``leases_max`` and ``chunks_max`` that a tenant may have; None: all.
        """
        self._store = store
        self._now = now
        self._tenant_bytes_max = tenant_bytes_max
        self._tenant_bytes_whole = tenant_bytes_whole
        self._tenant_part = tenant_part
        self.bytes_max = bytes_max
        self.leases_max = leases_max
        self.chunks_max = chunks_max
        self.lease_s_max = lease_s_max
        self.bytes_leased = 0
        self.bytes_by_tenant: dict[bytes, int] = {}
        """of those tenants that hold any"""
        self.chunks_leased = 0
        self._counts: dict[bytes, _Counts] = {}
        """by tenant, of those that have leases, and some that had"""
        self.hot_bytes_overdue = 0
        """bytes in place of leases that are overdue; a chunk in two of them counts twice"""
        self.crowded = False
        """a lease was refused while overdue ones took up the table; whoever ends one of them clears it"""
        self._leases: dict[int, _Lease] = {}
        self._overdue: dict[int, _Lease] = {}  # by the time when they expired
        self._by_owner: dict[object, set[int]] = {}
        # (ends_at, lease); entries of leases that ended early or were renewed are dropped when they
        # surface, and the heap is rebuilt when they are the most of it.
        self._deadlines: list[tuple[float, int]] = []
        self._next = first

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def overdue(self) -> int:
        """Leases in place that have expired and whose slots are still held."""
        return len(self._overdue)

    @property
    def longest_overdue(self) -> Overdue | None:
        """Of the overdue leases the one that expired first."""
        for lease in self._overdue.values():
            return Overdue(lease.owner, len(lease.held), _bytes(lease.held), lease.ends_at)
        return None

    def acquire(
        self, owner: object, scope: Scope, keys: Sequence[bytes], lease_s: float, *, in_place: bool = False
    ) -> Granted:
        """Lease the present prefix of ``keys`` for ``lease_s`` (at most ``lease_s_max``).

        ``in_place``: hold the slots of those that are hot, too.

        Raises:
            TooLarge: the prefix is more than all leases together may hold, or than the tenant's may.
            OverQuota: the tenant's other leases hold too much now, or are too many.
            Busy: other leases hold too much now, or are too many.
        """
        lease_s = min(lease_s, self.lease_s_max)
        store = self._store
        count, size = store.prefix(scope, keys)
        if count == 0 or lease_s <= 0:
            return Granted(0, count, size, 0.0, (None,) * count if in_place else ())
        if size > self.bytes_max:
            raise TooLarge(f"a lease on {size} bytes is over the limit of leased bytes ({self.bytes_max})")
        now = self._now()
        if self._deadlines and self._deadlines[0][0] <= now:
            self.expire()
        tenant = scope.tenant
        of_tenant = self.bytes_by_tenant.get(tenant, 0)
        if self._tenant_bytes_max is not None:
            most = self._tenant_bytes_max(tenant)
            if of_tenant + size > most:
                raise self._over_tenants_limit(tenant, of_tenant, size, most)
        if self.bytes_leased + size > self.bytes_max:
            raise Busy(
                f"with {size} bytes more, all leases would hold more than they may ({self.bytes_max})",
                self._retry_after_s(),
            )
        counts = self._counts.get(tenant) or self._counts_of(tenant)
        if (
            counts.leases >= counts.leases_max
            or counts.chunks + count > counts.chunks_max
            or len(self._leases) + len(self._overdue) >= self.leases_max
            or self.chunks_leased + count > self.chunks_max
        ):
            raise self._too_many(counts, count)
        leased = keys if count == len(keys) else keys[:count]
        store.pin_all(scope, leased)
        slots: Sequence[Slot | None] = ()
        held: Sequence[Slot] = ()
        if in_place:
            slots = store.hold_all(scope, leased)
            held = [slot for slot in slots if slot is not None]
        lease = self._next
        self._next += 1
        ends_at = now + lease_s
        counts.leases += 1
        counts.chunks += count
        self.chunks_leased += count
        self._leases[lease] = _Lease(owner, scope, leased, size, ends_at, held, counts)
        self._by_owner.setdefault(owner, set()).add(lease)
        self.bytes_leased += size
        self.bytes_by_tenant[tenant] = of_tenant + size
        heapq.heappush(self._deadlines, (ends_at, lease))
        return Granted(lease, count, size, lease_s, slots)

    def release(self, owner: object, lease: int) -> bool:
        """End a lease of ``owner``; False if he holds none of that number, or it has expired."""
        overdue = self._overdue.get(lease)
        if overdue is not None:
            if overdue.owner is owner:
                self._end_overdue(lease, overdue)
            return False
        held = self._leases.get(lease)
        if held is None or held.owner is not owner:
            return False
        in_time = held.ends_at > self._now()
        self._end(lease, held)
        self._tidy()
        return in_time

    def renew(self, owner: object, lease: int, lease_s: float) -> float | None:
        """Let a lease of ``owner`` end ``lease_s`` from now (at most ``lease_s_max``), or when it would have.

        What it holds in place stays held for as long.  Returns the seconds that are left of it then; None if
        he holds none of that number any more, also when it has expired and its slots are still held: its
        chunks may have been evicted meanwhile.
        """
        held = self._leases.get(lease)
        now = self._now()
        if held is None or held.owner is not owner or held.ends_at <= now:
            return None
        ends_at = now + min(lease_s, self.lease_s_max)
        if ends_at > held.ends_at:
            held.ends_at = ends_at
            heapq.heappush(self._deadlines, (ends_at, lease))
            self._tidy()
        return held.ends_at - now

    def end_owner(self, owner: object) -> None:
        """End all leases of ``owner``, overdue ones too: his connection closed."""
        for lease in tuple(self._by_owner.get(owner, ())):
            held = self._leases.get(lease)
            if held is not None:
                self._end(lease, held)
            else:
                self._end_overdue(lease, self._overdue[lease])

    def expire_owner(self, owner: object) -> None:
        """Let all leases of ``owner`` be over now, as if their time were: their chunks were erased."""
        for lease in tuple(self._by_owner.get(owner, ())):
            held = self._leases.get(lease)
            if held is not None:
                held.ends_at = min(held.ends_at, self._now())
                self._over(lease, held)

    def expire(self) -> int:
        """End the leases whose time is over; how many. What they hold in place becomes overdue."""
        now = self._now()
        ended = 0
        while self._deadlines and self._deadlines[0][0] <= now:
            _, lease = heapq.heappop(self._deadlines)
            held = self._leases.get(lease)
            if held is None or held.ends_at > now:
                continue
            ended += 1
            self._over(lease, held)
        return ended

    def _over(self, lease: int, held: _Lease) -> None:
        """A lease's time is over."""
        if not held.held:
            self._end(lease, held)
            return
        del self._leases[lease]
        self._unpin(held)
        held.keys = ()
        self._overdue[lease] = held
        self.hot_bytes_overdue += _bytes(held.held)

    def _end(self, lease: int, held: _Lease) -> None:
        del self._leases[lease]
        self._unpin(held)
        self._disown(lease, held)
        if held.held:
            self._store.let_go_all(held.held)

    def _end_overdue(self, lease: int, held: _Lease) -> None:
        del self._overdue[lease]
        self._disown(lease, held)
        self.hot_bytes_overdue -= _bytes(held.held)
        self._store.let_go_all(held.held)

    def _tidy(self) -> None:
        if len(self._deadlines) > 2 * len(self._leases) + 64:
            self._deadlines = [(entry.ends_at, number) for number, entry in self._leases.items()]
            heapq.heapify(self._deadlines)

    def _counts_of(self, tenant: bytes) -> _Counts:
        """The counts of a tenant that has none yet."""
        part = 1.0 if self._tenant_part is None else self._tenant_part(tenant)
        counts = _Counts(max(1, int(self.leases_max * part)), int(self.chunks_max * part))
        self._counts[tenant] = counts
        return counts

    def _too_many(self, counts: _Counts, chunks: int) -> MezzoError:
        """Why a lease on so many chunks more is one too many."""
        if chunks > counts.chunks_max:
            return TooLarge(
                f"a lease on {chunks} chunks is over the limit ({counts.chunks_max}, leased_chunks_max)"
            )
        retry_after_s = self._retry_after_s()
        if len(self._leases) + len(self._overdue) >= self.leases_max:
            self.crowded = bool(self._overdue)
            return Busy(f"{self.leases_max} leases are held (leases_max)", retry_after_s)
        if self.chunks_leased + chunks > self.chunks_max:
            return Busy(
                f"with {chunks} chunks more, all leases would hold more than they may ({self.chunks_max}, "
                "leased_chunks_max)",
                retry_after_s,
            )
        if counts.leases >= counts.leases_max:
            return OverQuota(
                f"the tenant holds {counts.leases} leases, as many as it may (its part of leases_max)",
                retry_after_s,
            )
        return OverQuota(
            f"leases of the tenant hold {counts.chunks} chunks, {chunks} more would be over its limit "
            f"({counts.chunks_max}, its part of leased_chunks_max)",
            retry_after_s,
        )

    def _over_tenants_limit(self, tenant: bytes, leased: int, size: int, limit: int) -> MezzoError:
        whole = limit if self._tenant_bytes_whole is None else self._tenant_bytes_whole(tenant)
        if size > whole:
            return TooLarge(
                f"a lease on {size} bytes is over the limit of the tenant's leased bytes ({whole})"
            )
        return OverQuota(
            f"leases of the tenant hold {leased} bytes, {size} more would be over its limit ({limit})",
            self._retry_after_s(),
        )

    def _unpin(self, held: _Lease) -> None:
        self.bytes_leased -= held.bytes
        tenant = held.scope.tenant
        left = self.bytes_by_tenant[tenant] - held.bytes
        if left:
            self.bytes_by_tenant[tenant] = left
        else:
            del self.bytes_by_tenant[tenant]
        self.chunks_leased -= len(held.keys)
        held.counts.chunks -= len(held.keys)
        self._store.unpin_all(held.scope, held.keys)

    def _disown(self, lease: int, held: _Lease) -> None:
        mine = self._by_owner[held.owner]
        mine.discard(lease)
        if not mine:
            del self._by_owner[held.owner]
        held.counts.leases -= 1
        if not held.counts.leases and len(self._counts) > COUNTS_KEPT:
            del self._counts[held.scope.tenant]

    def _retry_after_s(self) -> float:
        soonest = self._deadlines[0][0] - self._now() if self._deadlines else RETRY_S_MAX
        return min(max(soonest, 0.01), RETRY_S_MAX)


def _bytes(slots: Sequence[Slot]) -> int:
    return sum([slot.length for slot in slots])
