"""Leases: who may count on which chunks until when. No I/O, no clock.

Invariants: every key of a lease is pinned in the store exactly once for that lease and unpinned
exactly once when it ends, however it ends (released, expired, its connection closed); the bytes of
all leases never exceed ``bytes_max``.  A chunk in two leases counts twice.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mezzo.errors import Busy, TooLarge
from mezzo_server.blockstore.api import Scope

RETRY_S_MAX = 1.0


class Pins(Protocol):
    """What leases need of a block store."""

    def prefix(self, scope: Scope, keys: Sequence[bytes]) -> tuple[int, int]:
        """How many of ``keys``, from the first on, are present, and their bytes."""

    def pin(self, scope: Scope, key: bytes) -> int:
        """Keep a chunk; its bytes, 0 if it is not there."""

    def unpin(self, scope: Scope, key: bytes) -> None:
        """Undo one `pin`."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease on the present prefix; ``lease`` is 0 when nothing of it is present."""

    lease: int
    prefix: int
    bytes: int
    lease_s: float


@dataclass(slots=True)
class _Lease:
    owner: object
    scope: Scope
    keys: Sequence[bytes]
    bytes: int
    ends_at: float


class LeaseTable:
    """All leases of a shard. Owner of their pins; driven by `expire` from a timer."""

    def __init__(
        self,
        store: Pins,
        *,
        bytes_max: int,
        leases_max: int,
        lease_s_max: float,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._now = now
        self.bytes_max = bytes_max
        self.leases_max = leases_max
        self.lease_s_max = lease_s_max
        self.bytes_leased = 0
        self._leases: dict[int, _Lease] = {}
        self._by_owner: dict[object, set[int]] = {}
        # (ends_at, lease); entries of leases that ended early are dropped when they surface, and the
        # heap is rebuilt when they are the most of it.
        self._deadlines: list[tuple[float, int]] = []
        self._next = 1

    def __len__(self) -> int:
        return len(self._leases)

    def acquire(self, owner: object, scope: Scope, keys: Sequence[bytes], lease_s: float) -> Granted:
        """Lease the present prefix of ``keys`` for ``lease_s`` (at most ``lease_s_max``).

        Raises:
            TooLarge: the prefix holds more bytes than all leases together may.
            Busy: other leases hold too much now.
        """
        lease_s = min(lease_s, self.lease_s_max)
        count, size = self._store.prefix(scope, keys)
        if count == 0 or lease_s <= 0:
            return Granted(0, count, size, 0.0)
        if size > self.bytes_max:
            raise TooLarge(f"a lease on {size} bytes is over the limit of leased bytes ({self.bytes_max})")
        self.expire()
        if self.bytes_leased + size > self.bytes_max:
            raise Busy(
                f"{self.bytes_leased} bytes are leased, {size} more would be over the limit "
                f"({self.bytes_max})",
                self._retry_after_s(),
            )
        if len(self._leases) >= self.leases_max:
            raise Busy(f"{self.leases_max} leases are held (leases_max)", self._retry_after_s())
        for key in keys[:count]:
            self._store.pin(scope, key)
        lease = self._next
        self._next += 1
        ends_at = self._now() + lease_s
        self._leases[lease] = _Lease(owner, scope, keys[:count], size, ends_at)
        self._by_owner.setdefault(owner, set()).add(lease)
        self.bytes_leased += size
        heapq.heappush(self._deadlines, (ends_at, lease))
        return Granted(lease, count, size, lease_s)

    def release(self, owner: object, lease: int) -> bool:
        """End a lease of ``owner``; False if he holds none of that number."""
        held = self._leases.get(lease)
        if held is None or held.owner is not owner or held.ends_at <= self._now():
            return False
        self._end(lease, held)
        if len(self._deadlines) > 2 * len(self._leases) + 64:
            self._deadlines = [(entry.ends_at, number) for number, entry in self._leases.items()]
            heapq.heapify(self._deadlines)
        return True

    def end_owner(self, owner: object) -> None:
        """End all leases of ``owner``: his connection closed."""
        for lease in self._by_owner.pop(owner, ()):
            self._end(lease, self._leases[lease])

    def expire(self) -> int:
        """End the leases whose time is over; how many."""
        now = self._now()
        ended = 0
        while self._deadlines and self._deadlines[0][0] <= now:
            _, lease = heapq.heappop(self._deadlines)
            held = self._leases.get(lease)
            if held is not None:
                self._end(lease, held)
                ended += 1
        return ended

    def _end(self, lease: int, held: _Lease) -> None:
        del self._leases[lease]
        mine = self._by_owner.get(held.owner)
        if mine is not None:
            mine.discard(lease)
            if not mine:
                del self._by_owner[held.owner]
        self.bytes_leased -= held.bytes
        for key in held.keys:
            self._store.unpin(held.scope, key)

    def _retry_after_s(self) -> float:
        soonest = self._deadlines[0][0] - self._now() if self._deadlines else RETRY_S_MAX
        return min(max(soonest, 0.01), RETRY_S_MAX)
