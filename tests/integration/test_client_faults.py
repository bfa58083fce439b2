"""The clients when a real shard stops, dies or comes back."""

import os
import signal
import uuid

import pytest

import mezzo
from mezzo_server.testing import running_shard


@pytest.fixture(scope="module")
def running():
    with running_shard() as shard:
        yield shard


@pytest.fixture
def shard(running):
    """One that runs; it has been killed before, or has chunks of other tests in other namespaces."""
    if not running.is_alive():
        running.start()
    return running


@pytest.fixture(params=["unix", "tcp"])
def client(request, shard):
    with mezzo.Client(getattr(shard, request.param), namespace=uuid.uuid4().hex) as client:
        yield client


def test_a_killed_shard_is_an_error_and_a_new_one_is_found_again(shard, client):
    with client.region(8192) as region:
        region.view[:5] = b"bytes"
        assert client.put([b"k"], [region[:5]]).stored == 1
        shard.kill()
        with pytest.raises(mezzo.Unavailable):
            client.get([b"k"], [region[:5]])
        with pytest.raises(mezzo.Unavailable, match="next attempt in"):
            client.lookup([b"k"])
        if client.address.scheme == "tcp":
            return  # its port was drawn, and will be another one
        shard.start()
        client.connect(timeout_s=20)
        # The memory device forgot; the region works on the new connection as on the old one.
        assert client.get([b"k"], [region[:5]]).count == 0
        assert client.put([b"k"], [region[:5]]).stored == 1
        assert client.get([b"k"], [region[4096:]]).count == 1
        assert bytes(region.view[4096:4101]) == b"bytes"


def test_a_restart_between_calls_is_not_noticed(shard):
    with mezzo.Client(shard.unix) as client:
        client.put([b"k"], [b"bytes"])
        shard.restart()
        assert client.lookup([b"k"]).prefix == 0
        assert client.put([b"k"], [b"bytes"]).stored == 1
        statistics = client.statistics()
        assert (statistics.connections, statistics.connections_lost) == (2, 1)


def test_a_stopped_shard_costs_no_more_than_the_timeout(shard, client):
    client.cancel_grace_s = 0.1
    with client.region(8192) as region:
        region.view[:5] = b"bytes"
        client.put([b"k"], [region[:5]])
        os.kill(shard.pid, signal.SIGSTOP)
        try:
            with pytest.raises(mezzo.DeadlineExceeded):
                client.get([b"k"], [region[:5]], timeout_s=0.1)
            assert region.tainted == (client.address.scheme == "unix")
        finally:
            os.kill(shard.pid, signal.SIGCONT)
        assert client.get([b"k"], [region[:5]], timeout_s=20).count == 1
        assert not region.tainted


def test_a_timeout_leaves_the_connection_as_it_was(shard, client):
    client.cancel_grace_s = 20.0
    client.put([b"k"], [b"bytes"])
    with pytest.raises(mezzo.DeadlineExceeded):
        client.get([b"k"] * 3000, [bytearray(5) for _ in range(3000)], timeout_s=0.001)
    assert client.get([b"k"], [bytearray(5)]).count == 1
    assert client.statistics().connections == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_makes_its_own_client(shard, client):
    client.put([b"k"], [b"bytes"])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            try:
                client.lookup([b"k"])
            except mezzo.ForkedError:
                with mezzo.Client(str(client.address), namespace=client.namespace_name) as own:
                    status = 0 if own.lookup([b"k"]).prefix == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.lookup([b"k"]).prefix == 1
