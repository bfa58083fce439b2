"""Get over a stream: payload from the store's memory to the socket.

A `TcpGet` is drawn from by its connection when there is room in the connection's output: it asks the
store for the next piece, and gives the piece back once it was sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mezzo.errors import InvalidArgument, MezzoError, TooLarge
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Get, GetData, Kind
from mezzo_server.memory import Span
from mezzo_server.shard.request import Request
from mezzo_server.shard.shm_transfer import got

if TYPE_CHECKING:
    from mezzo_server.blockstore.stream import ChunkStream
    from mezzo_server.shard.session import Session

STEP_KEYS = 256
"""Keys checked before others get their turn."""
ZEROS = memoryview(bytes(1 << 20))
"""What is sent for pieces that could not be read; the answer says that they are a miss."""
PIECES_HELD_MAX = 3
"""Pieces of one chunk in the output: fewer than a stream reads ahead, so that the next is on its way."""


class Output(Protocol):
    """Where a get puts its payload: the connection's output."""

    def has_room(self) -> bool:
        """Whether more payload should be queued now."""

    def begin_payload(self, header: bytes, length: int) -> None:
        """Queue the frame that precedes ``length`` bytes of payload."""

    def add_piece(self, piece: memoryview, sent: Callable[[], None]) -> None:
        """Queue a piece of it; ``sent`` is called when it was sent or never will be."""


class _Sending:
    """One chunk on its way out."""

    __slots__ = (
        "_get",
        "_on_ready",
        "_on_sent",
        "_output",
        "_spans",
        "ended",
        "failed",
        "held",
        "index",
        "left",
        "length",
        "stream",
        "waiting",
    )

    def __init__(self, get: TcpGet, output: Output, stream: ChunkStream, index: int) -> None:
        self._get = get
        self._output = output
        # Pieces queued, in the order in which they are sent: memory of the store, or None for zeros.
        self._spans: deque[Span | None] = deque()
        self._on_ready = self._ready
        self._on_sent = self._sent
        self.stream = stream
        self.index = index
        self.length = self.left = stream.length
        self.held = 0
        """pieces queued and not yet sent"""
        self.waiting = False
        """for the store's next piece"""
        self.failed = False
        self.ended = False

    def draw(self) -> bool:
        """Ask for the next piece. False: it will come later."""
        self.waiting = True
        self.stream.next(self._on_ready)
        return not self.waiting

    def add(self, piece: memoryview, span: Span | None) -> None:
        """Queue a piece."""
        self.left -= len(piece)
        self.held += 1
        self._spans.append(span)
        self._output.add_piece(piece, self._on_sent)

    def _ready(self, span: Span | None) -> None:
        self.waiting = False
        if self.ended or (span is not None and span.length > self.left):
            # Its connection closed, or zeros took its place since the client gave the request up.
            if span is not None:
                self.stream.drop(span)
            return
        if span is None:
            self.failed = True
        else:
            self.add(span.view, span)
        self._get.drawn()

    def _sent(self) -> None:
        self.held -= 1
        span = self._spans.popleft()
        if span is not None:
            self.stream.drop(span)
        if self.held == 0 and self.left == 0 and not self.ended:
            self._get.chunk_sent(self)


class TcpGet(Request):
    """A get whose bytes follow on the same stream."""

    __slots__ = ("_body", "_current", "_filling", "_lengths", "_next_index", "_open", "_queued")

    def __init__(self, session: Session, request_id: int, body: Get) -> None:
        if body.capacities and len(body.capacities) != len(body.keys):
            raise InvalidArgument(f"{len(body.keys)} keys and {len(body.capacities)} capacities")
        super().__init__(session, request_id, Kind.GET, deadline_ms=body.deadline_ms)
        self._body = body
        self._lengths = [-1] * len(body.keys)
        self._next_index = 0
        self._current: _Sending | None = None
        self._open: set[_Sending] = set()
        self._queued = False
        self._filling = False

    def start(self) -> None:
        """Begin: check that all fits, then queue for output."""
        if self._body.capacities or self.deadline is not None:
            self._check(0, 0)
        else:
            self._queue()

    def fill(self, output: Output) -> bool:
        """Queue payload while there is room. True: all of it is queued."""
        self._filling = True
        try:
            return self._fill(output)
        finally:
            self._filling = False

    def give_up(self) -> None:
        """Send no further chunk; what was begun is filled up with zeros."""
        if not self._queued:
            return  # _check sees it
        if self.session.closed:
            for sending in tuple(self._open):
                self._end_chunk(sending)
            self._current = None
            self._next_index = len(self._lengths)
            self._maybe_finish()
        elif self._current is None:
            self._next_index = len(self._lengths)
            self._maybe_finish()
        else:
            self.session.link.output_ready()

    def _check(self, first: int, nbytes: int) -> None:
        """Step by step: that no chunk is over its capacity, and that the deadline can be met."""
        if self.cancelled:
            self.finish(Kind.GOT, got(self._lengths))
            return
        body, store, scope = self._body, self.session.service.store, self.session.scope
        last = min(first + STEP_KEYS, len(body.keys))
        try:
            for index in range(first, last):
                info = store.info(scope, body.keys[index])
                if info is None:
                    continue
                end = body.first_part + body.part_count if body.part_count else len(info.parts)
                length = sum(info.parts[body.first_part : end])
                nbytes += length
                if body.capacities and length > body.capacities[index]:
                    raise TooLarge(
                        f"chunk {index} of {length} bytes is over its capacity ({body.capacities[index]})"
                    )
            if last == len(body.keys):
                self.check_load(nbytes)
        except MezzoError as error:
            self.fail(error)
            return
        if last < len(body.keys):
            self.session.link.later(lambda: self._check(last, nbytes))
        else:
            self._queue()

    def _queue(self) -> None:
        self._queued = True
        self.session.link.send_payloads(self)

    def _fill(self, output: Output) -> bool:
        keys_left = STEP_KEYS
        while output.has_room():
            current = self._current
            if current is None:
                if self.cancelled:
                    self._next_index = len(self._lengths)
                if self._next_index == len(self._lengths):
                    self._maybe_finish()
                    return True
                if keys_left == 0:
                    self.session.link.later(self.session.link.output_ready)
                    return False
                keys_left -= 1
                self._open_next(output)
                continue
            if current.left == 0:
                self._current = None
            elif current.failed or self.cancelled:
                current.add(ZEROS[: min(current.left, len(ZEROS))], None)
            elif current.waiting or current.held >= PIECES_HELD_MAX:
                return False
            elif not current.draw():
                self.session.service.poke()
                return False
        return False

    def drawn(self) -> None:
        """A piece that was asked for came."""
        if not self._filling:
            self.session.link.output_ready()

    def chunk_sent(self, sending: _Sending) -> None:
        """All of a chunk was sent."""
        self._end_chunk(sending)
        self._maybe_finish()

    def _open_next(self, output: Output) -> None:
        body = self._body
        index = self._next_index
        self._next_index += 1
        stream = self.session.service.store.stream(
            self.session.scope, body.keys[index], first_part=body.first_part, part_count=body.part_count
        )
        if stream is None:
            return
        if stream.length == 0:
            # It has fewer parts than the first one asked for.
            stream.finish()
            return
        if body.capacities and stream.length > body.capacities[index]:
            # Put anew and longer since it was checked: as if it had come after us.
            stream.finish()
            return
        head = GetData(index, body.first_part, list(stream.part_lengths), list(stream.checksums))
        output.begin_payload(encode(Kind.GET_DATA, self.id, head, stream.length), stream.length)
        self._current = _Sending(self, output, stream, index)
        self._open.add(self._current)

    def _end_chunk(self, sending: _Sending) -> None:
        sending.ended = True
        self._open.discard(sending)
        if sending.stream.finish() and not sending.failed and sending.left == 0 and not self.cancelled:
            self._lengths[sending.index] = sending.length

    def _maybe_finish(self) -> None:
        if self._next_index == len(self._lengths) and not self._open and self.session.holds(self):
            self.finish(Kind.GOT, got(self._lengths))
