"""Who may enter a shard, what he may ask, and until when. No I/O, no clock of its own.

Invariants: a session's tenant comes from its ticket and never changes; what it may ask is what the
ticket *and* the credential behind it allow now; nobody learns from an answer why he was refused.
`NEEDS` is the one table of what a kind of frame needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mezzo.errors import Denied, Unavailable
from mezzo.protocol.messages import Kind
from mezzo_server.access.authentication import EVERYBODY, Anonymous
from mezzo_server.access.principal import (
    NEVER,
    Principal,
    Reason,
    Refused,
    Scopes,
    scope_names,
    scopes_of,
)
from mezzo_server.access.tickets import SKEW_S, scopes_in, verify
from mezzo_server.access.tokens import unwelcome
from mezzo_server.tenancy.catalog import Catalog

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session

EXPIRED_S_MAX = 3600.0
"""A session whose ticket has expired and is not renewed for so long is ended: it holds a connection's room."""
SWEEP_S = 5.0
"""Between two looks for such sessions."""

NEEDS: dict[Kind, Scopes] = {
    Kind.PING: Scopes.NONE,
    Kind.CANCEL: Scopes.NONE,
    Kind.TICKET_RENEW: Scopes.NONE,
    Kind.REGION_ADD: Scopes.NONE,
    Kind.REGION_REMOVE: Scopes.NONE,
    # Its own numbers; those of the whole shard are an operator's.
    Kind.SHARD_STAT: Scopes.NONE,
    Kind.LOOKUP: Scopes.READ,
    Kind.GET: Scopes.READ,
    Kind.ACQUIRE: Scopes.READ,
    Kind.LEASE_RENEW: Scopes.READ,
    Kind.RELEASE: Scopes.READ,
    Kind.STAT: Scopes.READ,
    Kind.EVENTS: Scopes.READ,
    Kind.ARENA_OPEN: Scopes.READ,
    Kind.PUT: Scopes.WRITE,
    Kind.DELETE: Scopes.WRITE,
    Kind.TENANT_STAT: Scopes.ADMIN,
    Kind.DEVICES: Scopes.ADMIN,
    Kind.DEVICE_CHANGE: Scopes.ADMIN,
    # No credential of a client's is enough for it, whatever its scopes (`PEERS`).
    Kind.PULL: Scopes.NONE,
    Kind.OFFER: Scopes.NONE,
}
"""The scope that each request needs. A kind that is not here is allowed to nobody."""
PEERS = frozenset({Kind.PULL, Kind.OFFER})
"""Requests that another shard of the pod makes, and nobody else."""
OPERATORS = frozenset({Kind.TENANT_STAT, Kind.DEVICES, Kind.DEVICE_CHANGE})
"""Requests that concern no tenant, and are an operator's alone."""
OF_NO_TENANT = OPERATORS | {Kind.PING, Kind.CANCEL, Kind.TICKET_RENEW, Kind.SHARD_STAT}
"""What operators may ask: all else is in a tenant's namespace, and they have none."""
WHILE_EXPIRED = frozenset({Kind.PING, Kind.CANCEL, Kind.RELEASE, Kind.REGION_REMOVE, Kind.TICKET_RENEW})
"""What gives back, or asks for nothing."""


def peer_guest(shard: bytes, expires: float) -> Guest:
    """Another shard of the pod, that has shown who it is."""
    return Guest(Principal(PEER, "", Scopes.NONE, f"shard:{shard.hex()}"), expires, _OF_PEERS, shard)


def mask_of(kinds: Iterable[Kind]) -> int:
    """Kinds as bits of a number: asking whether one is among them costs less than hashing an enumeration."""
    return sum(1 << kind for kind in set(kinds))


PEER = b"peer"
"""the tenant id of other shards: nobody's, and no operator's"""
_OF_PEERS = mask_of(PEERS | {Kind.PING, Kind.CANCEL})


@dataclass(frozen=True, slots=True)
class Guest:
    """Whom a session belongs to."""

    principal: Principal
    expires: float
    """on the shard's clock; only what is in `WHILE_EXPIRED` is answered from then on"""
    allowed: int
    """what may be asked: `mask_of` it"""
    peer: bytes = b""
    """the shard that it is; empty: a client"""

    @property
    def sees_all(self) -> bool:
        """Whether the numbers of the whole shard are for him."""
        return self.principal.is_operator and Scopes.ADMIN in self.principal.scopes

    def check(self, kind: Kind, now: float) -> None:
        """Whether this may be asked now.

        Raises:
            Refused: not before the ticket is renewed.
            Denied: not with this credential.
        """
        if not self.allowed >> kind & 1:
            need = NEEDS.get(kind, Scopes.ADMIN)
            if kind in PEERS or self.peer:
                raise Denied(f"{kind.name} is not for {'other shards' if self.peer else 'clients'}")
            if kind in OPERATORS:
                raise Denied(f"{kind.name} is for operators, whose credential belongs to no tenant")
            if self.principal.is_operator:
                raise Denied(f"{kind.name} is in a tenant's namespace, and an operator's credential has none")
            raise Denied(f"{kind.name} needs the scope {', '.join(scope_names(need)) or 'of an operator'}")
        if now >= self.expires and kind not in WHILE_EXPIRED:
            raise Refused(Reason.EXPIRED)


class Admission(Protocol):
    """Lets sessions in."""

    def admit(self, ticket: bytes) -> Guest:
        """For a session that begins. Raises Refused, or Unavailable while nothing is known of anybody."""

    def renew(self, guest: Guest, ticket: bytes) -> Guest:
        """The session goes on with another ticket. Raises Refused."""

    def ms_left(self, guest: Guest) -> int:
        """Milliseconds for which what it was let in with is good; 0: nothing is checked."""

    def sweep(self, sessions: Iterable[Session]) -> None:
        """End the sessions of those who are not welcome any more; called often."""

    def count_refused(self, reason: Reason) -> None:
        """Somebody was refused by who is not asked here."""

    def numbers(self) -> dict[str, int]:
        """What came of tickets so far."""


class OpenAdmission:
    """For a shard without a metadata engine: there is one tenant, and everybody is of it."""

    guest = Guest(EVERYBODY, math.inf, mask_of(NEEDS.keys() - PEERS))

    def admit(self, ticket: bytes) -> Guest:
        """See `Admission.admit`."""
        return self.guest

    def renew(self, guest: Guest, ticket: bytes) -> Guest:
        """See `Admission.renew`."""
        return guest

    def ms_left(self, guest: Guest) -> int:
        """See `Admission.ms_left`."""
        return 0

    def sweep(self, sessions: Iterable[Session]) -> None:
        """See `Admission.sweep`."""

    def count_refused(self, reason: Reason) -> None:
        """See `Admission.count_refused`."""

    def numbers(self) -> dict[str, int]:
        """See `Admission.numbers`."""
        return _numbers({}, 0, 0)


class TicketAdmission:
    """For a shard with a metadata engine: tickets are checked against the catalog. Owner of its counts."""

    def __init__(
        self,
        catalog: Callable[[], Catalog | None],
        *,
        pod: str,
        anonymous: Anonymous | None,
        now: Callable[[], float],
        now_s: Callable[[], float],
    ) -> None:
        """``now``: the shard's clock; ``now_s``: Unix time."""
        self._catalog = catalog
        self._pod = pod
        self._anonymous = anonymous
        self._now = now
        self._now_s = now_s
        self._swept: Catalog | None = None
        self._swept_at = -math.inf
        self.refused: dict[Reason, int] = {}
        self.accepted = 0
        self.ended = 0
        """sessions that were let in and are not welcome any more"""

    def admit(self, ticket: bytes) -> Guest:
        """See `Admission.admit`."""
        catalog = self._catalog()
        if catalog is None:
            raise Unavailable("the shard has not read the metadata yet")
        try:
            guest = self._guest(ticket, catalog) if ticket else self._nobody(catalog)
        except Refused as refused:
            self.count_refused(refused.reason)
            raise
        self.accepted += 1
        return guest

    def renew(self, guest: Guest, ticket: bytes) -> Guest:
        """See `Admission.renew`."""
        renewed = self.admit(ticket)
        if renewed.principal.tenant != guest.principal.tenant:
            self.accepted -= 1
            self.count_refused(Reason.OTHER_TENANT)
            raise Refused(Reason.OTHER_TENANT)
        return renewed

    def ms_left(self, guest: Guest) -> int:
        """See `Admission.ms_left`."""
        left_s = min(guest.expires - self._now(), float(NEVER))
        return max(1, int(left_s * 1000))

    def sweep(self, sessions: Iterable[Session]) -> None:
        """See `Admission.sweep`."""
        catalog, now = self._catalog(), self._now()
        if catalog is None or (catalog is self._swept and now - self._swept_at < SWEEP_S):
            return
        changed = catalog is not self._swept
        self._swept, self._swept_at = catalog, now
        for session in tuple(sessions):
            guest = session.guest
            if guest is None:
                continue
            known = changed and not guest.peer  # peers are of no tenant
            reason = self._unwelcome(guest, catalog) if known else None
            if reason is None and now - guest.expires > EXPIRED_S_MAX:
                reason = Reason.EXPIRED
            if reason is not None:
                self.ended += 1
                session.link.refuse(Refused(reason))
            elif known:
                session.guest = self._narrowed(guest, catalog)

    def numbers(self) -> dict[str, int]:
        """See `Admission.numbers`."""
        return _numbers(self.refused, self.accepted, self.ended)

    def count_refused(self, reason: Reason) -> None:
        """See `Admission.count_refused`."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def _nobody(self, catalog: Catalog) -> Guest:
        """A session without a ticket."""
        anonymous = self._anonymous
        if anonymous is None:
            raise Refused(Reason.MISSING)
        tenant = catalog.tenant_named(anonymous.tenant)
        if tenant is None:
            raise Refused(Reason.TENANT)
        principal = Principal(tenant.id, tenant.name, anonymous.scopes, "anonymous")
        return Guest(principal, math.inf, _allowed(principal))

    def _guest(self, data: bytes, catalog: Catalog) -> Guest:
        now_s = self._now_s()

        def public_of(key_id: bytes) -> bytes | None:
            key = catalog.ticket_keys.get(key_id)
            return None if key is None or now_s >= key.expires_s + SKEW_S else key.public

        ticket = verify(data, public_of, pod=self._pod, now_s=now_s)
        reason = unwelcome(ticket.tenant, ticket.credential, catalog, now_s)
        if reason is not None:
            raise Refused(reason)
        tenant = catalog.tenant(ticket.tenant)
        principal = Principal(
            tenant=ticket.tenant,
            tenant_name="" if tenant is None else tenant.name,
            scopes=scopes_in(ticket),
            credential=ticket.credential,
            expires_s=ticket.expires_s,
        )
        left_s = ticket.expires_s + SKEW_S - now_s
        return self._narrowed(Guest(principal, self._now() + left_s, _allowed(principal)), catalog)

    def _unwelcome(self, guest: Guest, catalog: Catalog) -> Reason | None:
        principal = guest.principal
        return unwelcome(principal.tenant, principal.credential, catalog, self._now_s())

    def _narrowed(self, guest: Guest, catalog: Catalog) -> Guest:
        """What is allowed, and for how long, now that the credential may have lost scopes or is to end sooner.

        It never gains any but by a new ticket.
        """
        principal = guest.principal
        credential = catalog.credentials.get(principal.credential)
        if credential is None:
            return guest
        scopes, expires = principal.scopes & scopes_of(credential.scopes), guest.expires
        if credential.expires_s:
            expires = min(expires, self._now() + credential.expires_s + SKEW_S - self._now_s())
        if scopes == principal.scopes:
            return guest if expires == guest.expires else Guest(principal, expires, guest.allowed)
        less = Principal(
            principal.tenant, principal.tenant_name, scopes, principal.credential, principal.expires_s
        )
        return Guest(less, expires, _allowed(less))


def _allowed(principal: Principal) -> int:
    """The kinds that somebody may ask."""
    granted = {kind for kind, need in NEEDS.items() if need & principal.scopes == need} - PEERS
    return mask_of(granted & OF_NO_TENANT if principal.is_operator else granted - OPERATORS)


def _numbers(refused: dict[Reason, int], accepted: int, ended: int) -> dict[str, int]:
    return {
        "tickets_accepted": accepted,
        "sessions_ended_unwelcome": ended,
        **{f"tickets_refused_{reason.value}": refused.get(reason, 0) for reason in Reason},
    }
