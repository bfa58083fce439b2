"""Get over a stream: payload from the store's memory to the socket.

A `TcpGet` is drawn from by its connection when there is room in the connection's output: it asks the
store for the next piece, and gives the piece back once it was sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from mezzo.errors import InvalidArgument, MezzoError, TooLarge
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Get, GetData, Kind
from mezzo_server.blockstore.api import Scope
from mezzo_server.memory import Span
from mezzo_server.shard.request import Request
from mezzo_server.shard.shm_transfer import got

if TYPE_CHECKING:
    from mezzo_server.blockstore.streams import Stream
    from mezzo_server.shard.session import Session

STEP_KEYS = 128
"""Keys looked at before others get their turn."""
ZEROS = memoryview(bytes(512 << 10))
"""What is sent for pieces that could not be read; the answer says that they are a miss."""
PIECES_HELD_MAX = 3
"""Pieces of one chunk in the output: fewer than a stream reads ahead, so that the next is on its way."""
AHEAD_CHUNKS = 32
AHEAD_BYTES = 2 << 20
"""Chunks are opened, and their first pieces read, before their turn while fewer bytes than this stand
before them: a device needs many small reads at a time."""


class Output(Protocol):
    """Where a get puts its payload: the connection's output."""

    def has_room(self) -> bool:
        """Whether more payload should be queued now."""

    def begin_payload(self, header: bytes, length: int) -> None:
        """Queue the frame that precedes ``length`` bytes of payload."""

    def add_piece(self, piece: memoryview, sent: Callable[[], None]) -> None:
        """Queue a piece of it; ``sent`` is called when it was sent or never will be."""


class _Sending:
    """One chunk on its way out: opened, drawn from the store, queued piece by piece, ended."""

    __slots__ = (
        "_get",
        "_queued",
        "_undrawn",
        "arrived",
        "begun",
        "ended",
        "failed",
        "index",
        "left",
        "length",
        "stream",
        "waiting",
    )

    def __init__(self, get: TcpGet, stream: Stream, index: int) -> None:
        self._get = get
        self._undrawn = stream.length
        # Pieces in the output, in order: memory of the store, or None for zeros.
        self._queued: deque[Span | None] = deque()
        self.stream = stream
        self.index = index
        self.length = stream.length
        self.left = stream.length
        """bytes not yet queued"""
        self.arrived: Span | None = None
        """the next piece, if it is there"""
        self.waiting = False
        """for the next piece"""
        self.begun = False
        """its frame is queued"""
        self.failed = False
        self.ended = False

    @property
    def held(self) -> int:
        """Pieces queued and not yet sent."""
        return len(self._queued)

    def draw(self) -> None:
        """Ask for the next piece, unless it is there, on its way, or not to come."""
        if self.arrived is None and not self.waiting and not self.failed and self._undrawn:
            self.waiting = True
            self.stream.next(self._arrive)

    def queue(self, output: Output) -> None:
        """Queue the piece that is there, or zeros in its place, and ask for the next."""
        span, self.arrived = self.arrived, None
        piece = ZEROS[: min(self.left, len(ZEROS))] if span is None else span.view
        self.left -= len(piece)
        self._queued.append(span)
        output.add_piece(piece, self._sent)
        self.draw()

    def cut(self) -> None:
        """Draw no more: zeros take the place of what is left."""
        self.failed = True
        span, self.arrived = self.arrived, None
        if span is not None:
            self.stream.drop(span)

    @property
    def queued_bytes(self) -> int:
        """Bytes of it that were queued, and so sent or about to be."""
        return self.length - self.left

    def end(self) -> bool:
        """End the stream; whether all that was sent is right."""
        self.ended = True
        if self.arrived is not None:
            self.cut()
        return self.stream.finish() and not self.failed and self.left == 0

    def _arrive(self, span: Span | None) -> None:
        self.waiting = False
        if span is None:
            self.failed = True
        elif self.ended or self.failed:
            # Its connection closed, or zeros take its place since the client gave the request up.
            self.stream.drop(span)
        else:
            self._undrawn -= span.length
            self.arrived = span
        self._get.drawn()

    def _sent(self) -> None:
        span = self._queued.popleft()
        if span is not None:
            self.stream.drop(span)
        if not self._queued and self.left == 0 and not self.ended:
            self._get.chunk_sent(self)


class TcpGet(Request):
    """A get whose bytes follow on the same stream."""

    __slots__ = (
        "_ahead",
        "_body",
        "_busy",
        "_lengths",
        "_next_index",
        "_open",
        "_queued",
        "_queued_bytes",
        "_scope",
        "_unsent",
    )

    def __init__(
        self, session: Session, request_id: int, body: Get, kind: Kind = Kind.GET, scope: Scope | None = None
    ) -> None:
        """``scope``: of the chunks; None: the session's."""
        if body.capacities and len(body.capacities) != len(body.keys):
            raise InvalidArgument(f"{len(body.keys)} keys and {len(body.capacities)} capacities")
        super().__init__(session, request_id, kind, deadline_ms=body.deadline_ms)
        self._body = body
        self._scope = scope
        self._lengths = [-1] * len(body.keys)
        self._next_index = 0
        # Opened chunks whose bytes are not all queued, in order; the first has its turn.
        self._ahead: deque[_Sending] = deque()
        # Those and the ones that are queued and not yet sent.
        self._open: dict[_Sending, None] = {}
        self._queued = False
        self._busy = False
        self._queued_bytes = 0
        self._unsent = 0

    @property
    def got(self) -> Sequence[bytes]:
        """See `Request.got`."""
        return self._body.keys

    def start(self) -> None:
        """Begin: check that all fits, then queue for output."""
        if self._body.capacities or self.deadline is not None:
            self._check(0, 0)
        else:
            self._queue()

    def fill(self, output: Output) -> bool:
        """Queue payload while there is room. True: all of it is queued."""
        if self._busy:
            return False
        self._busy = True
        try:
            return self._fill(output)
        finally:
            self._busy = False

    def give_up(self) -> None:
        """Send no further chunk; what was begun is filled up with zeros."""
        if not self._queued:
            return  # _check sees it
        self._next_index = len(self._lengths)
        for sending in tuple(self._open):
            if self.session.closed or not sending.begun:
                self._end_chunk(sending)
            else:
                sending.cut()
        self._ahead = deque(sending for sending in self._ahead if not sending.ended)
        self._maybe_finish()
        if self._ahead:
            self.session.link.output_ready()

    @property
    def moved_bytes(self) -> int:
        """See `Request.moved_bytes`."""
        return self._queued_bytes

    def _check(self, first: int, nbytes: int) -> None:
        """Step by step: that no chunk is over its capacity, and that the deadline can be met."""
        if self.cancelled:
            self.answer()
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
                session = self.session
                self.begin_load(body.keys, nbytes, session.network)
                session.streams = True
                session.network.begin(nbytes, session.service.now())
                self._unsent = nbytes
        except MezzoError as error:
            self.fail(error)
            return
        if last < len(body.keys):
            self.session.link.later(lambda: self._check(last, nbytes))
        else:
            self._queue()

    def answer(self) -> None:
        """All has been sent that will be: say so."""
        self.finish(Kind.GOT, got(self._lengths))

    def open(self, index: int) -> Stream | None:
        """A chunk as a stream, or the parts of it that were asked for; None: a miss."""
        body, session = self._body, self.session
        return session.service.store.stream(
            self._scope or session.scope,
            body.keys[index],
            first_part=body.first_part,
            part_count=body.part_count,
            time=self,
        )

    def _queue(self) -> None:
        self._queued = True
        self.session.link.send_payloads(self)

    def _fill(self, output: Output) -> bool:
        ahead = self._ahead
        keys_left = self._open_ahead(STEP_KEYS)
        while ahead:
            if not output.has_room():
                return False
            sending = ahead[0]
            if not sending.begun:
                if sending.waiting:
                    return False
                if sending.arrived is None:
                    # Nothing of it was announced yet: a plain miss.
                    ahead.popleft()
                    self._end_chunk(sending)
                    keys_left = self._open_ahead(keys_left)
                    continue
                self._begin(output, sending)
            if sending.held >= PIECES_HELD_MAX:
                return False
            if sending.arrived is None and not sending.failed:
                return False
            sending.queue(output)
            if sending.left == 0:
                ahead.popleft()
            keys_left = self._open_ahead(keys_left)
        if self._next_index < len(self._lengths):
            self.session.link.later(self.session.link.output_ready)
            return False
        self._maybe_finish()
        return True

    def drawn(self) -> None:
        """A piece that was asked for came, or will not."""
        if not self._busy:
            self.session.link.output_ready()

    def chunk_sent(self, sending: _Sending) -> None:
        """All of a chunk was sent."""
        self._told(sending.length)
        self._end_chunk(sending)
        self._maybe_finish()

    def _open_ahead(self, keys_left: int) -> int:
        """Open chunks and ask for their first pieces, a few before their turn. Keys left of this step."""
        ahead, body = self._ahead, self._body
        nbytes = sum(sending.left for sending in ahead)
        opened = False
        while (
            keys_left
            and self._next_index < len(self._lengths)
            and nbytes < AHEAD_BYTES
            and len(ahead) < AHEAD_CHUNKS
        ):
            keys_left -= 1
            index = self._next_index
            self._next_index += 1
            stream = self.open(index)
            if stream is None:
                continue
            # Put anew and longer since it was checked: as if it had come after us.
            if not stream.length or (body.capacities and stream.length > body.capacities[index]):
                stream.finish()
                continue
            sending = _Sending(self, stream, index)
            ahead.append(sending)
            self._open[sending] = None
            nbytes += stream.length
            sending.draw()
            opened = opened or sending.waiting
        if opened:
            self.session.service.poke()
        return keys_left

    def _begin(self, output: Output, sending: _Sending) -> None:
        stream = sending.stream
        sending.begun = True
        head = GetData(
            sending.index, self._body.first_part, list(stream.part_lengths), list(stream.checksums)
        )
        output.begin_payload(encode(Kind.GET_DATA, self.id, head, stream.length), stream.length)

    def _end_chunk(self, sending: _Sending) -> None:
        self._open.pop(sending, None)
        self._queued_bytes += sending.queued_bytes
        if sending.end() and not self.cancelled:
            self._lengths[sending.index] = sending.length

    def _told(self, nbytes: int) -> None:
        nbytes = min(nbytes, self._unsent)
        if nbytes:
            self._unsent -= nbytes
            self.session.network.moved(nbytes, self.session.service.now())
            if self.load is not None:
                self.load.moved(nbytes)

    def _maybe_finish(self) -> None:
        if self._next_index == len(self._lengths) and not self._open and self.session.holds(self):
            if self._unsent:
                self.session.network.drop(self._unsent, self.session.service.now())
                self._unsent = 0
            self.answer()
