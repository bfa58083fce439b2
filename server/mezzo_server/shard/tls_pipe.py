"""One connection over TLS, between the event loop and the thread that has its socket.

The loop gives memory: views to be sent, and room to receive into.  The thread encrypts and sends straight
from there, and decrypts straight into there, without the interpreter lock.  Invariants: only the thread
touches the socket, since one OpenSSL connection is not for two threads; what the loop gave belongs to the
thread until it was reported, or until `recall` or `close` have called back.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from mezzo.errors import ProtocolError
from mezzo.protocol.connection import refusal
from mezzo.protocol.frame import MAGIC
from mezzo.tls import sender
from mezzo_server.shard.tls_reasons import reason_of

if TYPE_CHECKING:
    from mezzo_server.shard.tls_thread import CipherThread

TURN_BYTES = 1 << 20
"""Moved in each direction before other connections of the thread get their turn."""
REPORT_BYTES = 8 << 20
"""Sent before the loop hears of it, unless all is sent: the thread has more than that, so the loop queues the next
while the thread sends, and is interrupted no more often than that."""
REPORT_S = 1.0
"""Of a slow reader's progress it hears after so long."""
HANDSHAKE_RECORD = 0x16
"""first byte of whoever speaks TLS (RFC 8446, 5.1)"""
PLAIN_MAGIC = MAGIC.to_bytes(2, "little")
HTTP_METHODS = (b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"DELE", b"PATC", b"CONN", b"PRI ")
HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This is a shard of Mezzo. It speaks Mezzo's framed protocol over TLS, not HTTP.\n"
)
DRAIN_BYTES = 1 << 16


class _State(Enum):
    PEEKING = "peeking"  # does it speak TLS at all?
    SHAKING = "shaking"
    DRAINING = "draining"  # it failed, and the peer may still be told why
    OPEN = "open"
    CLOSED = "closed"


class TlsPipe:
    """See above. Made in the loop, then the thread's."""

    def __init__(
        self,
        thread: CipherThread,
        sock: socket.socket,
        peer: str,
        context: ssl.SSLContext,
        deadline: float,
        shaken: Callable[[TlsPipe], None],
    ) -> None:
        """``shaken`` is called in the loop when the handshake has ended; `failure` tells how."""
        self.thread = thread
        self.sock = sock
        self.peer = peer
        self._context = context
        self.deadline = deadline
        """clock reading: the handshake has to be over by then"""
        self._shaken = shaken
        self._state = _State.PEEKING
        self.failure = ""
        """one of `REASONS`; empty: the handshake went well"""
        self.error = ""
        """what went wrong, in words"""
        self.broken = False
        """nothing can be sent any more"""
        self.moved: Callable[[], None] = _nothing
        """called in the loop when there is something to `take`"""
        self.readable = True
        """whether something may be there to receive: the thread's to set when the socket says so"""
        self.fd = sock.fileno()
        self._send_some: Callable[[memoryview], int] = sock.send
        self._outgoing: deque[memoryview] = deque()
        self._room: memoryview | None = None
        self._whole = False
        self._end_asked = False
        self._told = False
        # Counted by the thread, and how much of it the loop has taken.
        self._sent = self._arrived = 0
        self._unreported = 0
        self._reported_at = 0.0
        self._sent_taken = self._arrived_taken = 0
        self._ended = False

    def __repr__(self) -> str:
        return f"<TlsPipe {self.peer} {self._state.value}>"

    # -- the loop's side

    def send(self, views: Sequence[memoryview]) -> None:
        """Send these, after those that were given before. They stay as they are until they were taken as sent."""
        outgoing = self._outgoing
        outgoing.extend(views)
        # While others are before them the thread is at it, or waits for the socket: it needs no waking.
        if len(outgoing) <= len(views):
            self.thread.poke(self)

    def receive_into(self, room: memoryview, *, whole: bool) -> None:
        """Receive into ``room``: until it is full if ``whole``, else whatever comes first.

        Not to be called again before that much was taken.
        """
        self._whole = whole
        self._room = room
        self.thread.poke(self)

    def take(self) -> tuple[int, int, bool]:
        """Bytes sent and received since the last call, and whether the connection has ended."""
        self._told = False
        sent, arrived = self._sent, self._arrived
        told = (sent - self._sent_taken, arrived - self._arrived_taken, self._ended)
        self._sent_taken, self._arrived_taken = sent, arrived
        return told

    def recall(self, done: Callable[[], None]) -> None:
        """Take the room to receive into back; ``done`` is called in the loop when the thread has let go of it."""

        def let_go() -> None:
            self._room = None
            self.thread.tell(done)

        self.thread.call(let_go)

    def end_output(self) -> None:
        """Say that nothing more comes, once all is sent."""
        self._end_asked = True
        self.thread.poke(self)

    def close(self, done: Callable[[], None]) -> None:
        """End it; ``done`` is called in the loop when the thread has let go of all memory."""

        def finish() -> None:
            self._close()
            self.thread.tell(done)

        self.thread.call(finish)

    # -- the thread's side

    def turn(self) -> bool:
        """Do what can be done without waiting, up to `TURN_BYTES` each way. Whether there is more at once."""
        if self._state is _State.OPEN:
            more = self._send()
            more = self._receive() or more
            if self._end_asked and not self._outgoing:
                self._end_output()
            return more and self._state is _State.OPEN
        if self._state is _State.CLOSED:
            return False
        if self._state is _State.DRAINING:
            self._drain()
            return False
        try:
            return self._shake()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            self._drain_after(reason_of(error), str(error))
            return False

    def fail(self, reason: str, error: str) -> None:
        """The handshake has failed; the connection is closed."""
        if not self.failure:
            self.failure, self.error = reason, error
        self._close()
        self.thread.tell(self._say_shaken)

    def broke(self, error: str) -> None:
        """The connection has ended: nothing moves any more."""
        self.broken = True
        self.error = self.error or error
        self._room = None
        self._outgoing.clear()
        self._ended = True
        self._report()

    def _shake(self) -> bool:
        if self._state is _State.PEEKING:
            first = self.sock.recv(8, socket.MSG_PEEK)
            if not first:
                raise ConnectionResetError("closed before the handshake")
            if first[0] != HANDSHAKE_RECORD:
                self._answer_plain(first)
                self._drain_after("plain", "does not speak TLS")
                return False
            self.sock = self._context.wrap_socket(
                self.sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
            self._state = _State.SHAKING
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.do_handshake()
            self._send_some = sender(self.sock)
        self._state = _State.OPEN
        self.thread.shaken(self)
        self.thread.tell(self._say_shaken)
        return True

    def _say_shaken(self) -> None:
        self._shaken(self)

    def _answer_plain(self, first: bytes) -> None:
        """Tell who does not speak TLS, in his own language, what is spoken here."""
        answer = b""
        if first.startswith(PLAIN_MAGIC):
            answer = refusal(ProtocolError("this port speaks TLS: use a tcps:// address"))
        elif first.startswith(HTTP_METHODS):
            answer = HTTP_ANSWER
        try:
            self.sock.send(answer)
        except OSError:
            pass  # told as well as could be

    def _drain_after(self, reason: str, error: str) -> None:
        """The handshake has failed: close once the peer has, which has read why by then.

        Closing over bytes of his that nobody has read would take the alert from him.  Bounded by the time of
        the handshake.
        """
        self.failure, self.error = reason, error
        self._state = _State.DRAINING
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
        except OSError:
            pass  # he has gone already
        self._drain()

    def _drain(self) -> None:
        try:
            while socket.socket.recv(self.sock, DRAIN_BYTES):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        self.fail("lost", "")

    def _send(self) -> bool:
        outgoing, send = self._outgoing, self._send_some
        sent = 0
        more = False
        try:
            while outgoing:
                view = outgoing[0]
                size, done = len(view), 0
                try:
                    while done < size:  # a record of 16 KiB each
                        done += send(view[done:])
                finally:
                    sent += done
                    if done == size:
                        outgoing.popleft()
                    elif done:
                        outgoing[0] = view[done:]
                if sent >= TURN_BYTES:
                    more = True
                    break
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
            pass
        except OSError as error:
            self.broke(str(error))
            return False
        if sent:
            self._sent += sent
            self._unreported += sent
            now = self.thread.now()
            if not outgoing or self._unreported >= REPORT_BYTES or now - self._reported_at > REPORT_S:
                self._unreported, self._reported_at = 0, now
                self._report()
        return more

    def _receive(self) -> bool:
        room = self._room
        if room is None or not self.readable:
            return False
        receive_into = self.sock.recv_into
        got, size = 0, len(room)
        left: memoryview | None = room
        more, ended = True, False
        try:
            while got < size and got < TURN_BYTES:
                count = receive_into(room[got:], size - got)
                if count == 0:
                    ended = True
                    break
                got += count
        except (ssl.SSLWantReadError, BlockingIOError):
            more = self.readable = False
        except ssl.SSLWantWriteError:  # for an answer of TLS itself; the socket says when it takes it
            more = False
        except OSError as error:
            self.error, ended = self.error or str(error), True
        if got:
            # In this order: the loop gives new room as soon as it sees that the old one is full.
            self._room = left = room[got:] if self._whole and got < size else None
            self._arrived += got
            self._report()
        if ended:
            self._room = None
            self._ended = True
            self._report()
            return False
        return more and bool(left)

    def _end_output(self) -> None:
        self._end_asked = False
        try:
            if isinstance(self.sock, ssl.SSLSocket):
                self.sock.unwrap()
        except (OSError, ValueError):
            pass  # it is sent; that the other side has not said the same is no matter
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
        except OSError:
            self.broke("closed")

    def _report(self) -> None:
        if not self._told:
            self._told = True
            self.thread.tell(self._tell_moved)

    def _tell_moved(self) -> None:
        self.moved()

    def _close(self) -> None:
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        self._room = None
        self._outgoing.clear()
        self.thread.forget(self)
        self.sock.close()
        # What sends without looking at the socket object would write to whoever has its number next.
        self._send_some = self.sock.send


def _nothing() -> None:
    """Nobody listens yet."""
