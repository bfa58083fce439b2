"""A get: windows of chunks are read into staging memory and sent from there, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from mezzo import AsyncClient
from mezzo.errors import DeadlineExceeded, InvalidArgument, TooLarge
from mezzo.frontend.wire import Piece, encode_get
from mezzo.places import check_keys
from mezzo.protocol.messages import PARTS_MAX, ChunkStat
from mezzo.v1 import store_pb2
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.calls import Context, keys_of, parse, send, time_left
from mezzo_server.frontend.namespaces import Namespaces
from mezzo_server.frontend.numbers import FrontendNumbers
from mezzo_server.frontend.patience import for_next
from mezzo_server.frontend.room import Room, aligned
from mezzo_server.frontend.way import Way

WINDOW_BYTES = 8 * 1024 * 1024
"""Chunk bytes read at a time for one call, or one chunk if that is more: what a slow reader holds."""


class Wanted(NamedTuple):
    """One chunk to be read."""

    place: int
    """which of the call's keys"""
    room_bytes: int
    """that it may take"""


@dataclass(slots=True)
class Told:
    """What a get's last message says."""

    lengths: list[int]
    """bytes sent of each key"""
    unanswered: int = 0

    def message(self) -> bytes:
        """As it is sent."""
        found = [length > 0 for length in self.lengths]
        result = store_pb2.GetResult(found=found, lengths=self.lengths, unanswered=self.unanswered)
        return bytes(result.SerializeToString())


class Gets:
    """Handler of ``Get``."""

    def __init__(
        self,
        namespaces: Namespaces,
        room: Room,
        numbers: FrontendNumbers,
        *,
        piece_bytes: int,
        stall_s: float,
        way: Way,
    ) -> None:
        self._way = way
        self._namespaces = namespaces
        self._room = room
        self._numbers = numbers
        self._piece_bytes = piece_bytes
        self._stall_s = stall_s
        # Several calls find room at a time, however little there is.
        self._window_bytes = min(WINDOW_BYTES, room.bytes_max // 4)

    async def get(self, data: bytes, context: Context, timeout_s: float) -> None:
        """See `mezzo.v1.StoreService.Get`."""
        request = parse(store_pb2.GetRequest, data)
        keys = check_keys(keys_of(request))
        first, count = request.first_part, request.part_count
        if first + count > PARTS_MAX or (first and not count):
            raise InvalidArgument(f"parts {first} to {first + count} are not within {PARTS_MAX} parts")
        capacities = list(request.capacities)
        if capacities and (len(capacities) != len(keys) or min(capacities) < 1):
            raise InvalidArgument(f"{len(capacities)} capacities for {len(keys)} keys, or one of them is 0")
        part = (first, count) if count else None
        told = Told([0] * len(keys))
        async with self._namespaces.use(request.namespace) as namespace:
            client = namespace.client
            if capacities and sum(map(aligned, capacities)) <= self._window_bytes:
                chunks = [Wanted(index, room) for index, room in enumerate(capacities)]
            else:
                limit_s = for_next(timeout_s, several=self._namespaces.several, more=True)
                stats = await client.stat(keys, timeout_s=limit_s)
                told.unanswered += stats.unanswered
                chunks = sizes(stats, capacities)
            windows = list(cut_windows(chunks, self._window_bytes))
            with self._timed(sum([chunk.room_bytes for chunk in chunks]), timeout_s):
                for number, window in enumerate(windows):
                    last = number == len(windows) - 1
                    await self._send_window(context, client, keys, window, part, bool(capacities), told, last)
                if not windows:
                    await send(context, encode_get((), told.message()), self._stall_s)

    @contextmanager
    def _timed(self, nbytes: int, timeout_s: float) -> Iterator[None]:
        """For a load of so many bytes. Raises DeadlineExceeded if it would take longer than its caller waits."""
        expected_s = self._way.seconds(nbytes)
        if expected_s > timeout_s:
            raise DeadlineExceeded(
                f"loading {nbytes} bytes would take about {expected_s * 1000:.1f} ms, which is beyond the deadline"
            )
        began, raw_s, whole = time.monotonic(), self._way.begin(nbytes), False
        try:
            yield
            whole = True
        finally:
            self._way.end(nbytes, raw_s, time.monotonic() - began, whole=whole)

    async def _send_window(
        self,
        context: Context,
        client: AsyncClient,
        keys: list[bytes],
        window: list[Wanted],
        part: tuple[int, int] | None,
        bounded: bool,
        told: Told,
        last: bool,
    ) -> None:
        """Read a window and send it; the ``last`` one's last message has the result."""
        timeout_s = for_next(time_left(context), several=self._namespaces.several, more=not last)
        room_bytes = [chunk.room_bytes for chunk in window]
        async with self._room.take(room_bytes, timeout_s, caller().tenant) as extents:
            wanted = [keys[chunk.place] for chunk in window]
            try:
                got = await client.get(wanted, extents, part=part, timeout_s=timeout_s)
            except TooLarge:
                if bounded:
                    raise
                # Put anew, and longer, since its size was asked for: a miss is always legal.
                got_lengths: tuple[int, ...] = (0,) * len(window)
            else:
                got_lengths = got.lengths
                told.unanswered += got.unanswered
            found = []
            for chunk, extent, length in zip(window, extents, got_lengths, strict=True):
                told.lengths[chunk.place] = length
                if length:
                    found.append((chunk.place, extent.view[:length]))
            self._numbers.bytes_out += sum(got_lengths)
            held: list[Piece] = []
            for pieces in pack(found, self._piece_bytes):
                if held:
                    await send(context, encode_get(held, None), self._stall_s)
                held = pieces
            # The result goes with the last pieces: one message less.
            message = encode_get(held, told.message() if last else None)
        if message:
            await send(context, message, self._stall_s)


def sizes(stats: Sequence[ChunkStat | None], capacities: Sequence[int]) -> list[Wanted]:
    """The chunks that are there, with the room that each takes."""
    chunks = []
    for index, stat in enumerate(stats):
        if stat is not None:
            room = min(stat.bytes, capacities[index]) if capacities else stat.bytes
            chunks.append(Wanted(index, room))
    return chunks


def cut_windows(chunks: Sequence[Wanted], window_bytes: int) -> Iterator[list[Wanted]]:
    """The chunks in groups of at most ``window_bytes``, or of one."""
    window: list[Wanted] = []
    held = 0
    for chunk in chunks:
        room = aligned(chunk.room_bytes)
        if window and held + room > window_bytes:
            yield window
            window, held = [], 0
        window.append(chunk)
        held += room
    if window:
        yield window


def pack(chunks: Sequence[tuple[int, memoryview]], piece_bytes: int) -> Iterator[list[Piece]]:
    """Pieces for one message after the other, each with at most ``piece_bytes`` of payload."""
    pieces: list[Piece] = []
    room = piece_bytes
    for index, view in chunks:
        offset = 0
        while offset < len(view):
            data = view[offset : offset + room]
            pieces.append(Piece(index, offset, data))
            offset += len(data)
            room -= len(data)
            if not room:
                yield pieces
                pieces, room = [], piece_bytes
    if pieces:
        yield pieces
