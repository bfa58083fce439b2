"""Clients whose network is the test itself (tests/contract/peer.py)."""

import functools
from concurrent.futures import ThreadPoolExecutor

import pytest

import mezzo
from mezzo.testing.blocking import Blocking
from tests.contract.peer import Network
from tests.patience import PATIENCE_S


@pytest.fixture
def network():
    network = Network()
    yield network
    network.close()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def start(pool):
    """Begin a call in a thread of its own."""

    def start(call, *args, **kwargs):
        future = pool.submit(call, *args, **kwargs)
        return functools.partial(future.result, PATIENCE_S)

    return start


@pytest.fixture
def connected(network, start):
    """The peer of a client, once it is connected: a short time limit of a call is then for the call alone."""

    def connected(client, **limits):
        done = start(client.connect)
        peer = network.accept(**limits)
        done()
        return peer

    return connected


@pytest.fixture(params=["blocking", "asyncio"])
def make(request, network):
    """Makes a client of the network; over shared memory with ``address=UNIX``."""
    clients = []

    def make(address="tcp://shard:1", **options):
        options.setdefault("surroundings", network.surroundings())
        options.setdefault("timeout_s", PATIENCE_S)
        if request.param == "blocking":
            client = mezzo.Client(address, **options)
        else:
            client = Blocking(lambda: mezzo.AsyncClient(address, **options))
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make):
    return make()
