"""A shard that is told another part of its tenants' quotas: what its clients are told then, and what becomes of chunks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo.errors import ErrorCode
from mezzo.protocol.messages import Acquire, Acquired, Kind, LookedUp, Lookup, Put, PutDone
from mezzo_server.quota.part import NEWCOMER, POINTS, Part
from mezzo_server.tenancy.model import Limit, Quota, Tenant
from tests.unit.mezzo_server.shard_harness import FakeClient, Shard

LENGTH = 64 << 10
COUNT = 16
NAMES = [b"key-%d" % number for number in range(COUNT)]


@pytest.fixture
def shard() -> Iterator[Shard]:
    shard = Shard()
    yield shard
    shard.close()


def put(names: list[bytes], length: int = LENGTH) -> Put:
    places = [[number * length, length] for number in range(len(names))]
    return Put(keys=names, lengths=[length] * len(names), region=1, sources=places)


def stocked(shard: Shard, **limits: Limit) -> FakeClient:
    """A tenant of these limits with `COUNT` chunks, and a region."""
    client = shard.client()
    tenant = client.session.scope.tenant
    shard.service.accounts.tenants_are({tenant: Tenant(id=tenant, name="one", quota=Quota(**limits))})
    client.region(1, COUNT * LENGTH)
    assert client.ask(Kind.PUT, put(NAMES), PutDone).stored_count == COUNT
    return client


def part_is(shard: Shard, part: Part) -> list[bool]:
    done: list[bool] = []
    shard.service.accounts.part_is(part, lambda: done.append(True))
    return done


def here(client: FakeClient) -> list[int]:
    """Which of the chunks are there."""
    return [
        place for place, name in enumerate(NAMES) if client.ask(Kind.LOOKUP, Lookup([name]), LookedUp).prefix
    ]


def test_over_a_part_that_shrank_the_oldest_chunks_leave(shard: Shard) -> None:
    client = stocked(shard, capacity_bytes=Limit(0, COUNT * LENGTH))
    assert part_is(shard, Part(POINTS // 4)) == [True]
    shard.store.tick()
    shard.settle()
    assert here(client) == [12, 13, 14, 15]
    assert client.ask(Kind.PUT, put([b"more"]), PutDone).stored_count == 1
    assert len(here(client)) < 4
    part_is(shard, Part(POINTS // 2))
    assert client.ask(Kind.PUT, put([b"m-%d" % number for number in range(4)]), PutDone).stored_count == 4
    assert shard.service.accounts.used_bytes(client.session.scope.tenant) <= COUNT * LENGTH // 2


def test_nothing_leaves_before_all_is_settled(shard: Shard) -> None:
    """A shard that comes back to its pod has a small part until all have heard of it."""
    client = stocked(shard, capacity_bytes=Limit(0, 2 * COUNT * LENGTH))
    part_is(shard, NEWCOMER)
    shard.store.tick()
    shard.settle()
    assert here(client) == list(range(COUNT))
    assert client.ask(Kind.PUT, put([b"more"]), PutDone).stored_count == 1
    assert len(here(client)) >= COUNT - 3, "room for the new one, and no more"
    part_is(shard, Part(POINTS // 4, settled=False))
    part_is(shard, Part(POINTS // 2))
    shard.store.tick()
    shard.settle()
    assert len(here(client)) >= COUNT - 3


def test_a_put_over_the_part_may_be_tried_again_and_one_over_the_quota_may_not(shard: Shard) -> None:
    client = stocked(shard, capacity_bytes=Limit(0, COUNT * LENGTH))
    part_is(shard, Part(POINTS // 8))
    error = client.fails(Kind.PUT, put([b"a", b"b", b"c"]))
    assert error.code == ErrorCode.OVER_QUOTA
    assert "part" in error.message
    assert client.ask(Kind.PUT, put([b"long"], 8 * LENGTH), PutDone).stored_count == 1, "one chunk may"
    part_is(shard, Part(POINTS))
    client.region(2, 32 * LENGTH)
    whole = Put(keys=[b"x"], lengths=[17 * LENGTH], region=2, sources=[[0, 17 * LENGTH]])
    assert client.fails(Kind.PUT, whole).code == ErrorCode.TOO_LARGE


def test_a_lease_over_the_part_may_be_tried_again(shard: Shard) -> None:
    client = stocked(shard, leased_bytes=Limit(0, 8 * LENGTH))
    part_is(shard, Part(POINTS // 4))
    assert client.ask(Kind.ACQUIRE, Acquire(NAMES[:2], 1000), Acquired).prefix == 2
    assert client.fails(Kind.ACQUIRE, Acquire(NAMES[2:6], 1000)).code == ErrorCode.OVER_QUOTA
    assert client.fails(Kind.ACQUIRE, Acquire(NAMES[:9], 1000)).code == ErrorCode.TOO_LARGE
    tenant = client.session.scope.tenant
    part_is(shard, Part(POINTS // 4, {tenant: {2: POINTS}}))
    assert client.ask(Kind.ACQUIRE, Acquire(NAMES[2:6], 1000), Acquired).prefix == 4


def test_rates_follow_the_part(shard: Shard) -> None:
    client = stocked(shard)
    tenant = client.session.scope.tenant
    quota = Quota(requests_per_s=Limit(0, 16))
    shard.service.accounts.tenants_are({tenant: Tenant(id=tenant, name="one", quota=quota)})
    part_is(shard, Part(POINTS // 4))
    for _ in range(4):
        client.ask(Kind.LOOKUP, Lookup(NAMES), LookedUp)
    assert client.fails(Kind.LOOKUP, Lookup(NAMES)).code == ErrorCode.OVER_QUOTA
    part_is(shard, Part(POINTS // 4, {tenant: {4: POINTS}}))
    shard.clock.now += 1.0
    for _ in range(16):
        client.ask(Kind.LOOKUP, Lookup(NAMES), LookedUp)
    assert client.fails(Kind.LOOKUP, Lookup(NAMES)).code == ErrorCode.OVER_QUOTA
