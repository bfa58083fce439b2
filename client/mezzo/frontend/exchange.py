"""Operations as gRPC messages, and what comes back as their results. No I/O.

A proxied client makes the same calls as a direct one (`mezzo.calls`, `mezzo.moves`); where a direct one
sends an operation as a frame, a proxied one sends what is made of it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from mezzo.errors import InternalError, InvalidArgument, ProtocolError, Unsupported
from mezzo.frontend.wire import Piece, decode_get, encode_put
from mezzo.operations import (
    Acquire,
    Delete,
    Lookup,
    Operation,
    Ping,
    ReadEvents,
    Release,
    Renew,
    ShardStat,
    Stat,
)
from mezzo.protocol.messages import (
    PRIORITY_DEFAULT,
    Acquired,
    ChunkStat,
    EventKind,
    EventsAre,
    InPlace,
    LookedUp,
)
from mezzo.results import PutState
from mezzo.transfers import Get, Put, cut, zero
from mezzo.v1 import store_pb2

STORE_SERVICE = "mezzo.v1.StoreService"
SESSION_SERVICE = "mezzo.v1.SessionService"
UNARY_METHODS = ("Lookup", "Acquire", "Renew", "Release", "Delete", "Stat", "ShardStat", "PollEvents")
LEASE_BYTES = 16
"""of a lease's name"""

PUT_STATES = {
    store_pb2.PUT_STATE_STORED: PutState.STORED,
    store_pb2.PUT_STATE_EXISTS: PutState.EXISTS,
    store_pb2.PUT_STATE_FAILED: PutState.FAILED,
    store_pb2.PUT_STATE_DECLINED: PutState.DECLINED,
}

EVENT_KINDS = {
    store_pb2.EVENT_KIND_STORED: EventKind.STORED,
    store_pb2.EVENT_KIND_EVICTED: EventKind.EVICTED,
    store_pb2.EVENT_KIND_DELETED: EventKind.DELETED,
    store_pb2.EVENT_KIND_EXPIRED: EventKind.EXPIRED,
    store_pb2.EVENT_KIND_ERASED: EventKind.ERASED,
    store_pb2.EVENT_KIND_LOST: EventKind.LOST,
}
INCARNATION_BYTES = 16


class Unary(NamedTuple):
    """One request and one answer."""

    method: str
    """name within the service"""
    request: bytes
    take: Callable[[bytes], None]
    """makes the answer the operation's result; ProtocolError if it cannot be one"""


def path(method: str, service: str = STORE_SERVICE) -> str:
    """What gRPC calls a method."""
    return f"/{service}/{method}"


def unary(operation: Operation, namespace: str) -> Unary:
    """The call for an operation that moves no chunks.

    Raises:
        InvalidArgument: it asks for places in memory, which end at this host's border.
        Unsupported: a front-end does not do this.
    """
    if type(operation) is Lookup:
        return _lookup(operation, namespace)
    if type(operation) is Acquire:
        return _acquire(operation, namespace)
    if type(operation) is Renew:
        return _renew(operation)
    if type(operation) is Release:
        return _release(operation)
    if type(operation) is Delete:
        return _delete(operation, namespace)
    if type(operation) is Stat:
        return _stat(operation, namespace)
    if type(operation) is ReadEvents:
        return _read_events(operation, namespace)
    if type(operation) is ShardStat:
        return _shard_stat(operation)
    if type(operation) is Ping:
        # A front-end without its shard is of no use, so this goes to the shard and back.
        return Unary("ShardStat", b"", lambda answer: None)
    raise Unsupported(f"{type(operation).__name__} needs a direct connection to a shard; use via='direct'")


def parse(message: Any, data: bytes) -> Any:
    """``data`` as a message of the class of ``message``. Raises ProtocolError."""
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise ProtocolError(f"the answer is no {message.DESCRIPTOR.name}: {error}") from None


def _lookup(operation: Lookup, namespace: str) -> Unary:
    def take(answer: bytes) -> None:
        found = parse(store_pb2.LookupResponse, answer)
        operation.take(LookedUp(found.prefix, found.bytes, found.load_us, *_load_told(found)))
        operation.unanswered = found.unanswered

    request = store_pb2.LookupRequest(namespace=namespace, keys=operation.keys)
    return Unary("Lookup", request.SerializeToString(), take)


def _acquire(operation: Acquire, namespace: str) -> Unary:
    if operation.in_place != InPlace.NO:
        raise InvalidArgument("in_place needs a direct connection on the shard's host; use via='direct'")

    def take(answer: bytes) -> None:
        acquired = parse(store_pb2.AcquireResponse, answer)
        operation.unanswered = acquired.unanswered
        lease = int.from_bytes(acquired.lease, "big")
        operation.take(
            lease,
            acquired.lease_ms,
            Acquired(0, acquired.prefix, acquired.bytes, 0, acquired.load_us, [], *_load_told(acquired)),
        )

    request = store_pb2.AcquireRequest(namespace=namespace, keys=operation.keys, lease_ms=operation.lease_ms)
    return Unary("Acquire", request.SerializeToString(), take)


def _load_told(found: Any) -> tuple[int, int, int, int, int, int]:
    return (
        found.hot_prefix,
        found.hot_bytes,
        found.hot_load_us,
        found.device_load_us,
        found.load_high_us,
        found.load_wait_us,
    )


def _renew(operation: Renew) -> Unary:
    def take(answer: bytes) -> None:
        operation.lease_ms = parse(store_pb2.RenewResponse, answer).lease_ms

    lease = operation.lease.to_bytes(LEASE_BYTES, "big")
    request = store_pb2.RenewRequest(lease=lease, lease_ms=operation.lease_ms)
    return Unary("Renew", request.SerializeToString(), take)


def _release(operation: Release) -> Unary:
    def take(answer: bytes) -> None:
        operation.held = parse(store_pb2.ReleaseResponse, answer).held

    request = store_pb2.ReleaseRequest(lease=operation.lease.to_bytes(LEASE_BYTES, "big"))
    return Unary("Release", request.SerializeToString(), take)


def _delete(operation: Delete, namespace: str) -> Unary:
    def take(answer: bytes) -> None:
        deleted = tuple(parse(store_pb2.DeleteResponse, answer).deleted)
        _check_count("deleted", len(deleted), len(operation.keys))
        operation.deleted = deleted

    request = store_pb2.DeleteRequest(namespace=namespace, keys=operation.keys)
    return Unary("Delete", request.SerializeToString(), take)


def _stat(operation: Stat, namespace: str) -> Unary:
    def take(answer: bytes) -> None:
        told = parse(store_pb2.StatResponse, answer)
        chunks, operation.unanswered = told.chunks, told.unanswered
        _check_count("chunks", len(chunks), len(operation.keys))
        operation.chunks = tuple(
            [
                ChunkStat(
                    chunk.bytes,
                    chunk.parts,
                    chunk.sequence,
                    chunk.leased,
                    chunk.ttl_ms if chunk.HasField("ttl_ms") else -1,
                    chunk.priority if chunk.HasField("priority") else PRIORITY_DEFAULT,
                )
                if chunk.present
                else None
                for chunk in chunks
            ]
        )

    request = store_pb2.StatRequest(namespace=namespace, keys=operation.keys)
    return Unary("Stat", request.SerializeToString(), take)


def _read_events(operation: ReadEvents, namespace: str) -> Unary:
    question = operation.question

    def take(answer: bytes) -> None:
        told = parse(store_pb2.PollEventsResponse, answer)
        if len(told.incarnation) != INCARNATION_BYTES:
            raise ProtocolError("the answer has no incarnation")
        events = list(told.events)
        operation.take(
            EventsAre(
                told.incarnation,
                told.next,
                told.gap,
                b"" if question.parts else bytes([EVENT_KINDS.get(e.kind, EventKind.LOST) for e in events]),
                [event.key for event in events],
                [event.bytes for event in events],
                told.chunks,
            )
        )

    request = store_pb2.PollEventsRequest(
        namespace=namespace,
        incarnation=question.incarnation,
        after=question.after,
        count_max=question.count_max,
        wait_ms=question.wait_ms,
        part=question.part,
        parts=question.parts,
    )
    return Unary("PollEvents", request.SerializeToString(), take)


def _shard_stat(operation: ShardStat) -> Unary:
    def take(answer: bytes) -> None:
        operation.numbers = dict(parse(store_pb2.ShardStatResponse, answer).numbers)

    return Unary("ShardStat", store_pb2.ShardStatRequest().SerializeToString(), take)


def put_messages(operation: Put, namespace: str, piece_bytes: int) -> Iterator[bytes]:
    """The messages of a put, each with at most ``piece_bytes`` of payload."""
    header = store_pb2.PutHeader(
        namespace=namespace,
        keys=operation.keys,
        lengths=operation.places.lengths,
        parts=[store_pb2.Parts(lengths=lengths) for lengths in operation.parts],
        position=operation.positions[0],
        ttl_ms=operation.ttl_ms,
        priority=operation.priority,
    )
    head: bytes | None = header.SerializeToString()
    pieces: list[Piece] = []
    room = piece_bytes
    for index, place in enumerate(operation.places):
        offset = 0
        for view in place.memory():
            while view:
                data = view[:room]
                view = view[len(data) :]
                pieces.append(Piece(index, offset, data))
                offset += len(data)
                room -= len(data)
                if not room:
                    yield encode_put(head, pieces)
                    head, pieces, room = None, [], piece_bytes
    if pieces or head is not None:
        yield encode_put(head, pieces)


def take_put(operation: Put, answer: bytes) -> None:
    """The answer to a put. Raises ProtocolError."""
    told = parse(store_pb2.PutResponse, answer)
    states, operation.unanswered = told.states, told.unanswered
    _check_count("states", len(states), len(operation.keys))
    operation.states = tuple([PUT_STATES.get(state, PutState.FAILED) for state in states])


def get_request(operation: Get, namespace: str) -> bytes:
    """The request of a get."""
    first, count = operation.part
    request = store_pb2.GetRequest(
        namespace=namespace,
        keys=operation.keys,
        first_part=first,
        part_count=count,
        capacities=operation.places.lengths,
    )
    return bytes(request.SerializeToString())


class Receiving:
    """A get whose pieces come in. Writes them into the operation's places, and takes them back.

    Invariant: until `finish` has returned no byte may be believed, and what is not believed is zeroed.
    """

    def __init__(self, operation: Get) -> None:
        self._operation = operation
        self._received = [0] * len(operation.keys)
        self._last = 0
        self._result: store_pb2.GetResult | None = None

    def take(self, message: bytes) -> None:
        """A message came. Raises ProtocolError if it cannot be one of this call."""
        try:
            pieces, result = decode_get(message)
        except InvalidArgument as error:
            raise ProtocolError(f"the answer is no GetResponse: {error}") from None
        if self._result is not None:
            raise ProtocolError("a message came after the result")
        for index, offset, data in pieces:
            if not self._last <= index < len(self._received) or offset != self._received[index]:
                raise ProtocolError(f"a piece of chunk {index} at {offset}, which is not due")
            place = self._operation.places[index]
            if offset + len(data) > place.length:
                raise ProtocolError(f"{offset + len(data)} bytes for a target of {place.length}")
            self._last = index
            # Counted before it is copied: an interrupt in between leaves nothing that is not zeroed.
            self._received[index] += len(data)
            _copy_into(place.memory(), offset, memoryview(data))
        if result is not None:
            self._result = parse(store_pb2.GetResult, result)

    def finish(self) -> None:
        """The stream ended well: what its last message says is the result. Raises ProtocolError."""
        if self._result is None:
            raise ProtocolError("the stream ended without a result")
        count = len(self._received)
        found, lengths = list(self._result.found), list(self._result.lengths)
        _check_count("found", len(found), count)
        _check_count("lengths", len(lengths), count)
        for index, received in enumerate(self._received):
            if (lengths[index] if found[index] else 0) != received:
                raise ProtocolError(f"{received} bytes of chunk {index} came, {lengths[index]} were said")
            found[index] = received > 0
        self._operation.found, self._operation.lengths = tuple(found), tuple(lengths)
        self._operation.unanswered = self._result.unanswered

    def abandon(self) -> None:
        """It failed: overwrite what came."""
        count = len(self._received)
        self._operation.found, self._operation.lengths = (False,) * count, (0,) * count
        for index, received in enumerate(self._received):
            if received:
                zero(cut(self._operation.places[index].memory(), received))
        self._received = [0] * count


def _copy_into(views: list[memoryview], offset: int, data: memoryview) -> None:
    for view in views:
        if offset >= len(view):
            offset -= len(view)
            continue
        count = min(len(view) - offset, len(data))
        view[offset : offset + count] = data[:count]
        data = data[count:]
        offset = 0
        if not data:
            return
    if data:
        raise InternalError("a piece was checked, and did not fit")


def _check_count(name: str, count: int, keys: int) -> None:
    if count != keys:
        raise ProtocolError(f"{count} entries of {name} for {keys} keys")
