"""What a session's requests are charged: one place, before work for them is begun.

Requests count when they come; payload is reserved when its request comes, as far as it is known then,
charged as it moves, and the reserve is given back when the request has ended.  What gives something back
(a release, a cancellation) or keeps a session alive is free: nobody should be too poor to do that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo.errors import MezzoError, OverQuota
from mezzo.protocol.frame import Frame
from mezzo.protocol.messages import Acquire, Get, InPlace, Kind, Put
from mezzo_server.quota.account import LEASED, Account

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session

CHARGED = frozenset(
    (
        Kind.LOOKUP,
        Kind.GET,
        Kind.PUT,
        Kind.DELETE,
        Kind.ACQUIRE,
        Kind.STAT,
        Kind.EVENTS,
        Kind.REGION_ADD,
        Kind.ARENA_OPEN,
    )
)
"""Requests that count against a tenant's rate."""

LEASING = frozenset((Kind.ACQUIRE, Kind.LEASE_RENEW))


class Meter:
    """Charges one session's requests to its tenant. Owned by its session."""

    __slots__ = ("_refusal", "_reserved", "_session", "account")

    def __init__(self, session: Session, account: Account) -> None:
        self._session = session
        self.account = account
        self._refusal: OverQuota | None = None
        """the last one of ours"""
        self._reserved: dict[int, int] = {}
        """bytes by request, of those whose end gives some back"""

    def begin(self, frame: Frame) -> None:
        """A frame came that is `CHARGED`, of a tenant whose rates are limited.

        Raises:
            OverQuota: it may not ask for this now.
        """
        account = self.account
        nbytes = self._expected(frame)
        try:
            account.charge(nbytes, self._session.service.now())
        except OverQuota as refusal:
            self._refusal = refusal
            raise
        if nbytes and frame.kind is not Kind.ACQUIRE:
            self._reserved[frame.request_id] = nbytes
        account.requests_total += 1

    def moved(self, nbytes: int) -> None:
        """Payload was put or got."""
        account = self.account
        account.bytes_total += nbytes
        if account.limited:
            account.settle(nbytes, self._session.service.now())

    def ended(self, request_id: int) -> None:
        """A request has ended, however it did."""
        if self._reserved:
            nbytes = self._reserved.pop(request_id, 0)
            self.account.settle(-nbytes, self._session.service.now())

    def failed(self, frame: Frame, error: MezzoError) -> None:
        """A request was answered with an error at once."""
        self.ended(frame.request_id)
        if frame.kind in LEASING and isinstance(error, OverQuota) and error is not self._refusal:
            self.account.refusals[LEASED] += 1

    def close(self) -> None:
        """The session is gone; its requests may still be ending."""
        for request_id in tuple(self._reserved):
            self.ended(request_id)

    def _expected(self, frame: Frame) -> int:
        """Bytes that a request will move, as far as can be known."""
        body = frame.body
        session = self._session
        store = session.service.store
        if isinstance(body, Put):
            return sum(body.lengths)
        if isinstance(body, Get):
            count, nbytes = store.prefix(session.scope, body.keys)
            if not body.targets:
                return nbytes
            return min(nbytes, sum([sum(extents[1::2]) for extents in body.targets[:count]]))
        if isinstance(body, Acquire) and body.in_place == InPlace.LOAD:
            count, nbytes = store.prefix(session.scope, body.keys)
            return max(0, nbytes - store.hot_bytes(session.scope, body.keys[:count]))
        return 0
