"""What a session's requests are charged, and what its client is told."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mezzo.errors import ErrorCode, Gone
from mezzo.protocol.frame import Frame
from mezzo.protocol.messages import (
    Acquire,
    Acquired,
    Cancel,
    Cancelled,
    ErrorReply,
    Get,
    Got,
    Kind,
    LookedUp,
    Lookup,
    Ping,
    Pong,
    Put,
    PutDone,
    RegionAdd,
    RegionAdded,
    Release,
    Released,
)
from mezzo_server.tenancy.model import Limit, Quota, Tenant
from tests.unit.mezzo_server.shard_harness import ClientRegion, FakeClient, Shard

LENGTH = 64 << 10


@pytest.fixture
def shard() -> Iterator[Shard]:
    shard = Shard()
    yield shard
    shard.close()


def allow(shard: Shard, client: FakeClient, **limits: Limit) -> None:
    tenant = client.session.scope.tenant
    shard.service.accounts.tenants_are({tenant: Tenant(id=tenant, name="one", quota=Quota(**limits))})


def stocked(shard: Shard, count: int) -> tuple[FakeClient, list[bytes]]:
    client = shard.client()
    region = client.region(1, count * LENGTH)
    names = [b"key-%d" % number for number in range(count)]
    done = client.ask(Kind.PUT, put(names), PutDone)
    assert done.stored_count == count
    region.close()
    return client, names


def put(names: list[bytes]) -> Put:
    places = [[number * LENGTH, LENGTH] for number in range(len(names))]
    return Put(keys=names, lengths=[LENGTH] * len(names), region=1, sources=places)


def get(names: list[bytes]) -> Get:
    return Get(keys=names, region=1, targets=[[number * LENGTH, LENGTH] for number in range(len(names))])


def test_requests_over_the_rate_are_refused_with_the_time_to_come_back(shard: Shard) -> None:
    client, names = stocked(shard, 2)
    allow(shard, client, requests_per_s=Limit(0, 5))
    for _ in range(5):
        assert client.ask(Kind.LOOKUP, Lookup(names), LookedUp).prefix == 2
    error = client.fails(Kind.LOOKUP, Lookup(names))
    assert error.code == ErrorCode.OVER_QUOTA
    assert "requests_per_s" in error.message
    assert error.retry_after_ms == 200
    client.ask(Kind.PING, Ping(), Pong)  # is free
    shard.clock.now += 0.2001
    assert client.ask(Kind.LOOKUP, Lookup(names), LookedUp).prefix == 2


def test_what_was_got_is_charged_and_what_was_not_there_is_not(shard: Shard) -> None:
    client, names = stocked(shard, 4)
    allow(shard, client, bytes_per_s=Limit(0, 4 * LENGTH))
    absent = [b"absent-%d" % number for number in range(4)]
    for _ in range(3):
        assert client.ask(Kind.GET, get(absent), Got).count == 0
    assert client.ask(Kind.GET, get(names), Got).count == 4
    error = client.fails(Kind.GET, get(names))
    assert error.code == ErrorCode.OVER_QUOTA
    assert error.retry_after_ms == 1000
    shard.clock.now += 1.0001
    assert client.ask(Kind.GET, get(names), Got).count == 4


def test_a_put_of_what_is_there_costs_no_bytes(shard: Shard) -> None:
    client, names = stocked(shard, 4)
    allow(shard, client, bytes_per_s=Limit(0, 4 * LENGTH))
    for _ in range(5):
        assert client.ask(Kind.PUT, put(names), PutDone).exists_count == 4
    fresh = [b"fresh-%d" % number for number in range(4)]
    assert client.ask(Kind.PUT, put(fresh), PutDone).stored_count == 4
    assert client.fails(Kind.PUT, put([b"more"])).code == ErrorCode.OVER_QUOTA


def test_a_request_that_fails_gives_its_bytes_back(shard: Shard) -> None:
    client, names = stocked(shard, 4)
    allow(shard, client, bytes_per_s=Limit(0, 4 * LENGTH))
    for _ in range(5):
        wrong = Put(keys=names, lengths=[LENGTH] * 4, region=9, sources=[[0, LENGTH]] * 4)
        assert client.fails(Kind.PUT, wrong).code == ErrorCode.REGION
    assert client.ask(Kind.GET, get(names), Got).count == 4


@pytest.mark.parametrize("shm", [True, False])
@pytest.mark.parametrize("end", ["cancel", "close"])
def test_who_gives_a_get_up_pays_for_what_he_has_got(shard: Shard, shm: bool, end: str) -> None:
    """The bytes are in his region, or have come over the stream, when CANCELLED is sent."""
    client, names = stocked(shard, 4)
    if not shm:
        client = shard.client(shm=False)
    allow(shard, client, bytes_per_s=Limit(0, 4 * LENGTH))
    request = client.start(Kind.GET, get(names) if shm else Get(keys=names))
    if not shm:
        shard.store.pump()
        client.turn()
    if end == "cancel":
        client.session.receive(Frame(Kind.CANCEL, request, Cancel()))
        shard.settle()
        client.answer(request, Cancelled)
    else:
        client.close()
        shard.settle()
    other = shard.client(shm=False)
    error = other.fails(Kind.GET, Get(keys=names))
    assert error.code == ErrorCode.OVER_QUOTA


def test_the_descriptor_of_a_refused_request_is_not_taken_for_the_next_ones(shard: Shard) -> None:
    client = shard.client()
    allow(shard, client, requests_per_s=Limit(0, 1))
    other, mine = ClientRegion(LENGTH, sealed=True), ClientRegion(LENGTH, sealed=True)
    for region in (other, mine):
        region.write(0, b"other" if region is other else b"mine!")
    client.ask(Kind.LOOKUP, Lookup([b"a"]), LookedUp)
    client.descriptors.append(os.dup(other.fd))
    assert client.fails(Kind.REGION_ADD, RegionAdd(1, 0, LENGTH)).code == ErrorCode.OVER_QUOTA
    shard.clock.now += 1.0001
    client.descriptors.append(os.dup(mine.fd))
    client.ask(Kind.REGION_ADD, RegionAdd(2, 0, LENGTH), RegionAdded)
    assert not client.descriptors
    assert bytes(client.session.regions.get(2).spans([0, 5])[0].view) == b"mine!"
    for region in (other, mine):
        region.close()


def test_requests_under_way_count(shard: Shard) -> None:
    """A burst of gets does not pass because none of them has ended yet."""
    client, names = stocked(shard, 4)
    allow(shard, client, bytes_per_s=Limit(0, 4 * LENGTH))
    first = client.start(Kind.GET, get(names))
    second = client.start(Kind.GET, get(names))
    shard.settle()
    assert client.answer(first, Got).count == 4
    assert client.answer(second, ErrorReply).code == ErrorCode.OVER_QUOTA


def test_all_connections_of_a_tenant_share_its_quota(shard: Shard) -> None:
    client, names = stocked(shard, 1)
    allow(shard, client, requests_per_s=Limit(0, 4))
    others = [shard.client() for _ in range(8)]
    outcomes = []
    for other in others:
        request = other.start(Kind.LOOKUP, Lookup(names))
        shard.settle()
        outcomes += [type(body) for body in other.answers(request)]
    assert outcomes.count(LookedUp) == 4
    assert outcomes.count(ErrorReply) == 4


def test_leases_have_a_limit_for_each_tenant(shard: Shard) -> None:
    client, names = stocked(shard, 4)
    allow(shard, client, leased_bytes=Limit(0, 3 * LENGTH))
    first = client.ask(Kind.ACQUIRE, Acquire(names[:2], 1000), Acquired)
    error = client.fails(Kind.ACQUIRE, Acquire(names[2:], 1000))
    assert error.code == ErrorCode.OVER_QUOTA
    assert f"its limit ({3 * LENGTH})" in error.message
    assert client.session.meter.account.refusals["leased_bytes"] == 1
    assert error.retry_after_ms > 0
    client.ask(Kind.RELEASE, Release(first.lease), Released)
    assert client.ask(Kind.ACQUIRE, Acquire(names[2:], 1000), Acquired).lease
    shard.clock.now += 2
    shard.service.tick()
    leased = shard.service.accounts.leased_bytes
    assert leased(client.session.scope.tenant) == 0, "they expired"
    client.ask(Kind.ACQUIRE, Acquire(names[:3], 1000), Acquired)
    client.close()
    assert leased(client.session.scope.tenant) == 0, "its connection ended"


def test_no_byte_is_asked_for_that_there_would_be_no_room_for(shard: Shard) -> None:
    client = shard.client()
    allow(shard, client, capacity_bytes=Limit(0, 2 * LENGTH))
    error = client.fails(Kind.PUT, Put(keys=[b"a", b"b", b"c"], lengths=[LENGTH] * 3))
    assert error.code == ErrorCode.TOO_LARGE
    assert "capacity_bytes" in error.message


def test_a_closed_session_gives_back_what_it_reserved(shard: Shard) -> None:
    client, names = stocked(shard, 4)
    allow(shard, client, bytes_per_s=Limit(0, 4 * LENGTH))
    client.start(Kind.GET, get(names))
    client.close()
    shard.settle()
    other = shard.client()
    other.region(1, 4 * LENGTH)
    # Only what had been read for it counts, and not what was reserved as well.
    shard.clock.now += 1.0001
    assert other.ask(Kind.GET, get(names), Got).count == 4


def test_what_a_tenant_does_is_counted(shard: Shard) -> None:
    client, names = stocked(shard, 4)
    account = client.session.meter.account
    assert account.bytes_total == 4 * LENGTH
    before = account.requests_total
    client.ask(Kind.GET, get(names), Got)
    assert account.bytes_total == 8 * LENGTH
    assert account.requests_total == before + 1


def test_clients_that_keep_an_arena_mapped_which_another_tenant_has_a_right_to_are_ended() -> None:
    shard = Shard(hot_bytes=8 << 20)
    client, other = shard.client(), shard.client()
    client.region(1, LENGTH)
    assert client.ask(Kind.PUT, put([b"hot"]), PutDone).stored_count == 1
    hot = shard.hot
    assert hot is not None
    number = next(iter(hot.arenas())).number
    hot.memory.lend(number, client.session)
    hot.lent_wanted = number
    shard.service.tick()
    shard.clock.now += 100.0  # and for another one much later
    for _ in range(3):  # it may be wanted for a moment only
        hot.lent_wanted = number
        shard.service.tick()
        assert client.refused is None
        shard.clock.now += 0.4
    hot.lent_wanted = number
    shard.service.tick()
    assert isinstance(client.refused, Gone)
    assert other.refused is None
    assert hot.memory.borrowers(number) == ()
    assert shard.service.counters["connections_ended_lent"] == 1
    shard.close()
