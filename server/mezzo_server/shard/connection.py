"""One client's socket: frames in to its session, answers and payload out. Nobody waits for it.

A client that reads nothing gets no more of its requests read; one that stalls with payload of its own
or ours, or moves next to nothing of it, is disconnected; one that vanishes leaves nothing behind.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

import structlog

from mezzo.errors import InternalError, MezzoError, ProtocolError, Unavailable
from mezzo.protocol.connection import refusal
from mezzo.protocol.frame import FROM_CLIENT, Frame, FrameReader
from mezzo_server.shard.output import OutputQueue
from mezzo_server.shard.progress import Progress
from mezzo_server.shard.session import Session
from mezzo_server.shard.stopping import untouched
from mezzo_server.shard.tcp_get import TcpGet
from mezzo_server.shard.tcp_put import PayloadSink
from mezzo_server.shard.turns import Turn

if TYPE_CHECKING:
    from mezzo_server.shard.runtime import Runtime

log = structlog.get_logger("mezzo.connection")

HELLO_BYTES_MAX = 8 * 1024
"""Body of a frame before the client is let in; later ones may be as large as the limits say."""
RECEIVE_BYTES_MAX = 128 << 10
"""Bytes of payload in one system call: checked while they are in the processor's second-level cache."""
TURN_BYTES = 512 << 10
"""Bytes received before other connections get their turn."""
TURN_NS = 500_000
PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
DESCRIPTORS_MAX = 4
"""Descriptors that may have come and not been taken by a frame."""
ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
# Plain numbers: arithmetic on the flags of `socket` runs in the interpreter.
MSG_CTRUNC = int(socket.MSG_CTRUNC)
MSG_CMSG_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
LINGER_S = 1.0
"""How long a refused client may take to read why."""
LINGER_BYTES = 4 << 20
HTTP_METHODS = (b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"DELE", b"PATC", b"CONN", b"PRI ")
HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This is a shard of Mezzo. It speaks Mezzo's framed protocol, not HTTP.\n"
)


class State(Enum):
    """Where a connection stands."""

    OPEN = "open"
    LINGERING = "lingering"  # refused: sends why, throws away what still comes
    CLOSED = "closed"


def peer_user(sock: socket.socket) -> int:
    """Whose process connected to a Unix socket, as the kernel says; ids mean little across containers."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    return int(PEER_CREDENTIALS.unpack(credentials)[1])


class Connection:
    """One client. Owner of its socket, its session and what waits to be sent; implements `Link`."""

    def __init__(self, runtime: Runtime, sock: socket.socket, peer: str) -> None:
        self._runtime = runtime
        self._sock = sock
        self.peer = peer
        self._is_unix = sock.family == socket.AF_UNIX
        service = runtime.service
        limits = service.limits
        self._limits = limits
        self.session = Session(service, self, shm=self._is_unix)
        self._reader = FrameReader(
            FROM_CLIENT, body_bytes_max=HELLO_BYTES_MAX, payload_bytes_max=limits.chunk_bytes_max
        )
        self._output = self._new_output()
        self._corked: list[bytes] = []
        self._is_corked = False
        self._gets: deque[TcpGet] = deque()
        self._filling = False
        self._sink: PayloadSink | None = None
        self._descriptors: deque[int] = deque()
        self._state = State.OPEN
        self._reading = False
        self._writing = False
        self._more_scheduled = False
        self._lingered_bytes = 0
        self._first_bytes = b""
        now = service.now()
        self._since = now
        self._payload_in = Progress(now)
        self._payload_seen = 0
        """bytes of the payload that is coming that were counted"""
        self._output_out = Progress(now)
        self._fd = sock.fileno()
        self._input_turn = Turn(self.session, self._timed_readable)
        self._output_turn = Turn(self.session, self._on_writable)
        self._set_reading(True)

    def _new_output(self) -> OutputQueue:
        return OutputQueue()

    def __repr__(self) -> str:
        return f"<Connection {self.peer} {self._state.value}, {len(self.session.requests)} requests>"

    @property
    def output_bytes(self) -> int:
        """Answers and payload that wait to be sent."""
        return self._output.waiting_bytes

    # -- Link

    def send(self, frame: bytes) -> None:
        """Queue a frame; it is sent at once, or with the others of this turn."""
        if self._state is not State.OPEN:
            return
        if self._is_corked:
            self._corked.append(frame)
        else:
            self._send_now(frame)

    def send_payloads(self, get: TcpGet) -> None:
        """Begin to draw payload from ``get``, after those that were given before."""
        self._gets.append(get)
        self.output_ready()

    def output_ready(self) -> None:
        """Payload may be there to queue."""
        if self._state is not State.OPEN or self._is_corked:
            return
        self._fill()
        self._flush()

    def later(self, step: Callable[[], None]) -> None:
        """Call ``step`` in a later turn of the loop."""
        self._runtime.later_for(self.session, step)

    def peer_is_owner(self) -> bool:
        """Whether the kernel says that the client is our own user, or root: on a Unix socket only."""
        if not self._is_unix:
            return False
        return peer_user(self._sock) in (0, os.geteuid())

    def take_descriptor(self) -> int | None:
        """The next descriptor that came; the caller owns it."""
        return self._descriptors.popleft() if self._descriptors else None

    def let_in(self) -> None:
        """The client's frames may be as large as the limits say from now on."""
        self._reader.body_bytes_max = self._limits.body_bytes_max

    def refuse(self, error: MezzoError) -> None:
        """End the connection, and tell the client why."""
        self._refuse(error)

    # -- input

    def _on_readable(self) -> None:
        if self._state is State.LINGERING:
            self._discard_input()
            return
        if self._state is State.CLOSED:
            return
        self._is_corked = True
        try:
            self._receive()
        except MezzoError as error:  # what the client sent, or said in its HELLO, cannot be
            self._refuse(error)
        except ConnectionError:
            self.close()
        except OSError as error:
            log.info("connection failed", peer=self.peer, error=str(error))
            self.close()
        except Exception:  # a fault of ours must cost this client only, and be seen
            log.exception("fault while serving", peer=self.peer)
            self._refuse(InternalError("fault in the shard; its log says more"))
        finally:
            self._is_corked = False
        if self._state is State.OPEN:
            self._uncork()

    def _receive(self) -> None:
        reader = self._reader
        received = 0
        began_ns = time.perf_counter_ns()
        # What is left of an earlier turn comes first.
        if self._more_scheduled:
            self._more_scheduled = False
            if not self._handle_events(began_ns):
                return
        while received < TURN_BYTES:
            buffer = reader.buffer()
            if len(buffer) > RECEIVE_BYTES_MAX:
                buffer = buffer[:RECEIVE_BYTES_MAX]
            try:
                count = self._receive_into(buffer)
            except BlockingIOError:
                break
            if count == 0:
                self._end_of_input()
                return
            self._take_received(buffer, count)
            received += count
            if not self._handle_events(began_ns):
                return
            # A short read means that there is no more: spares the call that would say so.
            if count < len(buffer) or time.perf_counter_ns() - began_ns > TURN_NS:
                break
        self.session.turn_ended()

    def _take_received(self, buffer: memoryview, count: int) -> None:
        """``count`` bytes are in ``buffer``, which is the reader's."""
        if not self._first_bytes:
            self._first_bytes = bytes(buffer[: min(count, 8)])
        self._reader.received(count)
        self._payload_came()

    def _payload_came(self) -> None:
        if self._sink is not None:
            received = self._reader.payload_received
            owed = self.session.payload_owed_bytes + self._sink.span.length - received
            self._payload_in.moved(received - self._payload_seen, owed, self._runtime.service.now())
            self._payload_seen = received
            self._sink.advance(received)

    def _end_of_input(self) -> None:
        if self._reader.mid_frame:
            log.info("connection ended within a frame", peer=self.peer)
        self.close()

    def _receive_into(self, buffer: memoryview) -> int:
        if not self._is_unix:
            return self._sock.recv_into(buffer)
        count, ancillary, flags, _ = self._sock.recvmsg_into((buffer,), ANCILLARY_BYTES, MSG_CMSG_CLOEXEC)
        if ancillary or flags & MSG_CTRUNC:
            self._take_ancillary(ancillary, flags)
        return count

    def _take_ancillary(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._descriptors.extend(fds)
        if flags & MSG_CTRUNC or len(self._descriptors) > DESCRIPTORS_MAX:
            raise ProtocolError("more descriptors came than frames that take one")

    def _handle_events(self, began_ns: int) -> bool:
        """Act on all complete frames. False: the connection ended, or the rest waits for its turn."""
        reader = self._reader
        session = self.session
        while True:
            if self._output.frame_bytes > self._limits.output_bytes_max:
                # The client does not read its answers: read no more of its requests (_on_writable
                # goes on).
                self._set_reading(False)
                return self._pause()
            event = reader.next_event()
            if event is None:
                break
            if type(event) is Frame:
                sink = session.receive(event)
                if self._state is not State.OPEN:
                    return False
                if sink is not None:
                    self._sink = sink
                    self._payload_seen = 0
                    reader.deliver_into((sink.view,))
                    self._payload_came()
            elif self._sink is not None:
                done, self._sink = self._sink, None
                done.complete()
            # Where nothing is left of what came, there is no other turn to take: the socket tells of more.
            if reader.mid_frame and time.perf_counter_ns() - began_ns > TURN_NS:
                self._runtime.later_for(self.session, self._timed_readable)
                return self._pause()
        if self._descriptors and not reader.mid_frame:
            raise ProtocolError("a descriptor came with a frame that takes none")
        return True

    def _pause(self) -> bool:
        self._more_scheduled = True
        self.session.turn_ended()
        return False

    def _timed_readable(self) -> None:
        if self._reading:
            self._on_readable()

    def _discard_input(self) -> None:
        try:
            while self._lingered_bytes < LINGER_BYTES:
                count = len(self._sock.recv(1 << 16))
                if count == 0:
                    break
                self._lingered_bytes += count
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()

    # -- output

    def _uncork(self) -> None:
        frames = self._corked
        if frames:
            self._corked = []
            self._send_now(frames[0] if len(frames) == 1 else b"".join(frames))
        if self._gets and self._state is State.OPEN:
            self._fill()
            self._flush()

    def _send_now(self, frame: bytes) -> None:
        output = self._output
        if not output:
            try:
                count = self._sock.send(frame)
            except BlockingIOError:
                count = 0
            except OSError:
                self._runtime.later(self.close)
                return
            if count == len(frame):
                return
            self._output_out.begin(len(frame) - count, self._runtime.service.now())
            output.add_frame(memoryview(frame)[count:])
        else:
            output.add_frame(frame)
        self._set_writing(True)

    def _fill(self) -> None:
        """Queue payload of the gets in turn while there is room."""
        if self._filling:
            return
        self._filling = True
        try:
            while self._gets and self._gets[0].fill(self._output):
                self._gets.popleft()
        finally:
            self._filling = False

    def _flush(self) -> None:
        if self._output and not self._writing:
            self._output_out.begin(self._output.waiting_bytes, self._runtime.service.now())
            self._set_writing(True)

    def _on_writable(self) -> None:
        if self._state is State.CLOSED:
            return
        try:
            count = self._output.send(self._sock)
            if count:
                self._output_out.moved(count, self._output.waiting_bytes, self._runtime.service.now())
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._output_moved()

    def _output_moved(self) -> None:
        """Some output was sent: there may be room for more, and for more requests."""
        if self._state is State.OPEN:
            if self._gets:
                self._fill()
            if not self._reading and self._output.frame_bytes <= self._limits.output_bytes_max // 2:
                self._set_reading(True)
                if self._more_scheduled:
                    self._runtime.later_for(self.session, self._timed_readable)
        if not self._output:
            self._set_writing(False)
            if self._state is State.LINGERING:
                self._end_output()

    # -- ends

    def check_time(self, now: float) -> None:
        """Called a few times a second: end what takes too long."""
        limits = self._limits
        if self._state is State.LINGERING:
            if now - self._since > LINGER_S:
                self.close()
        elif not self.session.greeted:
            if now - self._since > limits.handshake_timeout_s:
                if self.session.looked_for:
                    self._refuse(
                        Unavailable("the metadata did not answer in time whether the client is known")
                    )
                else:
                    self._refuse(ProtocolError(f"no HELLO within {limits.handshake_timeout_s:g} s"))
        elif self._output and now - self._output_out.since > limits.stall_timeout_s:
            log.info("client reads nothing, or too little", peer=self.peer)
            self.close()
        elif (self._sink is not None or self.session.payload_waits > 0) and now - max(
            self._payload_in.since, self.session.granted_at
        ) > limits.stall_timeout_s:
            log.info("client sends no payload, or too little", peer=self.peer)
            self._refuse(
                ProtocolError(
                    f"granted payload did not come, or too little, for {limits.stall_timeout_s:g} s"
                )
            )

    def shut_down(self) -> None:
        """The shard stops."""
        if self._state is State.OPEN:
            self._refuse(Unavailable("the shard stops"))

    def close(self) -> None:
        """End now and give everything back."""
        if self._state is State.CLOSED:
            return
        self._state = State.CLOSED
        self._let_go()

    def _let_go(self) -> None:
        self._set_reading(False)
        self._set_writing(False)
        self._output.close()  # before the session ends the streams that its pieces come from
        self._give_back()
        self._sock.close()
        self._runtime.forget(self)

    def _refuse(self, error: MezzoError) -> None:
        """Say why, send what is whole, and close once the client has read it."""
        if self._state is not State.OPEN:
            return
        self._runtime.service.counters["refused_connections"] += 1
        log.info("connection refused", peer=self.peer, error=str(error))
        if self._output.has_payload:
            # The rest of a payload is owed: nothing that is sent now would be read as a frame.
            self.close()
            return
        self._state = State.LINGERING
        self._since = self._runtime.service.now()
        last = refusal(error, settled=untouched(self.session))
        if not self.session.greeted and self._first_bytes.startswith(HTTP_METHODS):
            last = HTTP_ANSWER
        self._retire(last)

    def _retire(self, last: bytes) -> None:
        """Give back what is the session's, send what is whole and ``last``, and throw away what comes."""
        self._give_back()
        for frame in (*self._corked, last):
            self._output.add_frame(frame)
        self._corked = []
        self._set_reading(True)
        self._set_writing(True)

    def _end_output(self) -> None:
        # The client may still be sending: closing now would reset the connection and take the
        # reason from him.
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def _give_back(self) -> None:
        self._sink = None
        self._gets.clear()
        while self._descriptors:
            self._runtime.discard(self._descriptors.popleft())
        self.session.close()

    def _set_reading(self, wanted: bool) -> None:
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self._runtime.watch_input(self._fd, self._input_turn)
            else:
                self._runtime.unwatch_input(self._fd)

    def _set_writing(self, wanted: bool) -> None:
        if wanted is not self._writing:
            self._writing = wanted
            if wanted:
                self._runtime.watch_output(self._fd, self._output_turn)
            else:
                self._runtime.unwatch_output(self._fd)
