"""Starts: what a clean end, a kill and a power cut leave; and starts on what is not right."""

from __future__ import annotations

import pytest

from mezzo.errors import FormatError
from mezzo_server.blockstore.api import PutStatus
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.blockstore.options import Durability
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, content
from tests.simulation.world import options

STORED, EXISTS = PutStatus.STORED, PutStatus.EXISTS


@pytest.mark.parametrize("how", ["close", "kill"])
def test_everything_is_there_again(how: str) -> None:
    rig = Rig(devices=2)
    keys = rig.fill("k", 40, 20_001)
    assert rig.counters["chunks_evicted"] == 0
    before = {key: rig.store.info(SCOPE, key) for key in keys}
    for _ in range(3):
        rig.restart(how)
        assert {key: rig.store.info(SCOPE, key) for key in keys} == before
        assert all(rig.get(key) == content(key, 20_001) for key in keys)
    if how == "close":
        assert rig.store.recovered.segments_scanned == 0, "a clean end leaves tables only"
    assert rig.put(keys[0], 20_001) is EXISTS


def test_after_a_kill_the_next_start_finds_tables() -> None:
    rig = Rig()
    rig.fill("k", 10, 20_000)
    rig.restart()
    assert rig.store.recovered.segments_scanned > 0
    rig.restart()
    assert rig.store.recovered.segments_scanned == 0


@pytest.mark.parametrize("how", ["kill", "cut"])
def test_power_durability_takes_nothing(how: str) -> None:
    for seed in range(10):
        rig = Rig(options=options(durability=Durability.POWER))
        keys = rig.fill("k", 10, 20_000)
        rig.restart(how, seed=seed)
        assert all(rig.get(key) == content(key, 20_000) for key in keys)


def test_what_a_killed_process_had_not_flushed_is_flushed_before_it_is_relied_upon() -> None:
    for seed in range(10):
        rig = Rig()
        keys = rig.fill("k", 5, 20_000)
        rig.restart("kill", options=options(durability=Durability.POWER))
        # the answer "it exists" is an acknowledgement too
        assert all(rig.put(key, 20_000) is EXISTS for key in keys)
        rig.restart("cut", seed=seed)
        assert all(rig.get(key) == content(key, 20_000) for key in keys)


def test_no_life_is_used_twice() -> None:
    """Erased and not flushed, then killed, then the power fails: the erased life may be there again."""
    for seed in range(40):
        rig = Rig(segments=8, seed=seed)
        rig.fill("k", 40, 60_000)
        rig.restart("kill", seed=seed)
        rig.fill("m", 3, 60_000)
        rig.restart("cut", seed=seed)
        lives = [segment.life for segment in audit.context_of(rig.store).logs[0].segments.values()]
        assert len(set(lives)) == len(lives)


def test_foreign_bytes_are_not_touched() -> None:
    rig = Rig()
    device = FaultyDevice(bytes(range(256)) * 16 * 1200, in_order=True)
    before = device.peek()
    rig.devices = [device]
    with pytest.raises(FormatError, match="not Mezzo's"):
        rig.open()
    assert device.peek() == before


def test_a_damaged_superblock_copy_is_written_anew() -> None:
    rig = Rig()
    rig.put(b"k", 5000)
    for offset in (100, (1 << 20) + 100):
        rig.restart("close")
        rig.devices[0].flip(offset)
        rig.restart("kill")
        assert rig.get(b"k") == content(b"k", 5000)
    rig.restart("close")
    rig.devices[0].flip(100)
    rig.devices[0].flip((1 << 20) + 100)
    with pytest.raises(FormatError, match="superblock"):
        rig.restart("kill")


def test_a_device_shorter_than_its_superblock_says() -> None:
    rig = Rig()
    rig.put(b"k", 5000)
    rig.store.close()
    image = rig.devices[0].peek()
    rig.devices = [FaultyDevice(image[: -(256 << 10)], in_order=True)]
    with pytest.raises(FormatError, match="truncated"):
        rig.open()


def test_a_damaged_table_is_no_loss() -> None:
    rig = Rig()
    keys = rig.fill("k", 20, 20_000)
    rig.restart("close")
    context = audit.context_of(rig.store)
    for segment in context.logs[0].segments.values():
        rig.devices[0].flip(segment.offset + context.logs[0].superblock.segment_bytes - 4096 + 20)
    rig.restart("kill")
    assert rig.store.recovered.segments_scanned > 0
    assert all(rig.get(key) == content(key, 20_000) for key in keys)


def test_nothing_is_left_of_an_empty_store() -> None:
    rig = Rig()
    for how in ("close", "kill", "cut"):
        rig.restart(how)
        assert rig.store.report().chunks == 0
        assert rig.store.report().devices[0].segments_free == 10
