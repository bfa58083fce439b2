"""Devices come and go under seeded traffic; kills and power cuts at any moment of it."""

from __future__ import annotations

import pytest

from mezzo_server.blockstore.options import Durability
from tests.simulation.changing import ChangingWorld
from tests.simulation.seeds import repeatable, seeds
from tests.simulation.world import options


def changes(count: int, first: int = 0) -> None:
    for seed in seeds(count, first):
        with repeatable(seed):
            durability = Durability.POWER if seed % 3 else Durability.PROCESS
            rate = 0.0 if seed % 2 else 2e6
            world = ChangingWorld(
                seed,
                devices=1 + seed % 3,
                segments=8 + seed % 5,
                churn=seed % 4 == 0,
                options=options(durability=durability, drain_bytes_per_s=rate),
            )
            for _ in range(3):
                world.run(world.random.randint(1, 120))
                if world.random.random() < 0.3:
                    world.settle()
                else:
                    cut = world.random.random() < 0.5
                    world.restart(cut=cut, interrupt=world.random.choice((0, 0, 1)))
            world.run(40)
            world.settle()
            world.close()


def test_changes() -> None:
    changes(24)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_thousand_changes() -> None:
    changes(1_000, 10_000)
