"""Front-ends and shards that are killed, stopped and restarted, under those who use them."""

import asyncio
import os
import signal
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import mezzo
from mezzo.v1 import store_pb2
from mezzo_server.testing import running_frontend, running_shard
from tests.integration.grpc_client import stock
from tests.patience import PATIENCE_S, eventually


@pytest.fixture(scope="module")
def running():
    with running_shard() as shard:
        yield shard


@pytest.fixture
def shard(running):
    """One that runs, and knows none of the keys that tests use."""
    if not running.is_alive():
        running.start()
    with mezzo.Client(running.unix) as client:
        client.connect(timeout_s=PATIENCE_S)
        client.delete([b"k", b"cut", b"off"])
    return running


@pytest.fixture
def frontend(shard):
    config = "[frontend]\nhealth_s = 0.05\ndrain_s = 10.0\n"
    with running_frontend(shard.unix, config=config, advertise=[shard.unix]) as frontend:
        yield frontend


def chunk_of(key):
    return key * (40_000 // len(key))


class Load(threading.Thread):
    """Puts and gets until it is stopped; every byte that is answered is compared."""

    def __init__(self, client, name):
        super().__init__()
        self._client = client
        self._name = name
        self._stopped = threading.Event()
        self.done = 0
        self.unavailable = 0
        self.wrong = []

    def run(self):
        turn = 0
        while not self._stopped.is_set():
            turn += 1
            key = b"%s-%d" % (self._name, turn % 50)
            data = chunk_of(key)
            target = bytearray(len(data))
            try:
                self._client.put([key], [data])
                got = self._client.get([key], [target])
                self.done += 1
            except mezzo.Unavailable:
                self.unavailable += 1
                self._stopped.wait(0.01)
                continue
            except mezzo.MezzoError as error:
                self.wrong.append(error)
                return
            if got.count and target != data:
                self.wrong.append(key)

    def goes_on(self, calls=20):
        """Wait until so many more calls are done."""
        wanted = self.done + calls
        eventually(lambda: self.wrong or self.done >= wanted, f"{self._client!r} goes on")
        assert not self.wrong, self.wrong

    def stop(self):
        self._stopped.set()
        self.join()
        assert not self.wrong, self.wrong


def test_a_front_end_that_is_killed_under_load(shard, frontend):
    with (
        mezzo.Client(frontend.grpc, via="proxy") as proxied,
        mezzo.Client(frontend.grpc, via="direct") as direct,
    ):
        loads = [Load(proxied, b"proxied"), Load(proxied, b"proxied-2"), Load(direct, b"direct")]
        for load in loads:
            load.start()
        try:
            for load in loads:
                load.goes_on()
            frontend.kill()
            loads[2].goes_on()  # a direct client does not even notice
            eventually(lambda: loads[0].unavailable, "the proxied one does")
            frontend.start()
            for load in loads:
                load.goes_on()
        finally:
            for load in loads:
                load.stop()
        assert loads[2].unavailable == 0
        assert direct.statistics().connections == 1


def test_a_put_that_is_cut_off_is_not_visible(shard, frontend):
    sent = threading.Event()
    released = threading.Event()

    def requests():
        header = store_pb2.PutHeader(namespace="default", keys=[b"cut", b"off"], lengths=[4, 4])
        yield store_pb2.PutRequest(header=header, pieces=[store_pb2.Piece(data=b"abcd")])
        sent.set()
        released.wait(PATIENCE_S)

    with stock(frontend.target) as client, mezzo.Client(shard.unix) as direct:
        call = client.put.future(requests(), timeout=PATIENCE_S)
        assert sent.wait(PATIENCE_S)
        frontend.kill()
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        released.set()
        assert direct.stat([b"cut", b"off"]) == (None, None)
        assert direct.shard_stat()["leases"] == 0


def test_leases_end_with_the_front_end(shard, frontend):
    with mezzo.Client(shard.unix) as direct, mezzo.Client(frontend.grpc, via="proxy") as proxied:
        direct.put([b"k"], [b"bytes"])
        lease = proxied.acquire([b"k"], 600.0)
        assert direct.stat([b"k"])[0].leased
        frontend.kill()
        eventually(lambda: not direct.stat([b"k"])[0].leased, "its leases end")
        frontend.start()
        assert lease.release() is False


def test_a_direct_client_needs_the_front_end_only_to_begin(shard, frontend):
    with mezzo.Client(frontend.grpc, via="direct") as client:
        client.put([b"k"], [b"bytes"])
        frontend.kill()
        assert client.lookup([b"k"]).prefix == 1
        # The shard comes back as another one: where it is, only the front-end can say.
        shard.restart()
        with pytest.raises(mezzo.Unavailable):
            client.lookup([b"k"])
        frontend.start()
        client.connect(timeout_s=PATIENCE_S)
        assert client.put([b"k"], [b"bytes"]).stored == 1


def test_a_shard_that_is_restarted_under_a_front_end(shard, frontend):
    with grpc.insecure_channel(frontend.admin) as admin, mezzo.Client(frontend.grpc, via="proxy") as client:
        health = health_pb2_grpc.HealthStub(admin)
        states = health.Watch(
            health_pb2.HealthCheckRequest(service="mezzo.v1.StoreService"), timeout=PATIENCE_S
        )
        serving, not_serving = 1, 2
        assert next(states).status == serving
        assert client.put([b"k"], [b"bytes"]).stored == 1
        shard.kill()
        assert next(states).status == not_serving
        with pytest.raises(mezzo.Unavailable):
            client.lookup([b"k"])
        shard.start()
        assert next(states).status == serving
        client.connect(timeout_s=PATIENCE_S)

        def served():  # the connection of the namespace may still wait before it tries again
            try:
                assert client.lookup([b"k"]).prefix == 0
            except mezzo.Unavailable:
                return False
            return True

        eventually(served, "the namespace is reached again")
        assert client.put([b"k"], [b"bytes"]).stored == 1
        states.cancel()


def test_a_shard_that_stands_still_costs_no_more_than_the_deadline(shard, frontend):
    with stock(frontend.target) as client:
        client.put_one(b"k", b"bytes")
        os.kill(shard.pid, signal.SIGSTOP)
        try:
            with pytest.raises(grpc.RpcError) as raised:
                list(client.get(store_pb2.GetRequest(namespace="default", keys=[b"k"]), timeout=0.2))
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            os.kill(shard.pid, signal.SIGCONT)

        def served():
            try:
                return client.get_all([b"k"]) == [b"bytes"]
            except grpc.RpcError:
                return False

        eventually(served, "it is as before")


def test_a_front_end_that_stands_still_is_as_good_as_none(shard, frontend):
    with (
        mezzo.Client(frontend.grpc, via="proxy", connect_timeout_s=0.2) as proxied,
        mezzo.Client(frontend.grpc, via="auto") as direct,
    ):
        direct.put([b"k"], [b"bytes"])
        os.kill(frontend.pid, signal.SIGSTOP)
        try:
            with pytest.raises(mezzo.Unavailable, match="did not open a session in time"):
                proxied.lookup([b"k"])
            assert direct.lookup([b"k"]).prefix == 1
        finally:
            os.kill(frontend.pid, signal.SIGCONT)
        proxied.connect(timeout_s=PATIENCE_S)
        assert proxied.lookup([b"k"]).prefix == 1


def test_a_stop_lets_calls_end(shard, frontend):
    begun = threading.Event()
    go_on = threading.Event()

    def requests():
        header = store_pb2.PutHeader(namespace="default", keys=[b"k"], lengths=[4])
        yield store_pb2.PutRequest(header=header, pieces=[store_pb2.Piece(data=b"ab")])
        begun.set()
        go_on.wait(PATIENCE_S)
        yield store_pb2.PutRequest(pieces=[store_pb2.Piece(offset=2, data=b"cd")])

    with stock(frontend.target) as client, grpc.insecure_channel(frontend.admin) as admin:
        states = health_pb2_grpc.HealthStub(admin).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        assert next(states).status == 1
        call = client.put.future(requests(), timeout=PATIENCE_S)
        assert begun.wait(PATIENCE_S)
        # What comes later on the same connection is answered: so the put is under way.
        client.lookup(store_pb2.LookupRequest(namespace="default", keys=[b"k"]), timeout=PATIENCE_S)
        os.kill(frontend.pid, signal.SIGTERM)
        assert next(states).status == 2
        go_on.set()
        assert list(call.result().states) == [store_pb2.PUT_STATE_STORED]
        assert frontend.stop() == 0


def test_an_address_of_another_shard_is_not_taken_for_the_maps(shard):
    """A path or a loopback address means another shard on another host."""
    with running_shard() as other, running_frontend(shard.unix, advertise=[other.unix]) as frontend:
        with mezzo.Client(frontend.grpc, via="auto") as client:
            assert client.put([b"k"], [b"bytes"]).stored == 1
        with (
            mezzo.Client(frontend.grpc, via="direct") as client,
            pytest.raises(mezzo.Unavailable, match="another shard"),
        ):
            client.ping()
        with mezzo.Client(shard.unix) as direct:
            assert direct.lookup([b"k"]).prefix == 1


def test_clients_close_while_calls_are_under_way(shard, frontend):
    async def play():
        client = mezzo.AsyncClient(frontend.grpc, via="proxy")
        await client.put([b"k"], [b"bytes"])
        os.kill(shard.pid, signal.SIGSTOP)
        try:
            calls = [asyncio.create_task(client.lookup([b"k"])) for _ in range(3)]
            cancelled = calls.pop()
            await asyncio.to_thread(eventually, lambda: "3 in flight" in repr(client), "they are under way")
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            await client.close()
            for call in calls:
                with pytest.raises(mezzo.ClientClosed):
                    await call
        finally:
            os.kill(shard.pid, signal.SIGCONT)

    asyncio.run(play())


def test_there_is_no_front_end():
    with mezzo.Client("grpc://127.0.0.1:1", via="auto") as client:
        with pytest.raises(mezzo.Unavailable):
            client.ping()
        with pytest.raises(mezzo.Unavailable, match="next attempt in"):
            client.ping()
    with pytest.raises(mezzo.InvalidArgument, match="via must be one of"):
        mezzo.Client("grpc://127.0.0.1:1", via="else")
    with pytest.raises(mezzo.InvalidArgument, match="grpc://host:port"):
        mezzo.Client("grpc://127.0.0.1")
