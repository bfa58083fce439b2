"""A put: its stream is collected in staging memory, and handed to the shard when it is whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc.aio

from mezzo.errors import DeadlineExceeded, InvalidArgument, TooLarge
from mezzo.frontend.exchange import PUT_STATES
from mezzo.frontend.wire import Piece, PutMessage, decode_put
from mezzo.places import Parts, check_keys, check_parts
from mezzo.protocol.messages import PARTS_MAX, PRIORITY_DEFAULT, U32_MAX
from mezzo.regions import Extent
from mezzo.results import PutState
from mezzo.v1 import store_pb2
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.calls import Context, keys_of, parse, time_left
from mezzo_server.frontend.namespaces import Namespaces
from mezzo_server.frontend.numbers import FrontendNumbers
from mezzo_server.frontend.patience import for_shards
from mezzo_server.frontend.room import Room

PACE_BYTES = 1024 * 1024
"""that come within each ``frontend.stall_s``, on average: a few bytes now and then would hold memory that others
wait for"""

_STATES = {state: number for number, state in PUT_STATES.items()}


class Putting:
    """Pieces as they come, into the chunks that were announced. Checks that all come, in order. No I/O."""

    def __init__(self, lengths: Sequence[int], views: Sequence[memoryview]) -> None:
        self._lengths = lengths
        self._views = views
        self._chunk = 0
        self._offset = 0
        self.received = 0

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self._chunk == len(self._lengths)

    def take(self, piece: Piece) -> None:
        """Write a piece where it belongs. Raises InvalidArgument if it is not the next one."""
        chunk, offset, data = piece
        if self.whole:
            raise InvalidArgument(f"a piece of chunk {chunk} came after the last byte that was announced")
        if (chunk, offset) != (self._chunk, self._offset):
            raise InvalidArgument(
                f"a piece of chunk {chunk} at {offset} came, chunk {self._chunk} at {self._offset} was due"
            )
        length, end = self._lengths[chunk], offset + len(data)
        if not data or end > length:
            raise InvalidArgument(
                f"a piece of {len(data)} bytes for chunk {chunk}, of which {length - offset} bytes are missing"
            )
        self._views[chunk][offset:end] = data
        self.received += len(data)
        self._offset = end
        if end == length:
            self._chunk += 1
            self._offset = 0


def patience_s(stall_s: float, received_bytes: int, took_s: float) -> float:
    """How long the next message of a put may take, after so many bytes in so long."""
    return min(stall_s, stall_s * (1 + received_bytes / PACE_BYTES) - took_s)


class Puts:
    """Handler of ``Put``."""

    def __init__(
        self,
        namespaces: Namespaces,
        room: Room,
        numbers: FrontendNumbers,
        *,
        put_bytes_max: int,
        stall_s: float,
    ) -> None:
        self._namespaces = namespaces
        self._room = room
        self._numbers = numbers
        self._put_bytes_max = put_bytes_max
        self._stall_s = stall_s

    async def put(self, _: object, context: Context, timeout_s: float) -> bytes:
        """See `mezzo.v1.StoreService.Put`."""
        first = await self._read(context, self._stall_s)
        if first is None or first.header is None:
            raise InvalidArgument("the first message of a put must have its header")
        header = parse(store_pb2.PutHeader, first.header)
        keys = check_keys(keys_of(header))
        lengths = self._check_lengths(header, len(keys))
        parts = _parts(header)
        check_parts(parts, lengths, PARTS_MAX)
        async with (
            self._namespaces.use(header.namespace) as namespace,
            self._room.take(lengths, timeout_s, caller().tenant) as extents,
        ):
            await self._collect(context, first, lengths, extents)
            result = await namespace.client.put(
                keys,
                extents,
                parts=parts,
                position=header.position,
                ttl_s=header.ttl_ms / 1000 if header.ttl_ms else None,
                priority=header.priority if header.HasField("priority") else PRIORITY_DEFAULT,
                timeout_s=for_shards(time_left(context), several=self._namespaces.several),
            )
        states = [_STATES[state] for state in result.states]
        if PutState.FAILED in result.states and not namespace.client.disabled:
            self._numbers.count_error("NOT_STORED")
        return store_pb2.PutResponse(states=states, unanswered=result.unanswered).SerializeToString()

    async def _collect(
        self, context: Context, message: PutMessage, lengths: Sequence[int], extents: Sequence[Extent]
    ) -> None:
        putting = Putting(lengths, [extent.view for extent in extents])
        clock = asyncio.get_running_loop().time
        began = clock()
        next_message: PutMessage | None = message
        while next_message is not None:
            before = putting.received
            for piece in next_message.pieces:
                putting.take(piece)
            self._numbers.bytes_in += putting.received - before
            within_s = patience_s(self._stall_s, putting.received, clock() - began)
            next_message = await self._read(context, within_s)
            if next_message is not None and next_message.header is not None:
                raise InvalidArgument("a second header came; a put has one, in its first message")
        if not putting.whole:
            # The caller ended the stream, or went away; either way this put never was.
            raise InvalidArgument(
                f"the stream ended after {putting.received} of {sum(lengths)} bytes that were announced"
            )

    async def _read(self, context: Context, within_s: float) -> PutMessage | None:
        """The next message; None at the end of the stream."""
        try:
            async with asyncio.timeout(within_s):
                message = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(f"too little came for {self._stall_s:g} s (frontend.stall_s)") from None
        if message is grpc.aio.EOF:
            return None
        return decode_put(message)

    def _check_lengths(self, header: store_pb2.PutHeader, keys: int) -> list[int]:
        lengths = list(header.lengths)
        if len(lengths) != keys:
            raise InvalidArgument(f"{len(lengths)} lengths for {keys} keys")
        if min(lengths) < 1 or max(lengths) > U32_MAX:
            raise InvalidArgument(f"a chunk has 1 to {U32_MAX} bytes")
        if sum(lengths) > self._put_bytes_max:
            raise TooLarge(
                f"{sum(lengths)} bytes in one put; it takes {self._put_bytes_max} (frontend.put_bytes_max)"
            )
        return lengths


def _parts(header: store_pb2.PutHeader) -> Parts:
    """As the SDK takes them: none, one list for all chunks, or one for each."""
    lists = [list(entry.lengths) for entry in header.parts]
    if len(lists) == 1:
        # An empty list is no list for all; kept as it is, it is refused by its name.
        return lists[0] or lists
    return lists or None
