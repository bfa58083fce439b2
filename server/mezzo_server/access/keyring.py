"""The keys that a front-end signs tickets with: when they come, and when they go. No I/O, no clock.

Invariants: a key signs only after its public half was published, and, if another key could sign,
only `SETTLE_S` later, when shards have heard of it; no ticket is good for longer than its key; a
successor is drawn at half of a key's time, so that publishing may fail for the other half and no
ticket is refused for it.  Private halves leave this object never.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from mezzo.errors import Unavailable
from mezzo_server.access.principal import Principal
from mezzo_server.access.tickets import KEY_ID_BYTES, SEED_BYTES, SKEW_S, SigningKey, Ticket
from mezzo_server.tenancy.model import TicketKey

SETTLE_S = 10
"""Twice the time within which a change of the metadata reaches every shard."""


@dataclass(slots=True)
class _Held:
    key: SigningKey
    drawn_s: float
    expires_s: int
    published_s: float | None = None
    """when it was; None: not yet"""


class KeyRing:
    """Owner of the private keys. `step` from time to time; publish what `unpublished` tells."""

    def __init__(
        self, *, pod: str, key_s: float, ticket_s: float, random_bytes: Callable[[int], bytes]
    ) -> None:
        """``key_s``: how long a key lives; ``ticket_s``: how long a ticket is good for, up to a whole second."""
        self._pod = pod
        # Enough for a ticket that is signed just before the successor takes over.
        self._key_s = max(key_s, 4 * (ticket_s + SETTLE_S))
        self._ticket_s = ticket_s
        self._random_bytes = random_bytes
        self._keys: list[_Held] = []

    def __repr__(self) -> str:
        return f"<KeyRing {len(self._keys)} keys>"

    def step(self, now_s: float) -> None:
        """Draw a key if it is time, and forget those whose tickets have all expired."""
        self._keys = [held for held in self._keys if held.expires_s + 2 * SKEW_S > now_s]
        if not self._keys or now_s >= self._keys[-1].drawn_s + self._key_s / 2:
            key = SigningKey(self._random_bytes(KEY_ID_BYTES), self._random_bytes(SEED_BYTES))
            self._keys.append(_Held(key, now_s, int(now_s + self._key_s)))

    def unpublished(self) -> list[TicketKey]:
        """Public halves that are to be published."""
        return [_public(held) for held in self._keys if held.published_s is None]

    def holds(self, key_id: bytes) -> bool:
        """Whether it signs, or tickets that it signed may still be good."""
        return any(held.key.id == key_id for held in self._keys)

    def published(self, key_id: bytes, now_s: float) -> None:
        """It was published."""
        for held in self._keys:
            if held.key.id == key_id and held.published_s is None:
                held.published_s = now_s

    def lost(self, key_id: bytes) -> None:
        """It is not there any more (its metadata lease ended): it is due again, if it still is of use."""
        for held in self._keys:
            if held.key.id == key_id:
                held.published_s = None

    def sign(self, principal: Principal, now_s: float) -> tuple[bytes, int]:
        """A ticket for a caller, and the Unix time until which it is good.

        Raises:
            Unavailable: no key can sign now, since none could be published.
        """
        # Tickets count whole seconds; a shorter one would have no time left at some moments, and too little at most.
        expires_s = min(ceil(now_s + self._ticket_s), principal.expires_s)
        ticket = Ticket(
            pod=self._pod,
            tenant=principal.tenant,
            credential=principal.credential,
            scopes=int(principal.scopes),
            issued_s=int(now_s),
            expires_s=expires_s,
        )
        return self._signer(now_s, expires_s).sign(ticket), expires_s

    def _signer(self, now_s: float, expires_s: int) -> SigningKey:
        usable = [held for held in self._keys if held.published_s is not None and held.expires_s >= expires_s]
        settled = [held for held in usable if (held.published_s or 0.0) + SETTLE_S <= now_s]
        if settled:
            return settled[-1].key
        if usable:
            return usable[-1].key
        raise Unavailable("no key to sign tickets with could be published in the metadata yet")


def _public(held: _Held) -> TicketKey:
    return TicketKey(id=held.key.id, public=held.key.public, expires_s=held.expires_s)
