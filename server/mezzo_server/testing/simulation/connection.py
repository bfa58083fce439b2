"""A client's connection at a simulated shard: bytes of a stream in, frames and payload out, as `shard/connection.py`.

Real: the frames, the session and all that it decides.  Simulated: the socket, and whose turn it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from mezzo.errors import MezzoError, ProtocolError, Unavailable
from mezzo.protocol.connection import refusal
from mezzo.protocol.frame import FROM_CLIENT, Frame, FrameReader
from mezzo_server.shard.output import OutputQueue
from mezzo_server.shard.service import Service
from mezzo_server.shard.session import Session
from mezzo_server.shard.tcp_get import TcpGet
from mezzo_server.shard.tcp_put import PayloadSink
from mezzo_server.testing.simulation.caps import check_session
from mezzo_server.testing.simulation.network import End

HELLO_BYTES_MAX = 16 << 10
LINGER_S = 2.0


class Watcher(Protocol):
    """Sees what goes in and out at a shard, and objects."""

    def received(self, connection: Connection, frame: Frame) -> None:
        """A frame came, and is about to be acted on."""

    def sent(self, connection: Connection, data: bytes) -> None:
        """A frame goes out: from here on the shard has said it."""


class Turns(Protocol):
    """What a connection asks of its shard."""

    service: Service
    watcher: Watcher

    def later(self, step: Callable[[], None]) -> None:
        """Call in a later turn."""

    def forget(self, connection: Connection) -> None:
        """It has closed."""


class Connection:
    """One client; implements `session.Link`. Owner of its session and of what waits to be sent."""

    def __init__(self, shard: Turns, end: End, number: int) -> None:
        self.number = number
        self.end = end
        self._name = f"{end.process.name} and {end.other.process.name}"
        self._shard = shard
        limits = shard.service.limits
        self._limits = limits
        self._reader = FrameReader(
            FROM_CLIENT, body_bytes_max=HELLO_BYTES_MAX, payload_bytes_max=limits.chunk_bytes_max
        )
        self.output = OutputQueue()
        self._gets: deque[TcpGet] = deque()
        self._filling = self._sending = False
        self._corked = False
        self._sink: PayloadSink | None = None
        self._lingers = False
        self._closed = False
        self._since = shard.service.now()
        self.session = Session(shard.service, self, shm=False)
        end.received = self._received
        end.ended = self.close

    # -- Link

    def send(self, frame: bytes) -> None:
        """See `Link`."""
        if self._is_over():
            return
        self._shard.watcher.sent(self, frame)
        self.output.add_frame(frame)
        self._flush()
        check_session(self._name, self.session)

    def send_payloads(self, get: TcpGet) -> None:
        """See `Link`."""
        self._gets.append(get)
        self.output_ready()

    def output_ready(self) -> None:
        """See `Link`."""
        if self._is_over() or self._corked:
            return
        self._fill()

    def later(self, step: Callable[[], None]) -> None:
        """See `Link`."""
        self._shard.later(step)

    def take_descriptor(self) -> int | None:
        """See `Link`; none can be passed here."""
        return None

    def peer_is_owner(self) -> bool:
        """See `Link`."""
        return False

    def let_in(self) -> None:
        """See `Link`."""
        self._reader.body_bytes_max = self._limits.body_bytes_max

    def refuse(self, error: MezzoError) -> None:
        """See `Link`."""
        if self._is_over():
            return
        if self.output.has_payload:
            self.close()
            return
        self._lingers = True
        self._since = self._shard.service.now()
        self._give_back()
        self.output.add_frame(refusal(error))
        self._flush()

    # -- driven by the shard

    def check_time(self, now: float) -> None:
        """End what takes too long."""
        if self._lingers:
            if now - self._since > LINGER_S:
                self.close()
        elif not self.session.greeted:
            if now - self._since > self._limits.handshake_timeout_s:
                self.refuse(ProtocolError("no HELLO in time"))
        elif self.session.payload_waits > 0 and now - self.session.granted_at > self._limits.stall_timeout_s:
            self.refuse(ProtocolError("granted payload did not come"))

    def shut_down(self) -> None:
        """The shard stops."""
        self.refuse(Unavailable("the shard stops"))

    def close(self) -> None:
        """End now, and give everything back."""
        if self._closed:
            return
        self._closed = True
        self.output.close()
        self._give_back()
        self.end.close()
        self._shard.forget(self)

    # -- within

    def _is_over(self) -> bool:
        """Nothing that comes counts any more."""
        return self._closed or self._lingers

    def _received(self, data: bytes) -> None:
        if self._is_over():
            return
        self._corked = True
        try:
            self._take(data)
        except MezzoError as error:
            self.refuse(error)
        finally:
            self._corked = False
        if self._closed:
            return
        self._flush()  # be it why he is refused
        if self._gets:
            self._fill()

    def _take(self, data: bytes) -> None:
        reader, session = self._reader, self.session
        at = 0
        while at < len(data):
            buffer = reader.buffer()
            count = min(len(buffer), len(data) - at)
            buffer[:count] = data[at : at + count]
            reader.received(count)
            at += count
            if self._sink is not None:
                self._sink.advance(reader.payload_received)
            while (event := reader.next_event()) is not None:
                if type(event) is Frame:
                    self._shard.watcher.received(self, event)
                    sink = session.receive(event)
                    if self._is_over():
                        return
                    if sink is not None:
                        self._sink = sink
                        reader.deliver_into((sink.view,))
                        sink.advance(reader.payload_received)
                elif self._sink is not None:
                    done, self._sink = self._sink, None
                    done.complete()
        session.turn_ended()
        check_session(self._name, session)

    def _fill(self) -> None:
        if self._filling:
            return
        self._filling = True
        try:
            while True:
                while self._gets and self._gets[0].fill(self.output):
                    self._gets.popleft()
                if not self._send():
                    return
        finally:
            self._filling = False

    def _flush(self) -> None:
        if not self._corked:
            self._send()

    def _send(self) -> int:
        """Everything that is queued goes out; how many bytes."""
        if self._sending:
            return 0  # a piece was sent just now, and there is room for more: whoever sends sees it
        wire = _Wire()
        total = 0
        self._sending = True
        try:
            while self.output:
                total += self.output.send(wire)  # type: ignore[arg-type]
        finally:
            self._sending = False
        if total:
            self.end.send(b"".join(wire.pieces))
        return total

    def _give_back(self) -> None:
        self._sink = None
        self._gets.clear()
        self.session.close()


class _Wire:
    """What an output queue asks of a socket: it takes everything."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def send(self, view: memoryview) -> int:
        self.pieces.append(bytes(view))
        return len(view)

    def sendmsg(self, views: Sequence[memoryview]) -> int:
        return sum([self.send(view) for view in views])
