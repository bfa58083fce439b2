"""The real clients over TLS pass the contract of every client: a shard at tcps://, a front-end at grpcs://."""

from __future__ import annotations

import functools
import uuid

import pytest
import uvloop

from mezzo import AsyncClient, Client
from mezzo.testing.blocking import Blocking
from mezzo.testing.contract import ClientContract
from mezzo.testing.in_place import NotInPlaceContract
from mezzo_server.testing import running_frontend, running_shard
from tests.integration.tls_wire import table


@pytest.fixture(scope="module")
def config(authority):
    return table(authority.issue("node"), f"ca = {authority.ca!r}")


@pytest.fixture(scope="module")
def shard(config):
    with running_shard(listen=["tcps://127.0.0.1:0"], config=config) as shard:
        yield shard


@pytest.fixture(scope="module")
def frontend(shard, config):
    with running_frontend(shard.tcps, config=config) as frontend:
        yield frontend


class _OverTls(ClientContract):
    @pytest.fixture
    def namespace(self):
        return f"contract-{uuid.uuid4().hex}"


class TestBlocking(_OverTls, NotInPlaceContract):
    @pytest.fixture
    def connect(self, shard, trust):
        return lambda namespace: Client(shard.tcps, namespace=namespace, tls=trust)


class TestUvloop(_OverTls):
    @pytest.fixture
    def connect(self, shard, trust):
        make = functools.partial(AsyncClient, shard.tcps, tls=trust)
        return lambda namespace: Blocking(
            functools.partial(make, namespace=namespace), new_loop=uvloop.new_event_loop
        )


class TestProxied(_OverTls):
    """Both ways over TLS: the client's to the front-end, and the front-end's to its shard."""

    @pytest.fixture
    def connect(self, frontend, trust):
        return lambda namespace: Client(frontend.grpc, namespace=namespace, via="proxy", tls=trust)
