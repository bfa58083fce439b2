"""What admission does not take is said to the client, and no payload of it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo.protocol.messages import Kind, LookedUp, Lookup, Put, PutDone, PutGrant
from mezzo_server.blockstore.admission.admission import Admission, AdmissionOptions, Mode
from tests.simulation import audit
from tests.unit.mezzo_server.shard_harness import FakeClient, Shard


@pytest.fixture
def shard() -> Iterator[Shard]:
    shard = Shard()
    context = audit.context_of(shard.service.store)
    options = AdmissionOptions(Mode.SECOND_TOUCH)
    context.admission = Admission(options, 1 << 30, context.written_bytes, context.now)
    yield shard
    shard.close()


def put(client: FakeClient, keys: list[bytes]) -> tuple[list[int], PutDone]:
    """Puts over tcp: (indexes that payload was asked for, the answer)."""
    body = Put(keys, [100] * len(keys))
    number = client.start(Kind.PUT, body)
    granted: list[int] = []
    for _ in range(100):
        client.shard.settle()
        if not any(isinstance(one, PutGrant) for one in client.answers(number)):
            break
        for index in client.answer(number, PutGrant).indexes:
            granted.append(index)
            client.put_payload(number, body, index, bytes(100))
        client.session.turn_ended()
    return granted, client.answer(number, PutDone)


def test_over_tcp(shard: Shard) -> None:
    client = shard.client(shm=False)
    granted, done = put(client, [b"a", b"b"])
    assert granted == []
    assert (done.stored_count, done.exists_count, done.declined_count) == (0, 0, 2)
    assert done.declined == b"\3"
    assert client.ask(Kind.LOOKUP, Lookup([b"a"]), LookedUp).prefix == 0
    granted, done = put(client, [b"a", b"c"])
    assert granted == [0]
    assert (done.stored, done.declined) == (b"\1", b"\2")
    assert client.ask(Kind.LOOKUP, Lookup([b"a", b"c"]), LookedUp).prefix == 1
    granted, done = put(client, [b"a"])
    assert granted == []
    assert (done.exists_count, done.declined_count) == (1, 0)


@pytest.mark.parametrize("shm", [False, True])
def test_each_chunk_counts_by_its_own_position(shard: Shard, shm: bool) -> None:
    """Of a prefix over several shards each gets some chunks: they do not follow each other."""
    context = audit.context_of(shard.service.store)
    options = AdmissionOptions(Mode.SIZE_POSITION, position_max=10)
    context.admission = Admission(options, 1 << 30, context.written_bytes, context.now)
    client = shard.client(shm=shm)
    keys = [b"a", b"b", b"c"]
    lengths = [100] * 3
    if shm:
        client.region(1, 4096)
    sources = [[0, 100], [100, 100], [200, 100]] if shm else []
    body = Put(keys, lengths, region=int(shm), sources=sources, position=3, positions=[3, 50, 10])
    number = client.start(Kind.PUT, body)
    shard.settle()
    if not shm:
        for index in client.answer(number, PutGrant).indexes:
            client.put_payload(number, body, index, bytes(100))
        client.session.turn_ended()
        shard.settle()
    done = client.answer(number, PutDone)
    assert (done.stored, done.declined) == (b"\5", b"\2")
    wrong = Put(keys, lengths, region=int(shm), sources=sources, positions=[1, 2])
    assert "2 positions" in client.fails(Kind.PUT, wrong).message
