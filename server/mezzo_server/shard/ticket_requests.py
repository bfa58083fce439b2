"""TICKET_RENEW: a session goes on with another ticket. No I/O."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mezzo.errors import MezzoError, ProtocolError
from mezzo.protocol.messages import Kind, TicketRenew, TicketRenewed
from mezzo_server.access.principal import MAY_BE_NEW, Refused
from mezzo_server.shard.request import Request

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session


def renew(session: Session, request_id: int, body: TicketRenew) -> None:
    """What may be asked from now on is what the new ticket says; what is under way goes on.

    Like HELLO it waits for a look at the metadata if what the ticket names may be new.
    """
    look = session.service.directory.look
    try:
        answer = _readmitted(session, body)
    except Refused as refused:
        if refused.reason not in MAY_BE_NEW or look is None:
            raise
        look(partial(_looked, Request(session, request_id, Kind.TICKET_RENEW), body))
    else:
        session.send(Kind.TICKET_RENEWED, request_id, answer)


def _readmitted(session: Session, body: TicketRenew) -> TicketRenewed:
    guest, admission = session.guest, session.service.admission
    if guest is None:
        raise ProtocolError("TICKET_RENEW before HELLO")
    session.guest = admission.renew(guest, body.ticket)
    return TicketRenewed(admission.ms_left(session.guest))


def _looked(request: Request, body: TicketRenew, error: MezzoError | None) -> None:
    try:
        if error is not None:
            raise error
        answer = _readmitted(request.session, body)
    except MezzoError as refusal:
        request.fail(refusal)
    else:
        request.finish(Kind.TICKET_RENEWED, answer)
