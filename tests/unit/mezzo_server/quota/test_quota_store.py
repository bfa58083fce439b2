"""Quotas and the store together: reclaim asks the accounts, and the accounts count what is in the store."""

from __future__ import annotations

import pytest

from mezzo_server.blockstore.api import PutStatus, Scope
from mezzo_server.config import Limits
from mezzo_server.quota.part import POINTS, WHOLE, Part
from mezzo_server.shard.service import Service
from mezzo_server.staging import StagingPool
from mezzo_server.tenancy.model import Limit, Quota, Tenant
from tests.simulation.rig import Rig, content

MIB = 1 << 20
MINE, LOUD = Scope(b"m" * 16, b"n" * 16), Scope(b"l" * 16, b"n" * 16)
LENGTH = 20_000
KEYS = [b"mine-%d" % number for number in range(24)]


def tenants(quota: int) -> dict[bytes, Tenant]:
    mine = Tenant(id=MINE.tenant, name="mine", quota=Quota(capacity_bytes=Limit(quota, quota)))
    return {MINE.tenant: mine, LOUD.tenant: Tenant(id=LOUD.tenant, name="loud")}


def service_of(rig: Rig) -> Service:
    return Service(
        rig.store,
        StagingPool(MIB, now=lambda: rig.time),
        Limits(),
        block_bytes=4096,
        incarnation=bytes(16),
        now=lambda: rig.time,
        poke=lambda: None,
    )


def flooded(quota: int, part: Part = WHOLE) -> tuple[Rig, Service]:
    """Mine lie among others' chunks, segment by segment; then others put three times what the device holds."""
    rig = Rig(segments=20)
    service = service_of(rig)
    service.accounts.tenants_are(tenants(quota))
    service.accounts.part_is(part, lambda: None)
    for number, key in enumerate(KEYS):
        assert rig.put(key, LENGTH, MINE) is PutStatus.STORED
        rig.fill(f"near-{number}", 6, LENGTH, LOUD)
    for number in range(60):
        rig.time += 1.0
        service.tick()
        rig.store.tick()
        rig.fill(f"far-{number}", 12, LENGTH, LOUD)
    rig.drain()
    return rig, service


def test_within_its_part_of_a_quota_of_a_pod_it_keeps_it_too() -> None:
    rig, service = flooded(8 * MIB, Part(POINTS // 8))
    assert rig.counters["chunks_evicted"] > 300
    assert [key for key in KEYS if rig.has(key, MINE)] == KEYS
    service.accounts.part_is(Part(POINTS // 32), lambda: None)
    rig.store.tick()
    rig.drain()
    assert 0 < sum(rig.has(key, MINE) for key in KEYS) <= 12, "what a part that shrank has room for"


@pytest.mark.parametrize("quota", [MIB, 0])
def test_within_its_quota_a_tenant_keeps_what_lay_among_a_flood(quota: int) -> None:
    rig, service = flooded(quota)
    assert rig.counters["chunks_evicted"] > 300
    left = [key for key in KEYS if rig.has(key, MINE)]
    if quota:
        assert left == KEYS
        assert all(rig.get(key, MINE) == content(key, LENGTH) for key in KEYS)
        assert service.accounts.within_quota(MINE.tenant)
    else:
        assert len(left) < len(KEYS), "nothing but the quota keeps them"


def test_what_the_accounts_say_is_used_follows_whatever_becomes_of_chunks() -> None:
    rig = Rig(segments=20)
    service = service_of(rig)

    def used() -> int:
        return service.accounts.used_bytes(MINE.tenant)

    size = -(-LENGTH // 4096) * 4096
    keys = rig.fill("k", 8, LENGTH, MINE)
    rig.fill("t", 2, LENGTH, MINE, ttl_s=5)
    assert used() == 10 * size
    rig.put(keys[0], LENGTH, MINE)
    assert used() == 10 * size, "it is there already"
    rig.delete(keys[0], keys[1], scope=MINE)
    assert used() == 8 * size
    rig.time += 6.0
    rig.drain()
    assert used() == 6 * size, "two expired"
    for how in ("kill", "close"):
        rig.restart(how)
        service = service_of(rig)
        assert used() == 6 * size
    rig.erase(MINE)
    rig.drain()
    assert used() == 0
    assert MINE.tenant not in rig.store.space.tenants()
    rig.restart("kill")
    service = service_of(rig)
    assert used() == 0
