"""Seeded traffic without faults but in any order of completion; kills and power cuts at any moment."""

from __future__ import annotations

import pytest

from mezzo_server.blockstore.devices.faults import Fault, FaultKind
from mezzo_server.blockstore.io import Op
from mezzo_server.blockstore.options import Durability
from tests.simulation import audit
from tests.simulation.seeds import repeatable, seeds
from tests.simulation.world import World, options


@pytest.mark.parametrize("policy", ["density", "fifo", "lru"])
@pytest.mark.parametrize("devices", [1, 3])
def test_traffic(policy: str, devices: int) -> None:
    for seed in seeds(6):
        with repeatable(seed):
            # reads that take very long: their segments are wanted meanwhile
            slow = [Fault(FaultKind.LATENCY, probability=0.1, reaps=200, op=Op.READ)]
            world = World(
                seed,
                devices=devices,
                segments=8 + seed % 3,
                options=options(policy=policy),
                faults=slow if seed % 2 else (),
                churn=seed % 3 == 0,
            )
            for _ in range(4):
                world.run(100)
                world.settle()
            world.close()


def kills(count: int, first: int = 0) -> None:
    for seed in seeds(count, first):
        with repeatable(seed):
            world = World(seed, devices=1 + seed % 2, segments=8 + seed % 5, churn=seed % 3 == 0)
            for _ in range(3):
                world.run(world.random.randint(1, 120))
                world.restart(interrupt=world.random.choice((0, 0, 1, 2)))


def cuts(durability: Durability, count: int, first: int = 0) -> None:
    for seed in seeds(count, first):
        with repeatable(seed):
            world = World(
                seed,
                devices=1 + seed % 2,
                segments=8 + seed % 5,
                churn=seed % 3 != 0,
                options=options(durability=durability),
            )
            for _ in range(3):
                world.run(world.random.randint(1, 120))
                world.restart(cut=world.random.random() < 0.8, interrupt=world.random.choice((0, 0, 1)))


def test_kill() -> None:
    kills(30)


@pytest.mark.parametrize("durability", list(Durability))
def test_power_cut(durability: Durability) -> None:
    cuts(durability, 24)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_thousand_kills() -> None:
    kills(700, 10_000)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("durability", list(Durability))
def test_ten_thousand_power_cuts(durability: Durability) -> None:
    cuts(durability, 1_700, 10_000)


@pytest.mark.parametrize("cut", [False, True], ids=["kill", "cut"])
def test_tenants_that_may_have_no_more(cut: bool) -> None:
    """What is trimmed is a miss, what was deleted besides never comes back, and nobody has more than he may."""
    trimmed = 0
    for seed in seeds(6):
        with repeatable(seed):
            world = World(
                seed,
                devices=1 + seed % 2,
                segments=12,
                churn=seed % 3 == 0,
                capacity_bytes=(200 + 100 * (seed % 3)) << 10,
            )
            for _ in range(3):
                world.run(world.random.randint(40, 120))
                trimmed += audit.counters(world.store)["chunks_trimmed"]
                world.restart(cut=cut)
            world.settle()
            world.close()
    assert trimmed > 30
