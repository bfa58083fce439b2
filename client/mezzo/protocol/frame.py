"""Frames: a fixed header, a MessagePack body, and for two kinds a payload. No I/O.

Header, 24 bytes, little endian::

    magic u16 (0x4D5A) | kind u8 | flags u8 (0) | body_bytes u32 | payload_bytes u64 | request_id u64

The body follows (`messages`), then the payload, which only ``GET_DATA`` and ``PUT_DATA`` have and
which never passes through this module when it is large: the driver receives it straight into the
views that `FrameReader.deliver_into` was given.

Invariants of the reader: memory for a frame is taken only after its header was checked against the
limits; nothing of a payload is touched before the driver has said where it goes; after a
`ProtocolError` the reader is dead.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from functools import cache

import msgspec

from mezzo.errors import ProtocolError
from mezzo.protocol.messages import BODIES, Body, GetData, Kind

MAGIC = 0x4D5A
HEADER_BYTES = 24
BUFFER_BYTES = 64 * 1024
DIRECT_BYTES_MIN = 16 * 1024
"""Pieces of a payload shorter than this are received with what follows them and copied: one copy of
so few bytes costs less than a system call of their own."""

PAYLOAD_KINDS = frozenset({Kind.GET_DATA, Kind.PUT_DATA})
FROM_CLIENT = frozenset(kind for kind in Kind if kind % 2 == 1) | {Kind.REFUSE}
FROM_SERVER = frozenset(kind for kind in Kind if kind % 2 == 0)

_HEADER = struct.Struct("<HBBIQQ")
_encode_body = msgspec.msgpack.Encoder().encode
_DECODERS: dict[int, tuple[Kind, msgspec.msgpack.Decoder[Body]]] = {
    int(kind): (kind, msgspec.msgpack.Decoder(body)) for kind, body in BODIES.items()
}


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A header and body that were received whole; ``payload_bytes`` more follow."""

    kind: Kind
    request_id: int
    body: Body
    payload_bytes: int = 0


class PayloadDone(msgspec.Struct, frozen=True, gc=False):
    """The payload of the last `Frame` is all in its views (or thrown away)."""

    kind: Kind
    request_id: int
    payload_bytes: int


def encode(kind: Kind, request_id: int, body: Body, payload_bytes: int = 0) -> bytes:
    """Header and body of a frame; the driver sends ``payload_bytes`` of payload right behind them."""
    encoded = _encode_body(body)
    return _HEADER.pack(MAGIC, kind, 0, len(encoded), payload_bytes, request_id) + encoded


@cache
def _decoders_of(kinds: frozenset[Kind]) -> Mapping[int, tuple[Kind, msgspec.msgpack.Decoder[Body]]]:
    return {int(kind): _DECODERS[int(kind)] for kind in kinds}


class FrameReader:
    """Cuts a byte stream into frames. Owner of its receive buffer.

    The driver's loop::

        count = sock.recv_into(reader.buffer())     # never empty; one `received` for each `buffer`
        reader.received(count)
        while (event := reader.next_event()) is not None:
            if type(event) is Frame and event.payload_bytes:
                reader.deliver_into(views)          # or reader.discard_payload()

    ``body_bytes_max`` and ``payload_bytes_max`` may be changed between frames (after the hello).
    """

    __slots__ = (
        "_body_bytes",
        "_buffer",
        "_decided",
        "_decoders",
        "_direct",
        "_head",
        "_header_read",
        "_home",
        "_kind",
        "_payload_bytes",
        "_payload_open",
        "_refused",
        "_request_id",
        "_tail",
        "_views",
        "body_bytes_max",
        "payload_bytes_max",
        "payload_received",
    )

    def __init__(
        self,
        kinds_allowed: Collection[Kind],
        *,
        body_bytes_max: int,
        payload_bytes_max: int,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        if buffer_bytes < DIRECT_BYTES_MIN:
            raise ValueError(f"buffer_bytes must be at least {DIRECT_BYTES_MIN}")
        self._decoders = _decoders_of(frozenset(kinds_allowed))
        self.body_bytes_max = body_bytes_max
        self.payload_bytes_max = payload_bytes_max
        self.payload_received = 0
        """bytes of the current payload that are in its views (or were thrown away)"""
        # _buffer[_head:_tail] is received and not yet consumed.  _home is the buffer of normal size;
        # a body that does not fit gets a larger one for as long as it takes.
        self._home = self._buffer = memoryview(bytearray(buffer_bytes))
        self._head = 0
        self._tail = 0
        self._header_read = False
        self._kind = 0
        self._body_bytes = 0
        self._payload_bytes = 0
        self._request_id = 0
        # The payload of the last frame: open until PayloadDone was given out; _views is what is left
        # to fill, None when it is thrown away.
        self._payload_open = False
        self._decided = False
        self._views: deque[memoryview] | None = None
        self._direct = False
        self._refused: str | None = None

    @property
    def mid_frame(self) -> bool:
        """Whether the stream stands within a frame: an end of the stream now has cut one off."""
        return self._payload_open or self._head != self._tail

    @property
    def in_payload(self) -> bool:
        """Whether the payload of a frame is still to come (or to be decided about)."""
        return self._payload_open

    @property
    def delivers_directly(self) -> bool:
        """Whether what `buffer` gave last is memory that a payload goes to, and all of it will be filled."""
        return self._direct

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream go: never empty."""
        if self._refused is not None:
            raise ProtocolError(self._refused)
        if self._payload_open:
            if not self._decided:
                raise RuntimeError("deliver_into or discard_payload comes first")
            if self._views and len(self._views[0]) >= DIRECT_BYTES_MIN:
                self._direct = True
                return self._views[0]
        self._direct = False
        if self._head == self._tail and not self._header_read:
            self._head = self._tail = 0
            return self._buffer
        self._make_room()
        return self._buffer[self._tail :]

    def received(self, count: int) -> None:
        """``count`` bytes are in what `buffer` gave."""
        if self._direct:
            self._direct = False
            self._fill(count)
            return
        if not 0 <= count <= len(self._buffer) - self._tail:
            raise ValueError(f"{count} bytes cannot have been received")
        self._tail += count
        if self._payload_open:
            self._drain()

    def filled(self, count: int) -> None:
        """``count`` more bytes are in the memory of the payload that `buffer` gave when it delivered directly.

        For who fills that memory piece by piece without asking for each.
        """
        self._direct = False
        self._fill(count)

    def next_event(self) -> Frame | PayloadDone | None:
        """The next event, or None until more bytes came.

        Raises:
            ProtocolError: the stream does not follow the protocol; send ``REFUSE`` and close.
        """
        if self._refused is not None:
            raise ProtocolError(self._refused)
        if self._payload_open:
            return self._payload_event()
        head = self._head
        if not self._header_read:
            if self._tail - head < HEADER_BYTES:
                return None
            self._read_header(head)
        end = head + HEADER_BYTES + self._body_bytes
        if end > self._tail:
            return None
        kind, decoder = self._decoders[self._kind]
        try:
            body = decoder.decode(self._buffer[head + HEADER_BYTES : end])
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise self._refuse(f"body of {kind.name} is not valid: {error}") from None
        self._header_read = False
        self._head = end
        payload_bytes = self._payload_bytes
        if payload_bytes:
            if type(body) is GetData and sum(body.part_bytes) != payload_bytes:
                raise self._refuse(
                    f"GET_DATA says {sum(body.part_bytes)} bytes of parts and {payload_bytes} of payload"
                )
            self._payload_open = True
            self._decided = False
            self.payload_received = 0
        elif self._buffer is not self._home:
            self._go_home()
        return Frame(kind, self._request_id, body, payload_bytes)

    def deliver_into(self, views: Sequence[memoryview]) -> None:
        """Where the payload of the last frame goes: writable bytes, together ``payload_bytes``.

        The views belong to the reader until `PayloadDone`.
        """
        self._check_decidable()
        kept = deque(view for view in views if len(view))
        if sum(len(view) for view in kept) != self._payload_bytes:
            raise ValueError(f"views must hold the {self._payload_bytes} bytes of the payload exactly")
        for view in kept:
            if view.readonly or view.itemsize != 1 or view.ndim != 1:
                raise ValueError("views must be writable, one-dimensional and of bytes")
        self._views = kept
        self._decided = True
        self._drain()

    def discard_payload(self) -> None:
        """Throw the payload of the last frame away as it comes."""
        self._check_decidable()
        self._views = None
        self._decided = True
        self._drain()

    def _check_decidable(self) -> None:
        if not self._payload_open or self._decided:
            raise RuntimeError("no payload to decide about")

    def _refuse(self, message: str) -> ProtocolError:
        self._refused = message
        return ProtocolError(message)

    def _read_header(self, head: int) -> None:
        magic, kind, flags, body_bytes, payload_bytes, request_id = _HEADER.unpack_from(self._buffer, head)
        if magic != MAGIC:
            start = bytes(self._buffer[head : head + HEADER_BYTES])
            raise self._refuse(f"this is no frame of Mezzo's protocol: it starts with {start!r}")
        if kind not in self._decoders:
            raise self._refuse(f"frames of kind {kind} are not known or not allowed in this direction")
        if flags:
            raise self._refuse(f"flags {flags:#04x} are not known")
        if body_bytes > self.body_bytes_max:
            raise self._refuse(f"body of {body_bytes} bytes is over body_bytes_max = {self.body_bytes_max}")
        if kind in PAYLOAD_KINDS:
            if payload_bytes == 0:
                raise self._refuse(f"{Kind(kind).name} has no payload")
            if payload_bytes > self.payload_bytes_max:
                raise self._refuse(
                    f"payload of {payload_bytes} bytes is over payload_bytes_max = {self.payload_bytes_max}"
                )
        elif payload_bytes:
            raise self._refuse(f"{Kind(kind).name} must not have a payload")
        self._kind = kind
        self._body_bytes = body_bytes
        self._payload_bytes = payload_bytes
        self._request_id = request_id
        self._header_read = True

    def _make_room(self) -> None:
        """Room behind the tail for at least the rest of the frame that has begun."""
        head, tail = self._head, self._tail
        if head == tail:
            self._head = self._tail = head = tail = 0
        needed = HEADER_BYTES + (self._body_bytes if self._header_read else 0)
        size = len(self._buffer)
        if head + needed <= size and tail < size:
            return
        # A body larger than the buffer gets memory of its own; _read_header has bounded it.
        target = self._buffer if needed <= size else memoryview(bytearray(needed))
        target[: tail - head] = bytes(self._buffer[head:tail])
        self._buffer = target
        self._head, self._tail = 0, tail - head

    def _go_home(self) -> None:
        """Give the larger buffer back, if what is left in it fits into the normal one."""
        left = self._tail - self._head
        if left <= len(self._home):
            self._home[:left] = self._buffer[self._head : self._tail]
            self._buffer = self._home
            self._head, self._tail = 0, left

    def _payload_event(self) -> PayloadDone | None:
        if not self._decided:
            raise RuntimeError("deliver_into or discard_payload comes first")
        if self.payload_received < self._payload_bytes:
            return None
        self._payload_open = False
        self._views = None
        if self._buffer is not self._home:
            self._go_home()
        return PayloadDone(Kind(self._kind), self._request_id, self._payload_bytes)

    def _drain(self) -> None:
        """Move buffered bytes to where the payload goes."""
        while self._head < self._tail:
            count = min(self._tail - self._head, self._payload_bytes - self.payload_received)
            if count == 0:
                return
            if self._views is None:
                self.payload_received += count
            else:
                view = self._views[0]
                count = min(count, len(view))
                view[:count] = self._buffer[self._head : self._head + count]
                self._fill(count)
            self._head += count

    def _fill(self, count: int) -> None:
        """``count`` more bytes are in the first of the views that are left."""
        views = self._views
        if not views or not 0 <= count <= len(views[0]):
            raise ValueError(f"{count} bytes cannot have been received")
        self.payload_received += count
        if count == len(views[0]):
            views.popleft()
        else:
            views[0] = views[0][count:]
