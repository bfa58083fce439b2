"""HELLO: who the client is, which namespace it means, and what it is told of the shard. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo.errors import Busy, MezzoError
from mezzo.identity import Identity
from mezzo.protocol.connection import negotiate
from mezzo.protocol.messages import EPOCH_VERSION, KEY_BYTES_MAX, Hello, Kind, Welcome
from mezzo_server.access.peers import is_peer_credential
from mezzo_server.access.principal import MAY_BE_NEW, Refused
from mezzo_server.quota.account import half
from mezzo_server.shard.charging import Meter
from mezzo_server.shard.directory import NoSuchNamespace, Place
from mezzo_server.shard.naming import identity_in
from mezzo_server.tenancy.model import copies_of

if TYPE_CHECKING:
    from mezzo_server.shard.admission import Guest
    from mezzo_server.shard.service import Service
    from mezzo_server.shard.session import Session

SERVER_NAME = "mezzo"


class Greeting:
    """A HELLO that is being answered: at once, or when the catalog was looked at because it may be behind."""

    __slots__ = ("_body", "_identity", "_request_id", "_session", "_version")

    def __init__(self, session: Session, request_id: int, body: Hello) -> None:
        self._session = session
        self._request_id = request_id
        self._body = body
        self._version = negotiate(body)
        self._identity: Identity | None = identity_in(body)

    def answer(self) -> None:
        """Raises MezzoError: the connection is to be refused."""
        service = self._session.service
        if service.door is not None and is_peer_credential(self._body.ticket):
            self._session.looked_for = True
            service.door.admit(self._body.ticket, self._peer)
            return
        look = service.directory.look
        try:
            self._enter()
        except (NoSuchNamespace, Refused) as error:
            if look is None or (isinstance(error, Refused) and error.reason not in MAY_BE_NEW):
                raise
            self._session.looked_for = True
            look(self._looked)

    def _looked(self, error: MezzoError | None) -> None:
        session = self._session
        if session.closed:
            return
        try:
            if error is not None:
                raise error
            self._enter()
        except MezzoError as refusal:
            session.link.refuse(refusal)

    def _peer(self, guest: Guest | MezzoError) -> None:
        session = self._session
        if session.closed:
            return
        if isinstance(guest, MezzoError):
            session.link.refuse(guest)
            return
        session.guest = guest
        self._welcome()

    def _enter(self) -> None:
        session = self._session
        service = session.service
        guest = service.admission.admit(self._body.ticket)
        place = service.directory.find(guest.principal, self._body.namespace, self._identity)
        if service.catalog is not None and not guest.principal.is_operator:
            self._check_room(guest.principal.tenant)
        session.place, session.guest = place, guest
        session.scope, session.identity = session.place.scope, session.place.identity
        session.copies = copies_at(place, service)
        session.meter = Meter(session, service.accounts.of(session.scope.tenant))
        if service.catalog is not None:
            session.share.owner = session.scope.tenant
        self._welcome()

    def _welcome(self) -> None:
        session = self._session
        service, limits = session.service, session.limits
        epoch = 0 if service.standing is None else service.standing.epoch
        if self._version >= EPOCH_VERSION:
            session.epoch_told = epoch
            if self._body.epoch != epoch:
                session.told_late_at = service.now()
        session.greeted = True
        session.link.let_in()
        session.send(
            Kind.WELCOME,
            self._request_id,
            Welcome(
                version=self._version,
                server=SERVER_NAME,
                shard_incarnation=service.incarnation,
                epoch=epoch,
                tenant_id=session.scope.tenant,
                namespace_id=session.scope.namespace,
                keys_max=limits.keys_max,
                key_bytes_max=KEY_BYTES_MAX,
                chunk_bytes_max=session.chunk_bytes_max,
                body_bytes_max=limits.body_bytes_max,
                requests_max=limits.requests_max,
                regions_max=limits.regions_max,
                region_bytes_max=limits.region_bytes_max,
                lease_ms_max=limits.lease_ms_max,
                block_bytes=service.block_bytes,
                shm=session.shm,
                shard_id=service.store.store_id,
                copies=session.copies,
                popular=service.copies is not None and service.copies.counts_gets,
            ),
        )

    def _check_room(self, tenant: bytes) -> None:
        """Busy if the tenant has so many connections that others could be left without."""
        session = self._session
        most = half(session.limits.connections_max)
        guests = [known.guest for known in session.service.sessions if known.guest is not None]
        if sum([guest.principal.tenant == tenant for guest in guests]) >= most:
            raise Busy(f"the tenant has {most} connections (half of connections_max): close some", 1.0)


def copies_at(place: Place, service: Service) -> int:
    """How many copies are kept of the chunks of a session's namespace."""
    if service.copies is None or place.tenant is None or place.namespace is None:
        return 1
    return copies_of(place.tenant, place.namespace)


def settle_again(session: Session) -> None:
    """The catalog changed: the session goes on where its namespace is now, or ends if that was deleted.

    A namespace that was purged is empty, and leases on what was in it end.
    """
    if session.place is None:
        return
    try:
        place = session.service.directory.again(session.place)
    except MezzoError as gone:
        session.link.refuse(gone)
        return
    moved = place.scope != session.scope
    session.place, session.scope = place, place.scope
    session.tell_copies(copies_at(place, session.service))
    if moved:
        session.service.leases.expire_owner(session)
