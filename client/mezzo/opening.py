"""How the blocking client comes to its connection, and how it stays welcome there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from mezzo.address import Address
from mezzo.blocking import BlockingLink
from mezzo.credentials import RENEW_S_MAX, RENEW_S_MIN
from mezzo.driving import drive
from mezzo.errors import (
    ConnectionLost,
    DeadlineExceeded,
    MezzoError,
    Unavailable,
)
from mezzo.frontend.via import proxy_link
from mezzo.operations import RenewTicket
from mezzo.pod import KnownPod
from mezzo.reaching import EndProxy, OpeningStep, OpenPod, OpenProxy, OpenShard, Reaching
from mezzo.stripes import StripedLink

if TYPE_CHECKING:
    from mezzo.frontend.link import ProxyLink
    from mezzo.performing import PodLink

AnyLink: TypeAlias = "BlockingLink | StripedLink | ProxyLink | PodLink"


class Opening(Reaching):
    """A blocking client's connection: opened, readmitted, replaced when it was lost."""

    _link: AnyLink | None = None

    def _connected(self, deadline: float) -> AnyLink:
        """The connection; made if there is none, and readmitted if its ticket is about to expire."""
        link = self._link
        if link is not None and link.session.failure is None:
            if self._tickets.due and link.direct:
                self._renew(link, deadline)
            return link
        now = self._surroundings.now
        if not self._connect_lock.acquire(timeout=max(0.0, deadline - now())):
            raise DeadlineExceeded("another thread is still connecting")
        try:
            limit = min(deadline, now() + self.connect_timeout_s)
            made: AnyLink = drive(self._connect(limit), self._make, limit)
            return made
        finally:
            self._connect_lock.release()

    def _renew(self, link: Any, deadline: float) -> None:
        """Get another ticket and go on with it. One thread does; the others wait only if they have to."""
        now, tickets = self._surroundings.now, self._tickets
        must, left_s = tickets.expired, deadline - now()
        if not must and left_s < RENEW_S_MIN:
            return  # it would take all that this call has; another has more
        if not self._connect_lock.acquire(timeout=max(0.0, left_s) if must else 0):
            if must:
                raise DeadlineExceeded("another thread is still renewing the ticket")
            return
        try:
            if not tickets.due or link.session.failure is not None:
                return  # done meanwhile; or lost, and the call will see
            tickets.check()
            limit = min(deadline, now() + (self.connect_timeout_s if must else min(RENEW_S_MAX, left_s / 2)))
            try:
                ticket = drive(self._fetch_ticket(limit), self._make, limit)
                link.run((RenewTicket(ticket.ticket),), limit, self.cancel_grace_s)
            except MezzoError as error:
                tickets.failed(error)
                if link.session.failure is not None:
                    raise ConnectionLost(
                        f"the connection was lost while its ticket was renewed: {error}"
                    ) from None
                if tickets.expired:
                    raise
                return
            except Exception as error:  # the caller's own function: it counts when nothing goes on without it
                tickets.failed(error)
                if tickets.expired:
                    raise
                return
            self._ticket = ticket
            tickets.took(ticket)
        finally:
            self._connect_lock.release()

    def _make(self, step: OpeningStep, deadline: float) -> object:
        """Perform a step on the way to a connection."""
        if isinstance(step, OpenShard):
            return self._open_shard(step.address, deadline)
        if isinstance(step, OpenProxy):
            return self._link_to_proxy(step, deadline)
        if isinstance(step, OpenPod):
            return self._open_pod(step.pod, deadline)
        if isinstance(step, EndProxy):
            step.proxied.end(step.error)
        else:
            self._surroundings.sleep(step.seconds)
        return None

    def _link_to_proxy(self, step: OpenProxy, deadline: float) -> ProxyLink:
        return proxy_link()(
            step.address,
            self.tls,
            namespace=self.namespace_name,
            identity=self.identity,
            client_name=self.name,
            counters=self._counters,
            now=self._surroundings.now,
            timeout_s=max(0.001, (deadline - self._surroundings.now()) / step.share),
            bearer=self._bearer,
            had=step.had,
        )

    def _open_pod(self, pod: KnownPod, deadline: float) -> PodLink:
        raise NotImplementedError

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
