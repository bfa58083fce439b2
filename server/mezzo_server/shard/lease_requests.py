"""LOOKUP, ACQUIRE, LEASE_RENEW and RELEASE: what is there, and who may count on it until when. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mezzo.errors import Gone
from mezzo.protocol.messages import (
    Acquire,
    Kind,
    LeaseRenew,
    LeaseRenewed,
    Lookup,
    Release,
    Released,
)
from mezzo_server.shard.estimates import tell_load
from mezzo_server.shard.in_place import acquire_in_place, acquired

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session


def lookup(session: Session, request_id: int, body: Lookup) -> None:
    """How many keys are present. Prolongs nothing, and is no use of any chunk."""
    session.send(Kind.LOOKED_UP, request_id, tell_load(session, session.check_read(body.keys)))


def acquire(session: Session, request_id: int, body: Acquire) -> None:
    """A lookup, and a lease on what it finds."""
    keys = session.check_read(body.keys)
    if keys is not body.keys:
        body = msgspec.structs.replace(body, keys=keys)
    if body.in_place:
        answer = acquire_in_place(session, request_id, body)
        if answer is not None:
            session.send(Kind.ACQUIRED, request_id, answer)
        return
    granted = session.service.leases.acquire(session, session.scope, body.keys, body.lease_ms / 1000)
    session.send(Kind.ACQUIRED, request_id, acquired(session, body, granted, []))


def renew(session: Session, request_id: int, body: LeaseRenew) -> None:
    """Let a lease last longer.

    Raises:
        Gone: this connection holds no such lease, or not any more.
    """
    session.check_keys(())
    service = session.service
    if body.incarnation not in (b"", service.incarnation):
        raise Gone("the lease is of an earlier life of this shard, and ended with it: acquire again")
    lease_s = service.leases.renew(session, body.lease, body.lease_ms / 1000)
    if lease_s is None:
        raise Gone(
            "the lease has ended: its time was over, it was released, or what it held was erased; acquire again"
        )
    session.send(Kind.LEASE_RENEWED, request_id, LeaseRenewed(int(lease_s * 1000)))


def release(session: Session, request_id: int, body: Release) -> None:
    """End a lease. A second time is no error: it was not held any more."""
    service = session.service
    ours = body.incarnation in (b"", service.incarnation)
    held = ours and service.leases.release(session, body.lease)
    session.send(Kind.RELEASED, request_id, Released(held))
