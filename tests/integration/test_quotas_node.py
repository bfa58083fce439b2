"""Quotas from the metadata to a client: what an operator sets holds for a tenant's calls, and for nobody else's."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from msgspec import structs

from mezzo import Client
from mezzo.errors import OverQuota, TooLarge
from mezzo_server.tenancy.model import Limit, Quota
from tests.integration.tenants import Tenants, tenants
from tests.patience import eventually

CHUNK = bytes(range(256)) * 1024


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    with tenants(tmp_path_factory.mktemp("quotas")) as node:
        yield node


def allow(node: Tenants, name: str, **limits: Limit) -> None:
    node.do(
        lambda registry: registry.set_tenant(
            name, lambda tenant: structs.replace(tenant, quota=Quota(**limits))
        )
    )


def refused(client: Client) -> OverQuota:
    """What a client that asks again and again is told, once the shard has heard of its limit."""

    def told() -> OverQuota | None:
        for _ in range(100):
            try:
                client.lookup([b"key"])
            except OverQuota as error:
                return error
        return None

    return eventually(told, "it is refused")


def test_a_limit_of_requests_holds_for_its_tenant_alone(node: Tenants) -> None:
    allow(node, "a", requests_per_s=Limit(0, 20))
    with node.client("a") as limited, node.client("b") as other:
        error = refused(limited)
        assert "requests_per_s: 20 are allowed" in str(error)
        assert 0 < error.retry_after_s <= 0.06
        for _ in range(60):
            other.lookup([b"key"])
        time.sleep(error.retry_after_s + 0.01)
        limited.lookup([b"key"])
    with node.client("a", way="proxy") as limited:
        assert "requests_per_s" in str(refused(limited)), "through the front-end as well"
    allow(node, "a")


def too_large(client: Client) -> bool:
    """Whether what is over the capacity is refused as such."""
    try:
        client.put([b"large"], [CHUNK * 17])
    except TooLarge:
        return True
    client.delete([b"large"])
    return False


def test_a_tenant_over_its_capacity_keeps_its_newest_chunks(node: Tenants) -> None:
    allow(node, "b", capacity_bytes=Limit(0, 4 << 20))
    names = [b"chunk-%d" % number for number in range(64)]
    with node.client("b") as client:
        eventually(lambda: too_large(client), "the shard hears of it")
        for name in names:
            for _ in range(50):
                try:
                    client.put([name], [CHUNK])
                except OverQuota as error:
                    time.sleep(error.retry_after_s)
                else:
                    break
            else:
                raise AssertionError(f"{name!r} never fits")
        there = [client.lookup([name]).prefix for name in names]
    assert 12 <= sum(there) <= 16
    assert there == sorted(there), "the newest are there"
    allow(node, "b")
