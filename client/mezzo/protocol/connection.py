"""The order of frames on a connection, for both ends. No I/O.

A connection is a hello, then requests that are answered in any order, each under an id that its
client chose.  What breaks that order is a `ProtocolError`: the side that sees it sends ``REFUSE``
and closes.  docs/protocol.md has the same rules in words.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mezzo.errors import Busy, MezzoError, ProtocolError, Unsupported
from mezzo.protocol.frame import Frame, encode
from mezzo.protocol.messages import (
    EPOCH_VERSION,
    VERSION_MAX,
    VERSION_MIN,
    Body,
    GetData,
    Hello,
    Kind,
    PutData,
    PutGrant,
    Refuse,
    Welcome,
)

ANSWERS: dict[Kind, frozenset[Kind]] = {
    Kind.PING: frozenset({Kind.PONG}),
    Kind.REGION_ADD: frozenset({Kind.REGION_ADDED}),
    Kind.REGION_REMOVE: frozenset({Kind.REGION_REMOVED}),
    Kind.LOOKUP: frozenset({Kind.LOOKED_UP}),
    Kind.GET: frozenset({Kind.GOT}),
    Kind.PUT: frozenset({Kind.PUT_DONE}),
    Kind.DELETE: frozenset({Kind.DELETED}),
    Kind.ACQUIRE: frozenset({Kind.ACQUIRED}),
    Kind.RELEASE: frozenset({Kind.RELEASED}),
    Kind.STAT: frozenset({Kind.STATED}),
    Kind.SHARD_STAT: frozenset({Kind.SHARD_STATED}),
    Kind.ARENA_OPEN: frozenset({Kind.ARENA_OPENED}),
    Kind.DEVICES: frozenset({Kind.DEVICES_ARE}),
    Kind.DEVICE_CHANGE: frozenset({Kind.DEVICE_CHANGED}),
    Kind.TICKET_RENEW: frozenset({Kind.TICKET_RENEWED}),
    Kind.LEASE_RENEW: frozenset({Kind.LEASE_RENEWED}),
    Kind.EVENTS: frozenset({Kind.EVENTS_ARE}),
    Kind.TENANT_STAT: frozenset({Kind.TENANT_STATED}),
    Kind.PULL: frozenset({Kind.PULLED}),
    Kind.OFFER: frozenset({Kind.OFFERED}),
}
"""Which frames end a request; ``ERROR`` ends any."""

REQUEST_KINDS = frozenset(ANSWERS)
STREAMED = (Kind.GET, Kind.PULL)
"""Requests whose payload comes before their answer."""


def negotiate(hello: Hello, version_min: int = VERSION_MIN, version_max: int = VERSION_MAX) -> int:
    """The highest version that both sides speak.

    Raises:
        Unsupported: there is none; the message names both ranges.
    """
    version = min(hello.version_max, version_max)
    if hello.version_min > hello.version_max or version < max(hello.version_min, version_min):
        raise Unsupported(
            f"the client speaks versions {hello.version_min} to {hello.version_max} of the protocol, "
            f"this server {version_min} to {version_max}"
        )
    return version


def refusal(error: MezzoError, *, settled: bool = False) -> bytes:
    """The last frame to send before closing a connection for ``error``; ``settled`` as in `Refuse`."""
    message = f"{error}"[:1024]
    return encode(Kind.REFUSE, 0, Refuse(code=int(error.code), message=message, settled=settled))


class ServerConnection:
    """The server's side of one connection. Owner of the set of requests in flight.

    For each frame: `receive_event`, which checks the order; then, for a request, `begin`, and `end`
    when its answer (``ERROR`` included) is queued.  ``PUT_DATA`` is allowed for indexes given to
    `grant`, in that order, once each.  A put is answered only after all granted payload came or the
    client cancelled it, so that no payload arrives for a request that has ended.
    """

    __slots__ = ("_grants", "_greeted", "_in_flight", "_refused", "requests_max")

    def __init__(self, requests_max: int) -> None:
        self.requests_max = requests_max
        self._greeted = False
        self._refused = False
        self._in_flight: dict[int, Kind] = {}
        self._grants: dict[int, deque[int]] = {}

    def __repr__(self) -> str:
        state = "refused" if self._refused else "greeted" if self._greeted else "new"
        return f"<ServerConnection {state}, {len(self._in_flight)} of {self.requests_max} requests>"

    @property
    def requests_in_flight(self) -> int:
        """Requests begun and not ended."""
        return len(self._in_flight)

    def in_flight(self, request_id: int) -> bool:
        """Whether this request was begun and has not ended."""
        return request_id in self._in_flight

    def receive_event(self, frame: Frame) -> None:
        """Check that ``frame`` may come now.

        Raises:
            ProtocolError: it may not; send `refusal` and close.
        """
        if self._refused:
            raise ProtocolError("nothing may follow a REFUSE")
        kind = frame.kind
        if not self._greeted:
            if kind is not Kind.HELLO:
                raise ProtocolError(f"the first frame must be HELLO, not {kind.name}")
            if frame.request_id != 0:
                raise ProtocolError("HELLO has request id 0")
            self._greeted = True
        elif kind in REQUEST_KINDS:
            if frame.request_id == 0:
                raise ProtocolError(f"{kind.name} needs a request id other than 0")
            if frame.request_id in self._in_flight:
                raise ProtocolError(f"request id {frame.request_id} is in use")
        elif kind is Kind.PUT_DATA:
            self._check_put_data(frame)
        elif kind is Kind.CANCEL:
            # Of a request that has ended, or never was: answered like any other.
            self._grants.pop(frame.request_id, None)
        elif kind is Kind.REFUSE:
            self._refused = True
        else:
            raise ProtocolError(f"{kind.name} may not come now")

    def begin(self, request_id: int, kind: Kind) -> None:
        """A request starts.

        Raises:
            Busy: ``requests_max`` are in flight; answer with this error, the request has not begun.
        """
        if len(self._in_flight) >= self.requests_max:
            raise Busy(f"{self.requests_max} requests are in flight (requests_max)")
        self._in_flight[request_id] = kind

    def grant(self, request_id: int, indexes: Iterable[int]) -> None:
        """``PUT_GRANT`` for these indexes is queued."""
        if self._in_flight.get(request_id) is not Kind.PUT:
            raise ValueError(f"request {request_id} is no put in flight")
        self._grants.setdefault(request_id, deque()).extend(indexes)

    def granted(self, request_id: int) -> int:
        """Number of granted payloads of this put that have not begun to come."""
        return len(self._grants.get(request_id, ()))

    def end(self, request_id: int) -> None:
        """The answer of a request is queued: its id is free again."""
        if self._grants.pop(request_id, None):
            raise ValueError(f"put {request_id} has granted payload that has not come")
        del self._in_flight[request_id]

    def _check_put_data(self, frame: Frame) -> None:
        body = frame.body
        grants = self._grants.get(frame.request_id)
        if not grants or not isinstance(body, PutData):
            raise ProtocolError(f"PUT_DATA for request {frame.request_id} without a grant")
        if body.index != grants[0]:
            raise ProtocolError(f"PUT_DATA for index {body.index}, next granted is {grants[0]}")
        grants.popleft()


class ClientConnection:
    """The client's side of one connection. Owner of the set of requests in flight.

    `hello` first; `request` for each request sent, `cancel` for each ``CANCEL``; `receive_event`
    for each frame received, which says whether the request has ended with it.
    """

    __slots__ = ("_cancelling", "_in_flight", "_next_id", "welcome")

    def __init__(self) -> None:
        self.welcome: Welcome | None = None
        self._next_id = 1
        self._in_flight: dict[int, Kind] = {}
        self._cancelling: set[int] = set()

    @property
    def requests_in_flight(self) -> int:
        """Requests sent whose last frame has not come (a cancelled one ends with ``CANCELLED``)."""
        return len(self._in_flight)

    def hello(
        self, client: str, namespace: str, ticket: bytes = b"", epoch: int = 0, identity: bytes = b""
    ) -> bytes:
        """The first frame to send."""
        body = Hello(VERSION_MIN, VERSION_MAX, client, namespace, ticket, epoch, identity)
        return encode(Kind.HELLO, 0, body)

    def request(self, kind: Kind, body: Body) -> tuple[int, bytes]:
        """Id and frame of a new request.

        Raises:
            Busy: as many are in flight as the server allows.
        """
        if self.welcome is None:
            raise ProtocolError("no request before WELCOME")
        if len(self._in_flight) >= self.welcome.requests_max:
            raise Busy(f"{self.welcome.requests_max} requests are in flight (requests_max)")
        request_id = self._next_id
        self._next_id += 1
        self._in_flight[request_id] = kind
        return request_id, encode(kind, request_id, body)

    def cancel(self, request_id: int) -> bool:
        """Note that ``CANCEL`` is sent. False: the request has ended or is cancelled already."""
        if request_id not in self._in_flight or request_id in self._cancelling:
            return False
        self._cancelling.add(request_id)
        return True

    def receive_event(self, frame: Frame) -> bool:
        """Check that ``frame`` may come now; True when its request has ended with it.

        Raises:
            ProtocolError: it may not.
        """
        kind, body = frame.kind, frame.body
        if self.welcome is None:
            if kind is Kind.WELCOME and isinstance(body, Welcome):
                if not VERSION_MIN <= body.version <= VERSION_MAX:
                    raise ProtocolError(f"the server chose version {body.version}, which was not offered")
                self.welcome = body
                return False
            if kind is Kind.REFUSE:
                return False
            raise ProtocolError(f"the first frame must be WELCOME, not {kind.name}")
        if kind is Kind.REFUSE:
            return False
        if kind is Kind.EPOCH and not frame.request_id and self.welcome.version >= EPOCH_VERSION:
            return False
        if kind is Kind.WELCOME:
            raise ProtocolError("WELCOME came twice")
        asked = self._in_flight.get(frame.request_id)
        if asked is None:
            raise ProtocolError(f"{kind.name} for request {frame.request_id}, which is not in flight")
        if kind is Kind.CANCELLED:
            if frame.request_id not in self._cancelling:
                raise ProtocolError(f"CANCELLED for request {frame.request_id}, which was not cancelled")
            self._cancelling.discard(frame.request_id)
            del self._in_flight[frame.request_id]
            return True
        if kind is Kind.ERROR or kind in ANSWERS[asked]:
            # A cancelled request stays in flight until CANCELLED: its id must not be used again.
            if frame.request_id in self._cancelling:
                return False
            del self._in_flight[frame.request_id]
            return True
        if asked in STREAMED and isinstance(body, GetData):
            return False
        if asked is Kind.PUT and isinstance(body, PutGrant):
            return False
        raise ProtocolError(f"{kind.name} is no answer to {asked.name}")
