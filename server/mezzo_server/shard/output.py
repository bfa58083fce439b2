"""What waits to be sent on one connection: frames, and payload from where it lies.

Invariants: a payload stands in the stream directly behind its frame, unbroken; frames without
payload wait for its end and then go before the next; payload is queued up to a watermark only, and
each piece is given back as soon as its last byte was sent, or when the connection closes.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from mezzo.errors import InternalError

SEGMENTS_HIGH = 128
GATHER_MAX = 32
"""Segments in one system call."""
LARGE_BYTES = 256 << 10
"""So many bytes end a system call: large pieces are sent whole, small ones together, and the loop goes
round all connections between two calls."""
SEND_BYTES_MAX = 512 << 10
"""Of a piece in one system call: copying it takes the loop's time."""


class OutputQueue:
    """Frames and payload pieces on their way into one socket. Owned by its connection."""

    __slots__ = ("_frames", "_payload_left", "_payload_queued", "_segments", "frame_bytes")

    payload_bytes_high = 2 << 20
    """no further piece is asked for while so many bytes of payload are queued"""

    def __init__(self) -> None:
        self._segments: deque[tuple[memoryview, Callable[[], None] | None]] = deque()
        self._frames: deque[bytes] = deque()
        self._payload_left = 0
        self._payload_queued = 0
        self.frame_bytes = 0
        """bytes of frames that wait"""

    def __bool__(self) -> bool:
        return bool(self._segments or self._frames)

    @property
    def has_payload(self) -> bool:
        """Whether any byte of payload waits, or is announced and not queued yet."""
        return self._payload_queued > 0 or self._payload_left > 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are queued: frames, and payload."""
        return self.frame_bytes + self._payload_queued

    def has_room(self) -> bool:
        """Whether more payload should be queued now."""
        return self._payload_queued < self.payload_bytes_high and len(self._segments) < SEGMENTS_HIGH

    def add_frame(self, frame: bytes | memoryview) -> None:
        """Queue a frame without payload (or the rest of one)."""
        self.frame_bytes += len(frame)
        if self._payload_left:
            self._frames.append(bytes(frame))
        else:
            self._segments.append((memoryview(frame), None))

    def begin_payload(self, header: bytes, length: int) -> None:
        """Queue the frame that precedes ``length`` bytes of payload."""
        if self._payload_left:
            raise InternalError("a payload begins within another one")
        self.frame_bytes += len(header)
        self._segments.append((memoryview(header), None))
        self._payload_left = length

    def add_piece(self, piece: memoryview, sent: Callable[[], None]) -> None:
        """Queue a piece of the payload that was begun."""
        if len(piece) > self._payload_left:
            raise InternalError("more payload than its frame announced")
        self._segments.append((piece, sent))
        self._payload_queued += len(piece)
        self._payload_left -= len(piece)
        if self._payload_left == 0:
            while self._frames:
                self._segments.append((memoryview(self._frames.popleft()), None))

    def send(self, sock: socket.socket) -> int:
        """Send what one system call takes; the bytes sent. BlockingIOError if it takes none."""
        segments = self._segments
        if not segments:
            return 0
        view, sent = segments[0]
        if len(view) >= LARGE_BYTES or len(segments) == 1:
            count = sock.send(_some(view))
            if count == len(view) and sent is not None:
                self._payload_queued -= count
                segments.popleft()
                sent()
                return count
        else:
            views = []
            size = 0
            for view, _ in segments:
                views.append(_some(view))
                size += len(view)
                if size >= LARGE_BYTES or len(views) == GATHER_MAX:
                    break
            count = sock.sendmsg(views)
        self._sent(count)
        return count

    def close(self) -> None:
        """Nothing will be sent any more: give all pieces back."""
        segments, self._segments = self._segments, deque()
        self._frames.clear()
        for _, sent in segments:
            if sent is not None:
                sent()

    def _sent(self, count: int) -> None:
        segments = self._segments
        while count:
            view, sent = segments[0]
            size = len(view)
            taken = min(count, size)
            if sent is None:
                self.frame_bytes -= taken
            else:
                self._payload_queued -= taken
            count -= taken
            if taken < size:
                segments[0] = (view[taken:], sent)
                return
            segments.popleft()
            self._popped()
            if sent is not None:
                sent()

    def _popped(self) -> None:
        """A segment was sent whole by `_sent`."""


def _some(view: memoryview) -> memoryview:
    return view if len(view) <= SEND_BYTES_MAX else view[:SEND_BYTES_MAX]
