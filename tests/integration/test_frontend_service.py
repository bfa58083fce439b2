"""A front-end as a stock gRPC client sees it: results, limits, refusals, health and tools."""

import itertools
import re
import socket
import threading
from contextlib import ExitStack, suppress

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import mezzo
from mezzo.v1 import session_pb2, store_pb2
from mezzo_server.frontend.gate import STREAMS_HOST_MAX
from mezzo_server.testing import running_frontend, running_shard
from tests.integration.grpc_client import metadata_of, stock
from tests.patience import eventually

LIMITS = """
[frontend]
calls_max = 4
put_bytes_max = "2MiB"
staging_bytes = "4MiB"
message_bytes_max = "256KiB"
piece_bytes = "64KiB"
namespaces_max = 3
leases_max = 2
events_max = 2
stall_s = {stall_s}
health_s = 0.05
"""

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def shard():
    with running_shard() as shard:
        yield shard


@pytest.fixture(scope="module")
def frontend(shard):
    config = LIMITS.format(stall_s=20)
    with running_frontend(shard.unix, config=config, advertise=shard.addresses) as frontend:
        yield frontend


@pytest.fixture(scope="module")
def client(frontend):
    with stock(frontend.target) as client:
        yield client


@pytest.fixture(scope="module")
def impatient(shard):
    """A front-end that gives stalled callers up at once."""
    with running_frontend(shard.unix, config=LIMITS.format(stall_s=0.2)) as frontend:
        yield frontend


@pytest.fixture(scope="module")
def admin(frontend):
    with grpc.insecure_channel(frontend.admin) as channel:
        yield channel


def finish(answer):
    return list(answer) if hasattr(answer, "__next__") else answer


def refused(call, *arguments, **options):
    """The error of a call: its status, its message and our code."""
    with pytest.raises(grpc.RpcError) as raised:
        finish(call(*arguments, **options))
    error = raised.value
    return error.code(), error.details(), metadata_of(error)


def put_request(header=None, *pieces):
    return store_pb2.PutRequest(
        header=header, pieces=[store_pb2.Piece(index=i, offset=o, data=d) for i, o, d in pieces]
    )


def header(*lengths, **more):
    keys = [b"refused-%d" % index for index in range(len(lengths))]
    return store_pb2.PutHeader(**({"namespace": "default", "keys": keys, "lengths": lengths} | more))


def test_the_whole_life_of_a_chunk(client):
    data = bytes(range(256)) * 4096  # 1 MiB: many pieces
    keys = [b"long", b"short"]
    chunks = [data, b"short"]
    requests = [put_request(store_pb2.PutHeader(namespace="life", keys=keys, lengths=map(len, chunks)))]
    for index, chunk in enumerate(chunks):
        for start in range(0, len(chunk), 60000):
            requests.append(put_request(None, (index, start, chunk[start : start + 60000])))
    assert list(client.put(iter(requests)).states) == [store_pb2.PUT_STATE_STORED] * 2
    assert list(client.put(iter(requests)).states) == [store_pb2.PUT_STATE_EXISTS] * 2
    assert client.get_all([b"short", b"none", b"long"], "life") == [b"short", None, data]
    assert client.get_all(keys, "life", capacities=[1 << 20, 5]) == chunks
    found = client.lookup(store_pb2.LookupRequest(namespace="life", keys=[*keys, b"none"]))
    assert (found.prefix, found.bytes) == (2, len(data) + 5)
    lease = client.acquire(store_pb2.AcquireRequest(namespace="life", keys=keys, lease_ms=60000))
    assert (lease.prefix, len(lease.lease)) == (2, 16)
    assert 0 < lease.lease_ms <= 60000
    stats = client.stat(store_pb2.StatRequest(namespace="life", keys=[b"short", b"none"])).chunks
    assert [(chunk.present, chunk.bytes, chunk.leased) for chunk in stats] == [
        (True, 5, True),
        (False, 0, False),
    ]
    assert client.release(store_pb2.ReleaseRequest(lease=lease.lease)).held
    assert not client.release(store_pb2.ReleaseRequest(lease=lease.lease)).held
    gone = client.delete(store_pb2.DeleteRequest(namespace="life", keys=[b"short", b"none"]))
    assert list(gone.deleted) == [True, False]
    assert client.get_all(keys, "life") == [data, None]
    assert client.shardstat(store_pb2.ShardStatRequest()).numbers["chunks"] >= 1


def test_parts_are_readable_alone(client):
    parts = [store_pb2.Parts(lengths=[1, 2, 3])]
    head = store_pb2.PutHeader(namespace="parts", keys=[b"p"], lengths=[6], parts=parts)
    client.put(iter([put_request(head, (0, 0, b"abbccc"))]))
    assert client.get_all([b"p"], "parts", first_part=1, part_count=1) == [b"bb"]
    assert client.get_all([b"p"], "parts", first_part=1, part_count=9) == [b"bbccc"]


def test_a_session_says_where_the_shard_is(client, shard, frontend):
    session = client.open_session(session_pb2.OpenSessionRequest(client="test"))
    (told,) = session.map.shards
    assert list(told.addresses) == shard.addresses
    assert len(told.incarnation) == 16
    assert told.capacity_bytes > 0
    assert session.ticket_ms == 300_000
    assert session.ticket == b""  # there are no tenants, and shards check nothing
    assert (session.limits.put_bytes_max, session.limits.piece_bytes_max) == (2 << 20, 64 << 10)


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "first message"),
        ([put_request(None, (0, 0, b"x"))], "first message"),
        ([put_request(header())], "no keys"),
        ([put_request(header(0))], "bytes"),
        ([put_request(header(1, keys=[b""]))], "1 to 64"),
        ([put_request(header(1, 1, lengths=[1]))], "1 lengths for 2 keys"),
        ([put_request(header(1, namespace=""), (0, 0, b"x"))], "namespace must have"),
        ([put_request(header(3, parts=[store_pb2.Parts(lengths=[1, 1])]))], "add up to 2, not to 3"),
        ([put_request(header(3, parts=[store_pb2.Parts()]))], "1 to 256"),
        ([put_request(header(3), (0, 0, b"abcd"))], "of which 3 bytes are missing"),
        ([put_request(header(3), (0, 1, b"bc"))], "chunk 0 at 0 was due"),
        ([put_request(header(3), (1, 0, b"abc"))], "chunk 0 at 0 was due"),
        ([put_request(header(3), (0, 0, b""))], "a piece of 0 bytes"),
        ([put_request(header(1), (0, 0, b"a"), (0, 1, b"b"))], "after the last byte"),
        ([put_request(header(3), (0, 0, b"ab"))], "ended after 2 of 3 bytes"),
        ([put_request(header(1), (0, 0, b"a")), put_request(header(1))], "second header"),
        ([put_request(header(1, position=2**32 - 1), (0, 0, b"a"))], "position"),
    ],
)
def test_puts_that_are_wrong_are_told_why_and_leave_nothing(client, requests, words):
    code, message, metadata = refused(client.put, iter(requests), timeout=20)
    assert (code, metadata["mezzo-code"]) == (Code.INVALID_ARGUMENT, "INVALID")
    assert words in message
    assert client.get_all([b"refused-0"]) == [None]


@pytest.mark.parametrize(
    ("name", "request_", "words"),
    [
        ("lookup", store_pb2.LookupRequest(namespace="default"), "no keys"),
        ("lookup", store_pb2.LookupRequest(namespace="default", keys=[b"x" * 65]), "keys[0] has 65 bytes"),
        ("lookup", store_pb2.LookupRequest(namespace="n" * 129, keys=[b"x"]), "1 to 128 characters"),
        ("acquire", store_pb2.AcquireRequest(namespace="default", keys=[b"x"]), "lease_ms"),
        ("get", store_pb2.GetRequest(namespace="default"), "no keys"),
        ("get", store_pb2.GetRequest(namespace="default", keys=[b"x"], capacities=[1, 2]), "2 capacities"),
        ("get", store_pb2.GetRequest(namespace="default", keys=[b"x"], first_part=256, part_count=1), "256"),
        ("open_session", session_pb2.OpenSessionRequest(client="c" * 129), "over 128"),
    ],
)
def test_requests_that_are_wrong_are_told_why(client, name, request_, words):
    code, message, metadata = refused(getattr(client, name), request_, timeout=20)
    assert (code, metadata["mezzo-code"]) == (Code.INVALID_ARGUMENT, "INVALID")
    assert words in message


def test_what_is_no_message_is_refused(client):
    for method in ("StoreService/Lookup", "SessionService/OpenSession"):
        code, message, _ = refused(client.raw(f"/mezzo.v1.{method}"), b"\xff\xff\xff", timeout=20)
        assert code is Code.INVALID_ARGUMENT
        assert "is no mezzo.v1." in message
    assert refused(client.raw("/mezzo.v1.StoreService/Nothing"), b"", timeout=20)[0] is Code.UNIMPLEMENTED


def test_what_is_over_a_limit_names_the_limit(client):
    code, message, metadata = refused(client.put, iter([put_request(header(3 << 20))]), timeout=20)
    assert (code, metadata["mezzo-code"]) == (Code.OUT_OF_RANGE, "TOO_LARGE")
    assert "frontend.put_bytes_max" in message
    keys = store_pb2.LookupRequest(namespace="default", keys=[b"%d" % i for i in range(4097)])
    code, message, _ = refused(client.lookup, keys, timeout=20)
    assert (code, "4096" in message) == (Code.OUT_OF_RANGE, True)
    code, message, _ = refused(
        client.put, iter([put_request(header(300_000), (0, 0, bytes(300_000)))]), timeout=20
    )
    assert (code, "larger than max" in message) == (Code.RESOURCE_EXHAUSTED, True)
    client.put_one(b"capacity", b"12345")
    request = store_pb2.GetRequest(namespace="default", keys=[b"capacity"], capacities=[4])
    assert refused(client.get, request, timeout=20)[0] is Code.OUT_OF_RANGE


def test_leases_and_namespaces_are_bounded(client):
    client.put_one(b"leased", b"x", "bounded")
    request = store_pb2.AcquireRequest(namespace="bounded", keys=[b"leased"], lease_ms=60_000)
    held = [client.acquire(request) for _ in range(2)]
    code, message, metadata = refused(client.acquire, request, timeout=20)
    assert (code, metadata["mezzo-code"]) == (Code.RESOURCE_EXHAUSTED, "BUSY")
    assert int(metadata["mezzo-retry-after-ms"]) > 0
    assert "frontend.leases_max" in message
    # Others come and go; the namespace with leases keeps its connection, and so its leases.
    for index in range(5):
        assert client.lookup(store_pb2.LookupRequest(namespace=f"passing-{index}", keys=[b"x"])).prefix == 0
    assert all(client.release(store_pb2.ReleaseRequest(lease=lease.lease)).held for lease in held)


class HeldPuts:
    """Puts that have sent their first piece and wait."""

    def __init__(self, client, count, length):
        self._go_on = threading.Event()
        self.calls = [client.put.future(self._requests(length), timeout=60) for _ in range(count)]

    def _requests(self, length):
        yield put_request(header(length), (0, 0, b"a"))
        self._go_on.wait(60)

    def end(self):
        self._go_on.set()
        return [(call.code(), call.details()) for call in self.calls]


def busy(call, *arguments):
    """What a call is refused with; None if it goes through."""
    try:
        finish(call(*arguments, timeout=20))
    except grpc.RpcError as error:
        if (error.code(), metadata_of(error).get("mezzo-code")) != (Code.RESOURCE_EXHAUSTED, "BUSY"):
            raise
        return error.details()
    return None


LOOKUP = store_pb2.LookupRequest(namespace="default", keys=[b"x"])


def test_calls_are_bounded(client):
    held = HeldPuts(client, 4, 2)
    assert "frontend.calls_max" in eventually(lambda: busy(client.lookup, LOOKUP), "all places are taken")
    ended = held.end()
    assert {code for code, _ in ended} == {Code.INVALID_ARGUMENT}
    eventually(lambda: busy(client.lookup, LOOKUP) is None, "places are free")
    assert client.get_all([b"refused-0"]) == [None]


def test_staging_memory_is_bounded(client):
    held = HeldPuts(client, 2, 2 << 20)  # all of it
    told = eventually(
        lambda: busy(client.put, iter([put_request(header(100, namespace="s"), (0, 0, bytes(100)))])),
        "all memory is taken",
    )
    assert "frontend.staging_bytes" in told
    for call in held.calls:
        call.cancel()
    # A cancelled put frees what it held.
    eventually(lambda: busy(client.put_one, b"fits", bytes(100)) is None, "memory is free")
    held.end()
    assert client.get_all([b"refused-0"]) == [None]


def test_a_put_that_stops_in_the_middle_is_given_up(impatient):
    with stock(impatient.target) as client:
        held = HeldPuts(client, 3, 2)
        codes = [(call.code(), call.details()) for call in held.calls]
        held.end()
        assert {code for code, _ in codes} == {Code.DEADLINE_EXCEEDED}
        assert "frontend.stall_s" in codes[0][1]
        assert client.get_all([b"refused-0"]) == [None]


SLOW_KEYS = [b"slow-%d" % index for index in range(400)]
SLOW_CHUNK = bytes(range(256)) * 240  # 24 MB in all: more than sockets and streams hold


@pytest.fixture(scope="module")
def slow_chunks(client):
    for key in SLOW_KEYS:
        client.put_one(key, SLOW_CHUNK)


def test_a_slow_reader_is_waited_for(client, slow_chunks):
    slow = client.get(store_pb2.GetRequest(namespace="default", keys=SLOW_KEYS), timeout=60)
    received = [len(piece.data) for piece in next(slow).pieces]
    # Meanwhile others are served.
    assert client.get_all(SLOW_KEYS[:3]) == [SLOW_CHUNK] * 3
    for message in slow:
        received += [len(piece.data) for piece in message.pieces]
    assert sum(received) == len(SLOW_KEYS) * len(SLOW_CHUNK)


def test_a_reader_that_never_reads_is_given_up(impatient, slow_chunks):
    with stock(impatient.target) as client:
        request = store_pb2.GetRequest(namespace="default", keys=SLOW_KEYS)
        stalled = [client.get(request, timeout=60) for _ in range(4)]
        for call in stalled:
            next(call)
        # All calls that there may be are taken by them, and become free though they still stand there.
        eventually(lambda: busy(client.lookup, LOOKUP) is None, "places are free")
        # One of them was given up for that; on a slow machine the others' time is not over yet when they are read.
        ended = []
        for call in stalled:
            try:
                list(call)
            except grpc.RpcError as error:
                ended.append(error)
        assert ended


def test_health_reflection_and_channelz(admin, frontend):
    health = health_pb2_grpc.HealthStub(admin)
    for service in ("", "mezzo.v1.StoreService", "mezzo.v1.SessionService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(frontend.target) as data:
        answer = health_pb2_grpc.HealthStub(data).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="mezzo.v1.StoreService"),
    ]
    reflected = reflection_pb2_grpc.ServerReflectionStub(admin)
    listed, described = reflected.ServerReflectionInfo(iter(requests), timeout=20)
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {"mezzo.v1.StoreService", "mezzo.v1.SessionService", "grpc.health.v1.Health"}
    assert b"LookupRequest" in b"".join(described.file_descriptor_response.file_descriptor_proto)
    servers = channelz_pb2_grpc.ChannelzStub(admin).GetServers(channelz_pb2.GetServersRequest(), timeout=20)
    assert len(servers.server) == 2


def test_few_streams_of_health_stay_open_for_one_host(frontend):
    """Nobody need have a credential for them."""
    with grpc.insecure_channel(frontend.target) as data:
        health = health_pb2_grpc.HealthStub(data)
        watches = [health.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(STREAMS_HOST_MAX)]
        for watch in watches:
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            next(health.Watch(health_pb2.HealthCheckRequest(), timeout=60))
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=20).status
        watches.pop().cancel()

        def another() -> bool:
            try:
                return bool(next(health.Watch(health_pb2.HealthCheckRequest(), timeout=60)).status)
            except grpc.RpcError:
                return False

        eventually(another, "who went makes room for another")


def refusing(words):
    return pytest.raises(mezzo.Unavailable, match=words)


def test_an_address_that_others_can_reach_needs_a_word(shard):
    with (
        refusing("can be reached from other hosts"),
        running_frontend(shard.unix, arguments=["--listen", "0.0.0.0:0"]),
    ):
        pass
    with (
        refusing("can be reached from other hosts"),
        running_frontend(shard.unix, arguments=["--admin", "0.0.0.0:0"]),
    ):
        pass
    with running_frontend(shard.unix, arguments=["--admin", "0.0.0.0:0", "--insecure"]) as frontend:
        assert frontend.admin.startswith("0.0.0.0:")


def test_an_address_in_use_is_named(frontend, shard):
    taken = re.escape(f"{frontend.target} (frontend.listen): it is in use")
    with refusing(taken), running_frontend(shard.unix, arguments=["--listen", frontend.target]):
        pass
    with ExitStack() as held:
        before = eventually(lambda: free_port_before_one_that_is_taken(held), "two ports in a row")
        where = ["--listen", f"127.0.0.1:{before}"]
        with (
            refusing("the admin port, one after frontend.listen"),
            running_frontend(shard.unix, arguments=where),
        ):
            pass


def free_port_before_one_that_is_taken(held):
    """None: not this time."""
    taken = held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    with suppress(OSError), socket.create_server(("127.0.0.1", taken - 1)):
        return taken - 1


def told(messages, count):
    """The events of a stream, until there are so many."""
    events = []
    for message in messages:
        events += message.events
        if len(events) >= count:
            return [(event.kind, event.key, event.listed) for event in events], message.cursor
    raise AssertionError("the stream ended")


def test_events_are_streamed_and_resumed(client):
    client.put_one(b"early", b"1", namespace="events")
    request = store_pb2.EventsRequest(namespace="events", snapshot=True)
    stream = client.events(request, timeout=20)
    first = next(stream)
    assert (first.gap, first.cursor, list(first.events)) == (store_pb2.GAP_REASON_START, b"", [])
    assert told(stream, 1) == ([(store_pb2.EVENT_KIND_STORED, b"early", True)], b"")
    client.put_one(b"a", b"1", namespace="events")
    client.delete(store_pb2.DeleteRequest(namespace="events", keys=[b"early"]))
    expected = [(store_pb2.EVENT_KIND_STORED, b"a", False), (store_pb2.EVENT_KIND_DELETED, b"early", False)]
    events, cursor = told(stream, 2)
    assert events == expected
    stream.cancel()
    client.put_one(b"b", b"1", namespace="events")
    again = client.events(store_pb2.EventsRequest(namespace="events", cursor=cursor), timeout=20)
    assert told(again, 1)[0] == [(store_pb2.EVENT_KIND_STORED, b"b", False)]
    again.cancel()


def reading(client):
    """A stream of events that has begun: the places of cancelled ones become free only later."""

    def begun():
        stream = client.events(store_pb2.EventsRequest(namespace="events"), timeout=60)
        return stream if busy(lambda timeout: [next(stream)]) is None else None

    return eventually(begun, "a place is free")


def test_a_stream_of_events_ends_with_its_deadline(client):
    limits_s = itertools.count(0.3, 0.3)

    def ended():
        stream = client.events(store_pb2.EventsRequest(namespace="events"), timeout=next(limits_s))
        gaps = []
        with pytest.raises(grpc.RpcError) as raised:
            gaps.extend(message.gap for message in stream)
        return gaps and (gaps, raised.value.code())

    # Until there is a place, and time for a beginning.
    assert eventually(ended, "it begins and ends") == ([store_pb2.GAP_REASON_START], Code.DEADLINE_EXCEEDED)


def test_readers_of_events_are_bounded(client):
    streams = [reading(client) for _ in range(2)]
    request = store_pb2.EventsRequest(namespace="events")
    assert refused(client.events, request, timeout=20)[2]["mezzo-code"] == "BUSY"
    for stream in streams:
        stream.cancel()


@pytest.mark.parametrize("cursor", [b"short", b"i" * 16 + b"\xff" * 8])
def test_what_is_no_cursor(client, cursor):
    request = store_pb2.EventsRequest(namespace="events", cursor=cursor)
    assert refused(client.events, request, timeout=20)[0] is Code.INVALID_ARGUMENT


def test_a_lease_is_renewed_by_name(client):
    client.put_one(b"leased", b"1")
    acquire = store_pb2.AcquireRequest(namespace="default", keys=[b"leased"], lease_ms=20_000)
    lease = client.acquire(acquire, timeout=20).lease
    renewed = client.renew(store_pb2.RenewRequest(lease=lease, lease_ms=30_000), timeout=20)
    assert 20_000 < renewed.lease_ms <= 30_000
    assert client.release(store_pb2.ReleaseRequest(lease=lease), timeout=20).held
    gone = refused(client.renew, store_pb2.RenewRequest(lease=lease, lease_ms=1000), timeout=20)
    assert (gone[0], gone[2]["mezzo-code"]) == (Code.ABORTED, "GONE")
    assert (
        refused(client.renew, store_pb2.RenewRequest(lease=lease), timeout=20)[2]["mezzo-code"] == "INVALID"
    )
