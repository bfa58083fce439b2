"""LOOKUP, ACQUIRE, LEASE_RENEW and RELEASE through a session, over a real store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo.errors import ErrorCode
from mezzo.protocol.messages import (
    Acquire,
    Acquired,
    Kind,
    LeaseRenew,
    LeaseRenewed,
    LookedUp,
    Lookup,
    Put,
    PutDone,
    Release,
    Released,
    Stat,
    Stated,
)
from mezzo_server.blockstore.api import Scope
from tests.unit.mezzo_server.shard_harness import FakeClient, Shard

CHUNK = 8192
KEYS = [b"a", b"b", b"c"]


@pytest.fixture
def shard() -> Iterator[Shard]:
    shard = Shard()
    yield shard
    shard.close()


@pytest.fixture
def client(shard: Shard) -> FakeClient:
    client = shard.client()
    region = client.region(1, len(KEYS) * CHUNK)
    extents = [[number * CHUNK, CHUNK] for number in range(len(KEYS))]
    client.ask(Kind.PUT, Put(KEYS, [CHUNK] * len(KEYS), [], 1, extents), PutDone)
    region.close()
    return client


def acquire(client: FakeClient, lease_ms: int = 1000) -> Acquired:
    return client.ask(Kind.ACQUIRE, Acquire(KEYS, lease_ms), Acquired)


def leased(client: FakeClient) -> list[bool]:
    chunks = client.ask(Kind.STAT, Stat(KEYS), Stated).chunks
    return [chunk is not None and chunk.leased for chunk in chunks]


def later(shard: Shard, seconds: float) -> None:
    shard.clock.now += seconds
    shard.service.tick()


def test_a_renewed_lease_outlives_its_first_time(shard: Shard, client: FakeClient) -> None:
    lease = acquire(client).lease
    later(shard, 0.75)
    assert client.ask(Kind.LEASE_RENEW, LeaseRenew(lease, 1000, bytes(16)), LeaseRenewed).lease_ms == 1000
    later(shard, 0.75)
    assert leased(client) == [True] * 3
    later(shard, 0.5)
    assert leased(client) == [False] * 3
    gone = client.fails(Kind.LEASE_RENEW, LeaseRenew(lease, 1000))
    assert (gone.code, "acquire again" in gone.message) == (ErrorCode.GONE, True)


def test_the_longest_lease_bounds_a_renewal(shard: Shard, client: FakeClient) -> None:
    lease = acquire(client).lease
    longest = shard.limits.lease_ms_max
    assert client.ask(Kind.LEASE_RENEW, LeaseRenew(lease, 2**32 - 1), LeaseRenewed).lease_ms == longest


def test_a_lease_of_another_life_is_gone_and_names_nobody_elses(shard: Shard, client: FakeClient) -> None:
    lease = acquire(client).lease
    other = b"another life of i"[:16]
    gone = client.fails(Kind.LEASE_RENEW, LeaseRenew(lease, 5000, other))
    assert (gone.code, "earlier life" in gone.message) == (ErrorCode.GONE, True)
    assert not client.ask(Kind.RELEASE, Release(lease, other), Released).held
    assert leased(client) == [True] * 3
    assert client.ask(Kind.RELEASE, Release(lease, bytes(16)), Released).held
    assert not client.ask(Kind.RELEASE, Release(lease, bytes(16)), Released).held


def test_numbers_of_leases_begin_elsewhere_in_each_life(client: FakeClient) -> None:
    number = acquire(client).lease
    other = Shard(incarnation=b"i" * 16)
    try:
        assert abs(other.service.leases._next - number) > 1 << 32
    finally:
        other.close()


def test_nobody_renews_anothers_lease(shard: Shard, client: FakeClient) -> None:
    lease = acquire(client).lease
    other = shard.client()
    assert other.fails(Kind.LEASE_RENEW, LeaseRenew(lease, 5000)).code == ErrorCode.GONE
    assert not other.ask(Kind.RELEASE, Release(lease), Released).held
    later(shard, 1.0)
    assert leased(client) == [False] * 3


def test_a_lookup_prolongs_nothing_and_is_no_use(shard: Shard, client: FakeClient) -> None:
    """Neither a lease, nor a place in the order of eviction."""
    acquire(client)
    namespace = shard.store._context.index.peek(client.session.scope)
    touched = [segment.table.touched.tobytes() for segment in shard.store._context.lives.values()]
    for _ in range(50):
        assert client.ask(Kind.LOOKUP, Lookup(KEYS), LookedUp).prefix == 3
    later(shard, 1.0)
    assert leased(client) == [False] * 3
    assert not namespace.pins
    assert [segment.table.touched.tobytes() for segment in shard.store._context.lives.values()] == touched


def test_a_tenants_leases_are_capped_by_its_share_and_its_quota(shard: Shard, client: FakeClient) -> None:
    leases = shard.service.leases
    leases.bytes_max = 100 * CHUNK
    shard.service.leased_quota = lambda tenant: 4 * CHUNK
    acquire(client)
    over = client.fails(Kind.ACQUIRE, Acquire(KEYS[:2], 1000))
    assert (over.code, over.retry_after_ms > 0) == (ErrorCode.OVER_QUOTA, True)
    assert client.ask(Kind.ACQUIRE, Acquire(KEYS[:1], 1000), Acquired).prefix == 1
    # Beside others nobody has all: another tenant's limit is its share, whatever the store's own has.
    share = leases._tenant_bytes_max
    assert share is not None
    shard.service.leased_quota = lambda tenant: 0
    assert share(client.session.scope.tenant) == 100 * CHUNK
    assert share(Scope(b"t" * 16, bytes(16)).tenant) == 50 * CHUNK
