"""Several connections that act as one: where operations go, and what a lost one costs. Nothing is encrypted here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from mezzo.errors import Busy, ClientClosed, ConnectionLost, DeadlineExceeded, MezzoError, Unavailable
from mezzo.operations import Operation, Ping, RenewTicket, State
from mezzo.places import Place
from mezzo.protocol.messages import Welcome
from mezzo.statistics import Counters
from mezzo.stripes import AsyncStripedLink, StripedLink
from mezzo.transfers import Get
from tests.patience import PATIENCE_S

something = threading.Condition()
"""notified of what other threads did"""


def happened(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    with something:
        assert something.wait_for(condition, PATIENCE_S)


def tell() -> None:
    with something:
        something.notify_all()


class FakeSession:
    def __init__(self, incarnation: bytes) -> None:
        self.stripes = 1
        self.failure: MezzoError | None = None
        self.limits = type("Limits", (), {"shard_incarnation": incarnation})()
        self.welcome: Welcome | None = None


class FakeStripe:
    """A stripe whose answers the test gives."""

    def __init__(self, incarnation: bytes = b"i" * 16) -> None:
        self.session = FakeSession(incarnation)
        self.load_bytes = 0
        self.inside = 0
        self.submitted: list[Operation] = []
        self.answers: Callable[[Operation], MezzoError | None] | None = lambda operation: None
        self.refuses: MezzoError | None = None
        self.cancels = True
        self.lost: Callable[[FakeStripe], None] | None = None

    def call_when_lost(self, method: Callable[[FakeStripe], None]) -> None:
        self.lost = method

    def submit(self, operation: Operation) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.submitted.append(operation)
        operation.state = State.SENT
        tell()
        if self.answers is not None:
            self.answer(operation, self.answers(operation))

    def answer(self, operation: Operation, error: MezzoError | None = None) -> None:
        operation.error = error
        operation.state = State.DONE
        if operation.waker is not None:
            operation.waker(operation)

    def cancel(self, operation: Operation, error: MezzoError) -> None:
        if self.cancels and operation.state is State.SENT:
            self.answer(operation, error)

    def end(self, error: MezzoError, *, wait: bool = True) -> None:
        if self.session.failure is None:
            self.session.failure = error
            for operation in self.submitted:
                if operation.state is State.SENT:
                    self.answer(operation, error)

    def lose(self) -> None:
        self.end(ConnectionLost("lost"))
        if self.lost is not None:
            self.lost(self)


class Opener:
    """Opens fakes, and tells when as many are open as may be."""

    def __init__(self) -> None:
        self.opened: list[FakeStripe] = []
        self.error: MezzoError | None = None
        self.incarnation = b"i" * 16

    def __call__(self, deadline: float) -> FakeStripe:
        if self.error is not None:
            raise self.error
        stripe = FakeStripe(self.incarnation)
        self.opened.append(stripe)
        tell()
        return stripe


def get(nbytes: int) -> Get:
    place = Place(nbytes, (), (memoryview(bytearray(nbytes)),))
    return Get([b"k"], [place], region=None, scope=b"s", part=(0, 0), counters=Counters())


class Rig:
    def __init__(self, count: int, kind: type = StripedLink) -> None:
        self.first = FakeStripe()
        self.opener = Opener()
        self.now = 100.0
        self.link = kind(self.first, self.opener, count, lambda: self.now, lambda: 0.5)

    def open_all(self) -> None:
        """As if earlier calls had wanted them."""
        self.link._open_others()
        for thread in threading.enumerate():
            if thread.name == "mezzo-tls-opening":
                thread.join(PATIENCE_S)

    def run(self, *operations: Operation, seconds: float = PATIENCE_S, grace_s: float = 0.01) -> None:
        self.link.run(operations, self.now + seconds, grace_s)


def test_payload_goes_where_least_is_under_way_and_all_else_to_the_first():
    rig = Rig(3)
    assert rig.link.session.stripes == 3
    rig.open_all()
    assert rig.link.connections == 3
    stripes = [rig.first, *rig.opener.opened]
    for stripe in stripes:
        stripe.answers = None
    gets = [get(1000), get(500), get(400), get(50), get(50)]
    runner = threading.Thread(target=rig.run, args=(*gets, Ping()))
    runner.start()
    happened(lambda: any(isinstance(operation, Ping) for operation in rig.first.submitted))
    assert [[operation in stripe.submitted for operation in gets] for stripe in stripes] == [
        [True, False, False, False, False],
        [False, True, False, False, False],
        [False, False, True, True, True],
    ]
    assert [stripe.load_bytes for stripe in stripes] == [1000, 500, 500]
    for stripe in stripes:
        for operation in tuple(stripe.submitted):
            stripe.answer(operation)
    runner.join(PATIENCE_S)
    assert [stripe.load_bytes for stripe in stripes] == [0, 0, 0]


def test_others_are_opened_only_when_they_would_help():
    rig = Rig(4)
    for _ in range(5):
        rig.run(get(100), Ping())
    assert rig.opener.opened == []
    rig.first.answers = None
    operations = [get(100), get(100)]
    runner = threading.Thread(target=rig.run, args=operations)
    runner.start()
    happened(lambda: len(rig.opener.opened) == 3 and len(rig.first.submitted) == 12)
    for operation in operations:
        rig.first.answer(operation)
    runner.join(PATIENCE_S)


def test_what_was_on_a_lost_one_is_made_again_on_another():
    rig = Rig(2)
    rig.open_all()
    (other,) = rig.opener.opened
    other.answers = lambda operation: ConnectionLost("lost")
    operations = [get(100), get(100)]
    rig.run(*operations)
    assert [operation.error for operation in operations] == [None, None]
    assert len(other.submitted) == 1
    assert len(rig.first.submitted) + len(other.submitted) == 3
    assert rig.first.load_bytes == other.load_bytes == 0


def test_it_is_made_again_only_once_and_never_for_another_error():
    rig = Rig(2)
    rig.open_all()
    (other,) = rig.opener.opened
    rig.first.answers = other.answers = lambda operation: ConnectionLost("lost")
    rig.first.load_bytes = 10_000
    with pytest.raises(ConnectionLost):
        rig.run(get(100))
    assert len(other.submitted) == 2
    other.answers = lambda operation: Busy("busy")
    with pytest.raises(Busy):
        rig.run(get(100))
    assert len(other.submitted) == 3


def test_one_that_is_lost_is_not_used_and_opened_again():
    rig = Rig(2)
    rig.open_all()
    rig.opener.opened[0].lose()
    rig.run(get(100), get(100))
    assert rig.link.session.failure is None
    rig.open_all()
    assert rig.link.connections == 2
    assert rig.opener.opened[0] not in rig.link._stripes


def test_without_the_first_all_are_lost():
    rig = Rig(3)
    rig.open_all()
    rig.first.lose()
    assert all(stripe.session.failure is not None for stripe in rig.opener.opened)
    assert isinstance(rig.link.session.failure, ConnectionLost)


def test_one_that_cannot_be_opened_is_not_tried_again_at_once():
    rig = Rig(2)
    rig.opener.error = Unavailable("no")
    rig.open_all()
    rig.opener.error = None
    rig.open_all()
    assert rig.link.connections == 1
    rig.now += 10
    rig.open_all()
    assert rig.link.connections == 2


def test_another_shard_at_the_address_is_none_of_ours():
    rig = Rig(2)
    rig.opener.incarnation = b"j" * 16
    rig.open_all()
    assert rig.link.connections == 1
    assert rig.opener.opened[0].session.failure is not None


def test_one_that_is_opened_while_all_are_closed_is_closed_as_well():
    rig = Rig(2)
    opened = rig.opener.__call__

    def late(deadline: float) -> FakeStripe:
        stripe = opened(deadline)
        rig.link.end(ClientClosed("closed"))
        return stripe

    rig.link._open_more = late
    rig.open_all()
    assert isinstance(rig.opener.opened[0].session.failure, ClientClosed)
    assert isinstance(rig.first.session.failure, ClientClosed)


def test_a_new_ticket_is_given_to_all():
    rig = Rig(3)
    rig.open_all()
    rig.run(RenewTicket(b"new"))
    for stripe in (rig.first, *rig.opener.opened):
        assert [operation.ticket for operation in stripe.submitted] == [b"new"]


@pytest.mark.parametrize("cancels", [True, False])
def test_what_takes_too_long_is_cancelled_and_else_its_connection_ended(cancels):
    rig = Rig(1)
    rig.first.answers, rig.first.cancels = None, cancels
    operation = get(100)
    with pytest.raises(DeadlineExceeded):
        rig.run(operation, seconds=0.001)
    assert operation.state is State.DONE
    assert (rig.first.session.failure is None) is cancels
    assert rig.first.load_bytes == 0


def test_a_refusal_to_begin_gives_back_what_had_begun():
    rig = Rig(2)
    rig.open_all()
    (other,) = rig.opener.opened
    rig.first.answers = None
    other.refuses = Busy("full")
    operations = [get(100), get(100)]
    with pytest.raises(Busy):
        rig.run(*operations)
    assert operations[0].state is State.DONE
    assert rig.first.session.failure is None
    assert rig.first.load_bytes == other.load_bytes == 0


def test_the_same_for_an_event_loop():
    async def run() -> None:
        rig = Rig(2, AsyncStripedLink)
        rig.open_all()
        (other,) = rig.opener.opened
        other.answers = lambda operation: ConnectionLost("lost")
        operations = [get(100), get(100)]
        await rig.link.run(operations, rig.now + PATIENCE_S, 0.01)
        assert [operation.error for operation in operations] == [None, None]
        assert len(other.submitted) == 1
        rig.first.answers = None
        with pytest.raises(DeadlineExceeded):
            await rig.link.run([get(100)], rig.now + 0.001, 0.01)
        assert rig.first.session.failure is None
        task = asyncio.create_task(rig.link.run([get(100)], rig.now + PATIENCE_S, 0.01))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert rig.first.load_bytes == other.load_bytes == 0

    asyncio.run(run())
