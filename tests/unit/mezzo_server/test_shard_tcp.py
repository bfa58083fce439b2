"""Payload over TCP through a session: announced, granted, sent, checked; and what is under way when it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo.errors import ErrorCode, ProtocolError
from mezzo.protocol.bitmap import unpack
from mezzo.protocol.frame import Frame
from mezzo.protocol.messages import (
    Cancel,
    Cancelled,
    Get,
    GetData,
    Got,
    Kind,
    LookedUp,
    Lookup,
    Put,
    PutData,
    PutDone,
    PutGrant,
)
from tests.unit.mezzo_server.shard_harness import MIB, FakeClient, Shard, data_of, get_tcp, left_idle, put_tcp


@pytest.fixture
def shard() -> Iterator[Shard]:
    with left_idle(Shard()) as shard:
        yield shard


@pytest.fixture
def client(shard: Shard) -> FakeClient:
    return shard.client()


def test_put_and_get_over_tcp(client: FakeClient) -> None:
    chunks = {b"t%d" % n: data_of(b"t%d" % n, length) for n, length in enumerate((1, 4096, 100_001, 3 * MIB))}
    assert put_tcp(client, chunks).stored_count == 4
    assert put_tcp(client, chunks).exists_count == 4
    assert get_tcp(client, [b"none", *chunks, b"t0"]) == [None, *chunks.values(), chunks[b"t0"]]
    assert get_tcp(client, list(chunks), capacities=[3 * MIB] * 4) == list(chunks.values())


def test_tcp_parts(client: FakeClient) -> None:
    data = data_of(b"p", 600_000)
    assert put_tcp(client, {b"p": data}, parts=[[100_000, 200_000, 300_000]]).stored_count == 1
    assert get_tcp(client, [b"p"], first_part=1, part_count=2) == [data[100_000:]]
    head = next(frame.body for frame in client.frames if isinstance(frame.body, GetData))
    assert (head.first_part, head.part_bytes) == (1, [200_000, 300_000])


def test_tcp_get_over_its_capacity_sends_nothing(client: FakeClient) -> None:
    put_tcp(client, {b"a": bytes(10), b"b": bytes(100)})
    reply = client.fails(Kind.GET, Get([b"a", b"b"], capacities=[10, 99]))
    assert reply.code == ErrorCode.TOO_LARGE
    assert not client.payloads


def test_wrong_checksums_of_the_sender_are_not_stored(client: FakeClient) -> None:
    body = Put([b"good", b"bad"], [1000, 1000])
    request_id = client.start(Kind.PUT, body)
    assert client.turn()
    assert client.answer(request_id, PutGrant).indexes == [0, 1]
    client.put_payload(request_id, body, 0, data_of(b"good", 1000))
    client.put_payload(request_id, body, 1, data_of(b"bad", 1000), wrong=True)
    client.session.turn_ended()
    client.shard.settle()
    done = client.answer(request_id, PutDone)
    assert unpack(done.stored, 2) == (True, False)
    assert client.ask(Kind.LOOKUP, Lookup([b"bad"]), LookedUp).prefix == 0


def test_credit_is_bounded_by_the_connections_share(client: FakeClient) -> None:
    body = Put([b"%d" % n for n in range(5)], [3 * MIB] * 5)
    request_id = client.start(Kind.PUT, body)
    client.shard.settle()
    assert client.answer(request_id, PutGrant).indexes == [0, 1]
    assert client.shard.staging.pieces_taken == 2
    client.put_payload(request_id, body, 0, data_of(b"0", 3 * MIB))
    client.session.turn_ended()
    client.shard.settle()
    assert client.answer(request_id, PutGrant).indexes == [2]
    for index in (1, 2):
        client.put_payload(request_id, body, index, bytes(3 * MIB))
    client.session.turn_ended()
    client.shard.settle()
    assert client.answer(request_id, PutGrant).indexes == [3]
    client.put_payload(request_id, body, 3, bytes(3 * MIB))
    client.session.turn_ended()
    client.shard.settle()
    client.put_payload(request_id, body, 4, bytes(3 * MIB))
    client.session.turn_ended()
    client.shard.settle()
    assert client.answer(request_id, PutDone).stored_count == 5


def test_a_silent_client_holds_its_share_and_no_more(shard: Shard, client: FakeClient) -> None:
    client.start(Kind.PUT, Put([b"%d" % n for n in range(9)], [4 * MIB] * 9))
    shard.settle()
    assert client.session.payload_waits == 2
    other = shard.client(shm=False)
    assert put_tcp(other, {b"x": data_of(b"x", 3 * MIB)}).stored_count == 1
    client.close()
    assert shard.staging.pieces_taken == 0


def test_payload_that_was_not_announced_so_is_refused(client: FakeClient) -> None:
    body = Put([b"a"], [1000], [[400, 600]])
    request_id = client.start(Kind.PUT, body)
    client.turn()
    with pytest.raises(ProtocolError, match="announced"):
        client.session.receive(Frame(Kind.PUT_DATA, request_id, PutData(0, [1, 2]), 999))
    other = client.shard.client()
    request_id = other.start(Kind.PUT, body)
    other.turn()
    with pytest.raises(ProtocolError, match="checksums"):
        other.session.receive(Frame(Kind.PUT_DATA, request_id, PutData(0, [1]), 1000))
    third = client.shard.client()
    with pytest.raises(ProtocolError, match="grant"):
        third.session.receive(Frame(Kind.PUT_DATA, 5, PutData(0, [1]), 1000))


def test_cancelling_a_put_gives_its_memory_back(shard: Shard, client: FakeClient) -> None:
    body = Put([b"%d" % n for n in range(5)], [3 * MIB] * 5)
    request_id = client.start(Kind.PUT, body)
    shard.settle()
    client.put_payload(request_id, body, 0, bytes(3 * MIB))
    client.start(Kind.CANCEL, Cancel(), request_id=request_id)
    shard.settle()
    client.answer(request_id, PutGrant)
    assert client.answers(request_id) == [Cancelled()]
    assert shard.staging.pieces_taken == 0
    assert client.session.payload_waits == 0


def test_cancelling_a_get_in_the_middle_completes_its_frame(shard: Shard, client: FakeClient) -> None:
    data = data_of(b"big", 4 * MIB - 100)
    put_tcp(client, {b"big": data, b"next": b"x"})
    client.reads = False
    request_id = client.start(Kind.GET, Get([b"big", b"next"]))
    shard.settle()
    client.start(Kind.CANCEL, Cancel(), request_id=request_id)
    client.reads = True
    shard.settle()
    assert len(client.payloads[request_id, 0]) == len(data)
    assert client.payloads[request_id, 0] != data
    assert (request_id, 1) not in client.payloads
    client.answer(request_id, GetData)
    assert client.answers(request_id) == [Cancelled()]


def test_a_corrupt_chunk_is_a_miss_over_tcp_and_its_frame_is_whole(shard: Shard, client: FakeClient) -> None:
    data = data_of(b"c", MIB)
    put_tcp(client, {b"c": data, b"d": b"fine"})
    where = bytes(shard.device.memory.view).find(data[600_000:600_100])
    assert where > 0
    shard.device.memory.view[where] ^= 1
    request_id = client.start(Kind.GET, Get([b"c", b"d"]))
    shard.settle()
    got = client.answer(request_id, Got)
    assert unpack(got.found, 2) == (False, True)
    assert len(client.payloads[request_id, 0]) == MIB
    assert client.ask(Kind.LOOKUP, Lookup([b"c"]), LookedUp).prefix == 0
