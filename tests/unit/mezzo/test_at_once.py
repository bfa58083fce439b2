"""Several calls in one thread, over connections that only threads of their own wait for, and over staging memory."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mezzo import mapping
from mezzo.at_once import AtOnce, Bell, Errand
from mezzo.blocking import BlockingLink
from mezzo.calls import CONNECT, Run, Stage
from mezzo.errors import Busy, ConnectionLost, DeadlineExceeded, Unavailable
from mezzo.operations import Lookup
from mezzo.session import Session
from mezzo.staging import Staging
from mezzo.statistics import Counters
from tests.contract.peer import Peer
from tests.patience import PATIENCE_S


class Link:
    """A connection that waits by itself, and is told to go on."""

    def __init__(self, error=None):
        self.go = threading.Event()
        self.error = error
        self.ran = False

    def run(self, operations, deadline, grace_s):
        if not self.go.wait(max(0.0, deadline - time.monotonic())):
            raise DeadlineExceeded("late")
        if self.error is not None:
            raise self.error
        self.ran = True


class Way:
    """As `mezzo.performing.ShardWay`."""

    patience_s = PATIENCE_S

    def __init__(self, link, staging=None):
        self.link = link
        self.usable = link
        self.staging = staging
        self.heard = []

    def connecting(self, bell):
        errand = Errand(lambda: self.link)
        errand.listen(bell)
        return errand

    def told(self, error):
        self.heard.append(error)
        return error

    def ask_staging(self, length, bell):
        return self.staging.request(length, lambda request: bell.release())

    def cancel_staging(self, request):
        self.staging.cancel(request)


def asking(value):
    link = yield CONNECT
    yield Run(link, ())
    return value


def run(ways, calls, left_s=PATIENCE_S, **how):
    parts = list(zip(ways, calls, strict=True))
    return AtOnce(parts, time.monotonic() + left_s, 0.1, time.monotonic, Bell()).run(**how)


def test_outcomes_are_in_the_order_of_the_calls():
    ways = [Way(Link()), Way(Link(Busy("later"))), Way(Link())]
    ways[2].usable = None  # it is connected to first
    for way in ways:
        way.link.go.set()
    outcomes = run(ways, map(asking, "abc"))
    assert (outcomes[0], outcomes[2]) == ("a", "c")
    assert isinstance(outcomes[1], Busy)
    assert ways[1].heard == [outcomes[1]]


def test_nothing_runs_any_more_when_the_time_is_over():
    late, good = Way(Link()), Way(Link())
    good.link.go.set()
    outcomes = run([late, good], map(asking, "ab"), left_s=0.05)
    assert isinstance(outcomes[0], DeadlineExceeded)
    assert outcomes[1] == "b"
    late.link.go.set()
    assert not late.link.ran


def test_one_may_be_enough():
    slow, quick = Way(Link()), Way(Link())
    slow.usable, slow.connecting = None, lambda bell: Errand(slow.link.go.wait)
    quick.link.go.set()
    outcomes = run([slow, quick], map(asking, "ab"), enough=1)
    assert isinstance(outcomes[0], Unavailable)
    assert outcomes[1] == "b"
    slow.link.go.set()


def test_a_fault_of_ours_is_raised_and_the_other_calls_are_ended():
    ended = []

    def broken():
        yield CONNECT
        raise ZeroDivisionError

    def other():
        try:
            yield from asking("b")
        finally:
            ended.append(True)

    waits = Way(Link(ConnectionLost("never")))
    with pytest.raises(ZeroDivisionError):
        run([waits, Way(Link())], [other(), broken()], left_s=0.05)
    assert ended == [True]


def test_who_waits_for_staging_memory_does_not_stop_who_has_it():
    """Both calls are one thread's: the first gives back what the second waits for."""
    staging = Staging(mapping.owned, 8192)

    def staged(value):
        link = yield CONNECT
        piece = yield Stage(8192)
        try:
            yield Run(link, ())
        finally:
            staging.give(piece)
        return value

    ways = [Way(Link(), staging), Way(Link(), staging)]
    for way in ways:
        way.link.go.set()
    assert run(ways, map(staged, "ab")) == ["a", "b"]
    staging.close()


def test_who_ends_a_connection_as_its_mover_steps_down_does_not_wait_for_nobody():
    """A call that has its answer just then, and moves the connection, ends it in its place."""
    ours, theirs = socket.socketpair()
    peer = Peer(theirs)
    with theirs, ThreadPoolExecutor(1) as mover, ThreadPoolExecutor(1) as other:
        session = Session(
            address="shard",
            client_name="test",
            namespace="default",
            counters=Counters(),
            now=time.monotonic,
            use_shm=False,
            waiting_max=1,
        )
        link = BlockingLink(ours, session, time.monotonic)
        assert mover.submit(link.attend, Lookup([b"k"]), Bell()).result(PATIENCE_S)
        ended = other.submit(link.end, ConnectionLost("not needed any more"))
        while not peer.ended():
            pass  # the hello
        mover.submit(link.leave, ()).result(PATIENCE_S)
        ended.result(PATIENCE_S)
        assert "not needed" in str(session.failure)
        assert link.descriptor == -1
