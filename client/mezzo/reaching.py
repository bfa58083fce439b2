"""How a client comes to its connection, as generators: what to open, in which order. No I/O (see `calls`).

A client of a shard's own address opens that.  One of a front-end's opens a session there and, with the ticket and
the map that it is given, the shard; or it stays with the session (`mezzo.frontend.via`).  Where there are several
shards it opens the pod: each of them on a way of its own (`ToShard`), when it is first needed.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeAlias, TypeVar

from mezzo.address import Address
from mezzo.base import ClientBase
from mezzo.calls import CatchUp, Follow
from mezzo.credentials import Ticket
from mezzo.errors import (
    Busy,
    ClientClosed,
    ConnectionLost,
    DeadlineExceeded,
    FormatError,
    MezzoError,
    Unauthenticated,
    Unavailable,
    WrongEpoch,
)
from mezzo.outfit import Outfit
from mezzo.placement.pod_map import decode_map
from mezzo.pod import AGAIN_S, NO_MAP, KnownPod, MapHad, MapTold, is_shard
from mezzo.session import Session

if TYPE_CHECKING:
    from mezzo.spread import Spread

ASKED_S = 0.005
"""How often is looked whether somebody else has got a map."""
LEFT = "the shard has left the pod, and others have its keys"
LATE = "the shard did not answer within the time of the call"
STILL_CONNECTING = "the shard did not answer lately, and is still being connected to"
PATIENCE_S = 0.1
"""How long a call waits for a shard that could not be reached lately: it is tried on, and its chunks are misses."""
NEWS_S = 0.4
"""Within which a shard that does not know a key, a credential or a tenant yet will have looked again."""


class OpenShard(NamedTuple):
    """Step: a connection to a shard that has answered our hello. Result: `Reached`."""

    address: Address


class OpenProxy(NamedTuple):
    """Step: a session at a front-end. Result: `Session` and what it was told (`mezzo.frontend.link`)."""

    address: Address
    share: int
    """it may take this part of the time: 1: all, 2: half of it"""
    had: MapHad
    """the map that we have"""


class OpenPod(NamedTuple):
    """Step: a link that stands for the shards of a pod, one of which at least has answered. Result: that link."""

    pod: KnownPod


class EndProxy(NamedTuple):
    """Step: end a session that is not used."""

    proxied: Any
    error: MezzoError


class Pause(NamedTuple):
    """Step: let so much time pass."""

    seconds: float


OpeningStep: TypeAlias = OpenShard | OpenProxy | OpenPod | EndProxy | Pause
T = TypeVar("T")
Opens: TypeAlias = Generator[OpeningStep, Any, T]


class Reached(Protocol):
    """What is opened: a driver's link."""

    session: Session
    spread: Spread | None
    """the calls over its shards, if it stands for several"""
    direct: bool
    """whether it leads to a shard itself"""

    def end(self, error: MezzoError) -> None:
        """End it."""


class Reaching(ClientBase):
    """A client that knows the ways to its shard; how they are gone is its driver's."""

    _link: Any = None
    """the connection, a driver's; None: there is none"""

    def _connect(self, deadline: float) -> Opens[Any]:
        """The connection that there is by now, or another one in its place; by one caller at a time.

        Raises:
            MezzoError: none was to be had, or the next attempt is not due.
        """
        link = self._link
        if link is not None and link.session.failure is None:
            return link
        self._check_usable()
        if link is not None:
            self._link, self._lost_at = None, self._surroundings.now()
            self._counters.connections_lost += 1
        self._check_backoff()
        try:
            made: Reached = yield from self._reach(deadline)
        except MezzoError as error:
            told = self._connect_failed(error)
            if told is not error:
                raise told from error
            raise
        self._backoff.succeeded()
        if made.spread is None:  # else each shard counts
            self._counters.connections += 1
        # In this order: who closes the client just now finds the connection, or has closed the client before.
        self._link = made
        if self._closed:
            made.end(ClientClosed("the client was closed"))
            raise self._ending()
        return made

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

    def _follow(self, epoch: int, deadline: float) -> Opens[None]:
        """Another map of the pod than that of ``epoch``, if there is one; by whomever it was got.

        Shards may know it a moment earlier than who tells it.
        """
        pod = self._pod
        for last in (False, True):
            if pod is None or pod.pod_map.epoch != epoch:
                return
            yield from self._ask_of(pod)
            if last or pod.pod_map.epoch != epoch or self._surroundings.now() + NEWS_S >= deadline:
                return
            # Another front-end may have heard of it.
            self._places.go_on()
            yield Pause(NEWS_S / 4)

    def _about_map(self, step: Follow | CatchUp, deadline: float) -> tuple[Opens[None], float]:
        """What a call's step comes to that is about the map, and until when."""
        if isinstance(step, Follow):
            return self._follow(step.epoch, deadline), deadline
        now = self._surroundings.now()
        limit = now + (deadline - now) / 2
        return self._catch_up(limit, step.wait), limit

    def _catch_up(self, deadline: float, wait: bool) -> Opens[None]:
        """The map that shards were heard to follow; one asks for all. ``wait``: for who asks already."""
        pod = self._pod
        if pod is None:
            return
        if pod.begin_asking(self._surroundings.now()):
            try:
                yield from self._follow(pod.pod_map.epoch, deadline)
            except MezzoError:
                pass  # it is as it was, and whoever may not ask is told so when he has to
            finally:
                pod.end_asking()
        while wait and pod.asking and self._surroundings.now() < deadline:
            yield Pause(ASKED_S)

    def _current_session(self) -> Session | None:
        link = self._link
        return None if link is None else link.session

    def _fetch_ticket(self, deadline: float) -> Opens[Ticket]:
        """Another ticket for the connection that there is."""
        if not self.address.is_frontend:
            self._ticket = self._given_now()
            return self._ticket
        proxied = yield from self._open_session()
        yield EndProxy(proxied, ClientClosed("its ticket was all that was wanted"))
        ticket: Ticket = proxied.ticket()
        return ticket

    def _reach_once(self, *, last: bool) -> Opens[Any]:
        if self._map_source is not None:
            self._pod = self._pod or KnownPod(self._map_source())
            yield from self._ask_of(self._pod)
            return (yield OpenPod(self._pod))
        if not self.address.is_frontend:
            self._ticket = self._given_now()
            return (yield OpenShard(self.address))
        self._tickets_change = False
        try:
            proxied = yield from self._open_session(self._pod)
        except ConnectionLost as error:
            # Without the front-end, the shard is where it was last.
            link = None if self.via == "proxy" else (yield from self._reach_shards([]))
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
            self._told(proxied)
            link = yield from self._reach_shards(errors)
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

    def _open_session(self, pod: KnownPod | None = None) -> Opens[Any]:
        """At the front-end that answered last, or else at the next one. ``pod``: whose map is wanted."""
        count = len(self._places)
        had = NO_MAP if pod is None else pod.had
        for left in range(count, 0, -1):
            try:
                return (yield from self._open_session_at(OpenProxy(self._places.present, left, had)))
            except Unavailable:
                self._places.go_on()
                if left == 1:
                    raise
        raise Unavailable("no front-end")

    def _open_session_at(self, step: OpenProxy) -> Opens[Any]:
        try:
            return (yield step)
        except Unauthenticated:
            if not self._bearer.forget():
                raise
        return (yield step)

    def _told(self, proxied: Any) -> None:
        """Take in what a front-end said of the pod, if it has several shards and we can read its map."""
        told: MapTold = proxied.map_told
        try:
            if not told:
                self._pod = None
                return
            if self._pod is None:
                self._pod = KnownPod(decode_map(told.encoded), told.encoded)
            else:
                self._pod.take(told)
        except FormatError:
            # Of a later release: it is as was told before, or the front-end does everything.
            if self._pod is None:
                return
        self._pod.ticket = proxied.ticket()
        self._pod.namespace_name = proxied.namespace_name
        self._pod.told_at = self._surroundings.now()

    def _ask_of(self, pod: KnownPod) -> Opens[None]:
        """Have the pod's map and ticket told again. Where nobody can be asked it is as it was.

        Raises:
            Unauthenticated: the token is not good any more.
        """
        if self._map_source is not None:
            # What a way's own connection was opened with stays: by that it knows that this is another ticket.
            ticket = self._given_now()
            pod.follow(self._map_source())
            pod.ticket, pod.told_at = ticket, self._surroundings.now()
            return
        try:
            proxied = yield from self._open_session(pod)
        except (Unavailable, Busy, DeadlineExceeded):
            return
        if proxied.map_told:
            self._pod = pod
            self._told(proxied)
        yield EndProxy(proxied, ClientClosed("the map was all that was wanted"))

    def _reach_shards(self, errors: list[MezzoError]) -> Opens[Any]:
        """The shard, or a link that stands for all of them; None, and why not in ``errors``, if none is reached."""
        if self._pod is None:
            return (yield from self._reach_directly(errors))
        try:
            return (yield OpenPod(self._pod))
        except MezzoError as error:
            errors.append(error)
        return None

    def _reach_directly(self, errors: list[MezzoError]) -> Opens[Any]:
        """The first way that leads to the shard; None, and why not in ``errors``, if none does."""
        for address, incarnation in self._ways:
            try:
                link: Reached = yield OpenShard(address)
            except MezzoError as error:
                errors.append(error)
                continue
            # A path or a loopback address means another shard on another host.
            if self._is_meant(link, incarnation):
                return link
            other = f"another shard than the map's answers at {address}"
            link.end(ConnectionLost(other))
            errors.append(Unavailable(other))
        return None

    def _is_meant(self, link: Reached, incarnation: bytes) -> bool:
        return not incarnation or link.session.limits.shard_incarnation == incarnation

    def _unreached(self, errors: Sequence[MezzoError]) -> Unavailable:
        """The error of a direct client that a front-end sent to a shard which it cannot reach."""
        tried = "; ".join(str(error) for error in errors)
        return Unavailable(f"no shard of the map of {self.address} can be reached directly: {tried}")


class ToShard(Reaching):
    """A client's way to one shard of its pod: all is as the client has it, but the connection is its own."""

    _came = 0
    """the epoch by which the shard came back last, as far as that was heeded"""
    _left = False
    """whether the map has the shard no more"""

    def __new__(cls, *arguments: Any) -> Self:
        """It is made of an outfit, and nothing is made like it (see `ClientBase`)."""
        return object.__new__(cls)

    def __init__(self, outfit: Outfit, pod: KnownPod, shard: bytes) -> None:
        self._wear(outfit)
        self._known = self._pod = pod
        self._shard = shard
        # Its tickets are the pod's.
        self._tickets_change = self._tickets_change or self.address.is_frontend

    @property
    def session(self) -> Session | None:
        """Of the connection that there is."""
        return self._current_session()

    @property
    def patience_s(self) -> float:
        """How long a call waits for the connection: for one that was not to be had lately, not for long."""
        return PATIENCE_S if self._backoff.failures else self.connect_timeout_s

    def _not_connected(self, left_s: float, waited_s: float) -> MezzoError:
        """What a call is told that had so much time left, and has waited for the connection so long."""
        if waited_s < left_s:
            return Unavailable(STILL_CONNECTING)
        return self._run_failed(None, DeadlineExceeded(LATE))

    def end(self, error: MezzoError) -> None:
        """End the connection; none is made any more."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            link.end(error)

    def close_descriptors(self) -> None:
        """In a forked child: give up the copies of the descriptors; the parent's stay."""
        if self._link is not None:
            self._link.close_descriptors()

    def leave(self) -> None:
        """As `end`, since the map has the shard no more: another call may have heard of that."""
        self._left = True
        self.end(ConnectionLost(LEFT))

    def _ending(self) -> MezzoError:
        return WrongEpoch(LEFT) if self._left else super()._ending()

    def _check_backoff(self) -> None:
        came = self._known.came(self._shard)
        if came > self._came:
            # Who makes maps knows that it is there: that it was not, when it was tried last, is of no account.
            self._came = came
            self._backoff.succeeded()
        super()._check_backoff()

    def _reach_once(self, *, last: bool) -> Opens[Any]:
        pod = self._known
        now = self._surroundings.now()
        if last or (pod.told_at <= self._lost_at and now - pod.told_at >= AGAIN_S):
            yield from self._ask_of(pod)
        self._ticket, self._registered_name = pod.ticket, pod.namespace_name
        self._ways = [(address, self._shard) for address in pod.addresses(self._shard)]
        errors: list[MezzoError] = []
        link: Reached | None = yield from self._reach_directly(errors)
        if link is None:
            self._lost_at = now
            raise _first_refusal(errors) or self._unreached(errors)
        pod.met(self._shard, link.session.limits)
        return link

    def _is_meant(self, link: Reached, incarnation: bytes) -> bool:
        return is_shard(link.session.limits, self._shard)

    def _epoch(self) -> int:
        return self._known.pod_map.epoch

    def _new_session(self, address: Address) -> Session:
        session = super()._new_session(address)
        session.hear_epoch = self._known.hear
        session.hear_copies = self._known.copies.hear
        return session

    def _fetch_ticket(self, deadline: float) -> Opens[Ticket]:
        pod = self._known
        if pod.ticket.expires <= self._ticket.expires:
            # One way asks for all: the tickets of all shards may have expired at the same time.
            if pod.begin_renewing():
                try:
                    yield from self._ask_of(pod)
                finally:
                    pod.end_renewing()
            while pod.renewing and self._surroundings.now() < deadline:
                yield Pause(ASKED_S)
        if pod.ticket.expires <= self._ticket.expires:
            raise Unavailable("nobody gave another ticket")
        return pod.ticket

    def _unreached(self, errors: Sequence[MezzoError]) -> Unavailable:
        tried = "; ".join(str(error) for error in errors) or "the map has no address of it"
        return Unavailable(f"the shard {self._shard.hex()} cannot be reached: {tried}")


def _first_refusal(errors: Sequence[MezzoError]) -> Unauthenticated | None:
    """The first error that says that the ticket is no good; None: none does."""
    return next((error for error in errors if isinstance(error, Unauthenticated)), None)
