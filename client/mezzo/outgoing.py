"""What a connection has to send, in order. No I/O.

A put's payload is sent straight from the caller's memory.  Its frame is made only when its turn
comes: its checksums are computed then, so that the bytes are still in cache when they are sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mezzo.checksum import part_checksum
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Kind, PutData

BUFFERS_MAX = 64  # of one sendmsg; the kernel's own limit (IOV_MAX) is 1024


class Payload:
    """One chunk on its way out: ``PUT_DATA`` and its bytes."""

    __slots__ = ("abandoned", "frame", "index", "length", "parts", "request_id", "seed", "views")

    def __init__(
        self, request_id: int, index: int, views: Sequence[memoryview], parts: Sequence[int], seed: int
    ) -> None:
        self.request_id = request_id
        self.index = index
        self.views = views
        self.parts = parts
        self.seed = seed
        self.length = sum(parts)
        self.frame: bytes | None = None
        self.abandoned = False
        """the put was given up before this was begun: it is not to be sent"""

    def prepare(self) -> None:
        """Compute the checksums. The interpreter lock is released meanwhile; may run in any thread."""
        if self.frame is not None:
            return
        checksums = []
        views = deque(self.views)
        for part, part_bytes in enumerate(self.parts):
            pieces = []
            missing = part_bytes
            while missing:
                piece = views.popleft()
                if len(piece) > missing:
                    views.appendleft(piece[missing:])
                    piece = piece[:missing]
                pieces.append(piece)
                missing -= len(piece)
            checksums.append(part_checksum(self.seed, part, pieces))
        self.frame = encode(Kind.PUT_DATA, self.request_id, PutData(self.index, checksums), self.length)


class SendQueue:
    """Frames and payloads waiting for the socket. One thread at a time sends; any may append."""

    def __init__(self) -> None:
        # Appended to by whoever holds the session; taken from only by whoever sends.
        self._items: deque[bytes | tuple[bytes, int] | Payload] = deque()
        self._buffers: deque[memoryview] = deque()
        self._descriptor: int | None = None

    def __bool__(self) -> bool:
        return bool(self._buffers or self._items)

    def append(self, frame: bytes, descriptor: int | None = None) -> None:
        """Send ``frame``, with a descriptor that must stay open until the server's answer."""
        self._items.append(frame if descriptor is None else (frame, descriptor))

    def append_payload(self, payload: Payload) -> None:
        """Send a chunk. Its memory must stay until the put has ended."""
        self._items.append(payload)

    def abandon(self, request_id: int) -> None:
        """Do not send payloads of this request that were not begun."""
        for item in list(self._items):
            if isinstance(item, Payload) and item.request_id == request_id:
                item.abandoned = True

    @property
    def unprepared(self) -> Payload | None:
        """A payload that comes next and whose checksums are not known yet."""
        if self._buffers or not self._items:
            return None
        item = self._items[0]
        return item if isinstance(item, Payload) and item.frame is None and not item.abandoned else None

    def gather(self) -> tuple[list[memoryview], int | None]:
        """What to give to ``sendmsg`` now: buffers, and a descriptor to pass with them."""
        if not self._buffers:
            self._refill()
        if len(self._buffers) <= BUFFERS_MAX:
            return list(self._buffers), self._descriptor
        return [self._buffers[index] for index in range(BUFFERS_MAX)], self._descriptor

    def sent(self, count: int) -> bool:
        """``count`` bytes of what `gather` gave are sent. Whether anything is left to send."""
        buffers = self._buffers
        if count:
            self._descriptor = None
        while count:
            first = buffers[0]
            if count < len(first):
                buffers[0] = first[count:]
                return True
            count -= len(first)
            buffers.popleft()
        return bool(buffers or self._items)

    def _refill(self) -> None:
        items = self._items
        while items and len(self._buffers) < BUFFERS_MAX:
            item = items[0]
            if isinstance(item, tuple):
                # A descriptor goes with the first byte of its own frame, and with nothing else.
                if self._buffers:
                    return
                items.popleft()
                self._descriptor = item[1]
                self._buffers.append(memoryview(item[0]))
                return
            if isinstance(item, Payload):
                if item.abandoned:
                    items.popleft()
                    continue
                if self._buffers and item.frame is None:
                    return  # what is ready goes first
                item.prepare()
                items.popleft()
                self._buffers.append(memoryview(item.frame or b""))
                self._buffers.extend(item.views)
                continue
            items.popleft()
            self._buffers.append(memoryview(item))
