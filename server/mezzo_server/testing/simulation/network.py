"""A network of hosts: streams that keep their order, each with a delay of its own, cuts in one or both directions.

Fault model:

- *Delay*: each piece of a stream takes its time; pieces of different streams overtake one another at will, pieces
  of one never do, and none comes twice: that is what a stream promises.  A request comes twice where its client
  lost the connection and asks again.
- *Cut*: from one host to another nothing comes through, in one direction or in both.  What was sent waits, as
  in a sender's buffer, and comes when the cut has ended; or the stream has broken by then.
- *Reset*: a stream breaks; both ends hear of it, each when the news can reach it.
- *Ends*: when a process ends its host says so to all who were connected.  A host that is gone says nothing:
  who was connected hears of it when the host is back, or never.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from mezzo.errors import Unavailable
from mezzo_server.testing.simulation.clockwork import Clockwork, Future, Process

DELAY_S_MIN, DELAY_S_MAX = 0.0001, 0.001
SLOW_PART = 0.02
"""of pieces that take much longer"""
SLOW_S = 0.05
PIECES_HELD_MAX = 10_000


class Host:
    """What has an address, and processes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = True


class End:
    """One end of a stream. Its owner sets ``received`` and ``ended``, and calls `send` and `close`."""

    def __init__(self, network: Network, stream: Stream, process: Process, host: Host) -> None:
        self.process = process
        self.host = host
        self.received: Callable[[bytes], None] = _nothing
        self.ended: Callable[[], None] = _nothing_at_all
        self.closed = False
        self._network = network
        self._stream = stream
        self._other: End | None = None
        self._free_at = 0.0
        """what is sent next comes behind what was sent before"""
        self._held: list[bytes] = []
        """sent into a cut"""

    @property
    def other(self) -> End:
        """The other end."""
        if self._other is None:
            raise RuntimeError("a stream has two ends")
        return self._other

    def meet(self, other: End) -> None:
        """The two ends of a stream."""
        self._other, other._other = other, self

    def send(self, data: bytes) -> None:
        """Send it, if the stream has not ended."""
        if self.closed:
            return
        network, other = self._network, self._other
        if other is None:
            raise RuntimeError("a stream has two ends")
        if self._held or not network.passes(self.host, other.host):
            if len(self._held) < PIECES_HELD_MAX:
                self._held.append(data)
            return
        at = network.clockwork.now + network.delay_s(self.host, other.host)
        if at > self._free_at:
            self._free_at = at
        network.clockwork.put(self._free_at, other.process, other._take, (data,))

    def flow(self) -> None:
        """A cut may have ended: what was held goes on."""
        if self._held and self._network.passes(self.host, self.other.host):
            held, self._held = self._held, []
            for data in held:
                self.send(data)

    def close(self) -> None:
        """End the stream; the other end hears of it behind what was sent, when it can."""
        if self.closed:
            return
        self.closed = True
        self._network.forget(self._stream, self)
        at = max(self._free_at, self._network.clockwork.now + DELAY_S_MIN)
        self._network.clockwork.at(at, self._tell_end)

    def break_off(self) -> None:
        """It ended by itself, as this end hears at once."""
        if not self.closed:
            self.closed = True
            self._held = []
            self.process.take(self.ended)

    def _tell_end(self) -> None:
        other = self.other
        if other.closed:
            return
        if not self.host.up or not self._network.passes(self.host, other.host):
            self._network.clockwork.after(0.5, self._tell_end)
            return
        other.break_off()

    def _take(self, data: bytes) -> None:
        if not self.closed:
            self.received(data)


class Stream:
    """A connection. Owner of its two ends."""

    def __init__(self, network: Network, client: tuple[Process, Host], server: tuple[Process, Host]) -> None:
        self.client = End(network, self, *client)
        self.server = End(network, self, *server)
        self.client.meet(self.server)

    def reset(self) -> None:
        """It breaks."""
        self.client.break_off()
        self.server.break_off()


Accept = Callable[[End], None]


class Network:
    """Owner of all streams, and of the cuts."""

    def __init__(self, clockwork: Clockwork, seed: str) -> None:
        self.clockwork = clockwork
        self._random = random.Random(f"{seed}/network")
        self._listening: dict[str, tuple[Process, Host, Accept]] = {}
        self._streams: dict[int, Stream] = {}
        self._count = 0
        self._cuts: dict[tuple[str, str], int] = {}
        self.slow: dict[str, float] = {}
        """seconds more to and from a host"""

    def listen(self, address: str, process: Process, host: Host, accept: Accept) -> None:
        """Streams to an address are accepted, as long as the process is there."""
        self._listening[address] = process, host, accept

    def connect(self, process: Process, host: Host, address: str) -> Future[End]:
        """A stream to an address. Fails with Unavailable if nobody listens; may take for ever."""
        future: Future[End] = Future(process)
        self.clockwork.after(self._draw(), self._arrive, future, process, host, address)
        return future

    def passes(self, source: Host, target: Host) -> bool:
        """Whether anything comes through now."""
        return target.up and source.up and not (self._cuts and self._cuts.get((source.name, target.name)))

    def cut(self, source: str, target: str) -> None:
        """Nothing comes from one host to another, until `mend` was called as often."""
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1

    def mend(self, source: str, target: str) -> None:
        """Undo a `cut`."""
        left = self._cuts.get((source, target), 0) - 1
        if left > 0:
            self._cuts[source, target] = left
        else:
            self._cuts.pop((source, target), None)
        self.flow()

    def flow(self) -> None:
        """Something is not cut any more."""
        for number in sorted(self._streams):
            stream = self._streams.get(number)
            if stream is not None:
                stream.client.flow()
                stream.server.flow()

    def delay_s(self, source: Host, target: Host) -> float:
        """How long a piece takes."""
        draw = self._random.random  # as `_draw`, which is a call more for each piece
        delay = DELAY_S_MIN + (DELAY_S_MAX - DELAY_S_MIN) * draw()
        if draw() < SLOW_PART:
            delay += draw() * SLOW_S
        if self.slow:
            delay = delay + self.slow.get(source.name, 0.0) + self.slow.get(target.name, 0.0)
        return delay

    def reset_some(self, part: float) -> int:
        """Break a part of all streams; how many."""
        chosen = [number for number in sorted(self._streams) if self._random.random() < part]
        for number in chosen:
            self._streams.pop(number).reset()
        return len(chosen)

    def ended(self, process: Process) -> None:
        """A process has ended: its host closes what it had."""
        for number in sorted(self._streams):
            stream = self._streams.get(number)
            if stream is None:
                continue
            for end in (stream.client, stream.server):
                if end.process is process:
                    end.close()

    def forget(self, stream: Stream, end: End) -> None:
        """An end was closed."""
        if stream.client.closed and stream.server.closed:
            self._streams = {number: one for number, one in self._streams.items() if one is not stream}

    @property
    def streams(self) -> int:
        """Open ones, and such of which one end has not heard that they ended."""
        return len(self._streams)

    def _arrive(self, future: Future[End], process: Process, host: Host, address: str) -> None:
        found = self._listening.get(address)
        if found is None or not self.passes(host, found[1]) or not self.passes(found[1], host):
            if found is None or found[1].up is False or future.done:
                return  # nobody says anything; whoever waits has a limit
            self.clockwork.after(1.0, self._arrive, future, process, host, address)  # tried anew
            return
        if not found[0].alive:
            self.clockwork.after(self._draw(), future.fail, Unavailable(f"{address}: connection refused"))
            return
        if not process.alive:
            return
        self._count += 1
        stream = self._streams[self._count] = Stream(self, (process, host), (found[0], found[1]))
        found[0].take(found[2], stream.server)
        self.clockwork.after(self._draw(), self._connected, future, stream)

    def _connected(self, future: Future[End], stream: Stream) -> None:
        if future.done or stream.client.closed or not stream.client.process.alive:
            stream.client.close()
        else:
            future.finish(stream.client)

    def _draw(self) -> float:
        draw = self._random.random
        delay = DELAY_S_MIN + (DELAY_S_MAX - DELAY_S_MIN) * draw()
        return delay + draw() * SLOW_S if draw() < SLOW_PART else delay


def _nothing(data: bytes) -> None:
    return


def _nothing_at_all() -> None:
    return
