"""Clients that come by way of a front-end pass the contract of every client: directly, and proxied."""

import functools

import pytest
import uvloop

from mezzo import AsyncClient, Client
from mezzo.testing.blocking import Blocking
from mezzo.testing.contract import ClientContract
from mezzo_server.testing import running_frontend, running_shard


@pytest.fixture(scope="module")
def shard():
    with running_shard() as shard:
        yield shard


@pytest.fixture(scope="module")
def frontend(shard):
    with running_frontend(shard.unix, advertise=shard.addresses) as frontend:
        yield frontend


@pytest.fixture(scope="module")
def frontend_over_tcp(shard):
    with running_frontend(shard.tcp) as frontend:
        yield frontend


class _Blocking(ClientContract):
    via = "proxy"

    @pytest.fixture
    def connect(self, frontend):
        return lambda namespace: Client(frontend.grpc, namespace=namespace, via=self.via)


class _Asynchronous(ClientContract):
    via = "proxy"

    @pytest.fixture
    def connect(self, frontend):
        make = functools.partial(AsyncClient, frontend.grpc, via=self.via)
        return lambda namespace: Blocking(
            functools.partial(make, namespace=namespace), new_loop=uvloop.new_event_loop
        )


class TestBlockingProxied(_Blocking):
    pass


class TestBlockingDirect(_Blocking):
    via = "direct"


class TestAsynchronousProxied(_Asynchronous):
    pass


class TestAsynchronousDirect(_Asynchronous):
    via = "direct"


class TestProxiedOverTcp(_Blocking):
    """The front-end's own way to the shard is a TCP connection."""

    @pytest.fixture
    def connect(self, frontend_over_tcp):
        return lambda namespace: Client(frontend_over_tcp.grpc, namespace=namespace, via="proxy")


def test_the_address_of_a_direct_client_is_that_of_the_shard(frontend, shard):
    with Client(frontend.grpc, via="auto") as client, client.region(4096) as region:
        region.view[:] = b"x" * 4096
        client.put([b"auto"], [region])
        assert "1 regions" in repr(client)
    with Client(frontend.grpc, via="proxy") as client, client.region(4096) as region:
        assert client.get([b"auto"], [region]).count == 1
        assert bytes(region.view) == b"x" * 4096
        assert "0 regions" in repr(client)
