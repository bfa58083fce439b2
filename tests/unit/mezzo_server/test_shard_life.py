"""Deadlines and priorities as sessions set and see them: each transport, and what the catalog allows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from mezzo.protocol.messages import (
    Acquire,
    Acquired,
    Get,
    Got,
    Kind,
    LookedUp,
    Lookup,
    Put,
    PutDone,
    PutGrant,
    Stat,
    Stated,
)
from mezzo_server.tenancy.model import Lifetime
from tests.unit.mezzo_server.shard_harness import FakeClient, Shard
from tests.unit.mezzo_server.test_shard_tenancy import Node

KEYS = [b"k1", b"k2"]
DATA = b"d" * 5000


@pytest.fixture
def shard() -> Iterator[Shard]:
    shard = Shard(hot_bytes=8 << 20)
    yield shard
    shard.close()


def put(client: FakeClient, way: str = "tcp", keys: list[bytes] = KEYS, **terms: int) -> None:
    lengths = [len(DATA)] * len(keys)
    if way != "tcp":
        region = client.region(1, 2 * 8192, sealed=way == "shm")
        for index in range(len(keys)):
            region.write(index * 8192, DATA)
        sources = [[index * 8192, len(DATA)] for index in range(len(keys))]
        client.ask(Kind.PUT, Put(keys, lengths, region=1, sources=sources, **terms), PutDone)
        region.close()
        return
    body = Put(keys, lengths, **terms)
    request = client.start(Kind.PUT, body)
    client.shard.settle()
    client.answer(request, PutGrant)
    for index in range(len(keys)):
        client.put_payload(request, body, index, DATA)
    client.session.turn_ended()
    client.shard.settle()
    client.answer(request, PutDone)


def stat(client: FakeClient, key: bytes = KEYS[0]) -> tuple[int, int] | None:
    """(milliseconds left, priority)"""
    found = client.ask(Kind.STAT, Stat([key]), Stated).chunks[0]
    return None if found is None else (found.ttl_ms, found.priority)


@pytest.mark.parametrize("way", ["tcp", "shm", "fd"])
def test_a_put_sets_them_over_every_transport(shard: Shard, way: str) -> None:
    client = shard.client()
    put(client, way, ttl_ms=60_000, priority=6)
    assert stat(client) == (60_000, 6)
    shard.clock.now += 59
    assert stat(client) == (1000, 6)
    assert client.ask(Kind.LOOKUP, Lookup(KEYS), LookedUp).prefix == 2
    shard.clock.now += 1
    assert stat(client) is None
    assert client.ask(Kind.LOOKUP, Lookup(KEYS), LookedUp) == LookedUp(0, 0, 0)
    assert client.ask(Kind.GET, Get(KEYS, capacities=[8192] * 2), Got).lengths == [0, 0]
    assert client.ask(Kind.ACQUIRE, Acquire(KEYS, 1000), Acquired).prefix == 0
    shard.clock.now += 1
    shard.store.tick()
    shard.settle()
    assert shard.service.numbers()["chunks_expired"] == 2
    assert shard.service.numbers()["chunks"] == 0


def test_without_a_wish_a_chunk_has_no_end(shard: Shard) -> None:
    client = shard.client()
    put(client)
    assert stat(client) == (-1, 3)
    shard.clock.now += 10**9
    assert stat(client) == (-1, 3)


def test_a_lease_does_not_outlast_the_deadline(shard: Shard) -> None:
    client = shard.client()
    put(client, ttl_ms=10_000)
    assert client.ask(Kind.ACQUIRE, Acquire(KEYS, 60_000), Acquired).prefix == 2
    shard.clock.now += 10
    assert client.ask(Kind.GET, Get(KEYS, capacities=[8192] * 2), Got).lengths == [0, 0]
    shard.store.tick()
    shard.clock.now += 1
    shard.store.tick()
    shard.settle()
    client.close()
    assert shard.service.numbers()["leased_bytes"] == 0


def test_what_namespace_and_tenant_say() -> None:
    node = Node()
    client = node.client()
    put(client, keys=[b"before"])
    tenant = node.tenant.id
    node.do(node.registry.set_tenant("acme", lambda was: replace(was, lifetime=Lifetime(ttl_s_max=100))))
    life = Lifetime(ttl_s_default=10, ttl_s_max=50)
    node.do(node.registry.set_namespace(tenant, "default", lambda was: replace(was, lifetime=life)))
    node.tell()
    put(client, keys=[b"default"])
    put(client, keys=[b"wish"], ttl_ms=20_000)
    put(client, keys=[b"ceiling"], ttl_ms=1_000_000)
    assert [stat(client, key) for key in (b"before", b"default", b"wish", b"ceiling")] == [
        (-1, 3),
        (10_000, 3),
        (20_000, 3),
        (50_000, 3),
    ]
    node.shard.close()
