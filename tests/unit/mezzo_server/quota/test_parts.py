"""A shard's part of quotas: what it enforces, and what it tells of its tenants."""

from __future__ import annotations

import pytest

from mezzo.errors import OverQuota
from mezzo_server.quota.account import LIMITS
from mezzo_server.quota.accounts import STEP_ACCOUNTS, Accounts
from mezzo_server.quota.part import NEWCOMER, POINTS, WHOLE, Part, default_points, equal_part
from mezzo_server.quota.wants import STEP_ACCOUNTS as LOOKED_AT_ONCE
from mezzo_server.quota.wants import Told, Wants
from mezzo_server.tenancy.model import Limit, Quota, Tenant

A, B = b"a" * 16, b"b" * 16
MIB = 1 << 20
LOOK_S = 10.0
QUARTER = Part(POINTS // 4)


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


class Node:
    """Accounts, and what their tenants use."""

    def __init__(self, part: Part = QUARTER, **limits: Limit) -> None:
        self.clock = Clock()
        self.accounts = Accounts(self.clock, part=part)
        self.used: dict[bytes, int] = {}
        self.accounts.used_bytes = lambda tenant: self.used.get(tenant, 0)
        self.allow(**limits)
        self.done = 0

    def allow(self, **limits: Limit) -> None:
        quota = Quota(**limits)
        self.accounts.tenants_are({one: Tenant(id=one, name="n" + one.hex(), quota=quota) for one in (A, B)})

    def part_is(self, part: Part) -> None:
        def done() -> None:
            self.done += 1

        self.accounts.part_is(part, done)


def test_of_several_shards_each_enforces_its_share_and_a_sixteenth_and_of_one_the_whole() -> None:
    quota = Quota(capacity_bytes=Limit(100 * MIB, 200 * MIB), requests_per_s=Limit(0, 1))
    assert equal_part(1).of(quota, A) is quota
    part = equal_part(4).of(quota, A)
    assert part.capacity_bytes.hard == pytest.approx(200 * MIB * 17 / 64, abs=200)
    assert part.requests_per_s == Limit(0, 1), "of a limit that there is at least 1 is left"
    assert part.hot_bytes == Limit(), "and of none there is none"
    assert sum(default_points(1, 7) for _ in range(7)) <= POINTS * 17 // 16


def test_a_part_of_nothing_is_no_limit_that_is_missing() -> None:
    assert Part(0).of(Quota(capacity_bytes=Limit(0, MIB)), A).capacity_bytes == Limit(0, 1)


def test_another_part_holds_at_once_and_a_tenant_may_have_one_of_its_own() -> None:
    node = Node(capacity_bytes=Limit(0, 4 * MIB), requests_per_s=Limit(0, 40))
    assert node.accounts.capacity_bytes_max(A) == MIB
    account = node.accounts.of(A)
    node.part_is(Part(POINTS // 4, {A: {0: POINTS // 2, 4: POINTS // 40}}))
    assert node.done == 1
    assert (node.accounts.capacity_bytes_max(A), node.accounts.capacity_bytes_max(B)) == (2 * MIB, MIB)
    account.charge(0, node.clock.now)
    with pytest.raises(OverQuota, match="requests_per_s: 1 are allowed"):
        account.charge(0, node.clock.now)
    node.allow(capacity_bytes=Limit(0, 8 * MIB))
    assert node.accounts.capacity_bytes_max(A) == 4 * MIB, "another quota needs no other parts"


def test_it_is_enforced_for_all_when_it_says_so_however_many_they_are() -> None:
    node = Node(capacity_bytes=Limit(0, 4 * MIB))
    others = [number.to_bytes(16, "big") for number in range(1, 3 * STEP_ACCOUNTS)]
    for other in others:
        node.accounts.of(other)
    node.accounts.of(A)
    node.part_is(Part(POINTS // 8))
    turns = 0
    while not node.done:
        node.accounts.tick()
        turns += 1
    assert turns == 2
    assert node.accounts.capacity_bytes_max(A) == MIB // 2
    node.accounts.tick()
    assert node.done == 1


def test_a_chunk_longer_than_a_part_may_be_put_but_nothing_over_the_quota() -> None:
    node = Node(capacity_bytes=Limit(0, 4 * MIB))
    assert node.accounts.capacity_bytes_for(A, 3 * MIB) == (3 * MIB, 4 * MIB)
    assert node.accounts.capacity_bytes_max(A) == 3 * MIB
    assert node.accounts.capacity_bytes_for(A, 5 * MIB) == (4 * MIB, 4 * MIB)
    node.allow(capacity_bytes=Limit(0, MIB))
    assert node.accounts.capacity_bytes_max(A) == MIB


def test_before_all_is_settled_a_tenant_keeps_what_it_has_and_gets_no_more() -> None:
    node = Node(NEWCOMER, capacity_bytes=Limit(MIB, 4 * MIB))
    node.used[A] = 3 * MIB
    assert node.accounts.capacity_bytes_max(A) == 3 * MIB
    node.accounts.stored = lambda: [A]
    node.accounts.capacity_bytes = 100 * MIB
    node.accounts.count_weights()
    node.used[A] = MIB
    assert node.accounts.within_quota(A)
    node.used[A] = 3 * MIB
    node.part_is(Part(POINTS // 8, settled=False))
    assert node.accounts.capacity_bytes_max(A) == 3 * MIB
    node.part_is(Part(POINTS // 4))
    assert node.accounts.capacity_bytes_max(A) == MIB


def test_parts_that_are_together_more_than_the_devices_promise_what_is_used_of_them() -> None:
    """By their slack, say: whoever is within his own keeps what he has as long as it is no more than what may be promised."""
    node = Node(Part(POINTS // 2), capacity_bytes=Limit(0, 160 * MIB))
    node.accounts.stored = lambda: [A, B]
    node.accounts.capacity_bytes = 200 * MIB  # of which 150 are promised, and the parts are 160
    node.used = {A: 80 * MIB, B: 60 * MIB}
    node.accounts.count_weights()
    assert node.accounts.within_quota(A)
    node.used[B] = 75 * MIB
    node.accounts.count_weights()
    assert not node.accounts.within_quota(A)


# -- what is told


def passes(wants: Wants, node: Node, seconds: float = 2 * LOOK_S) -> list[Told] | None:
    """What is told last in some time."""
    last = None
    until = node.clock.now + seconds
    while node.clock.now < until:
        node.clock.now += 0.5
        told = wants.tick(node.clock.now)
        last = last if told is None else told
    return last


def test_told_is_who_is_near_his_part_and_then_who_changes() -> None:
    node = Node(capacity_bytes=Limit(0, 4 * MIB))
    wants = Wants(node.accounts, lambda: 0.5, told_max=100, look_s=LOOK_S)
    node.used = {A: MIB // 2, B: MIB // 2}
    for one in (A, B):
        node.accounts.of(one)
    assert passes(wants, node) is None
    node.used[A] = MIB * 4 // 5
    assert passes(wants, node) == [(A, 0, POINTS // 5, POINTS // 5)]
    assert passes(wants, node) is None, "it is told already"
    node.used[A] = MIB
    [(_, _, used, wanted)] = passes(wants, node) or []
    assert used == POINTS // 4
    assert wanted == pytest.approx(1.5 * used), "it is full, so more is wanted"
    node.used[A] = 0
    passes(wants, node, 20 * LOOK_S)
    assert passes(wants, node) is None


def test_what_was_weighed_is_told_even_if_it_is_nothing() -> None:
    node = Node(Part(POINTS // 4, {A: {0: POINTS // 3}, B: {4: 7}}), capacity_bytes=Limit(0, 4 * MIB))
    wants = Wants(node.accounts, lambda: 0.5, told_max=100, look_s=LOOK_S)
    assert sorted(passes(wants, node) or []) == [(A, 0, 0, 0), (B, 4, 0, 0)]


def test_refusals_and_rates_are_what_more_is_wanted_for() -> None:
    node = Node(requests_per_s=Limit(0, 400), leased_bytes=Limit(0, 4 * MIB))
    wants = Wants(node.accounts, lambda: 0.5, told_max=100, look_s=LOOK_S)
    account = node.accounts.of(A)
    passes(wants, node)
    account.refusals[LIMITS[2]] += 1
    told = None
    while told is None:
        told = passes(wants, node, 0.5)
    assert told == [(A, 2, 0, POINTS // 4 + POINTS // 8)]
    assert passes(wants, node, 20 * LOOK_S) == [], "it fades away"
    told = None
    for _ in range(30):  # 90 in a second, of 100 that are this shard's
        node.clock.now += 1.0
        account.requests_total += 90
        told = wants.tick(node.clock.now) or told
    assert told is not None
    assert told[-1][2] == pytest.approx(POINTS * 90 / 400, rel=0.15)


def test_many_accounts_are_looked_at_some_at_a_time_and_the_fullest_are_told() -> None:
    node = Node(capacity_bytes=Limit(0, 4 * MIB))
    default = Quota(capacity_bytes=Limit(0, 4 * MIB))
    node.accounts = Accounts(node.clock, default, part=QUARTER)
    node.accounts.used_bytes = lambda tenant: int(MIB * (0.8 + int.from_bytes(tenant, "big") / 1e4))
    for number in range(5 * LOOKED_AT_ONCE):
        node.accounts.of(number.to_bytes(16, "big"))
    wants = Wants(node.accounts, lambda: 0.5, told_max=10, look_s=LOOK_S)
    turns, told = 0, None
    while told is None:
        told = wants.tick(node.clock.now)
        turns += 1
    assert turns >= 5
    assert {int.from_bytes(row[0], "big") for row in told} == set(range(310, 320))


def test_another_part_is_told_of_soon() -> None:
    node = Node(capacity_bytes=Limit(0, 4 * MIB))
    wants = Wants(node.accounts, lambda: 0.5, told_max=100, look_s=LOOK_S)
    passes(wants, node)
    node.part_is(Part(POINTS // 4, {A: {0: POINTS // 3}}))
    wants.soon(node.clock.now)
    assert passes(wants, node, 2.0) == [(A, 0, 0, 0)]


def test_the_whole_is_of_one_shard() -> None:
    assert WHOLE.points(A, 0) == POINTS
