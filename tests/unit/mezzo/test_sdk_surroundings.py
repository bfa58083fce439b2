"""Both clients and what is around them: processes, signals, loops, the environment."""

import asyncio
import errno
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import mezzo
from mezzo.address import parse, parse_all
from mezzo.connecting import open_socket
from mezzo.errors import (
    ClientClosed,
    ForkedError,
    InvalidArgument,
    Unavailable,
)
from mezzo.protocol.messages import (
    Cancelled,
    Got,
    Kind,
    Pong,
    RegionAdded,
)
from tests.contract.peer import UNIX
from tests.held import descriptors
from tests.patience import PATIENCE_S


class TestFork:
    def run_child(self, work):
        """The child's exit status: 0 when ``work`` returned True."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if work() else 2
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
    def test_a_child_gets_a_clear_error_and_the_parent_goes_on(self, network):
        client = mezzo.Client("tcp://shard:1", surroundings=network.surroundings())
        server = threading.Thread(target=self.serve_pings, args=(network, 2))
        server.start()
        client.ping()

        def child():
            try:
                client.ping()
            except ForkedError:
                client.close()  # only the child's copy of the descriptors
                return True
            return False

        assert self.run_child(child) == 0
        client.ping()
        server.join()
        client.close()
        assert network.attempts == 1

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
    def test_a_region_that_ends_in_a_child_says_nothing_on_the_parents_connection(self, network):
        client = mezzo.Client(UNIX, surroundings=network.surroundings(), timeout_s=PATIENCE_S)
        region = client.region(4096)

        def serve():
            peer = network.accept(shm=True)
            added = peer.expect(Kind.REGION_ADD).request_id
            peer.send(Kind.REGION_ADDED, added, RegionAdded(True, True))
            peer.send(Kind.GOT, peer.expect(Kind.GET).request_id, Got(0, b"\0", [0]))
            peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())  # and no REGION_REMOVE before it

        server = threading.Thread(target=serve)
        server.start()
        client.get([b"k"], [region[:9]])

        def child():
            region.close()
            return True

        assert self.run_child(child) == 0
        client.ping()
        server.join()
        client.close()

    def serve_pings(self, network, count):
        peer = network.accept()
        for _ in range(count):
            peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())


class TestDisabled:
    @pytest.mark.parametrize("value", ["1", "true", "YES"])
    def test_every_call_is_a_miss_without_a_connection(self, make, network, monkeypatch, value):
        monkeypatch.setenv("MEZZO_DISABLE", value)
        client = make()
        assert client.disabled
        with client.region(4096) as region:
            region.view[:3] = b"abc"
            done = client.put([b"a", b"b"], [region[:3], b"x"])
            assert (done.stored, done.exists, done.failed) == (0, 0, 2)
            got = client.get([b"a"], [region[:3]])
            assert (got.found, got.count, got.bytes) == ((False,), 0, 0)
            assert bytes(region.view[:3]) == b"abc"
        assert client.lookup([b"a"]).prefix == 0
        assert client.delete([b"a"]).deleted == (False,)
        assert client.stat([b"a", b"b"]) == (None, None)
        assert client.shard_stat() == {}
        assert client.ping() == 0.0
        lease = client.acquire([b"a"], 3.0)
        assert (lease.prefix, lease.held, lease.release()) == (0, False, False)
        client.connect()
        assert network.attempts == 0

    def test_anything_else_does_not_disable(self, make, monkeypatch):
        monkeypatch.setenv("MEZZO_DISABLE", "0")
        assert not make().disabled


class TestInterrupt:
    def test_ctrl_c_gives_the_request_up_and_the_client_goes_on(self, network):
        """The request is cancelled; or, if a frame was cut in two by the interrupt, the connection ends."""

        def serve():
            peer = network.accept()
            request_id = peer.expect(Kind.LOOKUP).request_id
            os.kill(os.getpid(), signal.SIGINT)
            try:
                assert peer.expect(Kind.CANCEL).request_id == request_id
                peer.send(Kind.CANCELLED, request_id, Cancelled())
            except ConnectionError:
                peer = network.accept()
            peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())

        surroundings = network.surroundings()
        with (
            mezzo.Client("tcp://shard:1", surroundings=surroundings, cancel_grace_s=PATIENCE_S) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            server = pool.submit(serve)
            with pytest.raises(KeyboardInterrupt):
                client.lookup([b"k"], timeout_s=PATIENCE_S)
            client.ping()
            server.result(PATIENCE_S)
            assert client.statistics().connections == network.attempts


class TestAsynchronous:
    """What only tasks have."""

    def test_cancelling_a_task_cancels_its_request(self, network):
        async def main():
            async with mezzo.AsyncClient("tcp://s:1", surroundings=network.surroundings()) as client:
                task = asyncio.create_task(client.lookup([b"k"]))
                peer = await asyncio.to_thread(network.accept)
                request_id = (await asyncio.to_thread(peer.expect, Kind.LOOKUP)).request_id
                task.cancel()
                assert (await asyncio.to_thread(peer.expect, Kind.CANCEL)).request_id == request_id
                assert not task.done()
                peer.send(Kind.CANCELLED, request_id, Cancelled())
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert "connected, 0 in flight" in repr(client)

        asyncio.run(main())

    def test_a_connection_that_is_made_too_late_is_closed(self, network):
        """A look-up of a name may take longer than any call: the thread is left behind, the call is not held."""
        looked_up = threading.Event()
        ours, theirs = socket.socketpair()

        def open_late(address, timeout_s):
            looked_up.wait(PATIENCE_S)
            return ours

        async def main():
            surroundings = network.surroundings(open_socket=open_late)
            async with mezzo.AsyncClient("tcp://s:1", surroundings=surroundings) as client:
                with pytest.raises(Unavailable, match="timed out"):
                    await client.ping(timeout_s=0.02)
                looked_up.set()
                assert await asyncio.to_thread(theirs.recv, 1) == b""

        theirs.settimeout(PATIENCE_S)
        with theirs:
            asyncio.run(main())

    def test_closing_while_a_ticket_is_renewed(self, network):
        """Who waits for the renewal is told that the client is closed, and not that he was cancelled himself."""
        clock = [0.0]
        surroundings = network.surroundings(now=lambda: clock[0])

        async def main():
            client = mezzo.AsyncClient(
                "tcp://s:1", surroundings=surroundings, ticket=lambda: mezzo.Ticket(b"t", clock[0] + 10.0)
            )
            first = asyncio.create_task(client.ping())
            peer = await asyncio.to_thread(network.accept)
            ping = await asyncio.to_thread(peer.expect, Kind.PING)
            peer.send(Kind.PONG, ping.request_id, Pong())
            await first
            clock[0] += 11.0
            waiting = asyncio.create_task(client.ping())
            renewal = await asyncio.to_thread(peer.expect, Kind.TICKET_RENEW)
            closing = asyncio.create_task(client.close())
            await asyncio.to_thread(peer.expect, Kind.CANCEL)
            peer.send(Kind.CANCELLED, renewal.request_id, Cancelled())
            await closing
            with pytest.raises(ClientClosed):
                await waiting

        asyncio.run(main())

    def test_one_loop_for_each_client(self, network):
        client = mezzo.AsyncClient("tcp://s:1", surroundings=network.surroundings())
        network.refusal = OSError("down")

        async def ping():
            await client.ping()

        with pytest.raises(Unavailable):
            asyncio.run(ping())
        with pytest.raises(mezzo.InvalidArgument, match="another event loop"):
            asyncio.run(ping())


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("mezzo.sock", {}),
        ("unix://relative", {}),
        ("unix:///" + "x" * 200, {}),
        ("tcp://host", {}),
        ("tcp://host:99999", {}),
        ("tcp://host:1/path", {}),
        ("tcp://host:1#fragment", {}),
        ("tcp://two..dots:1", {}),
        ("tcp://" + "x" * 64 + ":1", {}),
        ("unix:///with\0zero", {}),
        ("http://host:1", {}),
        ("unix:///s", {"timeout_s": 0}),
        ("unix:///s", {"connect_timeout_s": -1}),
        ("unix:///s", {"staging_bytes": 0}),
        ("unix:///s", {"namespace": ""}),
        ("unix:///s", {"name": "x" * 129}),
    ],
)
def test_options_that_are_wrong(address, options):
    with pytest.raises(mezzo.InvalidArgument):
        mezzo.Client(address, **options)


def test_the_addresses_of_a_host_share_the_time(monkeypatch):
    clock, given = [100.0], []

    class Unanswered:
        def __init__(self, *kind):
            if kind[0] == socket.AF_INET6:
                raise OSError("this host has no IPv6")

        def settimeout(self, seconds):
            given.append(round(seconds, 3))

        def connect(self, where):
            clock[0] += 1.5
            raise TimeoutError(f"{where} does not answer")

        def close(self):
            given.append("closed")

    found = [(socket.AF_INET6, 1, 6, "", ("::1", 1))] + [
        (socket.AF_INET, 1, 6, "", (f"10.0.0.{n}", 1)) for n in (1, 2)
    ]
    monkeypatch.setattr("mezzo.connecting.socket.socket", Unanswered)
    monkeypatch.setattr("mezzo.connecting.socket.getaddrinfo", lambda *host, **kind: found)
    monkeypatch.setattr("mezzo.connecting.time.monotonic", lambda: clock[0])
    with pytest.raises(OSError, match="no IPv6"):
        open_socket(parse("tcp://host:1"), 2.0)
    assert given == [2.0, "closed", 0.5, "closed"]


@pytest.mark.parametrize("address", ["unix:///run/mezzo.sock", "tcp://host:7000", "tcp://[::1]:7000"])
def test_addresses_are_shown_as_given(address):
    assert str(mezzo.Client(address).address) == address


@pytest.mark.parametrize(
    "given",
    [
        "grpc://a:1,b:2,grpcs://c:3",
        ["grpc://a:1", "grpc://b:2", "grpcs://c:3"],
        ["grpc://a:1, b:2", "grpcs://c:3", "grpc://a:1"],
    ],
)
def test_several_front_ends(given):
    found = parse_all(given)
    assert [str(address) for address in found] == ["grpc://a:1", "grpc://b:2", "grpcs://c:3"]
    with mezzo.Client(given, token="") as client:
        assert str(client.address) == "grpc://a:1"


@pytest.mark.parametrize("given", [[], "grpc://a:1,", "grpc://a:1,tcp://b:1", ["tcp://a:1", "tcp://b:1"]])
def test_what_is_not_several_front_ends(given):
    with pytest.raises(InvalidArgument):
        parse_all(given)


def test_a_path_may_have_commas():
    assert parse_all("unix:///run/a,b") == (parse("unix:///run/a,b"),)


def test_a_connection_that_was_reset_as_it_was_made_leaves_no_descriptor(monkeypatch):
    def reset(sock):
        raise OSError(errno.ENOTCONN, "not connected")  # what a socket says of its peer then

    monkeypatch.setattr("mezzo.connecting.keep_in_cache", reset)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = descriptors()
        with pytest.raises(OSError, match="not connected") as refused:
            open_socket(parse(f"tcp://127.0.0.1:{listener.getsockname()[1]}"), PATIENCE_S)
        assert descriptors() <= before, refused  # which keeps what is not closed
