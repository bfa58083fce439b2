"""What the blocking and the asynchronous client have in common."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

from mezzo import mapping
from mezzo.address import Address, parse_all
from mezzo.arenas import ArenaChannel
from mezzo.backoff import Backoff
from mezzo.calls import Context, Stale
from mezzo.connecting import Surroundings
from mezzo.credentials import Bearer, Ticket, TicketSource, TicketState, Token
from mezzo.environment import DISABLE_VARIABLE, says
from mezzo.errors import (
    Busy,
    CallerError,
    ClientClosed,
    ConnectionLost,
    DeadlineExceeded,
    ForkedError,
    InvalidArgument,
    MezzoError,
    Unauthenticated,
    Unavailable,
    WrongEpoch,
)
from mezzo.frontend.via import Via, check_via
from mezzo.identity import NAME_CHARACTERS_MAX, Identity, derived_name, make_identity
from mezzo.kvsize import Scales, Shape
from mezzo.outfit import Outfit, Places
from mezzo.pod import KnownPod, MapSource
from mezzo.protocol.messages import Welcome
from mezzo.regions import Region
from mezzo.session import Session
from mezzo.staging import Staging
from mezzo.statistics import ClientStatistics, Counters
from mezzo.stripe import Stripe, open_stripe
from mezzo.stripes import STRIPES, STRIPES_MAX
from mezzo.tls import TLS

TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
CANCEL_GRACE_S = 1.0
SECONDS_MAX = 1e6
"""Of any timeout: the system waits for 24 days at most, and a call without an end hangs with its server."""
STAGING_BYTES = 64 * 1024 * 1024
WAITING_MAX = 1024
NEXT = " (next attempt in "
COPY_BYTES = 1024 * 1024  # the interpreter lock is held for so long at a time


def call_seconds(default_s: float, timeout_s: float | None, deadline_s: float | None) -> float:
    """How long a call may take. A deadline that is given may be later than the client's own timeout.

    Raises:
        InvalidArgument: one of them is not positive, or has no end.
    """
    if timeout_s is None and deadline_s is None:
        return default_s
    given = [
        check_seconds(name, value)
        for name, value in (("timeout_s", timeout_s), ("deadline_s", deadline_s))
        if value is not None
    ]
    return min(given)


def check_seconds(name: str, value: float) -> float:
    """A positive number of seconds, up to `SECONDS_MAX`. Raises InvalidArgument."""
    if not 0 < value <= SECONDS_MAX:
        raise InvalidArgument(f"{name} must be positive, and {SECONDS_MAX:.0f} at most, not {value}")
    return float(value)


class ClientBase:
    """What both clients have: options, counters, regions, staging."""

    _address_given: str | Sequence[str]
    _options: dict[str, Any]

    def __new__(cls, address: str | Sequence[str], **options: Any) -> Self:
        """Keeps what it is made with: a namespace's client is made alike."""
        self = super().__new__(cls)
        self._address_given, self._options = address, options
        return self

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        namespace: str = "default",
        identity: Identity | None = None,
        name: str = "mezzo-python",
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        cancel_grace_s: float = CANCEL_GRACE_S,
        shm: bool = True,
        staging_bytes: int = STAGING_BYTES,
        waiting_max: int = WAITING_MAX,
        via: Via = "auto",
        tls: TLS | None = None,
        token: Token | None = None,
        ticket: Ticket | TicketSource | None = None,
        insecure: bool | None = None,
        stripes: int = STRIPES,
        map_source: MapSource | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        places = Places(parse_all(address))
        check_via(via)
        if staging_bytes <= 0 or waiting_max <= 0:
            raise InvalidArgument("staging_bytes and waiting_max must be positive")
        for option, text in (("namespace", namespace), ("name", name)):
            if not 1 <= len(text) <= NAME_CHARACTERS_MAX:
                raise InvalidArgument(
                    f"{option} must have 1 to {NAME_CHARACTERS_MAX} characters, not {len(text)}"
                )
        if not 1 <= stripes <= STRIPES_MAX:
            raise InvalidArgument(f"stripes must be 1 to {STRIPES_MAX}, not {stripes}")
        around = surroundings or Surroundings()
        bearer = Bearer(token, around.now)
        for each in places.addresses:
            if each.is_frontend:
                bearer.check_way(each, insecure)
        disabled, counters, staging = (
            says(DISABLE_VARIABLE),
            Counters(),
            Staging(mapping.owned, staging_bytes),
        )
        self._wear(
            Outfit(
                places=places,
                map_source=map_source,
                namespace_name=namespace,
                identity=identity,
                name=name,
                via=via,
                tls=TLS.from_environment() if tls is None else tls,
                timeout_s=check_seconds("timeout_s", timeout_s),
                connect_timeout_s=check_seconds("connect_timeout_s", connect_timeout_s),
                cancel_grace_s=check_seconds("cancel_grace_s", cancel_grace_s),
                disabled=disabled,
                stripes=stripes,
                shm=shm,
                waiting_max=waiting_max,
                given_ticket=ticket,
                bearer=bearer,
                surroundings=around,
                counters=counters,
                staging=staging,
                context=Context(around.now, counters, staging, disabled, ArenaChannel, identity),
                pid=os.getpid(),
            )
        )

    def _wear(self, outfit: Outfit) -> None:
        """Begin with what all connections of a client share. By name, since it is read with every request."""
        self._outfit = outfit
        self._places = outfit.places
        self.address = outfit.places.addresses[0]
        self._map_source = outfit.map_source
        self.namespace_name = outfit.namespace_name
        """as it was asked for"""
        self.identity = outfit.identity
        """what its bytes are; None: nothing was said of them"""
        self.name = outfit.name
        self.via = outfit.via
        """how chunks are reached if ``address`` is a front-end's"""
        self.tls = outfit.tls
        """whom it trusts at ``tcps://`` and ``grpcs://``, and who it is"""
        self.timeout_s = outfit.timeout_s
        self.connect_timeout_s = outfit.connect_timeout_s
        self.cancel_grace_s = outfit.cancel_grace_s
        self.disabled = outfit.disabled
        """whether ``MEZZO_DISABLE`` was set when the client was made: every call is a miss"""
        self.stripes = outfit.stripes
        """connections at most to a shard at ``tcps://``: each decrypts in a thread of its own"""
        self._surroundings = outfit.surroundings
        self._bearer = outfit.bearer
        self._given_ticket = outfit.given_ticket
        self._counters = outfit.counters
        self._staging = outfit.staging
        self._context = outfit.context
        self._begin_connection()

    def _begin_connection(self) -> None:
        """What belongs to one connection: to a client's own, or to its way to one shard of a pod."""
        self._closed = False
        self._tickets_change = callable(self._given_ticket)
        """whether another try would bring another ticket"""
        self._pod: KnownPod | None = None
        """what a front-end told last of the shards, where there are several"""
        self._registered_name = ""
        """what a front-end calls the namespace; empty: none was asked"""
        self._tickets = TicketState(self._surroundings.now, self._surroundings.random)
        self._ticket = Ticket(b"")
        """what was got last: for the next connection"""
        self._ways: list[tuple[Address, bytes]] = []
        """addresses of the shard as a front-end told them last, and who answers there"""
        self._backoff = Backoff(self._surroundings.random)
        self._connect_error: MezzoError | None = None
        self._connect_lock = threading.Lock()
        self._lost_at = -math.inf
        """clock reading of when a connection was found to be lost, or was not made"""

    def __repr__(self) -> str:
        return (
            f"<mezzo.{type(self).__name__} {self.address} namespace={self.namespace_name!r} {self._state()}>"
        )

    def namespace(
        self,
        *,
        model: str,
        weights_revision: str = "",
        kv_dtype: str,
        layout: str,
        tp: int = 1,
        tp_rank: int = 0,
        pp: int = 1,
        pp_rank: int = 0,
        chunk_tokens: int,
        chunk_bytes: int | Shape,
        salt: str = "",
        scales: Scales | None = None,
        state_bytes: int = 0,
        name: str | None = None,
    ) -> Self:
        """A client of the namespace of this identity: one of its own, made with the options of this one.

        It has a connection of its own, made with its first call, and is closed on its own (it is a context
        manager, as this one).  Regions may be used with both.  ``chunk_bytes`` is computed if it is the
        shape of a model; ``scales`` and ``state_bytes`` belong to that (`mezzo.kvsize.chunk_size`).
        ``tp`` and ``pp`` are sizes; ranks count from 0.  Without a ``name`` the namespace has one that
        follows from its identity.

        A put of a chunk over ``chunk_bytes`` raises `TooLarge`; shorter ones are taken, for the end of a
        prefix.  The first call raises `Conflict` if the name exists with another identity.

        Raises:
            InvalidArgument: a field is empty, too long or contradicts another.
        """
        identity = make_identity(
            model=model,
            weights_revision=weights_revision,
            kv_dtype=kv_dtype,
            layout=layout,
            tp=tp,
            tp_rank=tp_rank,
            pp=pp,
            pp_rank=pp_rank,
            chunk_tokens=chunk_tokens,
            chunk_bytes=chunk_bytes,
            salt=salt,
            scales=scales,
            state_bytes=state_bytes,
        )
        self._check_usable()
        options = {**self._options, "namespace": name or derived_name(identity), "identity": identity}
        return type(self)(self._address_given, **options)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def welcome(self) -> Welcome | None:
        """Limits and incarnation of the server, as told at the last connection; None before the first."""
        session = self._current_session()
        return None if session is None else session.welcome

    def region(self, length: int) -> Region:
        """An owned region: fresh shared memory of ``length`` bytes, zeroed, of sealed size.

        Raises:
            InvalidArgument: ``length`` is not positive.
            Unavailable: the system has no memory for it.
        """
        return mapping.owned(length)

    def adopt(self, source: int | str | os.PathLike[str], length: int, offset: int = 0) -> Region:
        """An adopted region: ``length`` bytes from ``offset`` on of shared memory that exists.

        ``source`` is a descriptor (duplicated) or path of a memfd or a tmpfs file (``/dev/shm``),
        open for reading and writing; ``offset`` is a multiple of the page size.  A memfd that allows
        it is sealed against shrinking; other memory costs the shard one copy.

        Raises:
            InvalidArgument: ``offset`` or ``length`` is not valid.
            RegionError: the memory is too small, or cannot be opened or mapped.
        """
        return mapping.adopted(source, length, offset)

    def statistics(self) -> ClientStatistics:
        """Totals since the client was made."""
        return self._counters.snapshot()

    def _new_session(self, address: Address) -> Session:
        return Session(
            address=str(address),
            client_name=self.name,
            namespace=self._registered_name or self.namespace_name,
            identity=self.identity,
            counters=self._counters,
            now=self._surroundings.now,
            use_shm=self._outfit.shm and address.scheme == "unix",
            waiting_max=self._outfit.waiting_max,
            ticket=self._ticket.ticket,
            epoch=self._epoch(),
        )

    def _epoch(self) -> int:
        """Of the map by which a shard is asked; 0: by none."""
        return 0

    def _given_now(self) -> Ticket:
        """Who asks no front-end shows what the maker of the client gave, or gives now."""
        given = self._given_ticket
        if given is None:
            return self._ticket
        return given if isinstance(given, Ticket) else given()

    def _refused_run(self, error: Unauthenticated) -> Unauthenticated:
        """A request was refused: `Stale` if another ticket, or token, may be had for the next attempt."""
        if self._tickets.used:
            self._tickets.refused()
        elif not self._bearer.forget():
            return error
        return Stale(str(error))

    def _run_failed(self, link: Any, error: MezzoError) -> MezzoError:
        """What a call is told of the error that a request of its ended with."""
        if isinstance(error, DeadlineExceeded):
            self._counters.timeouts += 1
        if isinstance(error, Unauthenticated):
            return self._refused_run(error)
        return self._outgrown(link, error) if isinstance(error, WrongEpoch) else error

    def _outgrown(self, link: Any, error: WrongEpoch) -> MezzoError:
        """A shard says that others have a part of the keys. Who knew of one only is to ask the front-end anew."""
        if not self.address.is_frontend or self._pod is not None or not link.direct:
            return error
        lost = ConnectionLost(f"the pod has more shards than this one by now: {error}")
        link.end(lost)
        return lost

    def _stripe_opener(self, address: Address) -> Callable[[float], Stripe]:
        """How connections over TLS to ``address`` are opened; does not keep the client alive."""
        weakly = weakref.ref(self)

        def opened(deadline: float) -> Stripe:
            client = weakly()
            if client is None:
                raise ClientClosed("the client is closed")
            session, tls, surroundings = client._new_session(address), client.tls, client._surroundings
            del client
            return open_stripe(address, tls, surroundings, session, deadline)

        return opened

    def _state(self) -> str:
        return describe(self._current_session(), self._closed, self.disabled)

    def _current_session(self) -> Session | None:
        raise NotImplementedError

    def _deadline(self, timeout_s: float | None, deadline_s: float | None = None) -> float:
        return self._surroundings.now() + call_seconds(self.timeout_s, timeout_s, deadline_s)

    def _forked(self) -> bool:
        return os.getpid() != self._outfit.pid

    def _check_usable(self) -> None:
        if self._forked():
            raise ForkedError("this client was made before a fork; make a new one in the child process")
        if self._closed:
            raise self._ending()

    def _ending(self) -> MezzoError:
        """Why it can be used no more, once `_closed`."""
        return ClientClosed("the client is closed")

    def _check_backoff(self) -> None:
        """While the next attempt to connect is not due, say again what the last one said: a dead server costs
        no time.
        """
        error, wait_s = self._connect_error, self._backoff.not_before - self._surroundings.now()
        if error is None or wait_s <= 0:
            return
        # A front-end that waits for its shard says so in the same words.
        told = f"{str(error).partition(NEXT)[0]}{NEXT}{wait_s:.2f} s)"
        if isinstance(error, CallerError):
            raise type(error)(told)
        if isinstance(error, Busy):
            raise type(error)(told, max(wait_s, error.retry_after_s))
        raise Unavailable(told)

    def _connect_failed(self, error: MezzoError) -> MezzoError:
        """Note it; the error to raise."""
        if isinstance(error, Unauthenticated) and not self.address.is_frontend and self._given_ticket is None:
            error = Unauthenticated(
                f"{error}: {self.address} is a shard, which wants a ticket; a front-end (grpc://HOST:PORT) makes one "
                "of a token"
            )
        self._counters.connect_failures += 1
        self._backoff.failed(self._surroundings.now())
        self._connect_error = error
        return error


def copy_bytes(targets: Sequence[memoryview], sources: Sequence[memoryview]) -> None:
    """Copy ``sources`` to ``targets``, piece by piece; both have the same number of bytes.

    A piece holds the interpreter lock: this is the one copy that foreign memory costs, and the
    reason to use regions.
    """
    left = deque(targets)
    for source in sources:
        while len(source):
            target = left[0]
            count = min(len(source), len(target), COPY_BYTES)
            target[:count] = source[:count]
            source = source[count:]
            if count == len(target):
                left.popleft()
            else:
                left[0] = target[count:]


def describe(session: Session | None, closed: bool, disabled: bool) -> str:
    """A client's state in a few words."""
    if closed:
        return "closed"
    if disabled:
        return "disabled"
    if session is None or session.failure is not None:
        return "not connected"
    return (
        f"connected, {session.requests_in_flight} in flight, {session.requests_waiting} waiting, "
        f"{session.regions} regions"
    )
