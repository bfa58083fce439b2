"""DEVICES and DEVICE_CHANGE: for who looks after the server, which is its own user or root, on this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo.errors import Denied, MezzoError, Unsupported
from mezzo.protocol.messages import DeviceChange, DeviceChanged, Devices, DevicesAre, Kind
from mezzo_server.shard.request import Request

if TYPE_CHECKING:
    from mezzo_server.shard.device_changes import DeviceChanges
    from mezzo_server.shard.session import Session


def devices(session: Session, request_id: int, body: Devices) -> None:
    """Which devices there are, and what is done to them."""
    states = _changes_of(session).states()
    Request(session, request_id, Kind.DEVICES).finish(Kind.DEVICES_ARE, DevicesAre(states))


def change(session: Session, request_id: int, body: DeviceChange) -> None:
    """Begin a change. It goes on if the client gives the request up: `CANCEL` of a drain is an action."""
    changes = _changes_of(session)
    request = Request(session, request_id, Kind.DEVICE_CHANGE)

    def answer(error: MezzoError | None) -> None:
        if error is not None:
            request.fail(error)
        else:
            request.finish(Kind.DEVICE_CHANGED, DeviceChanged())

    try:
        changes.begin(body, answer)
    except MezzoError as error:
        request.fail(error)


def _changes_of(session: Session) -> DeviceChanges:
    if not session.link.peer_is_owner():
        raise Denied(
            "devices are looked after by the server's own user, or root, over its Unix socket on the same host"
        )
    changes = session.service.device_changes
    if changes is None:
        raise Unsupported("this server's devices cannot be changed while it serves")
    return changes
