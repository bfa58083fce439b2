"""Leases that callers hold: names for what the front-end's own connections hold in the shard. No I/O."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mezzo.errors import Busy

if TYPE_CHECKING:
    from mezzo.lease import AsyncLease
    from mezzo_server.frontend.namespaces import Namespace

LEASE_BYTES = 16
"""of a name: random, so that nobody ends another's lease by guessing"""


@dataclass(frozen=True, slots=True)
class Held:
    """One lease, and the namespace whose connection it lives on."""

    lease: AsyncLease
    namespace: Namespace


class LeaseTable:
    """Leases by name. Owner of the table; a lease leaves it by `take` or when its time is over."""

    def __init__(
        self, leases_max: int, now: Callable[[], float], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._leases_max = leases_max
        self._now = now
        self._random_bytes = random_bytes
        self._held: dict[bytes, Held] = {}
        self._ends: list[tuple[float, bytes]] = []  # a heap; what was taken or renewed is skipped

    def __len__(self) -> int:
        return len(self._held)

    def reserve(self) -> None:
        """Busy if no further lease fits; to be called before one is acquired."""
        self.expire()
        if len(self._held) >= self._leases_max:
            raise Busy(f"{self._leases_max} leases are held (frontend.leases_max)", 1.0)

    def add(self, lease: AsyncLease, namespace: Namespace) -> bytes:
        """The name of a lease that was acquired."""
        name = self._random_bytes(LEASE_BYTES)
        self._held[name] = Held(lease, namespace)
        namespace.leases += 1
        self._push(lease.expires, name)
        return name

    def take(self, name: bytes, tenant: bytes) -> Held | None:
        """Forget a lease of this tenant's, to release it; None if it has none of that name, or it is over."""
        held = self.find(name, tenant)
        if held is not None:
            del self._held[name]
            held.namespace.leases -= 1
        return held

    def find(self, name: bytes, tenant: bytes) -> Held | None:
        """A lease of this tenant's, to renew it; None if it has none of that name, or it is over."""
        self.expire()
        held = self._held.get(name)
        return held if held is not None and held.namespace.tenant == tenant else None

    def renewed(self, name: bytes, held: Held) -> None:
        """It lasts longer now."""
        if name in self._held:
            self._push(held.lease.expires, name)

    def expire(self) -> None:
        """Forget those whose time is over."""
        now = self._now()
        while self._ends and self._ends[0][0] <= now:
            name = heapq.heappop(self._ends)[1]
            held = self._held.get(name)
            if held is not None and held.lease.expires <= now:
                del self._held[name]
                held.namespace.leases -= 1

    def _push(self, expires: float, name: bytes) -> None:
        heapq.heappush(self._ends, (expires, name))
        if len(self._ends) > 2 * len(self._held) + 64:
            self._ends = [(held.lease.expires, known) for known, held in self._held.items()]
            heapq.heapify(self._ends)
