"""Both clients against a server by hand: how a connection begins, is shared, and ends."""

import itertools
import math

import pytest

import mezzo
from mezzo.errors import (
    Busy,
    ClientClosed,
    Conflict,
    ConnectionLost,
    DeadlineExceeded,
    Denied,
    ErrorCode,
    InternalError,
    InvalidArgument,
    ProtocolError,
    RegionError,
    TooLarge,
    Unavailable,
    Unsupported,
    WrongEpoch,
)
from mezzo.protocol.messages import (
    Cancelled,
    ErrorReply,
    GetData,
    Got,
    Kind,
    LookedUp,
    Pong,
    PutGrant,
    Refuse,
    RegionAdded,
)
from mezzo.testing.blocking import Blocking
from tests.contract.peer import UNIX, checksums
from tests.patience import PATIENCE_S

SHORT_S = 0.1
"""patience of a call that is to be given up; long enough for its request to be sent on a busy machine"""


class TestHello:
    def test_what_the_client_says_of_itself(self, make, network, start):
        result = start(make(namespace="models/a", name="engine").ping)
        hello = network.arrived().welcome().body
        assert (hello.version_min, hello.version_max) == (1, 2)
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
    @pytest.mark.parametrize(
        ("code", "error"),
        [(ErrorCode.CONFLICT, Conflict), (ErrorCode.DENIED, Denied), (ErrorCode.BUSY, Busy)],
    )
    def test_what_was_wrong_stays_wrong_until_it_is_tried_again(self, client, network, start, code, error):
        result = start(client.ping)
        network.arrived().send(Kind.REFUSE, 0, Refuse(code, "this is why"))
        with pytest.raises(error, match="this is why"):
            result()
        with pytest.raises(error, match=r"this is why \(next attempt in"):
            client.ping()
        assert network.attempts == 1

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

    def test_a_wrong_epoch_tells_the_right_one(self, client, network, start):
        result = start(client.lookup, [b"k"])
        peer = network.accept()
        reply = ErrorReply(ErrorCode.WRONG_EPOCH, "why", epoch=7)
        peer.send(Kind.ERROR, peer.expect(Kind.LOOKUP).request_id, reply)
        with pytest.raises(WrongEpoch, match="why") as caught:
            result()
        assert caught.value.epoch == 7

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
    @pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, 1e7])
    def test_no_call_is_without_an_end(self, make, seconds):
        with pytest.raises(InvalidArgument, match="timeout_s must be positive, and 1000000 at most"):
            make(timeout_s=seconds)
        with pytest.raises(InvalidArgument, match="deadline_s"):
            make().get([b"k"], [bytearray(9)], deadline_s=seconds)

    def test_a_stream_that_does_not_end_does_not_hold_the_call(self, network, start):
        """Whoever receives for all looks at his own time, however much comes."""
        clock = itertools.count(1)
        surroundings = network.surroundings(now=lambda: float(next(clock)))
        with mezzo.Client(
            "tcp://shard:1", surroundings=surroundings, timeout_s=30.0, connect_timeout_s=30.0
        ) as client:
            result = start(client.get, [b"k"], [bytearray(1 << 24)])
            peer = network.accept()
            get = peer.expect(Kind.GET)
            body = GetData(0, 0, [1 << 24], checksums(b"k", bytes(1 << 24)))
            try:
                peer.send(Kind.GET_DATA, get.request_id, body, bytes(1 << 24))
                peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [1 << 24]))
            except ConnectionError:
                pass  # the client has had enough
            with pytest.raises(DeadlineExceeded):
                result()

    def test_the_server_lets_go(self, make, connected, start):
        client = make(cancel_grace_s=PATIENCE_S)
        peer = connected(client)
        result = start(client.get, [b"k"], [bytearray(8)], timeout_s=SHORT_S)
        get = peer.expect(Kind.GET)
        assert 0 < get.body.deadline_ms <= 1000 * SHORT_S
        assert peer.expect(Kind.CANCEL).request_id == get.request_id
        peer.send(Kind.CANCELLED, get.request_id, Cancelled())
        with pytest.raises(DeadlineExceeded):
            result()
        result = start(client.ping)
        peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, Pong())
        result()
        assert client.statistics().timeouts == 1

    def test_an_answer_that_crosses_the_cancel_is_no_answer(self, make, connected, start):
        client = make(cancel_grace_s=PATIENCE_S)
        peer = connected(client)
        target = bytearray(b"untouched")
        result = start(client.get, [b"k"], [target], timeout_s=SHORT_S)
        get = peer.expect(Kind.GET)
        peer.expect(Kind.CANCEL)
        peer.send(Kind.GET_DATA, get.request_id, GetData(0, 0, [5], checksums(b"k", b"bytes")), b"bytes")
        peer.send(Kind.GOT, get.request_id, Got(1, b"\1", [5]))
        peer.send(Kind.CANCELLED, get.request_id, Cancelled())
        with pytest.raises(DeadlineExceeded):
            result()
        assert target == b"untouched"

    def test_a_server_that_does_not_let_go_loses_the_connection(self, make, network, connected, start):
        client = make(UNIX, cancel_grace_s=0.02)
        peer = connected(client, shm=True)
        region = client.region(4096)
        result = start(client.get, [b"k"], [region[:10]], timeout_s=3 * SHORT_S)
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

    @pytest.mark.parametrize("settled", [False, True])
    def test_a_server_that_ends_may_say_that_it_lets_go(self, make, network, connected, start, settled):
        client = make(UNIX)
        peer = connected(client, shm=True)
        region = client.region(4096)
        result = start(client.get, [b"k"], [region[:10]])
        peer.send(Kind.REGION_ADDED, peer.expect(Kind.REGION_ADD).request_id, RegionAdded(True, True))
        peer.expect(Kind.GET)
        peer.send(Kind.REFUSE, 0, Refuse(ErrorCode.UNAVAILABLE, "stopping", settled=settled))
        peer = network.accept(shm=True)  # it is tried once more
        add = peer.expect(Kind.REGION_ADD)
        assert region.tainted is not settled
        peer.send(Kind.REGION_ADDED, add.request_id, RegionAdded(True, True))
        peer.send(Kind.GOT, peer.expect(Kind.GET).request_id, Got(0, b"\0", [0]))
        assert result().count == 0

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

    def test_only_what_may_be_written_to_is_refused(self, make, network, start):
        """Another shard's transfer was cut off there, and that shard's process still lives."""
        alive = [True]
        with mezzo.Client("tcp://other:1").region(8192) as region:
            region.taint("unix:///elsewhere", [region[0:100], region[4096:4196]], lambda: not alive[0])
            assert len(region[100:4096].view) == 3996
            for extent in (region[0:1], region[50:150], region[4000:8192]):
                with pytest.raises(RegionError, match="may still be written to"):
                    _ = extent.view
            with pytest.raises(RegionError, match="may still be written to"):
                _ = region.view
            client = make("tcp://shard:1")
            result = start(client.get, [b"k"], [region[200:300]])
            peer = network.accept(shm=False)
            peer.send(Kind.GOT, peer.expect(Kind.GET).request_id, Got(0, b"\0", [0]))
            assert result().count == 0
            with pytest.raises(RegionError, match="may still be written to"):
                client.get([b"k"], [region[90:110]])
            alive[0] = False
            assert len(region.view) == 8192
            assert not region.tainted

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
