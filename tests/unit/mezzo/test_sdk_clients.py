"""Both clients against a server by hand: what the contract suite, with its honest server, cannot show."""

import asyncio
import functools
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import mezzo
from mezzo.checksum import chunk_seed, part_checksum, scope_of
from mezzo.errors import (
    Busy,
    ClientClosed,
    ConnectionLost,
    DeadlineExceeded,
    Denied,
    ErrorCode,
    ForkedError,
    InternalError,
    ProtocolError,
    RegionError,
    TooLarge,
    Unavailable,
    Unsupported,
)
from mezzo.protocol.bitmap import pack
from mezzo.protocol.messages import (
    Acquired,
    Cancelled,
    Deleted,
    ErrorReply,
    GetData,
    Got,
    Kind,
    LookedUp,
    Pong,
    PutDone,
    PutGrant,
    Refuse,
    RegionAdded,
    RegionRemoved,
    Released,
)
from mezzo.testing.contract import Blocking
from tests.contract.peer import NAMESPACE, PATIENCE_S, TENANT, Network

SCOPE = scope_of(TENANT, NAMESPACE)


def checksums(key, *parts):
    seed = chunk_seed(SCOPE, key)
    return [part_checksum(seed, number, [part]) for number, part in enumerate(parts)]


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


UNIX = "unix:///shard"


@pytest.fixture
def client(make):
    return make()


class TestHello:
    def test_what_the_client_says_of_itself(self, make, network, start):
        result = start(make(namespace="models/a", name="engine").ping)
        hello = network.arrived().welcome().body
        assert (hello.version_min, hello.version_max) == (1, 1)
        assert (hello.namespace, hello.client, hello.ticket, hello.epoch) == ("models/a", "engine", b"", 0)
        peer = network.peers[0]
        peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())
        assert result() >= 0

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            (ErrorCode.UNSUPPORTED, Unsupported),
            (ErrorCode.DENIED, Denied),
            (ErrorCode.BUSY, Busy),
        ],
    )
    def test_a_refusal_is_told(self, client, network, start, code, error):
        result = start(client.ping)
        peer = network.arrived()
        peer.expect(Kind.HELLO)
        peer.send(Kind.REFUSE, 0, Refuse(code, "this server speaks 7 to 9"))
        with pytest.raises(error, match="speaks 7 to 9"):
            result()
        assert peer.ended()

    def test_a_server_that_is_none(self, client, network, start):
        result = start(client.ping)
        peer = network.arrived()
        peer.expect(Kind.HELLO)
        peer.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(ProtocolError, match="HTTP"):
            result()

    def test_a_server_that_says_nothing(self, make, network):
        client = make(connect_timeout_s=0.02)
        with pytest.raises(Unavailable, match="did not answer the hello"):
            client.ping()


class TestConnection:
    def test_calls_fail_at_once_while_there_is_no_server(self, make, network):
        clock = [100.0]
        client = make(surroundings=network.surroundings(now=lambda: clock[0], random=lambda: 1.0))
        network.refusal = ConnectionRefusedError(111, "refused")
        with pytest.raises(Unavailable, match=r"cannot connect to tcp://shard:1.*refused"):
            client.ping()
        with pytest.raises(Unavailable, match=r"next attempt in 0.05 s"):
            client.ping()
        assert network.attempts == 1
        for attempt in range(2, 12):
            clock[0] += 5.0
            with pytest.raises(Unavailable, match="cannot connect"):
                client.ping()
            assert network.attempts == attempt
        with pytest.raises(Unavailable, match=r"next attempt in 5.00 s"):
            client.ping()
        assert client.statistics().connect_failures == 11

    @pytest.mark.parametrize("call", ["lookup", "stat", "ping", "shard_stat"])
    def test_an_idempotent_call_is_made_again_once(self, client, network, start, call):
        result = start(getattr(client, call), *([[b"k"]] if call in ("lookup", "stat") else []))
        for _ in range(2):
            peer = network.accept()
            peer.receive()
            peer.close()
        with pytest.raises(ConnectionLost):
            result()
        statistics = client.statistics()
        assert (statistics.retries, statistics.connections, network.attempts) == (1, 2, 2)

    def test_the_second_attempt_answers(self, client, network, start):
        result = start(client.lookup, [b"k"])
        peer = network.accept()
        peer.expect(Kind.LOOKUP)
        peer.close()
        peer = network.accept()
        peer.send(Kind.LOOKED_UP, peer.expect(Kind.LOOKUP).request_id, LookedUp(1, 5, 2000))
        found = result()
        assert (found.prefix, found.bytes, found.load_s) == (1, 5, 0.002)

    def test_a_delete_is_not_made_again(self, client, network, start):
        result = start(client.delete, [b"k"])
        peer = network.accept()
        peer.expect(Kind.DELETE)
        peer.close()
        with pytest.raises(ConnectionLost):
            result()
        assert network.attempts == 1

    def test_a_frame_cut_off(self, client, network, start):
        result = start(client.delete, [b"k"])
        peer = network.accept()
        peer.expect(Kind.DELETE)
        peer.sock.sendall(b"ZM\x2e")
        peer.close()
        with pytest.raises(ConnectionLost, match="middle of a frame"):
            result()

    def test_garbage_ends_the_connection_and_the_next_call_makes_another(self, client, network, start):
        result = start(client.ping)
        peer = network.accept()
        peer.expect(Kind.PING)
        peer.sock.sendall(b"\0" * 100)
        with pytest.raises(ProtocolError, match="no frame"):
            result()
        assert peer.expect(Kind.REFUSE).body.code == ErrorCode.PROTOCOL
        result = start(client.ping)
        peer = network.accept()
        peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())
        result()

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            (Kind.LOOKED_UP, LookedUp(3, 0, 0)),
            (Kind.GOT, Got(0, b"", [0])),
            (Kind.CANCELLED, Cancelled()),
            (Kind.PUT_GRANT, PutGrant([0])),
            (Kind.GET_DATA, GetData(0, 0, [1], [1])),
        ],
    )
    def test_an_answer_that_makes_no_sense(self, client, network, start, kind, body):
        result = start(client.lookup, [b"a", b"b"])
        peer = network.accept()
        request_id = peer.expect(Kind.LOOKUP).request_id
        peer.send(kind, request_id, body, b"x" if kind is Kind.GET_DATA else b"")
        with pytest.raises(ProtocolError):
            result()

    def test_a_clean_stop_of_the_server_is_a_lost_connection(self, client, network, start):
        result = start(client.delete, [b"k"])
        peer = network.accept()
        peer.expect(Kind.DELETE)
        peer.send(Kind.REFUSE, 0, Refuse(ErrorCode.UNAVAILABLE, "stopping"))
        with pytest.raises(ConnectionLost, match="stopping"):
            result()

    def test_connect_waits_for_a_server(self, network):
        clock, slept = [0.0], []

        def sleep(seconds):
            slept.append(seconds)
            clock[0] += seconds

        surroundings = network.surroundings(now=lambda: clock[0], random=lambda: 1.0, sleep=sleep)
        network.refusal = FileNotFoundError(2, "no such file")
        client = mezzo.Client("unix:///shard", surroundings=surroundings)
        with client, pytest.raises(Unavailable):
            client.connect(timeout_s=1.0)
        assert slept == pytest.approx([0.05, 0.1, 0.2, 0.4])

    def test_repr_tells_the_state(self, client, network, start):
        assert "not connected" in repr(client) or isinstance(client, Blocking)
        result = start(client.ping)
        peer = network.accept()
        request_id = peer.expect(Kind.PING).request_id
        text = repr(getattr(client, "_client", client))
        assert "Client tcp://shard:1 namespace='default' connected, 1 in flight, 0 waiting" in text
        peer.send(Kind.PONG, request_id, Pong())
        result()


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "error"),
        [(ErrorCode.BUSY, Busy), (ErrorCode.DEADLINE, DeadlineExceeded), (ErrorCode.TOO_LARGE, TooLarge)],
    )
    def test_an_error_is_its_class(self, client, network, start, code, error):
        result = start(client.lookup, [b"k"])
        peer = network.accept()
        peer.send(Kind.ERROR, peer.expect(Kind.LOOKUP).request_id, ErrorReply(code, "why", 250))
        with pytest.raises(error, match="why") as caught:
            result()
        if error is Busy:
            assert caught.value.retry_after_s == 0.25

    def test_an_unknown_error(self, client, network, start):
        result = start(client.lookup, [b"k"])
        peer = network.accept()
        peer.send(Kind.ERROR, peer.expect(Kind.LOOKUP).request_id, ErrorReply(999, "why"))
        with pytest.raises(InternalError, match="999: why"):
            result()


class TestPipelining:
    def test_answers_come_in_any_order(self, client, network, start):
        results = {}
        first = start(client.lookup, [b"key-0"])
        peer = network.accept()
        frames = [peer.expect(Kind.LOOKUP)]
        results[b"key-0"] = first
        for index in range(1, 6):
            results[b"key-%d" % index] = start(client.lookup, [b"key-%d" % index])
            frames.append(peer.expect(Kind.LOOKUP))
        for frame in reversed(frames):
            number = int(frame.body.keys[0][-1:])
            peer.send(Kind.LOOKED_UP, frame.request_id, LookedUp(1, number, 0))
        assert [result().bytes for result in results.values()] == list(range(6))
        assert network.attempts == 1

    def test_no_more_requests_than_the_server_allows(self, client, network, start):
        first = start(client.lookup, [b"a"])
        peer = network.accept(requests_max=2)
        ids = [peer.expect(Kind.LOOKUP).request_id]
        results = [first] + [start(client.lookup, [b"a"]) for _ in range(5)]
        ids.append(peer.expect(Kind.LOOKUP).request_id)
        for _ in range(6):
            peer.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                peer.sock.recv(1)
            peer.sock.settimeout(PATIENCE_S)
            peer.send(Kind.LOOKED_UP, ids.pop(0), LookedUp(0, 0, 0))
            if len(results) > 2:
                results.pop()
                ids.append(peer.expect(Kind.LOOKUP).request_id)
        for result in results:
            result()

    def test_many_keys_become_several_requests(self, client, network, start):
        keys = [b"%d" % index for index in range(150)]
        result = start(client.lookup, keys)
        peer = network.accept(keys_max=64)
        frames = [peer.expect(Kind.LOOKUP) for _ in range(3)]
        assert [key for frame in frames for key in frame.body.keys] == keys
        for frame in reversed(frames):
            prefix = len(frame.body.keys) if frame is not frames[1] else 10
            peer.send(Kind.LOOKED_UP, frame.request_id, LookedUp(prefix, prefix * 2, 1))
        found = result()
        assert (found.prefix, found.bytes) == (74, 148)

    def test_too_many_callers_are_busy(self, make, network, start):
        client = make(waiting_max=1)
        first = start(client.lookup, [b"a"])
        peer = network.accept(requests_max=1)
        request_id = peer.expect(Kind.LOOKUP).request_id
        second = start(client.lookup, [b"b"])
        inner = getattr(client, "_client", client)
        while inner._link.session.requests_waiting == 0:  # the second call is on its way in
            pass
        with pytest.raises(Busy, match="waiting_max"):
            client.lookup([b"c"])
        peer.send(Kind.LOOKED_UP, request_id, LookedUp(0, 0, 0))
        peer.send(Kind.LOOKED_UP, peer.expect(Kind.LOOKUP).request_id, LookedUp(0, 0, 0))
        first()
        second()

    def test_closing_ends_the_calls_of_others(self, client, network, start):
        results = [start(client.lookup, [b"a"])]
        peer = network.accept()
        peer.expect(Kind.LOOKUP)
        results += [start(client.lookup, [b"a"]) for _ in range(3)]
        for _ in range(3):
            peer.expect(Kind.LOOKUP)
        client.close()
        for result in results:
            with pytest.raises(ClientClosed):
                result()
        assert peer.ended()


class TestTimeouts:
    def test_the_server_lets_go(self, make, network, start):
        client = make(cancel_grace_s=PATIENCE_S)
        result = start(client.get, [b"k"], [bytearray(8)], timeout_s=0.02)
        peer = network.accept()
        get = peer.expect(Kind.GET)
        assert 0 < get.body.deadline_ms <= 20
        assert peer.expect(Kind.CANCEL).request_id == get.request_id
        peer.send(Kind.CANCELLED, get.request_id, Cancelled())
        with pytest.raises(DeadlineExceeded):
            result()
        result = start(client.ping)
        peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())
        result()
        assert client.statistics().timeouts == 1

    def test_an_answer_that_crosses_the_cancel_is_no_answer(self, make, network, start):
        client = make(cancel_grace_s=PATIENCE_S)
        target = bytearray(b"untouched")
        result = start(client.get, [b"k"], [target], timeout_s=0.02)
        peer = network.accept()
        get = peer.expect(Kind.GET)
        peer.expect(Kind.CANCEL)
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 0, [5], checksums(b"k", b"bytes")), b"bytes")
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [5]))
        peer.send(Kind.CANCELLED, get.request_id, Cancelled())
        with pytest.raises(DeadlineExceeded):
            result()
        assert target == b"untouched"

    def test_a_server_that_does_not_let_go_loses_the_connection(self, make, network, start):
        client = make(UNIX, cancel_grace_s=0.02)
        region = client.region(4096)
        result = start(client.get, [b"k"], [region[:10]], timeout_s=0.05)
        peer = network.accept(shm=True)
        peer.send(Kind.REGION_ADDED, peer.expect(Kind.REGION_ADD).request_id, RegionAdded(True, True))
        peer.expect(Kind.GET)
        peer.expect(Kind.CANCEL)
        with pytest.raises(DeadlineExceeded):
            result()
        assert peer.ended()
        # The server may still write there, until it has registered the region anew.
        assert region.tainted
        with pytest.raises(RegionError, match="may still be written to"):
            _ = region.view
        result = start(client.get, [b"k"], [region[:10]])
        peer = network.accept(shm=True)
        add = peer.expect(Kind.REGION_ADD)
        assert region.tainted
        peer.send(Kind.REGION_ADDED, add.request_id, RegionAdded(True, True))
        peer.send(Kind.GOT, peer.expect(Kind.GET).request_id, Got(0, b"\0", [0]))
        assert result().count == 0
        assert not region.tainted
        assert len(region.view) == 4096

    def test_a_tainted_region_is_refused_elsewhere(self, make, network, start):
        with mezzo.Client("tcp://other:1").region(4096) as region:
            region.taint("unix:///elsewhere")
            for address, shm in ((UNIX, True), ("tcp://shard:1", False)):
                result = start(make(address).get, [b"k"], [region[:9]])
                network.accept(shm=shm)
                with pytest.raises(RegionError, match="may still be written to by unix:///elsewhere"):
                    result()

    def test_a_tainted_region_is_refused_where_it_is_registered_already(self, make, network, start):
        client = make(UNIX)
        region = client.region(4096)
        result = start(client.get, [b"k"], [region[:9]])
        peer = network.accept(shm=True)
        add = peer.expect(Kind.REGION_ADD)
        peer.send(Kind.REGION_ADDED, add.request_id, RegionAdded(True, True))
        peer.send(Kind.GOT, peer.expect(Kind.GET).request_id, Got(0, b"\0", [0]))
        result()
        region.taint(UNIX)  # another client's connection to the same shard was lost
        with pytest.raises(RegionError, match="may still be written to"):
            client.get([b"k"], [region[:9]])

    def test_waiting_in_line_is_given_up_without_a_frame(self, make, network, start):
        client = make()
        first = start(client.lookup, [b"a"])
        peer = network.accept(requests_max=1)
        request_id = peer.expect(Kind.LOOKUP).request_id
        with pytest.raises(DeadlineExceeded):
            client.lookup([b"b"], timeout_s=0.02)
        peer.send(Kind.LOOKED_UP, request_id, LookedUp(0, 0, 0))
        first()
        result = start(client.ping)
        peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())
        result()


class TestGetOverTheStream:
    def get(self, start, client, network, keys, targets, **options):
        result = start(client.get, keys, targets, **options)
        peer = network.accept()
        return result, peer, peer.expect(Kind.GET)

    def test_chunks_land_in_their_targets(self, client, network, start):
        first, second = bytearray(6), [bytearray(100_000), bytearray(150_001)]
        large = bytes(range(256)) * 976 + b"tail"
        result, peer, get = self.get(
            start, client, network, [b"a", b"b", b"c"], [first, second, bytearray(1)]
        )
        assert (get.body.region, get.body.targets, get.body.capacities) == (0, [], [6, 250_001, 1])
        halves = (large[:70_000], large[70_000:])
        data = GetData(1, 0, [len(half) for half in halves], checksums(b"b", *halves))
        peer.send(Kind.GET_DATA, get.request_id, data, large)
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 0, [5], checksums(b"a", b"bytes")), b"bytes")
        peer.send(Kind.GOT, get.request_id, Got(2, b"\3", [5, len(large), 0]))
        got = result()
        assert (got.found, got.lengths) == ((True, True, False), (5, len(large), 0))
        assert first == b"bytes\0"
        assert (second[0] + second[1])[: len(large)] == large

    @pytest.mark.parametrize("wrong", ["bytes", "checksum", "key", "part"])
    def test_what_does_not_check_is_a_miss_and_zeroed(self, client, network, start, wrong):
        target = bytearray(b"\xee" * 8)
        result, peer, get = self.get(start, client, network, [b"k"], [target])
        payload = b"byteZ" if wrong == "bytes" else b"bytes"
        sums = checksums(b"other" if wrong == "key" else b"k", b"bytes")
        if wrong == "checksum":
            sums[0] ^= 1
        if wrong == "part":
            sums = checksums(b"k", b"", b"bytes")[1:]
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 0, [5], sums), payload)
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [5]))
        got = result()
        assert (got.found, got.lengths, got.bytes) == ((False,), (0,), 0)
        assert target == bytes(5) + b"\xee" * 3
        assert client.statistics().checksum_mismatches == 1

    def test_what_the_server_takes_back_is_a_miss_and_zeroed(self, client, network, start):
        target = bytearray(5)
        result, peer, get = self.get(start, client, network, [b"k"], [target])
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 0, [5], checksums(b"k", b"bytes")), b"bytes")
        peer.send(Kind.GOT, get.request_id, Got(0, b"\0", [0]))
        assert result().found == (False,)
        assert target == bytes(5)
        assert client.statistics().checksum_mismatches == 0

    def test_a_lost_connection_leaves_no_bytes(self, client, network, start):
        target = bytearray(200_000)
        result, peer, get = self.get(start, client, network, [b"k"], [target])
        head = GetData(0, 0, [200_000], [1])
        peer.send(Kind.GET_DATA, get.request_id, head, b"x" * 200_000)
        peer.close()
        network.accept().close()
        with pytest.raises(ConnectionLost):
            result()
        assert target == bytes(200_000)

    @pytest.mark.parametrize(
        ("data", "payload"),
        [
            (GetData(1, 0, [5], [1]), b"12345"),
            (GetData(0, 0, [6], [1]), b"123456"),
            (GetData(0, 1, [5], [1]), b"12345"),
            (GetData(0, 0, [5], [1, 2]), b"12345"),
        ],
    )
    def test_data_that_nobody_asked_for(self, client, network, start, data, payload):
        result, peer, get = self.get(start, client, network, [b"k"], [bytearray(5)])
        peer.send(Kind.GET_DATA, get.request_id, data, payload)
        with pytest.raises(ProtocolError):
            result()

    def test_data_for_one_key_twice(self, client, network, start):
        result, peer, get = self.get(start, client, network, [b"k"], [bytearray(5)])
        for _ in range(2):
            data = GetData(0, 0, [5], checksums(b"k", b"bytes"))
            peer.send(Kind.GET_DATA, get.request_id, data, b"bytes")
        with pytest.raises(ProtocolError, match="not due"):
            result()

    @pytest.mark.parametrize(
        "got", [Got(1, b"\1", [5]), Got(0, b"\0", []), Got(0, b"\2", [0]), Got(1, b"\1", [6])]
    )
    def test_an_end_that_does_not_fit(self, client, network, start, got):
        result, peer, get = self.get(start, client, network, [b"k"], [bytearray(5)])
        peer.send(Kind.GOT, get.request_id, got)
        with pytest.raises(ProtocolError):
            result()

    def test_parts(self, client, network, start):
        target = bytearray(10)
        result, peer, get = self.get(start, client, network, [b"k"], [target], part=(1, 2))
        assert (get.body.first_part, get.body.part_count) == (1, 2)
        sums = checksums(b"k", b"0", b"one", b"two")[1:]
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 1, [3, 3], sums), b"onetwo")
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [6]))
        assert result().lengths == (6,)
        assert target == b"onetwo\0\0\0\0"


class TestPutOverTheStream:
    def test_only_what_is_granted_is_sent(self, client, network, start):
        sources = [b"first", [b"sec", b"ond"], bytes(range(256)) * 8192]
        result = start(client.put, [b"a", b"b", b"c"], sources, position=7)
        peer = network.accept()
        put = peer.expect(Kind.PUT)
        assert (put.body.lengths, put.body.region, put.body.sources) == ([5, 6, 1 << 21], 0, [])
        assert put.body.position == 7
        peer.grant(put.request_id, PutGrant([2]))
        peer.grant(put.request_id, PutGrant([0]))
        for index, key, source in ((2, b"c", sources[2]), (0, b"a", b"first")):
            data = peer.expect(Kind.PUT_DATA)
            assert (data.body.index, data.body.checksums) == (index, checksums(key, source))
            assert peer.payload == source
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\1", b"\2", 1, 1))
        done = result()
        assert done.states == (mezzo.PutState.STORED, mezzo.PutState.EXISTS, mezzo.PutState.FAILED)
        assert (done.stored, done.exists, done.failed) == (1, 1, 1)
        assert client.statistics().bytes_put == 5

    def test_checksums_of_parts_over_several_buffers(self, client, network, start):
        result = start(client.put, [b"k"], [[b"abc", b"defg", b"h"]], parts=[2, 5, 1])
        peer = network.accept()
        put = peer.expect(Kind.PUT)
        assert put.body.parts == [[2, 5, 1]]
        peer.grant(put.request_id, PutGrant([0]))
        assert peer.expect(Kind.PUT_DATA).body.checksums == checksums(b"k", b"ab", b"cdefg", b"h")
        assert peer.payload == b"abcdefgh"
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\1", b"\0", 1, 0))
        assert result().stored == 1

    @pytest.mark.parametrize("grants", [[1], [0, 0]])
    def test_grants_that_make_no_sense(self, client, network, start, grants):
        result = start(client.put, [b"k"], [b"bytes"])
        peer = network.accept()
        put = peer.expect(Kind.PUT)
        peer.send(Kind.PUT_GRANT, put.request_id, PutGrant(grants))
        with pytest.raises(ProtocolError):
            result()

    @pytest.mark.parametrize("done", [PutDone(b"\1", b"\1", 1, 1), PutDone(b"\2", b"\0", 1, 0)])
    def test_an_end_that_does_not_fit(self, client, network, start, done):
        result = start(client.put, [b"k"], [b"bytes"])
        peer = network.accept()
        peer.send(Kind.PUT_DONE, peer.expect(Kind.PUT).request_id, done)
        with pytest.raises(ProtocolError):
            result()

    def test_too_long_for_the_server(self, client, network, start):
        result = start(client.put, [b"k"], [b"bytes"])
        network.accept(chunk_bytes_max=4)
        with pytest.raises(TooLarge, match="chunk_bytes_max = 4"):
            result()

    def test_a_get_goes_on_while_a_put_cannot(self, client, network, start):
        """Neither side reads before it has sent: this must not stand still."""
        chunk = bytes(8 << 20)
        put_result = start(client.put, [b"p"], [chunk])
        peer = network.accept()
        put = peer.expect(Kind.PUT)
        target = bytearray(len(chunk))
        get_result = start(client.get, [b"g"], [target])
        get = peer.expect(Kind.GET)
        peer.grant(put.request_id, PutGrant([0]))
        sums = checksums(b"g", chunk)
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 0, [len(chunk)], sums), chunk)
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [len(chunk)]))
        assert get_result().count == 1
        peer.expect(Kind.PUT_DATA)
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\1", b"\0", 1, 0))
        assert put_result().stored == 1

    def test_payload_that_was_not_begun_is_not_sent_after_a_cancel(self, make, network, start):
        client = make(cancel_grace_s=PATIENCE_S)
        chunk = bytes(8 << 20)
        result = start(client.put, [b"a", b"b"], [chunk, chunk], timeout_s=0.2)
        peer = network.accept()
        put = peer.expect(Kind.PUT)
        peer.grant(put.request_id, PutGrant([0, 1]))
        # Nothing is read until the time is over: the first chunk stands half in the socket.
        inner = getattr(client, "_client", client)
        while client.statistics().timeouts == 0 and "CANCELLING" not in repr(inner._link.session._in_flight):
            pass
        assert peer.expect(Kind.PUT_DATA).body.index == 0
        assert peer.expect(Kind.CANCEL).request_id == put.request_id
        peer.send(Kind.CANCELLED, put.request_id, Cancelled())
        with pytest.raises(DeadlineExceeded):
            result()


class TestSharedMemory:
    def test_a_region_is_registered_once(self, make, network, start):
        client = make(UNIX)
        region = client.region(10_000)
        region.view[:5] = b"bytes"
        result = start(
            client.put, [b"a", b"b"], [region[:5], [region[8:9], region[6:8]]], parts=[[2, 3], [3]]
        )
        peer = network.accept(shm=True)
        add = peer.expect(Kind.REGION_ADD)
        assert (add.body.region, add.body.offset, add.body.length) == (region.number, 0, 10_000)
        assert len(peer.descriptors) == 1
        assert os.pread(peer.descriptors[0], 5, 0) == b"bytes"
        peer.send(Kind.REGION_ADDED, add.request_id, RegionAdded(True, False))
        put = peer.expect(Kind.PUT)
        assert put.body.region == region.number
        assert put.body.sources == [[0, 5], [8, 1, 6, 2]]
        assert put.body.parts == [[2, 3], [3]]
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\3", b"\0", 2, 0))
        assert result().stored == 2
        result = start(client.get, [b"a"], [region[100:200]])
        get = peer.expect(Kind.GET)
        assert get.body.targets == [[100, 100]]
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [5]))
        assert result().lengths == (5,)
        assert len(peer.descriptors) == 1

    def test_a_region_that_the_server_refuses(self, make, network, start):
        client = make(UNIX)
        region = client.region(4096)
        results = [start(client.get, [b"k"], [region[:9]])]
        peer = network.accept(shm=True)
        add = peer.expect(Kind.REGION_ADD)
        peer.send(Kind.ERROR, add.request_id, ErrorReply(ErrorCode.REGION, "no room for regions"))
        for result in results:
            with pytest.raises(RegionError, match="no room"):
                result()
        result = start(client.get, [b"k"], [region[:9]])
        peer.send(Kind.REGION_ADDED, peer.expect(Kind.REGION_ADD).request_id, RegionAdded(False, False))
        peer.send(Kind.GOT, peer.expect(Kind.GET).request_id, Got(0, b"\0", [0]))
        assert result().count == 0

    def test_a_closed_region_is_forgotten(self, make, network, start):
        client = make(UNIX)
        region = client.region(4096)
        result = start(client.get, [b"k"], [region[:9]])
        peer = network.accept(shm=True)
        peer.send(Kind.REGION_ADDED, peer.expect(Kind.REGION_ADD).request_id, RegionAdded(True, True))
        get = peer.expect(Kind.GET)
        closing = region.close
        closing()  # with a transfer in flight: the memory stays until that has ended
        descriptor = region._descriptor
        os.fstat(descriptor)
        remove = peer.expect(Kind.REGION_REMOVE)
        assert remove.body.region == region.number
        peer.send(Kind.GOT, get.request_id, Got(0, b"\0", [0]))
        result()
        peer.send(Kind.REGION_REMOVED, remove.request_id, RegionRemoved())
        with pytest.raises(RegionError, match="closed"):
            _ = region.view
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)

    def test_a_region_that_is_closed_while_it_is_added(self, make, network, start):
        client = make(UNIX)
        region = client.region(4096)
        result = start(client.get, [b"k"], [region[:9]])
        peer = network.accept(shm=True)
        add = peer.expect(Kind.REGION_ADD)
        region.close()
        peer.send(Kind.REGION_ADDED, add.request_id, RegionAdded(True, True))
        get = peer.expect(Kind.GET)
        remove = peer.expect(Kind.REGION_REMOVE)
        assert remove.body.region == region.number
        peer.send(Kind.GOT, get.request_id, Got(0, b"\0", [0]))
        peer.send(Kind.REGION_REMOVED, remove.request_id, RegionRemoved())
        assert result().count == 0

    def test_foreign_memory_goes_through_staging(self, make, network, start):
        client = make(UNIX, staging_bytes=65536)
        result = start(client.put, [b"a", b"b"], [b"foreign", b"memory"])
        peer = network.accept(shm=True)
        add = peer.expect(Kind.REGION_ADD)
        assert add.body.length == 65536
        peer.send(Kind.REGION_ADDED, add.request_id, RegionAdded(True, True))
        put = peer.expect(Kind.PUT)
        (first, first_bytes), (second, second_bytes) = put.body.sources
        assert os.pread(peer.descriptors[0], first_bytes, first) == b"foreign"
        assert os.pread(peer.descriptors[0], second_bytes, second) == b"memory"
        assert first % 4096 == second % 4096 == 0
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\3", b"\0", 2, 0))
        assert result().stored == 2
        target = bytearray(9)
        result = start(client.get, [b"a"], [target])
        get = peer.expect(Kind.GET)
        os.pwrite(peer.descriptors[0], b"foreign", get.body.targets[0][0])
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [7]))
        assert result().lengths == (7,)
        assert target == b"foreign\0\0"
        assert client.statistics().bytes_copied == 20

    def test_foreign_memory_larger_than_staging(self, make, network, start):
        client = make(UNIX, staging_bytes=8192)
        result = start(client.get, [b"a"], [bytearray(8193)])
        network.accept(shm=True)
        with pytest.raises(TooLarge, match="staging_bytes = 8192"):
            result()

    def test_foreign_memory_in_turns(self, make, network, start):
        client = make(UNIX, staging_bytes=8192)
        result = start(client.put, [b"%d" % index for index in range(5)], [bytes(4096)] * 5, position=3)
        peer = network.accept(shm=True)
        peer.send(Kind.REGION_ADDED, peer.expect(Kind.REGION_ADD).request_id, RegionAdded(True, True))
        positions = []
        for _ in range(3):
            put = peer.expect(Kind.PUT)
            positions.append((put.body.position, len(put.body.keys)))
            stored = pack([True] * len(put.body.keys))
            peer.send(Kind.PUT_DONE, put.request_id, PutDone(stored, b"", len(put.body.keys), 0))
        assert positions == [(3, 2), (5, 2), (7, 1)]
        assert result().stored == 5

    def test_a_chunk_lies_in_one_region(self, make, network, start):
        client = make(UNIX)
        one, two = client.region(4096), client.region(4096)
        result = start(client.put, [b"k"], [[one[:10], two[:10]]])
        network.accept(shm=True)
        with pytest.raises(mezzo.InvalidArgument, match="several regions"):
            result()

    def test_without_shared_memory_extents_go_over_the_stream(self, make, network, start):
        client = make(UNIX)
        region = client.region(4096)
        region.view[:5] = b"bytes"
        result = start(client.put, [b"k"], [[region[:2], region[2:5]]])
        peer = network.accept(shm=False)
        put = peer.expect(Kind.PUT)
        assert put.body.region == 0
        peer.grant(put.request_id, PutGrant([0]))
        peer.expect(Kind.PUT_DATA)
        assert peer.payload == b"bytes"
        peer.send(Kind.PUT_DONE, put.request_id, PutDone(b"\1", b"\0", 1, 0))
        assert result().stored == 1


class TestLeases:
    def test_the_pieces_of_a_long_prefix_are_one_lease(self, client, network, start):
        keys = [b"%d" % index for index in range(5)]
        result = start(client.acquire, keys, 30.0)
        peer = network.accept(keys_max=2)
        for lease, prefix in ((71, 2), (72, 1)):
            acquire = peer.expect(Kind.ACQUIRE)
            assert acquire.body.lease_ms == 30_000
            peer.send(Kind.ACQUIRED, acquire.request_id, Acquired(lease, prefix, prefix * 10, 20_000, 5))
        lease = result()
        assert (lease.prefix, lease.bytes, lease.held) == (3, 30, True)
        released = start(lease.release)
        for number in (71, 72):
            frame = peer.expect(Kind.RELEASE)
            assert frame.body.lease == number
            peer.send(Kind.RELEASED, frame.request_id, Released(True))
        assert released() is True
        assert lease.release() is False

    def test_it_ends_with_its_connection(self, client, network, start):
        result = start(client.acquire, [b"k"], 30.0)
        peer = network.accept()
        peer.send(Kind.ACQUIRED, peer.expect(Kind.ACQUIRE).request_id, Acquired(9, 1, 5, 30_000, 5))
        lease = result()
        peer.close()
        result = start(client.ping)
        peer = network.accept()
        peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())
        result()
        assert not lease.held
        assert lease.release() is False

    def test_it_ends_by_the_clock(self, make, network, start):
        clock = [50.0]
        client = make(surroundings=network.surroundings(now=lambda: clock[0]))
        result = start(client.acquire, [b"k"], 30.0)
        peer = network.accept()
        peer.send(Kind.ACQUIRED, peer.expect(Kind.ACQUIRE).request_id, Acquired(9, 1, 5, 2_000, 5))
        lease = result()
        assert (lease.expires, lease.held) == (52.0, True)
        clock[0] = 52.0
        assert not lease.held


def test_delete_of_many(make, network, start):
    result = start(make().delete, [b"a", b"b", b"c"])
    peer = network.accept(keys_max=2)
    for bits in (b"\2", b"\1"):
        peer.send(Kind.DELETED, peer.expect(Kind.DELETE).request_id, Deleted(1, bits))
    assert result().deleted == (False, True, True)


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


@pytest.mark.parametrize("address", ["unix:///run/mezzo.sock", "tcp://host:7000", "tcp://[::1]:7000"])
def test_addresses_are_shown_as_given(address):
    assert str(mezzo.Client(address).address) == address
