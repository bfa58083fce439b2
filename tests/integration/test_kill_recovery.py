"""SIGKILL of a shard under load, at many seeded points: what was acknowledged is there afterwards.

One seed says when to kill and what the clients do; threads and the disk add what no seed governs, so
a failing seed is run again as ``pytest 'test_kill_recovery.py::test_...[seed-N]'`` a few times.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import threading
from pathlib import Path

import pytest

import mezzo
from tests.integration.kill_lab import Nursery

MIB = 1 << 20
SEEDS = 200
SEEDS_A_TEST = 20
ALWAYS = 2
"""tests of each kind that run each time; all others take too long for that"""
REGION_BYTES = 4 * MIB


def payload(key: bytes, length: int) -> bytes:
    return hashlib.shake_128(key).digest(length)


class Load:
    """One client that puts and deletes until its shard dies, and remembers what was acknowledged."""

    def __init__(self, address: str, name: int, seed: int, on_ack, failed) -> None:
        self.stored: dict[bytes, int] = {}
        self.deleted: set[bytes] = set()
        self.unsure: dict[bytes, int] = {}
        self._address = address
        self._name = name
        self._random = random.Random(f"{seed}/{name}")
        self._on_ack = on_ack
        self._failed = failed
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with mezzo.Client(self._address, timeout_s=20) as client:
                region = client.region(REGION_BYTES)
                for number in range(10_000):
                    self._step(client, region, number)
        except mezzo.errors.Unavailable:
            pass  # killed, as it should be
        except Exception as error:
            self.error = error
            self._failed()

    def _step(self, client: mezzo.Client, region: mezzo.Region, number: int) -> None:
        rng = self._random
        if self.stored and rng.random() < 0.2:
            keys = rng.sample(sorted(self.stored), min(len(self.stored), rng.randint(1, 4)))
            for key in keys:
                self.unsure[key] = self.stored.pop(key)
            client.delete(keys)
            for key in keys:
                del self.unsure[key]
                self.deleted.add(key)
        else:
            chunks = {}
            for part in range(rng.randint(1, 6)):
                length = rng.choice((1, 4095, 4096, 65536, rng.randint(1, 200_000)))
                chunks[b"%d/%d/%d" % (self._name, number, part)] = length
            at, extents = 0, []
            for key, length in chunks.items():
                region.view[at : at + length] = payload(key, length)
                extents.append(region[at : at + length])
                at += -(-length // 4096) * 4096
            self.unsure.update(chunks)
            result = client.put(list(chunks), extents)
            assert result.stored == len(chunks)
            for key in chunks:
                self.stored[key] = self.unsure.pop(key)
        self._on_ack()


def run(nursery: Nursery, folder: Path, seed: int, capacity: int, *, evicts: bool) -> None:
    rng = random.Random(seed)
    device, socket = folder / f"device-{seed}", folder / f"{seed}.sock"
    settings = {"capacity_bytes": capacity, "segment_bytes": MIB, "scrub_bytes_per_s": 0}
    pid = nursery.start(device, socket, **settings)
    acks_left = rng.randint(1, 60) if not evicts else rng.randint(60, 160)
    spin = rng.randint(0, 30_000)
    lock = threading.Lock()
    reached = threading.Event()

    def on_ack() -> None:
        nonlocal acks_left
        with lock:
            acks_left -= 1
            if acks_left <= 0:
                reached.set()

    loads = [Load(f"unix://{socket}", name, seed, on_ack, reached.set) for name in range(2)]
    for load in loads:
        load.thread.start()
    assert reached.wait(60)
    assert not any(load.error for load in loads), [load.error for load in loads]
    for _ in range(spin):
        pass
    nursery.kill(pid)
    # the second start comes at once: the killed one's ring may still hold the device
    pid = nursery.start(device, socket, **settings)
    for load in loads:
        load.thread.join(30)
        assert load.error is None, load.error
    verify(f"unix://{socket}", loads, evicts=evicts)
    nursery.kill(pid)
    device.unlink()


def verify(address: str, loads: list[Load], *, evicts: bool) -> None:
    missing = []
    with mezzo.Client(address, timeout_s=20) as client:
        region = client.region(MIB)
        for load in loads:
            for key, length in (load.stored | load.unsure).items():
                region.view[:length] = bytes(length)
                if client.get([key], [region[:length]]).count:
                    assert region.view[:length] == payload(key, length), key
                elif key in load.stored:
                    missing.append(key)
            for key in load.deleted:
                assert client.lookup([key]).prefix == 0, f"{key!r} was deleted and is back"
        assert evicts or not missing, f"acknowledged and gone: {missing}"


@pytest.fixture
def folder(tmp_path: Path):
    """Memory, where there is a tmpfs that takes O_DIRECT: a kill is the same there, and quicker."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="mezzo-kill-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


def firsts(start: int, end: int) -> list[object]:
    """First seeds of tests."""
    numbers = range(start, end, SEEDS_A_TEST)
    marks = [() if place < ALWAYS else pytest.mark.long for place in range(len(numbers))]
    return [pytest.param(n, id=f"seed-{n}", marks=mark) for n, mark in zip(numbers, marks, strict=True)]


@pytest.mark.parametrize("first", firsts(0, SEEDS // 2))
def test_all_that_was_acknowledged_survives(nursery: Nursery, folder: Path, first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        run(nursery, folder, seed, 96 * MIB, evicts=False)


@pytest.mark.parametrize("first", firsts(SEEDS // 2, SEEDS))
def test_reclaim_under_kill_serves_no_wrong_byte_and_revives_nothing(
    nursery: Nursery, folder: Path, first: int
) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        run(nursery, folder, seed, 14 * MIB, evicts=True)
