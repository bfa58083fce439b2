"""How a client comes to its connection, as generators: what to open, in which order. No I/O (see `calls`).

A client of a shard's own address opens that.  One of a front-end's opens a session there and, with the ticket and
the map that it is given, the shard; or it stays with the session (`mezzo.frontend.via`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from mezzo.address import Address
from mezzo.base import ClientBase
from mezzo.credentials import Ticket
from mezzo.errors import ClientClosed, ConnectionLost, MezzoError, Unauthenticated, Unavailable
from mezzo.session import Session

NEWS_S = 0.4
"""Within which a shard that does not know a key, a credential or a tenant yet will have looked again."""


class OpenShard(NamedTuple):
    """Step: a connection to a shard that has answered our hello. Result: `Reached`."""

    address: Address


class OpenProxy(NamedTuple):
    """Step: a session at the front-end. Result: `Session` and what it was told (`mezzo.frontend.link`)."""


class EndProxy(NamedTuple):
    """Step: end a session that is not used."""

    proxied: Any
    error: MezzoError


class Pause(NamedTuple):
    """Step: let so much time pass."""

    seconds: float


OpeningStep: TypeAlias = OpenShard | OpenProxy | EndProxy | Pause
T = TypeVar("T")
Opens: TypeAlias = Generator[OpeningStep, Any, T]


class Reached(Protocol):
    """What is opened: a driver's link."""

    session: Session
    direct: bool
    """whether it leads to a shard itself"""

    def end(self, error: MezzoError) -> None:
        """End it."""


class Reaching(ClientBase):
    """A client that knows the ways to its shard; how they are gone is its driver's."""

    def _reach(self, deadline: float) -> Opens[Any]:
        """A link: to the shard, or to a front-end in its place."""
        try:
            link: Reached = yield from self._reach_once(last=False)
        except Unauthenticated:
            if self._surroundings.now() + NEWS_S >= deadline or not self._tickets_change:
                raise
            # A key, a credential or a tenant that the shard has not heard of yet.
            yield Pause(NEWS_S * (0.5 + 0.5 * self._surroundings.random()))
            link = yield from self._reach_once(last=True)
        self._tickets.took(self._ticket if link.direct else Ticket(b""))
        return link

    def _fetch_ticket(self) -> Opens[Ticket]:
        """Another ticket for the connection that there is."""
        if not self.address.is_frontend:
            self._take_given_ticket()
            return self._ticket
        proxied = yield from self._open_session()
        yield EndProxy(proxied, ClientClosed("its ticket was all that was wanted"))
        ticket: Ticket = proxied.ticket()
        return ticket

    def _reach_once(self, *, last: bool) -> Opens[Any]:
        if not self.address.is_frontend:
            self._take_given_ticket()
            return (yield OpenShard(self.address))
        self._tickets_change = False
        try:
            proxied = yield from self._open_session()
        except ConnectionLost as error:
            # Without the front-end, the shard is where it was last.
            link = None if self.via == "proxy" else (yield from self._reach_directly([]))
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
            link = yield from self._reach_directly(errors)
        except BaseException:
            proxied.end(ConnectionLost("the shard was not reached"))
            raise
        refusal = _first_refusal(errors) if link is None else None
        if link is None and self.via == "auto" and (last or refusal is None):
            return proxied
        yield EndProxy(proxied, ClientClosed("the session is used directly"))
        if link is None:
            raise refusal or self._unreached(errors)
        return link

    def _open_session(self) -> Opens[Any]:
        try:
            return (yield OpenProxy())
        except Unauthenticated:
            if not self._bearer.forget():
                raise
        return (yield OpenProxy())

    def _reach_directly(self, errors: list[MezzoError]) -> Opens[Any]:
        """The first way that leads to the shard; None, and why not in ``errors``, if none does."""
        for address, incarnation in self._ways:
            try:
                link: Reached = yield OpenShard(address)
            except MezzoError as error:
                errors.append(error)
                continue
            # A path or a loopback address means another shard on another host.
            if not incarnation or link.session.limits.shard_incarnation == incarnation:
                return link
            other = f"another shard than the map's answers at {address}"
            link.end(ConnectionLost(other))
            errors.append(Unavailable(other))
        return None

    def _unreached(self, errors: Sequence[MezzoError]) -> Unavailable:
        """The error of a direct client that a front-end sent to a shard which it cannot reach."""
        tried = "; ".join(str(error) for error in errors)
        return Unavailable(f"no shard of the map of {self.address} can be reached directly: {tried}")


def _first_refusal(errors: Sequence[MezzoError]) -> Unauthenticated | None:
    """The first error that says that the ticket is no good; None: none does."""
    return next((error for error in errors if isinstance(error, Unauthenticated)), None)
