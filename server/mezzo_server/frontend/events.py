"""Events for callers of gRPC: a stream, and one answer at a time. Both are the SDK's, behind a gRPC face."""

from __future__ import annotations

from collections.abc import Sequence

from mezzo.errors import DeadlineExceeded, InvalidArgument, Unavailable
from mezzo.events import Cursor, Event, Gap, Happening
from mezzo.frontend.exchange import EVENT_KINDS, INCARNATION_BYTES
from mezzo.protocol.messages import EVENTS_MAX, EventKind, Events
from mezzo.v1 import store_pb2
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.calls import Context, parse, send, time_left
from mezzo_server.frontend.namespaces import Namespaces
from mezzo_server.frontend.shares import Shares

NUMBER_BYTES = 8
LOOK_S = 5.0
"""between two looks of a stream that has nothing to tell whether its caller is still there"""
KINDS = {kind: told for told, kind in EVENT_KINDS.items()}


class EventHandlers:
    """Handlers of ``Events`` and ``PollEvents``. Owner of the counts of those under way."""

    def __init__(self, namespaces: Namespaces, *, readers_max: int, stall_s: float) -> None:
        self._namespaces = namespaces
        self._readers = Shares("calls read events", readers_max, "frontend.events_max")
        self._stall_s = stall_s

    async def poll(
        self, request: store_pb2.PollEventsRequest, timeout_s: float
    ) -> store_pb2.PollEventsResponse:
        """See ``PollEvents``."""
        question = Events(
            request.incarnation,
            request.after,
            request.count_max or EVENTS_MAX,
            min(request.wait_ms, max(0, int(timeout_s * 1000) - 100)),
            request.part,
            request.parts,
        )
        if len(question.incarnation) not in (0, INCARNATION_BYTES) or question.after >= 1 << 63:
            raise InvalidArgument("incarnation and after are those of an earlier answer, or empty")
        with self._readers.held(caller().tenant):
            async with self._namespaces.use(request.namespace) as namespace:
                told = await namespace.client.read_events(question, timeout_s=timeout_s)
        if told is None:
            raise Unavailable("the front-end's own client is disabled (MEZZO_DISABLE)")
        kinds = told.kinds or bytes(len(told.keys))
        return store_pb2.PollEventsResponse(
            incarnation=told.incarnation,
            next=told.next,
            gap=store_pb2.GapReason.ValueType(told.gap),
            events=[
                store_pb2.ChunkEvent(
                    kind=KINDS[EventKind(kind)], key=key, bytes=length, listed=bool(question.parts)
                )
                for kind, key, length in zip(kinds, told.keys, told.lengths, strict=True)
            ],
            chunks=told.chunks,
        )

    async def stream(self, data: bytes, context: Context, timeout_s: float) -> None:
        """See ``Events``."""
        request = parse(store_pb2.EventsRequest, data)
        after = decode_cursor(request.cursor)
        with self._readers.held(caller().tenant):
            async with self._namespaces.use(request.namespace) as namespace:
                stream = namespace.client.events(after, snapshot=request.snapshot)
                while True:
                    left_s = time_left(context)
                    happened = await stream.poll(min(LOOK_S, left_s))
                    for message in messages(happened, request.snapshot):
                        await send(context, message.SerializeToString(), self._stall_s)
                    if left_s <= 0.001:
                        raise DeadlineExceeded("the deadline of the call passed")


def messages(happened: Sequence[Happening], snapshot: bool) -> list[store_pb2.EventsResponse]:
    """What happened as messages: a gap has one of its own, and a listing has no cursor to resume it with."""
    told: list[store_pb2.EventsResponse] = []
    events: list[store_pb2.ChunkEvent] = []
    last: Event | None = None

    def flush() -> None:
        if last is not None:
            cursor = b"" if last.listed else encode_cursor(last.cursor)
            told.append(store_pb2.EventsResponse(events=events, cursor=cursor))

    for one in happened:
        if last is not None and (isinstance(one, Gap) or one.listed != last.listed):
            flush()
            events, last = [], None
        if isinstance(one, Gap):
            reason = store_pb2.GapReason.ValueType(one.reason)
            told.append(
                store_pb2.EventsResponse(cursor=b"" if snapshot else encode_cursor(one.cursor), gap=reason)
            )
        else:
            event = store_pb2.ChunkEvent(
                kind=KINDS[one.kind], key=one.key, bytes=one.bytes, listed=one.listed
            )
            events.append(event)
            last = one
    flush()
    return told


def encode_cursor(cursor: Cursor) -> bytes:
    """A cursor as callers keep it."""
    return cursor.incarnation + cursor.number.to_bytes(NUMBER_BYTES, "big")


def decode_cursor(data: bytes) -> Cursor | None:
    """A caller's cursor; None: he has none. Raises InvalidArgument."""
    if not data:
        return None
    number = int.from_bytes(data[INCARNATION_BYTES:], "big")
    if len(data) != INCARNATION_BYTES + NUMBER_BYTES or number >= 1 << 63:
        raise InvalidArgument("cursor is that of an earlier message, or empty")
    return Cursor(data[:INCARNATION_BYTES], number)
