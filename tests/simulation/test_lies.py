"""Traffic on devices that lie: whatever they do, no wrong byte is ever answered and nothing leaks."""

from __future__ import annotations

import pytest

from mezzo.errors import MezzoError
from mezzo_server.blockstore.devices.faults import Fault, FaultKind
from tests.simulation.seeds import repeatable, seeds
from tests.simulation.world import World, options

DATA = (2 << 20, 1 << 40)
LIES = (
    FaultKind.TORN_WRITE,
    FaultKind.TORN_TAIL,
    FaultKind.LOST_WRITE,
    FaultKind.LOST_FLUSH,
    FaultKind.MISDIRECTED_WRITE,
    FaultKind.MISDIRECTED_READ,
    FaultKind.STALE_READ,
    FaultKind.ROTTEN_WRITE,
    FaultKind.ROTTEN_READ,
)
FAILURES = (FaultKind.EIO_READ, FaultKind.EIO_WRITE, FaultKind.ENOSPC, FaultKind.EIO_FLUSH)


def lie(kind: FaultKind, seed: int, devices: int) -> None:
    within = None if kind is FaultKind.LOST_FLUSH else DATA
    world = World(
        seed, devices=devices, segments=12, options=options(io_errors_max=1000), perfect=False, deletes=False
    )
    faults = [Fault(kind, probability=0.03, within=within), Fault(FaultKind.LATENCY, probability=0.1)]
    for _ in range(3):
        world.run(100)
        try:
            world.restart(cut=world.random.random() < 0.5, faults=faults)
        except MezzoError:
            return  # a start may be refused, in a word of ours
        world.run(100)
        world.settle()


@pytest.mark.parametrize("kind", LIES)
def test_lies(kind: FaultKind) -> None:
    for seed in seeds(5):
        with repeatable(seed):
            lie(kind, seed, 1 + seed % 2)


def fail(kind: FaultKind, seed: int) -> None:
    """Honest errors: what was acknowledged stays binding for deletes, a miss is always legal."""
    world = World(
        seed,
        devices=2,
        segments=10,
        options=options(io_errors_max=6),
        perfect=False,
        deletes=kind is not FaultKind.EIO_READ,
    )
    faults = [Fault(kind, probability=0.01), Fault(FaultKind.SHORT, probability=0.1)]
    for _ in range(3):
        world.run(60)
        try:
            world.restart(faults=faults)
        except MezzoError:
            return
        world.run(100)
        world.settle()


@pytest.mark.parametrize("kind", FAILURES)
def test_failures(kind: FaultKind) -> None:
    for seed in seeds(8):
        with repeatable(seed):
            fail(kind, seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", LIES + FAILURES)
def test_many(kind: FaultKind) -> None:
    for seed in seeds(300, 10_000):
        with repeatable(seed):
            if kind in LIES:
                lie(kind, seed, 1 + seed % 2)
            else:
                fail(kind, seed)
