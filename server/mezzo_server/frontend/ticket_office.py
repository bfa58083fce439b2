"""Tickets as the front-end gives them out, and the keys behind them as shards come to know them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from mezzo import Ticket
from mezzo.errors import MezzoError
from mezzo_server.access.keyring import KeyRing
from mezzo_server.access.principal import Principal
from mezzo_server.tenancy.model import TicketKey

log = structlog.get_logger("mezzo.access")

LEASE_S = 90.0
"""How long a key outlives the front-end that has it, or as long as its tickets if that is longer: the metadata
may be away for as long."""
STEP_S = 5.0
"""Between two looks at whether a key is due, or its lease."""
KEEP_S = LEASE_S / 3


class Keys(Protocol):
    """Where public keys are published: `mezzo_server.tenancy.credentials.Credentials`."""

    async def publish_ticket_key(self, key: TicketKey, ttl_s: float) -> int:
        """Let shards know it; the metadata lease that keeps it there."""

    async def keep_ticket_key(self, lease: int) -> bool:
        """Let its time begin anew; False: it is gone."""


class TicketOffice:
    """Signs tickets. Owner of the key ring and of the leases under which its public halves are known."""

    def __init__(
        self,
        ring: KeyRing,
        keys: Keys,
        *,
        ticket_s: float,
        now: Callable[[], float],
        now_s: Callable[[], float],
    ) -> None:
        """``now``: the clock of the SDK's clients here; ``now_s``: Unix time."""
        self._ring = ring
        self._keys = keys
        self._ticket_s = ticket_s
        self._lease_s = max(LEASE_S, ticket_s)
        self.now = now
        self._now_s = now_s
        self._leases: dict[bytes, int] = {}
        self._kept_at = 0.0
        self.failures = 0
        """attempts to publish or to keep a key that failed"""

    def sign(self, principal: Principal) -> Ticket:
        """A ticket, with the reading of the clock until which it is good. Unavailable if no key is known yet."""
        now_s = self._now_s()
        data, expires_s = self._ring.sign(principal, now_s)
        return Ticket(data, self.now() + min(max(0.0, expires_s - now_s), self._ticket_s))

    async def step(self) -> None:
        """Draw, publish and keep what is due."""
        now = self.now()
        if self._leases and now - self._kept_at >= KEEP_S:
            await self._keep(now)
        self._ring.step(self._now_s())
        # What nobody keeps goes with its lease.
        self._leases = {key_id: lease for key_id, lease in self._leases.items() if self._ring.holds(key_id)}
        for key in self._ring.unpublished():
            try:
                self._leases[key.id] = await self._keys.publish_ticket_key(key, self._lease_s)
            except MezzoError as error:
                self._failed("a ticket key could not be published", error)
                return
            self._ring.published(key.id, self._now_s())
            if len(self._leases) == 1:
                self._kept_at = now
            log.info("a ticket key was published", key=key.id.hex(), expires_s=key.expires_s)

    async def run(self) -> None:
        """`step` until cancelled."""
        while True:
            await asyncio.sleep(STEP_S)
            try:
                await self.step()
            except Exception:  # a fault of ours must be seen; tickets are needed all the same
                log.exception("the keys of tickets could not be looked after")

    async def _keep(self, now: float) -> None:
        try:
            for key_id, lease in tuple(self._leases.items()):
                if not await self._keys.keep_ticket_key(lease):
                    # Of a key that is still in use it is published anew; of another nobody needs it.
                    del self._leases[key_id]
                    self._ring.lost(key_id)
        except MezzoError as error:
            self._failed("the lease of a ticket key could not be kept", error)
        else:
            self._kept_at = now

    def _failed(self, what: str, error: MezzoError) -> None:
        self.failures += 1
        log.warning(what, error=str(error))
