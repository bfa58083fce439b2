from __future__ import annotations

import pytest

from mezzo.errors import OverQuota
from mezzo_server.quota.account import merged
from mezzo_server.quota.accounts import OTHERS, TOLD_MAX, Accounts
from mezzo_server.quota.telling import tables
from mezzo_server.tenancy.model import Limit, Quota, Tenant

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def tenant(tenant_id: bytes, *, weight: int = 1, **limits: Limit) -> Tenant:
    return Tenant(id=tenant_id, name=f"tenant-{tenant_id[:1].decode()}", weight=weight, quota=Quota(**limits))


def accounts_of(*tenants: Tenant, default: Quota | None = None) -> tuple[Accounts, Clock]:
    clock = Clock()
    accounts = Accounts(clock, default)
    accounts.tenants_are({tenant.id: tenant for tenant in tenants})
    return accounts, clock


def test_a_refusal_names_the_limit_and_says_exactly_when_to_come_back() -> None:
    accounts, clock = accounts_of(tenant(A, requests_per_s=Limit(0, 4)))
    account = accounts.of(A)
    for _ in range(4):
        account.charge(0, clock.now)
    with pytest.raises(OverQuota, match=r"requests_per_s: 4 are allowed") as refused:
        account.charge(0, clock.now)
    assert refused.value.retry_after_s == pytest.approx(0.25)
    clock.now += refused.value.retry_after_s + 1e-9
    account.charge(0, clock.now)
    assert account.refusals["requests_per_s"] == 1


def test_who_is_of_no_tenant_has_a_name_too() -> None:
    nobody = bytes(16)
    accounts, _ = accounts_of(tenant(A))
    assert [accounts.of(one).name for one in (A, B, nobody)] == ["tenant-a", "62626262", "(operators)"]
    assert accounts_of()[0].of(nobody).name == "(everybody)"


def test_what_is_refused_is_not_charged() -> None:
    accounts, clock = accounts_of(tenant(A, requests_per_s=Limit(0, 2), bytes_per_s=Limit(0, 1000)))
    account = accounts.of(A)
    account.charge(1000, clock.now)
    for _ in range(5):
        with pytest.raises(OverQuota, match="bytes_per_s"):
            account.charge(1000, clock.now)
    account.charge(0, clock.now)  # the second request is still there


def test_the_longer_of_two_waits_is_told() -> None:
    accounts, clock = accounts_of(tenant(A, requests_per_s=Limit(0, 1), bytes_per_s=Limit(0, 100)))
    account = accounts.of(A)
    account.charge(1000, clock.now)
    with pytest.raises(OverQuota, match="bytes_per_s") as refused:
        account.charge(100, clock.now)
    assert refused.value.retry_after_s == pytest.approx(10.0)


def test_bytes_that_did_not_move_are_given_back() -> None:
    accounts, clock = accounts_of(tenant(A, bytes_per_s=Limit(0, 1000)))
    account = accounts.of(A)
    account.charge(1000, clock.now)
    account.settle(-900, clock.now)
    account.charge(900, clock.now)
    with pytest.raises(OverQuota):
        account.charge(1, clock.now)


def test_over_a_soft_rate_a_tenant_is_behind_and_soon_not_any_more() -> None:
    accounts, clock = accounts_of(tenant(A, requests_per_s=Limit(10, 0)))
    account = accounts.of(A)
    for _ in range(10):
        account.charge(0, clock.now)
    assert not accounts.behind(A)
    for _ in range(1000):
        account.charge(0, clock.now)
    assert accounts.behind(A)
    clock.now += 1.01
    assert not accounts.behind(A)


def test_leased_bytes_have_a_limit_of_their_own() -> None:
    accounts, _ = accounts_of(tenant(A, leased_bytes=Limit(50, 100)))
    assert accounts.leased_bytes_max(A) == 100
    assert accounts.leased_bytes_max(B) == 0
    leased = {A: 50, B: 1000}
    accounts.leased_bytes = lambda one: leased[one]
    assert not accounts.behind(A)
    assert not accounts.behind(B)
    leased[A] = 51
    assert accounts.behind(A)


def test_the_default_holds_where_a_tenant_has_nothing_of_its_own() -> None:
    default = Quota(capacity_bytes=Limit(1, 2), bytes_per_s=Limit(3, 4))
    own = Quota(capacity_bytes=Limit(0, 9))
    assert merged(own, default) == Quota(capacity_bytes=Limit(0, 9), bytes_per_s=Limit(3, 4))
    accounts, _ = accounts_of(tenant(A, capacity_bytes=Limit(0, 9)), default=default)
    assert accounts.capacity_bytes_max(A) == 9
    assert accounts.capacity_bytes_max(B) == 2, "nobody knows B: the default"


def test_a_quota_that_changes_holds_at_once() -> None:
    accounts, clock = accounts_of(tenant(A))
    account = accounts.of(A)
    assert not account.limited
    accounts.tenants_are({A: tenant(A, weight=7, requests_per_s=Limit(0, 1))})
    assert accounts.of(A) is account
    assert account.limited
    assert accounts.weight(A) == 7
    account.charge(0, clock.now)
    with pytest.raises(OverQuota):
        account.charge(0, clock.now)
    accounts.tenants_are({})
    account.charge(0, clock.now)


def test_over_a_soft_limit_of_capacity_a_tenant_is_behind_and_over_its_share_alone_not() -> None:
    accounts, _ = accounts_of(tenant(A, capacity_bytes=Limit(100, 0)), tenant(B), tenant(C))
    used = {A: 100, B: 700, C: 100}
    accounts.used_bytes = lambda one: used[one]
    accounts.stored = lambda: [A, B, C]
    accounts.capacity_bytes = 1000
    accounts.count_weights()
    assert accounts.over_share(B)
    assert not accounts.behind(B), "it has no limit"
    assert not accounts.behind(A)
    used[A] = 101
    assert accounts.behind(A)


def test_shares_by_quota_and_by_weight() -> None:
    accounts, _ = accounts_of(
        tenant(A, capacity_bytes=Limit(100, 0)), tenant(B, weight=3), tenant(C, capacity_bytes=Limit(0, 40))
    )
    used = {A: 101, B: 500, C: 39}
    accounts.used_bytes = lambda one: used.get(one, 0)
    accounts.capacity_bytes = 1000
    assert accounts.over_share(A)
    assert not accounts.over_share(C)
    used[C] = 41
    assert accounts.over_share(C)
    assert not accounts.over_share(B), "as far as is known it is alone"
    accounts.stored = lambda: [A, B, C]
    accounts.count_weights()
    used[B] = 599
    assert not accounts.over_share(B), "3 of 5 parts"
    used[B] = 601
    assert accounts.over_share(B)


def test_a_bounded_number_of_tenants_is_told_of() -> None:
    accounts, _ = accounts_of()
    for number in range(TOLD_MAX + 50):
        account = accounts.of(number.to_bytes(16, "big"))
        account.name = f"t{number}"
        account.requests_total = 10 if number >= 50 else 1
        account.bytes_total = 1
    told = tables(accounts, {bytes(16): (7, 0.5), b"": (3, 0.25)})
    assert told["tenant_device_bytes"] == {(OTHERS,): 7, ("(background)",): 3}
    assert told["tenant_device_wait"] == {(OTHERS,): 0.5, ("(background)",): 0.25}
    assert told["tenant_requests"][OTHERS,] == 50
    assert told["tenant_requests"]["t60",] == 10
    assert len(told["tenant_requests"]) == TOLD_MAX + 1
    assert sum(told["tenant_payload"].values()) == TOLD_MAX + 50


def test_limits_and_refusals_are_told() -> None:
    accounts, clock = accounts_of(tenant(A, requests_per_s=Limit(5, 1), hot_bytes=Limit(7, 0)))
    account = accounts.of(A)
    account.charge(0, clock.now)
    with pytest.raises(OverQuota):
        account.charge(0, clock.now)
    told = tables(accounts, {})
    assert told["tenant_limits"] == {
        ("tenant-a", "hot_bytes", "soft"): 7,
        ("tenant-a", "requests_per_s", "soft"): 5,
        ("tenant-a", "requests_per_s", "hard"): 1,
    }
    assert told["tenant_refusals"]["tenant-a", "requests_per_s"] == 1
