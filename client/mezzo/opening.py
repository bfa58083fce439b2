"""How the blocking client comes to its connection, and how it stays welcome there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo.address import Address
from mezzo.base import NEWS_S, ClientBase, check_incarnation, first_refusal, unreached
from mezzo.blocking import BlockingLink
from mezzo.credentials import RENEW_S_MAX, RENEW_S_MIN, Ticket
from mezzo.errors import (
    ClientClosed,
    ConnectionLost,
    DeadlineExceeded,
    MezzoError,
    Unauthenticated,
    Unavailable,
)
from mezzo.frontend.via import proxy_link
from mezzo.operations import RenewTicket
from mezzo.session import Session
from mezzo.stripes import StripedLink

if TYPE_CHECKING:
    from mezzo.frontend.link import ProxyLink

DIRECT = (BlockingLink, StripedLink)
"""links to a shard itself"""


class Opening(ClientBase):
    """A blocking client's connection: opened, readmitted, replaced when it was lost."""

    _link: BlockingLink | StripedLink | ProxyLink | None = None

    def _connected(self, deadline: float) -> BlockingLink | StripedLink | ProxyLink:
        """The connection; made if there is none, and readmitted if its ticket is about to expire."""
        link = self._link
        if link is not None and link.session.failure is None:
            if self._tickets.due and isinstance(link, DIRECT):
                self._renew(link, deadline)
            return link
        now = self._surroundings.now
        if not self._connect_lock.acquire(timeout=max(0.0, deadline - now())):
            raise DeadlineExceeded("another thread is still connecting")
        try:
            link = self._link
            if link is not None and link.session.failure is None:
                return link
            self._check_usable()
            if link is not None:
                self._link = None
                self._counters.connections_lost += 1
            self._check_backoff()
            try:
                link = self._open(min(deadline, now() + self.connect_timeout_s))
            except MezzoError as error:
                told = self._connect_failed(error)
                if told is not error:
                    raise told from error
                raise
            self._backoff.succeeded()
            self._counters.connections += 1
            self._link = link
            if self._closed:  # closed meanwhile by another thread
                link.end(ClientClosed("the client was closed"))
                raise ClientClosed("the client is closed")
            return link
        finally:
            self._connect_lock.release()

    def _open(self, deadline: float) -> BlockingLink | StripedLink | ProxyLink:
        try:
            link = self._open_once(deadline, last=False)
        except Unauthenticated:
            if self._surroundings.now() + NEWS_S >= deadline or not self._tickets_change:
                raise
            # A key, a credential or a tenant that the shard has not heard of yet.
            self._surroundings.sleep(self._news_s())
            link = self._open_once(deadline, last=True)
        self._tickets.took(self._ticket if isinstance(link, DIRECT) else Ticket(b""))
        return link

    def _open_once(self, deadline: float, *, last: bool) -> BlockingLink | StripedLink | ProxyLink:
        if not self.address.is_frontend:
            self._take_given_ticket()
            return self._open_shard(self.address, deadline)
        self._tickets_change = False
        try:
            proxied = self._open_proxy(deadline)
        except ConnectionLost as error:
            # Without the front-end, the shard is where it was last.
            link = None if self.via == "proxy" else self._open_direct(deadline, [])
            if link is None:
                raise Unavailable(str(error)) from error
            return link
        if self.via == "proxy":
            return proxied
        errors: list[MezzoError] = []
        try:
            self._ways, self._ticket = proxied.ways(), proxied.ticket()
            self._registered_name = proxied.namespace_name
            self._tickets_change = True
            link = self._open_direct(deadline, errors)
        except BaseException:
            proxied.end(ConnectionLost("the shard was not reached"))
            raise
        refusal = first_refusal(errors) if link is None else None
        if link is None and self.via == "auto" and (last or refusal is None):
            return proxied
        proxied.end(ClientClosed("the session is used directly"))
        if link is None:
            raise refusal or unreached(self.address, errors)
        return link

    def _renew(self, link: BlockingLink | StripedLink, deadline: float) -> None:
        """Get another ticket and go on with it. One thread does; the others wait only if they have to."""
        now, tickets = self._surroundings.now, self._tickets
        must = tickets.expired
        if not must and deadline - now() < RENEW_S_MIN:
            return  # it would take all that this call has; another has more
        if not self._connect_lock.acquire(timeout=max(0.0, deadline - now()) if must else 0):
            if must:
                raise DeadlineExceeded("another thread is still renewing the ticket")
            return
        try:
            if not tickets.due or link.session.failure is not None:
                return  # done meanwhile; or lost, and the call will see
            limit = min(deadline, now() + (self.connect_timeout_s if must else RENEW_S_MAX))
            try:
                ticket = self._fetch_ticket(limit)
                link.run((RenewTicket(ticket.ticket),), limit, self.cancel_grace_s)
            except MezzoError as error:
                tickets.failed()
                if link.session.failure is not None:
                    raise ConnectionLost(
                        f"the connection was lost while its ticket was renewed: {error}"
                    ) from None
                if tickets.expired:
                    raise
                return
            except Exception:  # the caller's own function: its error counts when nothing goes on without it
                tickets.failed()
                if tickets.expired:
                    raise
                return
            self._ticket = ticket
            tickets.took(ticket)
        finally:
            self._connect_lock.release()

    def _fetch_ticket(self, deadline: float) -> Ticket:
        if not self.address.is_frontend:
            self._take_given_ticket()
            return self._ticket
        proxied = self._open_proxy(deadline)
        proxied.end(ClientClosed("its ticket was all that was wanted"))
        return proxied.ticket()

    def _open_proxy(self, deadline: float) -> ProxyLink:
        try:
            return self._link_to_proxy(deadline)
        except Unauthenticated:
            if not self._bearer.forget():
                raise
        return self._link_to_proxy(deadline)

    def _link_to_proxy(self, deadline: float) -> ProxyLink:
        return proxy_link()(
            self.address,
            self.tls,
            namespace=self.namespace_name,
            identity=self.identity,
            client_name=self.name,
            counters=self._counters,
            now=self._surroundings.now,
            timeout_s=max(0.001, deadline - self._surroundings.now()),
            bearer=self._bearer,
        )

    def _open_direct(self, deadline: float, errors: list[MezzoError]) -> BlockingLink | StripedLink | None:
        for address, incarnation in self._ways:
            try:
                link = self._open_shard(address, deadline)
            except MezzoError as error:
                errors.append(error)
                continue
            try:
                check_incarnation(link.session, address, incarnation)
            except Unavailable as error:
                link.end(ConnectionLost(str(error)))
                errors.append(error)
                continue
            return link
        return None

    def _open_shard(self, address: Address, deadline: float) -> BlockingLink | StripedLink:
        now = self._surroundings.now
        if address.is_encrypted:
            opener = self._stripe_opener(address)
            return StripedLink(opener(deadline), opener, self.stripes, now, self._surroundings.random)
        try:
            sock = self._surroundings.open_socket(address, max(0.001, deadline - now()))
        except OSError as error:
            raise Unavailable(f"cannot connect to {address}: {error}") from error
        link = BlockingLink(sock, self._new_session(address), now)
        try:
            link.greet(deadline)
        except DeadlineExceeded as error:
            link.end(ConnectionLost("the server did not answer the hello in time"))
            raise Unavailable(f"{address} did not answer the hello in time") from error
        except BaseException:
            link.end(ConnectionLost("the hello failed"))
            raise
        return link

    def _current_session(self) -> Session | None:
        link = self._link
        return None if link is None else link.session
