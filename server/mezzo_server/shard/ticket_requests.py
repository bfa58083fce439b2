"""TICKET_RENEW: a session goes on with another ticket. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo.errors import ProtocolError
from mezzo.protocol.messages import Kind, TicketRenew, TicketRenewed

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session


def renew(session: Session, request_id: int, body: TicketRenew) -> None:
    """What may be asked from now on is what the new ticket says; what is under way goes on."""
    guest, admission = session.guest, session.service.admission
    if guest is None:
        raise ProtocolError("TICKET_RENEW before HELLO")
    session.guest = admission.renew(guest, body.ticket)
    session.send(Kind.TICKET_RENEWED, request_id, TicketRenewed(admission.ms_left(session.guest)))
