"""What the blocking and the asynchronous client have in common."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence

from mezzo import mapping
from mezzo.address import Address, parse
from mezzo.arenas import ArenaChannel
from mezzo.backoff import Backoff
from mezzo.calls import Context
from mezzo.connecting import Surroundings
from mezzo.errors import ClientClosed, ForkedError, InvalidArgument, MezzoError, Unavailable
from mezzo.frontend.via import Via, check_via
from mezzo.protocol.messages import Welcome
from mezzo.regions import Region
from mezzo.session import Session
from mezzo.staging import Staging
from mezzo.statistics import ClientStatistics, Counters
from mezzo.tls import TLS

TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
CANCEL_GRACE_S = 1.0
STAGING_BYTES = 64 * 1024 * 1024
WAITING_MAX = 1024
COPY_BYTES = 1024 * 1024  # the interpreter lock is held for so long at a time


def disabled_by_environment() -> bool:
    """Whether ``MEZZO_DISABLE`` asks for every call to be a miss."""
    return os.environ.get("MEZZO_DISABLE", "").strip().lower() in ("1", "true", "yes", "on")


def check_seconds(name: str, value: float) -> float:
    """A positive number of seconds. Raises InvalidArgument."""
    if not value > 0:
        raise InvalidArgument(f"{name} must be positive, not {value}")
    return float(value)


class ClientBase:
    """What both clients have: options, counters, regions, staging."""

    def __init__(
        self,
        address: str,
        *,
        namespace: str = "default",
        name: str = "mezzo-python",
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        cancel_grace_s: float = CANCEL_GRACE_S,
        shm: bool = True,
        staging_bytes: int = STAGING_BYTES,
        waiting_max: int = WAITING_MAX,
        via: Via = "auto",
        tls: TLS | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.address = parse(address)
        self.namespace = namespace
        self.name = name
        check_via(via)
        self.via = via
        """how chunks are reached if ``address`` is a front-end's"""
        self.tls = TLS.from_environment() if tls is None else tls
        """whom it trusts at ``tcps://`` and ``grpcs://``, and who it is"""
        self.timeout_s = check_seconds("timeout_s", timeout_s)
        self.connect_timeout_s = check_seconds("connect_timeout_s", connect_timeout_s)
        self.cancel_grace_s = check_seconds("cancel_grace_s", cancel_grace_s)
        if staging_bytes <= 0 or waiting_max <= 0:
            raise InvalidArgument("staging_bytes and waiting_max must be positive")
        for option, text in (("namespace", namespace), ("name", name)):
            if not 1 <= len(text) <= 128:
                raise InvalidArgument(f"{option} must have 1 to 128 characters, not {len(text)}")
        self.disabled = disabled_by_environment()
        """whether ``MEZZO_DISABLE`` was set when the client was made: every call is a miss"""
        self._surroundings = surroundings or Surroundings()
        self._shm = shm
        self._ways: list[tuple[Address, bytes]] = []
        """addresses of the shard as a front-end told them last, and the incarnation that answers there"""
        self._waiting_max = waiting_max
        self._counters = Counters()
        self._staging = Staging(mapping.owned, staging_bytes)
        self._context = Context(
            self._surroundings.now, self._counters, self._staging, self.disabled, ArenaChannel
        )
        self._backoff = Backoff(self._surroundings.random)
        self._connect_error: MezzoError | None = None
        self._closed = False
        self._connect_lock = threading.Lock()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<mezzo.{type(self).__name__} {self.address} namespace={self.namespace!r} {self._state()}>"

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
            namespace=self.namespace,
            counters=self._counters,
            now=self._surroundings.now,
            use_shm=self._shm and address.scheme == "unix",
            waiting_max=self._waiting_max,
        )

    def _state(self) -> str:
        return describe(self._current_session(), self._closed, self.disabled)

    def _current_session(self) -> Session | None:
        raise NotImplementedError

    def _forked(self) -> bool:
        return os.getpid() != self._pid

    def _check_usable(self) -> None:
        if self._forked():
            raise ForkedError("this client was made before a fork; make a new one in the child process")
        if self._closed:
            raise ClientClosed("the client is closed")

    def _check_backoff(self) -> None:
        """Raise Unavailable while the next attempt to connect is not due: a dead server costs no time."""
        wait_s = self._backoff.not_before - self._surroundings.now()
        if wait_s > 0 and self._connect_error is not None:
            raise Unavailable(f"{self._connect_error} (next attempt in {wait_s:.2f} s)")

    def _connect_failed(self, error: MezzoError) -> None:
        self._counters.connect_failures += 1
        self._backoff.failed(self._surroundings.now())
        self._connect_error = error


def unreached(address: Address, errors: Sequence[MezzoError]) -> Unavailable:
    """The error of a direct client that a front-end sent to a shard which it cannot reach."""
    tried = "; ".join(str(error) for error in errors)
    return Unavailable(f"no shard of the map of {address} can be reached directly: {tried}")


def check_incarnation(session: Session, address: Address, incarnation: bytes) -> None:
    """Raise Unavailable unless the shard that answered is the one of the map: a path or a loopback
    address means another shard on another host.
    """
    if incarnation and session.limits.shard_incarnation != incarnation:
        raise Unavailable(f"another shard than the map's answers at {address}")


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
