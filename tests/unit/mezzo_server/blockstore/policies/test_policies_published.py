"""Each policy on a log of one-chunk segments against the plain form of the algorithm that it is named after."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument
from mezzo_server.blockstore.policies import POLICIES, policy
from mezzo_server.blockstore.policies.ghost import Ghost
from mezzo_server.blockstore.policies.lru import Lru
from mezzo_server.blockstore.policies.rewrites import RewriteBudget
from tests.unit.mezzo_server.blockstore.policies.published import (
    Clock,
    LeastRecentlyUsed,
    S3Queues,
    SieveQueue,
)
from tests.unit.mezzo_server.blockstore.policies.ring import Ring

Model = Clock | LeastRecentlyUsed | SieveQueue | S3Queues
MODELS: dict[str, Callable[[int], Model]] = {
    "fifo": Clock,
    "lru": LeastRecentlyUsed,
    "sieve": SieveQueue,
    "s3fifo": S3Queues,
}


@pytest.mark.parametrize("name", MODELS)
@given(asked=st.lists(st.integers(0, 11), max_size=120), capacity=st.integers(2, 8))
@settings(max_examples=60)
def test_same_as_published(name: str, asked: list[int], capacity: int) -> None:
    ring, model = Ring(policy(name), capacity), MODELS[name](capacity)
    for number in asked:
        key = b"key-%d" % number
        assert ring.ask(key) == model.ask(key)
        assert ring.keys == model.keys


@pytest.mark.parametrize("name", MODELS)
def test_same_as_published_for_long(name: str) -> None:
    randomness = random.Random(3)
    ring, model = Ring(policy(name), 20), MODELS[name](20)
    for _ in range(2000):
        key = b"key-%d" % int(randomness.paretovariate(0.6) % 60)
        assert ring.ask(key) == model.ask(key)
    assert ring.keys == model.keys


def test_lru_does_not_run_out_of_stamps() -> None:
    ring = Ring(Lru(stamp_max=1 << 10), 20)
    for number in range(1200):
        assert ring.ask(b"hot") or not number
        ring.ask(b"cold-%d" % number)


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(asked=st.lists(st.integers(0, 30), max_size=150), capacity=st.integers(2, 12))
@settings(max_examples=30)
def test_every_policy_makes_room(name: str, asked: list[int], capacity: int) -> None:
    ring = Ring(policy(name), capacity)
    for number in asked:
        ring.ask(b"key-%d" % number)
        assert len(ring.segments) <= capacity
        assert b"key-%d" % number in ring.keys


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(InvalidArgument, match="belady"):
        policy("belady")


def test_a_ghost_forgets_the_oldest() -> None:
    ghost = Ghost(16)
    for number in range(100):
        ghost.add(number * 0x9E3779B97F4A7C15 & (1 << 64) - 1, note=number)
    kept = [n for n in range(100) if ghost.take(n * 0x9E3779B97F4A7C15 & (1 << 64) - 1) == n]
    assert kept
    assert min(kept) >= 84
    assert len(kept) >= 8, "so few collide"
    assert all(ghost.take(n) is None for n in range(100)), "what was taken is forgotten"


@given(st.lists(st.tuples(st.sampled_from(["put", "spend"]), st.integers(0, 500)), max_size=80))
def test_a_budget_is_never_exceeded(steps: list[tuple[str, int]]) -> None:
    budget = RewriteBudget(1.25, 1000)
    put = spent = 0
    for step, size in steps:
        if step == "put":
            budget.put(size)
            put += size
        elif size <= budget.credit:
            budget.spend(size)
            spent += size
        assert -1000 <= budget.credit <= 1000
        assert 0 <= budget.fill <= 1
        assert spent <= 0.25 * put + 1000 + 1e-6


def test_what_must_be_rewritten_costs_credit_but_not_for_ever() -> None:
    budget = RewriteBudget(1.1, 1000)
    budget.spend(1_000_000)
    assert budget.credit == -1000
    budget.put(20_001)
    assert budget.credit == pytest.approx(1000)
    assert RewriteBudget(1.0, 1000).fill == 0
