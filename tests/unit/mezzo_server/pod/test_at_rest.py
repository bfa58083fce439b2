"""What a pod asks of its metadata while nothing changes: so much for each process, whatever is stored and asked for.

(Of a chunk nobody asks the metadata: what decides about requests, `Standing`, has no engine.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from mezzo_server.metadata.engine import Check, Outcome, Scan, Write
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.pod.membership import KEEP
from mezzo_server.pod.planning import CONFIRM_S
from tests.unit.mezzo_server.pod.rig import LEASE_S, World

REST_S = 600.0


class Counted(MemoryEngine):
    """Counts what is asked of it."""

    def __init__(self, world: World) -> None:
        super().__init__(lambda: world.now)
        self.asked: Counter[str] = Counter()

    async def scan(self, prefix: str) -> Scan:
        self.asked["scan"] += 1
        return await super().scan(prefix)

    async def transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        self.asked["write" if writes else "look"] += 1
        return await super().transact(checks, writes)

    async def grant(self, ttl_s: float) -> int:
        self.asked["grant"] += 1
        return await super().grant(ttl_s)

    async def keep(self, lease: int) -> bool:
        self.asked["keep"] += 1
        return await super().keep(lease)


@pytest.mark.parametrize(("shards", "planners"), [(1, 1), (4, 1), (4, 3)])
def test_so_much_for_each_process_and_nothing_else(shards: int, planners: int) -> None:
    world = World()
    engine = world.engine = Counted(world)
    for _ in range(planners):
        world.planner()
    for number in range(1, shards + 1):
        world.shard(number)
    world.run(30)
    assert world.epoch == 1
    engine.asked.clear()
    world.run(REST_S)
    # A shard looks whether its plan is the present one whenever it has kept its lease.
    keeps = shards * REST_S / (KEEP * LEASE_S)
    looks = keeps + planners * REST_S / CONFIRM_S
    assert set(engine.asked) == {"keep", "look"}
    assert engine.asked["keep"] == pytest.approx(keeps, rel=0.05)
    assert engine.asked["look"] == pytest.approx(looks, rel=0.05)
