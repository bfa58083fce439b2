"""REGION_ADD and REGION_REMOVE: memory of the client, registered and let go. No I/O of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo.errors import Busy, MezzoError, ProtocolError
from mezzo.protocol.messages import Kind, RegionAdd, RegionAdded, RegionRemove, RegionRemoved
from mezzo_server.quota.account import half
from mezzo_server.shard.regions import Region
from mezzo_server.shard.request import Request

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session


def add(session: Session, request_id: int, body: RegionAdd) -> None:
    """Register the memory whose descriptor came with the frame; may wait for a dead connection's transfers.

    Raises:
        ProtocolError: no descriptor came.
        Busy: the tenant's regions would be more than half of all that there may be.
    """
    fd = session.link.take_descriptor()
    if fd is None:
        raise ProtocolError("REGION_ADD needs exactly one descriptor with it (SCM_RIGHTS)")
    try:
        _check_room(session, body.length)
        request = Request(session, request_id, Kind.REGION_ADD)
    except BaseException:
        session.service.discard(fd)
        raise

    def added(outcome: Region | MezzoError) -> None:
        if isinstance(outcome, MezzoError):
            request.fail(outcome)
        else:
            request.finish(Kind.REGION_ADDED, RegionAdded(outcome.memory is not None, outcome.registered))

    session.regions.add(body.region, fd, body.offset, body.length, added)


def remove(session: Session, request_id: int, body: RegionRemove) -> None:
    """Let a region go; answered when nothing touches it any more. RegionError if there is none."""
    session.regions.get(body.region)
    request = Request(session, request_id, Kind.REGION_REMOVE)
    session.regions.remove(body.region, lambda: request.finish(Kind.REGION_REMOVED, RegionRemoved()))


def _check_room(session: Session, length: int) -> None:
    service, tenant = session.service, session.scope.tenant
    if service.catalog is None:
        return
    most = half(service.limits.region_bytes_total_max)
    own = sum([known.regions.bytes_total for known in service.sessions if known.scope.tenant == tenant])
    if own + length > most:
        raise Busy(
            f"regions of the tenant hold {own} bytes, {length} more would be over its limit ({most}, half of "
            "region_bytes_total_max)",
            1.0,
        )
