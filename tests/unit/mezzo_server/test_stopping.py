"""How a shard stops: what was begun ends first, nothing is begun any more, and clients know what becomes of their memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mezzo.errors import ErrorCode
from mezzo.protocol.messages import ErrorReply, Events, EventsAre, Get, Got, Kind, Lookup, Ping, Pong
from mezzo_server.shard.stopping import ENDING_S_MAX, Stopping, untouched
from tests.unit.mezzo_server.shard_harness import MIB, FakeClient, Shard, left_idle, put_shm

LENGTH = 64 * 1024


class Loop:
    """Time, and what is to be done at which."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stopped = False
        self._later: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, step: Callable[[], None]) -> None:
        self._later.append((self.now + seconds, step))

    def stop(self) -> None:
        self.stopped = True

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._later and min(at for at, _ in self._later) <= end:
            at, step = min(self._later, key=lambda each: each[0])
            self._later.remove((at, step))
            self.now = at
            step()
        self.now = end


class Connection:
    """Knows whether it was shut down."""

    output_bytes = 0
    shut = False

    def shut_down(self) -> None:
        self.shut = True


class Pod:
    """A membership that may go when it is told."""

    may_go = False
    retired = left = False

    def retire(self) -> None:
        self.retired = True

    def leave(self) -> None:
        self.left = True


class Stopped:
    """A shard that is to stop, with one client."""

    def __init__(self, shard: Shard, pod: Pod | None = None) -> None:
        self.shard = shard
        self.loop = Loop()
        self.pod = pod
        self.connection = Connection()
        self.listening = True
        runtime: Any = SimpleNamespace(service=shard.service, connections=[self.connection])
        loop: Any = self.loop
        member: Any = pod
        self.stopping = Stopping(runtime, loop, member, self.stop_listening)

    def stop_listening(self) -> None:
        self.listening = False


@pytest.fixture
def shard() -> Iterator[Shard]:
    with left_idle(Shard()) as shard:
        yield shard


def begin_get(client: FakeClient) -> int:
    """A get that nothing has moved for yet; its id."""
    put_shm(client, client.region(1, 2 * MIB), 1, {b"k": b"x" * LENGTH})
    return client.start(Kind.GET, Get([b"k"], region=1, targets=[[0, LENGTH]]))


def test_what_was_begun_ends_before_it_says_goodbye(shard: Shard) -> None:
    client, stopped = shard.client(), Stopped(shard)
    get = begin_get(client)
    assert not untouched(client.session)
    stopped.stopping.ask()
    assert not stopped.listening
    stopped.loop.run(ENDING_S_MAX / 2)
    assert not stopped.connection.shut, "the get is under way"
    refused, ping = client.start(Kind.LOOKUP, Lookup([b"k"])), client.start(Kind.PING, Ping())
    shard.settle()
    error = client.answer(refused, ErrorReply)
    assert (error.code, error.message) == (ErrorCode.UNAVAILABLE, "the shard stops")
    client.answer(ping, Pong)
    assert client.answer(get, Got).count == 1
    assert untouched(client.session)
    assert not stopped.connection.shut
    stopped.connection.output_bytes = 1
    stopped.loop.run(0.1)
    assert not stopped.connection.shut, "the answer is not out yet"
    stopped.connection.output_bytes = 0
    stopped.loop.run(0.1)
    assert stopped.connection.shut
    assert stopped.loop.stopped


def test_it_does_not_wait_for_ever(shard: Shard) -> None:
    client, stopped = shard.client(), Stopped(shard)
    begin_get(client)
    stopped.stopping.ask()
    stopped.loop.run(ENDING_S_MAX + 0.1)
    assert stopped.loop.stopped
    assert not untouched(client.session), "which its last frame does not claim"
    shard.settle()


def test_it_hands_over_first_and_serves_meanwhile(shard: Shard) -> None:
    pod = Pod()
    client, stopped = shard.client(), Stopped(shard, pod)
    get = begin_get(client)
    stopped.stopping.ask()
    assert (pod.retired, stopped.listening) == (True, True)
    stopped.loop.run(1)
    shard.settle()
    assert client.answer(get, Got).count == 1
    pod.may_go = True
    stopped.loop.run(1)
    assert (pod.left, stopped.listening, stopped.loop.stopped) == (True, False, True)


@pytest.mark.parametrize("may_go", [False, True])
def test_asked_again_it_waits_no_longer_for_what_it_waits_for(shard: Shard, may_go: bool) -> None:
    pod = Pod()
    client, stopped = shard.client(), Stopped(shard, pod)
    begin_get(client)
    stopped.stopping.ask()
    pod.may_go = may_go
    stopped.stopping.ask()
    stopped.loop.run(0.5)
    assert (stopped.listening, pod.left, stopped.loop.stopped) == (False, False, False)
    stopped.stopping.ask()
    assert (pod.left, stopped.connection.shut) == (True, True)
    stopped.loop.run(0.1)
    assert stopped.loop.stopped
    shard.settle()


def test_who_waits_for_events_is_not_waited_for(shard: Shard) -> None:
    client, stopped = shard.client(), Stopped(shard)
    now = client.ask(Kind.EVENTS, Events(), EventsAre)
    client.start(Kind.EVENTS, Events(now.incarnation, now.next, wait_ms=60_000))
    assert client.session.requests
    stopped.stopping.ask()
    stopped.loop.run(0.2)
    assert stopped.loop.stopped
