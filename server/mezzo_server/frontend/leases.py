"""Leases that callers hold: names for what the front-end's own connections hold in the shard. No I/O."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mezzo_server.frontend.shares import Shares

if TYPE_CHECKING:
    from mezzo.lease import AsyncLease
    from mezzo_server.frontend.namespaces import Namespace

Add: TypeAlias = "Callable[[AsyncLease, Namespace], bytes]"
"""adds a lease that was acquired, and gives its name"""

LEASE_BYTES = 16
"""of a name: random, so that nobody ends another's lease by guessing"""


@dataclass(slots=True)
class Held:
    """One lease, and the namespace whose connection it lives on. Changed by its table only."""

    lease: AsyncLease
    namespace: Namespace
    renewals: int = 0
    """under way: it may last longer than it says"""


class LeaseTable:
    """Leases by name. Owner of the table; a lease leaves it by `take` or when its time is over."""

    def __init__(
        self, leases_max: int, now: Callable[[], float], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._shares = Shares("leases are held", leases_max, "frontend.leases_max")
        self._now = now
        self._random_bytes = random_bytes
        self._held: dict[bytes, Held] = {}
        self._ends: list[tuple[float, bytes]] = []  # a heap; what was taken or renewed is skipped

    def __len__(self) -> int:
        return len(self._held)

    @contextmanager
    def reserved(self, tenant: bytes) -> Iterator[Add]:
        """Room for one lease of this tenant's; what the block gets adds the lease, once it was acquired.

        Raises:
            Busy: the tenant, or all of them, hold too many.
        """
        self.expire()
        self._shares.take(tenant)
        name = b""

        def add(lease: AsyncLease, namespace: Namespace) -> bytes:
            nonlocal name
            name = self._random_bytes(LEASE_BYTES)
            self._held[name] = Held(lease, namespace)
            namespace.hold()
            self._push(lease.expires, name)
            return name

        try:
            yield add
        finally:
            if not name:
                self._shares.give(tenant)

    def take(self, name: bytes, tenant: bytes) -> Held | None:
        """Forget a lease of this tenant's, to release it; None if it has none of that name, or it is over."""
        held = self.find(name, tenant)
        if held is not None:
            self._forget(name, held)
        return held

    def find(self, name: bytes, tenant: bytes) -> Held | None:
        """A lease of this tenant's; None if it has none of that name, or it is over."""
        self.expire()
        held = self._held.get(name)
        return held if held is not None and held.namespace.tenant == tenant else None

    @contextmanager
    def renewing(self, name: bytes, tenant: bytes) -> Iterator[Held | None]:
        """As `find`, for a lease that is renewed within the block: it does not leave for its time meanwhile."""
        held = self.find(name, tenant)
        if held is None:
            yield None
            return
        held.renewals += 1
        try:
            yield held
        finally:
            held.renewals -= 1
            if name in self._held:
                self._push(held.lease.expires, name)

    def expire(self) -> None:
        """Forget those whose time is over."""
        now = self._now()
        while self._ends and self._ends[0][0] <= now:
            name = heapq.heappop(self._ends)[1]
            held = self._held.get(name)
            if held is not None and held.lease.expires <= now and not held.renewals:
                self._forget(name, held)

    def _forget(self, name: bytes, held: Held) -> None:
        del self._held[name]
        self._shares.give(held.namespace.tenant)
        held.namespace.let_go()

    def _push(self, expires: float, name: bytes) -> None:
        heapq.heappush(self._ends, (expires, name))
        if len(self._ends) > 2 * len(self._held) + 64:
            self._ends = [(held.lease.expires, known) for known, held in self._held.items()]
            heapq.heapify(self._ends)
