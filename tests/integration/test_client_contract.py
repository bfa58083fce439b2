"""The real clients against a real shard pass the contract of every client."""

import functools
import uuid

import pytest
import uvloop

from mezzo import AsyncClient, Client
from mezzo.testing.blocking import Blocking
from mezzo.testing.contract import ClientContract
from mezzo.testing.in_place import InPlaceContract, NotInPlaceContract
from mezzo_server.testing import running_shard


@pytest.fixture(scope="module")
def shard():
    with running_shard(config='[shard.hot]\nbytes = "64MiB"\narena_bytes = "1MiB"\n') as shard:
        yield shard


class _Real(ClientContract):
    address = "unix"

    @pytest.fixture
    def namespace(self):
        return f"contract-{uuid.uuid4().hex}"

    @pytest.fixture
    def where(self, shard):
        return getattr(shard, self.address)


class _RealBlocking(_Real):
    @pytest.fixture
    def connect(self, where):
        return lambda namespace: Client(where, namespace=namespace)


class _RealAsynchronous(_Real):
    new_loop = None

    @pytest.fixture
    def connect(self, where):
        options = {} if self.new_loop is None else {"new_loop": self.new_loop}
        return lambda namespace: Blocking(
            functools.partial(AsyncClient, where, namespace=namespace), **options
        )


class TestBlockingUnix(_RealBlocking, InPlaceContract):
    pass


class TestBlockingTcp(_RealBlocking, NotInPlaceContract):
    address = "tcp"


class TestBlockingUnixWithoutSharedMemory(_RealBlocking, NotInPlaceContract):
    @pytest.fixture
    def connect(self, where):
        return lambda namespace: Client(where, namespace=namespace, shm=False)


class TestAsyncioUnix(_RealAsynchronous, InPlaceContract):
    pass


class TestAsyncioTcp(_RealAsynchronous, NotInPlaceContract):
    address = "tcp"


class TestUvloopUnix(_RealAsynchronous, InPlaceContract):
    new_loop = staticmethod(uvloop.new_event_loop)


class TestUvloopTcp(_RealAsynchronous):
    address = "tcp"
    new_loop = staticmethod(uvloop.new_event_loop)
