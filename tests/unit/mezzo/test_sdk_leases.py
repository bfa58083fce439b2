"""Leases of both clients: what is left of them when a call, a block or a client ends otherwise than well."""

import asyncio

import pytest

import mezzo
from mezzo import calls
from mezzo.calls import CONNECT, Context, Run
from mezzo.errors import Busy, ErrorCode, RegionError
from mezzo.operations import Acquire, Release
from mezzo.protocol.messages import Acquired, ErrorReply, Kind, Welcome
from mezzo.regions import Region
from mezzo.session import Session
from mezzo.statistics import Counters
from mezzo.testing.blocking import Blocking
from tests.contract.peer import LIMITS, UNIX

KEYS = [b"a", b"b"]


class Interrupted(Exception):
    """What goes wrong in a block."""


class Stopped(BaseException):
    """As an interrupt, which would end the tests."""


@pytest.fixture
def held(make, network, start):
    client = make()
    lease = start(client.acquire, KEYS, 5.0)
    peer = network.accept()
    acquire = peer.expect(Kind.ACQUIRE)
    peer.send(Kind.ACQUIRED, acquire.request_id, Acquired(9, 2, 100, 5000, 0))
    return client, lease(), peer


def test_a_lease_has_ended_with_its_client(held):
    client, lease, _ = held
    if isinstance(client, Blocking):
        client._finish(client._client.close())  # its loop goes on
    else:
        client.close()
    assert not lease.held
    assert lease.release() is False
    with pytest.raises(mezzo.Gone):
        lease.renew(5.0)


def leave(lease, error):
    with lease:
        if error is not None:
            raise error


@pytest.mark.parametrize(("error", "told"), [(None, Busy), (Interrupted(), Interrupted)])
def test_the_error_of_a_block_is_not_hidden_by_a_release_that_fails(held, start, error, told):
    """The lease ends by itself; the block's error is what somebody must hear."""
    _, lease, peer = held
    result = start(leave, lease, error)
    peer.send(Kind.ERROR, peer.expect(Kind.RELEASE).request_id, ErrorReply(ErrorCode.BUSY, "later", 10))
    with pytest.raises(told):
        result()
    assert not lease.held


class Link:
    """A connection that does nothing by itself."""

    spread = None

    def __init__(self):
        self.session = session()


def session(**changes):
    made = Session(
        address=UNIX, client_name="test", namespace="default", counters=Counters(), now=lambda: 0.0,
        use_shm=True, waiting_max=8,
    )  # fmt: skip
    made._order.welcome = Welcome(**{**LIMITS, **changes})
    made._welcomed(made.limits)
    return made


@pytest.mark.parametrize("how", [asyncio.CancelledError, mezzo.DeadlineExceeded, Stopped])
def test_a_lease_whose_answer_came_too_late_is_released(how):
    """The answer was there when the task was cancelled, or the time was over: nobody else knows of the lease."""
    context = Context(lambda: 0.0, Counters(), None, False, None)
    call = calls.acquire(context, KEYS, 5.0)
    assert call.send(None) is CONNECT
    step = call.send(Link())
    assert isinstance(step, Run)
    (acquire,) = step.operations
    assert isinstance(acquire, Acquire)
    acquire.answer(Acquired(9, 2, 100, 5000, 0))
    step = call.throw(how("now"))
    (release,) = step.operations
    assert isinstance(release, Release)
    assert release.lease == 9
    with pytest.raises(how):
        call.send(None)
    calls.acquire(context, KEYS, 5.0).close()


def test_a_region_that_is_closed_in_the_middle_of_a_call_is_not_kept():
    """Between the look at it and its registration, by another thread."""
    released = []

    class Closing(Region):
        def pin(self):
            super().pin()
            self.close()

    region = Closing(
        memoryview(bytearray(9)), -1, offset=0, sealed=True, adopted=False, release=lambda: released.append(1)
    )
    from mezzo.transfers import Get

    get = Get([b"k"], [], region=region, scope=b"", part=(0, 0), counters=Counters())
    with pytest.raises(RegionError, match="closed"):
        session(shm=True).submit(get)
    assert released == [1]
