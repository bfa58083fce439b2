"""What one tenant may hold of what all share: never all of it. No I/O.

A tenant gets one more as long as it holds fewer than `PART` times what is free.  So one alone has three quarters
at most, two greedy ones three sevenths each, and however many there are, something is left for whoever comes next:
without calls a tenant could not even open a session.
"""

from __future__ import annotations

from mezzo.errors import Busy
from mezzo_server.access.principal import NO_TENANT

PART = 3
RETRY_S = 1.0


class Shares:
    """Owner of the counts of one thing. Where there are no tenants, and for operators, only the limit counts."""

    def __init__(self, what: str, count_max: int, setting: str) -> None:
        """``what`` is limited, in words for an error; ``setting``: by which setting."""
        self._what = what
        self._count_max = count_max
        self._setting = setting
        self._held: dict[bytes, int] = {}
        self._total = 0

    def __len__(self) -> int:
        """How many are held."""
        return self._total

    def take(self, tenant: bytes) -> None:
        """Hold one more. Raises Busy."""
        free = self._count_max - self._total
        held = self._held.get(tenant, 0)
        if free < 1:
            raise self.full()
        if tenant != NO_TENANT and held >= PART * free:
            raise Busy(
                f"{held} {self._what}, all of this tenant, and others need some ({self._setting})", RETRY_S
            )
        self._held[tenant] = held + 1
        self._total += 1

    def full(self) -> Busy:
        """The error if none is free."""
        return Busy(f"{self._count_max} {self._what} ({self._setting})", RETRY_S)

    def give(self, tenant: bytes) -> None:
        """Hold one less."""
        self._total -= 1
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]

    def held(self, tenant: bytes) -> Held:
        """One more for the block, which raises Busy."""
        return Held(self, tenant)


class Held:
    """One of a tenant's share, for a block. Of every call, so a class: a generator takes three times as long."""

    __slots__ = ("_shares", "_tenant")

    def __init__(self, shares: Shares, tenant: bytes) -> None:
        self._shares = shares
        self._tenant = tenant

    def __enter__(self) -> None:
        self._shares.take(self._tenant)

    def __exit__(self, *raised: object) -> None:
        self._shares.give(self._tenant)
