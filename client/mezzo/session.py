"""One connection as its client sees it, without the socket. No I/O.

A driver moves bytes: what is in ``outgoing`` to the socket, and what comes from it into ``buffer``;
it calls `received`, then `handle` for each `next_event`, and wakes whoever waits for the operations
in ``finished``.  ``received``, ``next_event`` and the sinks belong to whoever receives; everything
else to whoever holds the driver's lock.

Invariants: an operation is in exactly one of the waiting line, the parked ones of a region, or those
in flight; its region is pinned from submit until it is done; an operation that was sent is done only
when the server has said that it touches its memory no more, or the connection has ended (then the
region is tainted).
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mezzo.checksum import scope_of
from mezzo.errors import (
    Busy,
    ConnectionLost,
    DeadlineExceeded,
    ErrorCode,
    InternalError,
    MezzoError,
    ProtocolError,
    from_code,
)
from mezzo.identity import Identity, encode_identity
from mezzo.in_place import Arena
from mezzo.operations import AddRegion, OpenArena, Operation, Release, RemoveRegion, Sink, State
from mezzo.outgoing import SendQueue
from mezzo.protocol.connection import ClientConnection
from mezzo.protocol.frame import FROM_SERVER, Frame, FrameReader, PayloadDone, encode
from mezzo.protocol.messages import (
    U32_MAX,
    Acquired,
    Cancel,
    Epoch,
    ErrorReply,
    GetData,
    Kind,
    PutGrant,
    Refuse,
    Welcome,
)
from mezzo.regions import Region
from mezzo.statistics import Counters
from mezzo.transfers import Get, Put

ANSWER_BODY_BYTES_MAX = 256 * 1024
RECEIVE_BYTES_MAX = 128 * 1024
"""Received at once at most: what is hashed right after is still in the second-level cache, and the
sender may go on while we hash (`python -m benchmarks tcp` measures what it is worth)."""


@dataclass(slots=True)
class _Registration:
    """A region on this connection: ``parked`` operations wait until it is ``added``."""

    adding: AddRegion
    added: bool = False
    parked: deque[Operation] = field(default_factory=deque)


class Session:
    """The state of one connection. Owner of its operations, ids and region registrations."""

    def __init__(
        self,
        *,
        address: str,
        client_name: str,
        namespace: str,
        identity: Identity | None = None,
        counters: Counters,
        now: Callable[[], float],
        use_shm: bool,
        waiting_max: int,
        ticket: bytes = b"",
        epoch: int = 0,
    ) -> None:
        """``epoch``: of the map of the pod by which the server is asked; 0: by none."""
        self.outgoing = SendQueue()
        self.watch_region: Callable[[Region], None] = _ignore
        """the driver's: called for each region that is registered, to hear of its closing"""
        self.hear_copies: Callable[[int], None] = _ignore
        """told of the number of copies that are kept, when that has changed"""
        self.hear_epoch: Callable[[int], None] = _ignore
        """the pod's: called with the epoch that the shard says it follows"""
        self.finished: list[Operation] = []
        self.failure: MezzoError | None = None
        """why the connection has ended"""
        self.refused: MezzoError | None = None
        """the server has refused to go on: the driver ends the connection with this"""
        self._settled = False
        """and has said that it touches no registered memory any more"""
        self.scope = b""
        self.receive_bytes_max = RECEIVE_BYTES_MAX
        """the driver's choice: what `buffer` gives at most"""
        self.stripes = 1
        """connections that share the gets and puts of this one's link"""
        self.peer_gone: Callable[[], bool] | None = None
        """the driver's: whether the server's process has ended; None: nobody can tell"""
        self.arenas: dict[int, Arena] = {}
        """those of the hot tier that are mapped, by the number that this connection knows them by"""
        self._address = address
        self._order = ClientConnection()
        self._reader = FrameReader(FROM_SERVER, body_bytes_max=ANSWER_BODY_BYTES_MAX, payload_bytes_max=0)
        self._counters = counters
        self._now = now
        self._use_shm = use_shm
        self._waiting_max = waiting_max
        self._requests_max = 0
        self._in_flight: dict[int, Operation] = {}
        self._waiting: deque[Operation] = deque()
        self._parked = 0
        self._registrations: dict[int, _Registration] = {}
        self._sink: Sink | None = None
        encoded = b"" if identity is None else encode_identity(identity)
        self.outgoing.append(self._order.hello(client_name, namespace, ticket, epoch, encoded))

    def __repr__(self) -> str:
        state = "ended" if self.failure else "open" if self._order.welcome else "greeting"
        return (
            f"<Session {self._address} {state}, {len(self._in_flight)} in flight, "
            f"{len(self._waiting) + self._parked} waiting, {len(self._registrations)} regions>"
        )

    @property
    def welcome(self) -> Welcome | None:
        """The server's limits; None before it has answered the hello."""
        return self._order.welcome

    @property
    def limits(self) -> Welcome:
        """The server's limits. Raises ProtocolError before it has answered the hello."""
        welcome = self._order.welcome
        if welcome is None:
            raise ProtocolError("the server has not answered the hello")
        return welcome

    @property
    def shm(self) -> bool:
        """Whether chunks move through shared memory on this connection."""
        return self._use_shm and self.limits.shm

    @property
    def requests_in_flight(self) -> int:
        """Requests sent and not ended."""
        return len(self._in_flight)

    @property
    def requests_waiting(self) -> int:
        """Operations that wait to be sent."""
        return len(self._waiting) + self._parked

    @property
    def regions(self) -> int:
        """Regions registered, or being registered."""
        return len(self._registrations)

    # What callers ask for; under the driver's lock.

    def submit(self, operation: Operation) -> None:
        """Begin ``operation``: now, or when its region is registered and there is room.

        Raises:
            Busy: too many operations wait already.
            RegionError: its region is closed.
            MezzoError: the connection has ended; the error says how.
        """
        if self.failure is not None:
            raise copy.copy(self.failure)
        region = operation.region
        if operation.pinned:
            for pinned in operation.pinned:
                if pinned.tainted:
                    # A connection that knows the region already does not wait for it again.
                    known = region is None or region.number in self._registrations
                    pinned.check_taint(None if known else self._address, operation.extents)
            pin(operation)
        if region is not None:
            registration = self._registrations.get(region.number) or self._register(region, operation)
            if not registration.added:
                self._check_waiting(operation)
                operation.state = State.WAITING
                registration.parked.append(operation)
                self._parked += 1
                return
        if self._waiting or len(self._in_flight) >= self._requests_max:
            self._check_waiting(operation)
            operation.state = State.WAITING
            self._waiting.append(operation)
        else:
            self._send(operation)

    def cancel(self, operation: Operation, error: MezzoError) -> None:
        """Give ``operation`` up; it is done, with ``error``, once the server has let go of it."""
        state = operation.state
        if state is State.SENT:
            operation.state = State.CANCELLING
            operation.error = error
            self._order.cancel(operation.request_id)
            self.outgoing.abandon(operation.request_id)
            self.outgoing.append(encode(Kind.CANCEL, operation.request_id, Cancel()))
        elif state is State.WAITING:
            if operation in self._waiting:
                self._waiting.remove(operation)
            else:
                for registration in self._registrations.values():
                    if operation in registration.parked:
                        registration.parked.remove(operation)
                        self._parked -= 1
            operation.error = error
            self._finish(operation)

    def remove_region(self, number: int) -> None:
        """The region is closed: have the server forget it."""
        registration = self._registrations.get(number)
        if registration is None or not registration.added or self.failure is not None:
            return  # while it is being added, _added sees to it
        del self._registrations[number]
        self._wait_or_send(RemoveRegion(number))

    def lose(self, error: MezzoError) -> None:
        """The connection has ended: everything fails with ``error``. May be called twice."""
        if self.failure is not None:
            return
        self.failure = error
        for operation in self._in_flight.values():
            if operation.region is not None and operation.moves and not self._settled:
                operation.region.taint(self._address, operation.extents, self.peer_gone)
        pending = [*self._in_flight.values(), *self._waiting]
        for registration in self._registrations.values():
            pending.extend(registration.parked)
        self.arenas = {}  # another one: a thread may be reading the old
        self._in_flight.clear()
        self._waiting.clear()
        self._registrations.clear()
        self._parked = 0
        for operation in pending:
            if operation.error is None:
                operation.error = copy.copy(error)
            self._finish(operation)

    # What comes from the server.

    def buffer(self) -> memoryview:
        """Where the next bytes from the socket go."""
        return self._reader.buffer()[: self.receive_bytes_max]

    def received(self, count: int) -> None:
        """``count`` bytes are in what `buffer` gave."""
        self._reader.received(count)
        if self._sink is not None:
            self._sink.advance(self._reader.payload_received)

    def ended(self) -> ConnectionLost:
        """The error for an end of the stream now."""
        if self._reader.mid_frame:
            return ConnectionLost("the server closed the connection in the middle of a frame")
        return ConnectionLost("the server closed the connection")

    @property
    def in_payload(self) -> bool:
        """Whether bytes of a chunk are still to come."""
        return self._reader.in_payload

    def next_event(self) -> Frame | PayloadDone | None:
        """The next event to `handle`. Raises ProtocolError."""
        return self._reader.next_event()

    def handle(self, event: Frame | PayloadDone) -> None:
        """Act on an event; under the driver's lock.

        Raises:
            ProtocolError: the server broke the protocol; the driver ends the connection.
        """
        if type(event) is not Frame:
            sink, self._sink = self._sink, None
            if sink is not None:
                sink.finish()
            return
        body = event.body
        if self._order.receive_event(event):
            operation = self._in_flight[event.request_id]
            if operation.state is not State.CANCELLING:
                if isinstance(body, ErrorReply):
                    self.hear_epoch(body.epoch)
                    operation.error = from_code(
                        body.code, body.message, body.retry_after_ms / 1000, body.epoch
                    )
                else:
                    operation.answer(body)
            del self._in_flight[event.request_id]
            if type(operation) is AddRegion:
                self._added(operation)
            self._finish(operation)
            if self._waiting:
                self._send_waiting()
        elif isinstance(body, Epoch):
            self.hear_epoch(body.epoch)
            if body.copies:
                self.hear_copies(body.copies)
        elif isinstance(body, Refuse):
            self.refused = _refused(body, greeted=self._order.welcome is not None)
            self._settled = body.settled
        elif isinstance(body, Welcome):
            self._welcomed(body)
        elif isinstance(body, GetData):
            self._deliver(self._in_flight[event.request_id], body, event.payload_bytes)
        elif isinstance(body, PutGrant):
            operation = self._in_flight[event.request_id]
            if isinstance(operation, Put) and operation.state is not State.CANCELLING:
                for payload in operation.receive_grant(body):
                    self.outgoing.append_payload(payload)
        elif isinstance(body, Acquired) and body.lease:
            # Of an acquire that was given up: nobody else knows of this lease, and nobody would end it.
            self._wait_or_send(Release(body.lease))

    def _welcomed(self, welcome: Welcome) -> None:
        self.scope = scope_of(welcome.tenant_id, welcome.namespace_id)
        self.hear_epoch(welcome.epoch)
        if not (welcome.keys_max and welcome.requests_max and welcome.chunk_bytes_max):
            raise ProtocolError("WELCOME has a limit of 0")
        self._reader.payload_bytes_max = welcome.chunk_bytes_max
        self._requests_max = welcome.requests_max

    def _deliver(self, operation: Operation, data: GetData, payload_bytes: int) -> None:
        if operation.state is State.CANCELLING or not isinstance(operation, Get):
            self._reader.discard_payload()
            return
        self._sink = operation.receive_data(data, payload_bytes)
        self._reader.deliver_into(self._sink.views)
        self._sink.advance(self._reader.payload_received)

    # The way of an operation.

    def _register(self, region: Region, operation: Operation) -> _Registration:
        """Register the region of an operation that was pinned, and is unpinned if this fails."""
        adding = AddRegion(region)
        try:
            region.pin()
        except MezzoError:  # closed by another thread just now
            _unpin(operation)
            raise
        registration = self._registrations[region.number] = _Registration(adding)
        self.watch_region(region)
        self._wait_or_send(adding)
        return registration

    def _added(self, adding: AddRegion) -> None:
        """REGION_ADD was answered: let those go that waited for it."""
        registration = self._registrations.get(adding.number)
        region = adding.region
        if registration is None or region is None:
            raise InternalError("a region was added that nobody asked for")
        parked, registration.parked = registration.parked, deque()
        self._parked -= len(parked)
        if adding.error is not None:
            del self._registrations[adding.number]
            for operation in parked:
                operation.error = copy.copy(adding.error)
                self._finish(operation)
            return
        region.untaint(self._address)
        registration.added = True
        for operation in parked:
            self._wait_or_send(operation)
        if region.closed:
            self.remove_region(adding.number)

    def _check_waiting(self, operation: Operation) -> None:
        """Busy if the waiting line is full; the operation has not begun then."""
        if len(self._waiting) + self._parked >= self._waiting_max:
            _unpin(operation)
            raise Busy(f"{self._waiting_max} requests wait for the server already (waiting_max)")

    def _wait_or_send(self, operation: Operation) -> None:
        """Of the session's own accord: not bounded by ``waiting_max``, but by regions and parked ones."""
        operation.state = State.WAITING
        self._waiting.append(operation)
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what waits, oldest first, as far as the server's limit on requests allows."""
        while self._waiting and len(self._in_flight) < self._requests_max and self.failure is None:
            self._send(self._waiting.popleft())

    def _send(self, operation: Operation) -> None:
        deadline_ms = 0
        if operation.moves and operation.deadline:
            left_ms = (operation.deadline - self._now()) * 1000
            if left_ms <= 0:
                operation.error = DeadlineExceeded("the time was over before the request could be sent")
                self._finish(operation)
                return
            deadline_ms = min(math.ceil(left_ms), U32_MAX)
        request_id, frame = self._order.request(operation.kind, operation.body(deadline_ms))
        operation.request_id = request_id
        operation.state = State.SENT
        self._in_flight[request_id] = operation
        self._counters.requests += 1
        descriptor = None
        if type(operation) is AddRegion and operation.region:
            descriptor = operation.region.descriptor
        elif type(operation) is OpenArena:
            descriptor = operation.descriptor
        self.outgoing.append(frame, descriptor)

    def _finish(self, operation: Operation) -> None:
        operation.state = State.DONE
        operation.end()
        _unpin(operation)
        self.finished.append(operation)


def pin(operation: Operation) -> None:
    """Keep the memory of all of its regions. Raises RegionError if one is closed."""
    pinned = []
    try:
        for region in operation.pinned:
            region.pin()
            pinned.append(region)
    except MezzoError:
        for region in pinned:
            region.unpin()
        raise


def _unpin(operation: Operation) -> None:
    for region in operation.pinned:
        region.unpin()


def _refused(refuse: Refuse, *, greeted: bool) -> MezzoError:
    """The error for a REFUSE: what the caller can act on stays, the rest is a lost connection.

    So is the end of a session that had been let in: who connects anew is told whether he still may.
    """
    if refuse.code in (ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL, ErrorCode.GONE) or (
        greeted and refuse.code == ErrorCode.UNAUTHENTICATED
    ):
        return ConnectionLost(f"the server ended the connection: {refuse.message}")
    return from_code(refuse.code, refuse.message)


def _ignore(told: object) -> None:
    """Nobody wants to hear of it."""
