"""A client that reads slowly, beside one that needs much memory at once: what becomes of all others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo.protocol.messages import ErrorReply, Get, Got, Kind, Put, PutDone, PutGrant
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.memory import Span
from tests.unit.mezzo_server.shard_harness import MIB, Clock, FakeClient, Shard, data_of, put_tcp
from tests.unit.mezzo_server.test_shard_tenancy import Node

LARGE = 3 * MIB
KEY = b"large"


class Device(MemoryDevice):
    """As a disk: what is read needs memory."""

    def borrow(self, offset: int, length: int) -> Span | None:
        return None


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node(Shard(device=lambda clock: Device(96 * MIB), store_staging_bytes=5 * MIB))
    yield node
    for client in node.shard.clients:
        client.reads = True
        client.close()
    node.shard.settle()
    assert node.shard.idle()
    node.shard.close()


def slow_reader(node: Node) -> FakeClient:
    """Of a chunk that is there; it holds some memory of the store's from now on."""
    client = node.client()
    assert put_tcp(client, {KEY: data_of(KEY, LARGE)}).stored_count == 1
    client.reads = False
    client.start(Kind.GET, Get([KEY]))
    node.shard.settle()
    assert node.shard.store_staging.pieces_taken > 1
    return client


def large_reader(node: Node) -> tuple[FakeClient, int]:
    """Of the same chunk, into a region that its bytes do not lie well in: it needs memory for all of it, and waits."""
    client = node.client()
    client.region(1, 4 * MIB)
    request = client.start(Kind.GET, Get([KEY], region=1, targets=[[1, LARGE]]))
    node.shard.settle()
    assert not client.answers(request)
    return client, request


def pass_time(node: Node, seconds: float) -> None:
    clock: Clock = node.shard.clock
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        node.shard.store.tick()
        node.shard.service.tick()
        node.shard.settle()


def seconds_to_put(node: Node, writer: FakeClient, key: bytes) -> float:
    """How long a put takes."""
    data = data_of(key, 10_000)
    body = Put([key], [len(data)])
    request = writer.start(Kind.PUT, body)
    node.shard.settle()
    writer.answer(request, PutGrant)
    writer.put_payload(request, body, 0, data)
    writer.session.turn_ended()
    node.shard.settle()
    began = node.shard.clock.now
    while not writer.answers(request):
        pass_time(node, 0.1)
    assert writer.answer(request, PutDone).stored_count == 1
    return node.shard.clock.now - began


@pytest.mark.parametrize("same", [True, False], ids=["of the same tenant", "of another tenant"])
def test_they_do_not_keep_puts_from_finishing(node: Node, same: bool) -> None:
    slow_reader(node)
    large, request = large_reader(node)
    writer = node.client(None if same else node.other)
    waits = []
    for number in range(80):
        waits.append(seconds_to_put(node, writer, b"k%d" % number))
        pass_time(node, 0.1)
    # His own tenant waits a while with the large reader, as it holds more than its share by then; no other does.
    assert sum(waits) <= (1.4 if same else 0)
    # The large reader was told that there is nothing to be had for it, rather than left to wait for ever.
    assert large.answer(request, Got).count == 0
    numbers = node.shard.service.numbers()
    assert numbers["store_staging_refused"] == numbers["gets_without_memory"] == 1
    assert numbers["chunks_corrupt"] == numbers["chunks_lost"] == 0


def test_the_large_reader_is_served_when_the_slow_one_has_read(node: Node) -> None:
    slow = slow_reader(node)
    large, request = large_reader(node)
    writer = node.client(node.other)
    for number in range(10):
        key = b"k%d" % number
        assert put_tcp(writer, {key: data_of(key, 10_000)}).stored_count == 1
    slow.reads = True
    node.shard.settle()
    assert large.answer(request, Got).lengths == [LARGE]


def test_a_stream_that_finds_no_memory_is_a_miss_and_the_chunk_is_not_suspected(node: Node) -> None:
    slow_reader(node)
    hoarded = []
    while (span := node.shard.store_staging.take(4096)) is not None:
        hoarded.append(span)
    client = node.client()
    request = client.start(Kind.GET, Get([KEY]))
    node.shard.settle()
    assert not client.answers(request)
    pass_time(node, 6)
    assert client.answer(request, Got).count == 0
    assert node.shard.service.numbers()["streams_not_verified"] == 0
    for span in hoarded:
        node.shard.store_staging.give(span)


def test_a_put_that_finds_no_memory_is_busy(node: Node) -> None:
    hoarded = []
    while (span := node.shard.store_staging.take(4096)) is not None:
        hoarded.append(span)
    client = node.client()
    region = client.region(1, MIB)
    region.write(0, data_of(b"k", 10_000))
    body = Put([b"k"], [10_000], region=1, sources=[[0, 10_000]])
    request = client.start(Kind.PUT, body)
    node.shard.settle()
    pass_time(node, 6)
    error = client.answer(request, ErrorReply)
    assert "no staging memory" in error.message
    assert error.retry_after_ms > 0
    for span in hoarded:
        node.shard.store_staging.give(span)
    assert client.ask(Kind.PUT, body, PutDone).stored_count == 1


def test_a_put_that_is_never_granted_anything_is_busy(node: Node) -> None:
    whole = []
    while (span := node.shard.staging.take(4096)) is not None:
        whole.append(span)
    client = node.client()
    request = client.start(Kind.PUT, Put([b"k", b"l"], [10_000, 10_000]))
    node.shard.settle()
    pass_time(node, 6)
    assert "no staging memory" in client.answer(request, ErrorReply).message
    assert client.session.share.bytes_held == 0
    for span in whole:
        node.shard.staging.give(span)
    assert put_tcp(client, {b"k": data_of(b"k", 10_000)}).stored_count == 1
