"""Operations: one request each, from its body to its result. No I/O.

An operation knows what to ask and what to make of the frames that answer it; `session` knows ids,
order and limits.  `transfers` has the two operations that move chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeVar

from mezzo.errors import MezzoError, ProtocolError
from mezzo.protocol import messages
from mezzo.protocol.bitmap import unpack
from mezzo.protocol.messages import PLACE_NUMBERS, Body, InPlace, Kind
from mezzo.regions import Extent, Region

B = TypeVar("B", bound=Body)


class State(Enum):
    """Where an operation stands. Steps go down this list only."""

    NEW = 0
    WAITING = 1
    """for its region, or for a place among the requests in flight"""
    SENT = 2
    CANCELLING = 3
    """given up; the server may still touch its memory"""
    DONE = 4
    """result or error is set; nobody touches its memory any more"""


class Sink(Protocol):
    """Takes in the payload of one ``GET_DATA`` frame."""

    views: list[memoryview]

    def advance(self, received: int) -> None:
        """The first ``received`` bytes are in the views."""

    def finish(self) -> None:
        """All bytes are in the views."""


class Operation:
    """One request. Owner: the session from ``submit`` until the state is DONE.

    ``error`` is set when it failed; a subclass has its result in fields of its own.
    """

    kind: ClassVar[Kind]
    moves: ClassVar[bool] = False
    """whether a shard touches ``region`` on its behalf"""
    unanswered: int = 0
    """keys whose shard did not answer, as a front-end says that asked several"""

    def __init__(self, region: Region | None = None, pinned: tuple[Region, ...] = ()) -> None:
        self.region = region
        self.pinned = pinned
        """regions whose memory must stay until it is done"""
        self.state = State.NEW
        self.error: MezzoError | None = None
        self.request_id = 0
        self.deadline = 0.0
        """clock reading; 0: none"""
        self.waker: Any = None
        """the driver's, to wake whoever waits"""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.request_id} {self.state.name}>"

    @property
    def extents(self) -> Sequence[Extent] | None:
        """The parts of regions that it moves bytes to or from; None: any."""
        return None

    @property
    def done(self) -> bool:
        """Whether result or error is there."""
        return self.state is State.DONE

    def body(self, deadline_ms: int) -> Body:
        """The request; ``deadline_ms`` is what is left of its time, 0 for no limit."""
        raise NotImplementedError

    def answer(self, body: Body) -> None:
        """The answer came. Raises ProtocolError if it cannot be one."""
        raise NotImplementedError

    def renew(self) -> None:
        """Make it new again: it was lost with its connection, and is to be made on another."""
        self.state = State.NEW
        self.error = None
        self.request_id = 0

    def end(self) -> None:
        """Called once when it is done, with ``error`` set or not: put memory in order."""


def expect(body: Body, kind: type[B]) -> B:
    """``body`` as ``kind``; the order of frames has been checked, so anything else is our fault."""
    if not isinstance(body, kind):
        raise ProtocolError(f"{type(body).__name__} came where {kind.__name__} was due")
    return body


class Ping(Operation):
    """Is the server there?"""

    kind = Kind.PING

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.Ping()

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        expect(body, messages.Pong)


class RenewTicket(Operation):
    """Goes on with another ticket."""

    kind = Kind.TICKET_RENEW

    def __init__(self, ticket: bytes) -> None:
        super().__init__()
        self.ticket = ticket

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.TicketRenew(self.ticket)

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        expect(body, messages.TicketRenewed)


class AddRegion(Operation):
    """Registers a region on this connection; made by the session itself."""

    kind = Kind.REGION_ADD

    def __init__(self, region: Region) -> None:
        super().__init__(region, (region,))
        self.number = region.number
        self.offset = region.offset
        self.length = region.length
        self.mapped = False
        self.registered = False

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.RegionAdd(self.number, self.offset, self.length)

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        added = expect(body, messages.RegionAdded)
        self.mapped, self.registered = added.mapped, added.registered


class RemoveRegion(Operation):
    """Forgets a region on this connection; made by the session when a region is closed."""

    kind = Kind.REGION_REMOVE

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.RegionRemove(self.number)

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        expect(body, messages.RegionRemoved)


class KeysOperation(Operation):
    """Base of requests that have nothing but keys."""

    request: ClassVar[type[messages.Lookup | messages.Delete | messages.Stat]]

    def __init__(self, keys: list[bytes]) -> None:
        super().__init__()
        self.keys = keys

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return self.request(self.keys)


class Lookup(KeysOperation):
    """Length of the present prefix."""

    kind = Kind.LOOKUP
    request = messages.Lookup
    found = messages.LookedUp(0, 0, 0)

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.take(expect(body, messages.LookedUp))

    def take(self, found: messages.LookedUp) -> None:
        """The answer, however it came. Raises ProtocolError if it cannot be one."""
        _check_prefix(found.prefix, len(self.keys))
        _check_prefix(found.hot_prefix, found.prefix)
        self.found = found


class Acquire(Operation):
    """Lookup and lease."""

    kind = Kind.ACQUIRE

    def __init__(self, keys: list[bytes], lease_ms: int, in_place: InPlace = InPlace.NO) -> None:
        super().__init__()
        self.keys = keys
        self.lease_ms = lease_ms
        self.in_place = in_place
        self.places: list[int] = []
        """`PLACE_NUMBERS` for each key of the prefix, if ``in_place``"""
        self.lease = 0
        self.found = messages.LookedUp(0, 0, 0)

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.Acquire(self.keys, self.lease_ms, self.in_place)

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        acquired = expect(body, messages.Acquired)
        self.take(acquired.lease, acquired.lease_ms, acquired)
        if self.in_place:
            if len(acquired.places) != PLACE_NUMBERS * acquired.prefix:
                raise ProtocolError(
                    f"ACQUIRED has {len(acquired.places)} numbers for {acquired.prefix} places"
                )
            self.places = acquired.places

    def take(self, lease: int, lease_ms: int, acquired: messages.Acquired) -> None:
        """What was leased, however the answer came. Raises ProtocolError if it cannot be one."""
        _check_prefix(acquired.prefix, len(self.keys))
        _check_prefix(acquired.hot_prefix, acquired.prefix)
        self.lease, self.lease_ms = lease, lease_ms
        self.found = messages.LookedUp(
            acquired.prefix,
            acquired.bytes,
            acquired.load_us,
            acquired.hot_prefix,
            acquired.hot_bytes,
            acquired.hot_load_us,
            acquired.device_load_us,
            acquired.load_high_us,
            acquired.load_wait_us,
        )


class OpenArena(Operation):
    """Has the descriptor of an arena sent over a channel."""

    kind = Kind.ARENA_OPEN

    def __init__(self, arena: int, descriptor: int) -> None:
        """``descriptor``: the end of the channel that goes to the server; stays the caller's."""
        super().__init__()
        self.arena = arena
        self.descriptor = descriptor
        self.opened: messages.ArenaOpened | None = None

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.ArenaOpen(self.arena)

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.opened = expect(body, messages.ArenaOpened)


class Renew(Operation):
    """Lets a lease last longer."""

    kind = Kind.LEASE_RENEW

    def __init__(self, lease: int, lease_ms: int, incarnation: bytes = b"") -> None:
        """``incarnation``: of the shard that granted it."""
        super().__init__()
        self.lease = lease
        self.lease_ms = lease_ms
        """what is asked for; then, what was given"""
        self.incarnation = incarnation

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.LeaseRenew(self.lease, self.lease_ms, self.incarnation)

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.lease_ms = expect(body, messages.LeaseRenewed).lease_ms


class Release(Operation):
    """Ends a lease."""

    kind = Kind.RELEASE

    def __init__(self, lease: int, incarnation: bytes = b"") -> None:
        """``incarnation``: of the shard that granted it."""
        super().__init__()
        self.lease = lease
        self.held = False
        self.incarnation = incarnation

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.Release(self.lease, self.incarnation)

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.held = expect(body, messages.Released).held


class ReadEvents(Operation):
    """Asks for events of the namespace, or lists a part of it."""

    kind = Kind.EVENTS

    def __init__(self, question: messages.Events) -> None:
        super().__init__()
        self.question = question
        self.events: messages.EventsAre | None = None

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return self.question

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.take(expect(body, messages.EventsAre))

    def take(self, events: messages.EventsAre) -> None:
        """The answer, however it came. Raises ProtocolError if it contradicts itself."""
        keys = len(events.keys)
        if len(events.lengths) != keys or (len(events.kinds) != keys and not self.question.parts):
            raise ProtocolError(f"EVENTS_ARE has {keys} keys, and other numbers of kinds or lengths")
        if not self.question.parts and events.next < keys:
            raise ProtocolError(f"EVENTS_ARE has {keys} events up to number {events.next}")
        self.events = events


class Delete(KeysOperation):
    """Deletes chunks."""

    kind = Kind.DELETE
    request = messages.Delete
    deleted: tuple[bool, ...] = ()

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.deleted = unpack(expect(body, messages.Deleted).deleted, len(self.keys))


class Stat(KeysOperation):
    """What is known of chunks."""

    kind = Kind.STAT
    request = messages.Stat
    chunks: tuple[messages.ChunkStat | None, ...] = ()

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        chunks = expect(body, messages.Stated).chunks
        if len(chunks) != len(self.keys):
            raise ProtocolError(f"STATED has {len(chunks)} entries for {len(self.keys)} keys")
        self.chunks = tuple(chunks)


class ListDevices(Operation):
    """Which devices the store has."""

    kind = Kind.DEVICES
    devices: tuple[messages.DeviceState, ...] = ()

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.Devices()

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.devices = tuple(expect(body, messages.DevicesAre).devices)


class StatTenant(Operation):
    """What a tenant uses of the shard."""

    kind = Kind.TENANT_STAT

    def __init__(self, tenant: bytes, namespaces: Sequence[bytes]) -> None:
        super().__init__()
        self.tenant = tenant
        self.namespaces = list(namespaces)
        self.use: messages.TenantStated | None = None

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.TenantStat(self.tenant, self.namespaces)

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.use = expect(body, messages.TenantStated)


class ChangeDevice(Operation):
    """Begins a change of the store's devices."""

    kind = Kind.DEVICE_CHANGE

    def __init__(self, change: messages.DeviceChange) -> None:
        super().__init__()
        self.change = change

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return self.change

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        expect(body, messages.DeviceChanged)


class ShardStat(Operation):
    """How the shard is."""

    kind = Kind.SHARD_STAT
    numbers: dict[str, int | float]

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return messages.ShardStat()

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.numbers = dict(expect(body, messages.ShardStated).numbers)


def _check_prefix(prefix: int, keys: int) -> None:
    if prefix > keys:
        raise ProtocolError(f"a prefix of {prefix} of {keys} keys")
