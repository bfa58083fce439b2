"""The end of the process, or of the power, at any moment of a change of devices."""

from __future__ import annotations

import pytest

from mezzo_server.blockstore.api import PutStatus
from mezzo_server.blockstore.attach import inspect
from mezzo_server.blockstore.format.superblock import DATA_OFFSET, Content
from mezzo_server.blockstore.options import Durability
from tests.simulation.rig import Rig
from tests.simulation.world import SEGMENT_BYTES, options
from tests.unit.mezzo_server.blockstore.membership_rig import (
    add,
    crashed,
    device_of,
    refusal,
    right,
    run_until_transfer,
    settle,
    state,
)


@pytest.mark.parametrize("how", ["kill", "cut"])
def test_a_crash_at_any_moment_of_adding(how: str) -> None:
    ended = False
    for moment in range(100):
        if ended:
            break
        rig = Rig(devices=2, options=options(durability=Durability.POWER), seed=moment, in_order=False)
        keys = rig.fill("key", 6, 20_000)
        add(rig, device_of("new", seed=moment))
        ended = not run_until_transfer(rig, moment)
        survivors = crashed(rig, how)
        rig.devices = survivors[:2]
        why = refusal(rig)
        if why:
            assert "mezzo device add" in why
            rig.devices = survivors
            rig.open()
        else:
            assert not ended, "an added device may be left out without a word"
            # it was never added, or not quite: with it the store starts as well
            rig.store.close()
            rig.devices = [*rig.devices, survivors[2]]
            add_again = inspect(survivors[2]).content is Content.EMPTY
            if add_again:
                rig.devices.pop()
            rig.open()
            if add_again:
                add(rig, survivors[2])
                settle(rig)
        assert right(rig, keys, 20_000) == len(keys)
        assert rig.put(b"more", 20_000) is PutStatus.STORED


@pytest.mark.parametrize("how", ["kill", "cut"])
def test_a_crash_at_any_moment_of_draining(how: str) -> None:
    moment, ended = 0, False
    while not ended:
        moment += 1
        rig = Rig(devices=2, options=options(durability=Durability.POWER), seed=moment, in_order=False)
        keys = rig.fill("key", 14, 40_000)
        dead = rig.fill("dead", 6, 40_000)
        rig.delete(*dead)
        rig.store.membership.drain("d0")
        ended = not run_until_transfer(rig, moment)
        survivors = crashed(rig, how)
        rig.devices = survivors
        why = refusal(rig)
        if why:
            assert "d0" in why
            assert "mezzo device drain" in why
            rig.devices = survivors[1:]
            rig.open()
        else:
            assert state(rig, "d0").state == "serving"
        assert right(rig, keys, 40_000) == len(keys), f"moment {moment}"
        assert right(rig, dead, 40_000) == 0, f"moment {moment}"
        if len(rig.devices) == 2:
            rig.store.membership.drain("d0")
            settle(rig)
        rig.devices = rig.devices[-1:]
        rig.restart("kill")
        assert right(rig, keys, 40_000) == len(keys)
        assert right(rig, dead, 40_000) == 0


def test_a_crash_while_a_device_grows() -> None:
    for moment in range(12):
        rig = Rig(options=options(durability=Durability.POWER), seed=moment, in_order=False)
        keys = rig.fill("key", 6, 20_000)
        rig.devices[0].grow(DATA_OFFSET + 20 * SEGMENT_BYTES)
        rig.store.membership.grow("d0")
        for _ in range(moment):
            rig.store.pump()
        rig.restart("cut")
        assert state(rig, "d0").segments_total in (10, 20)
        assert right(rig, keys, 20_000) == 6


def test_what_was_durable_before_a_drain_is_durable_at_any_moment_of_it() -> None:
    ended, moment = False, 0
    while not ended:
        moment += 2
        rig = Rig(devices=2, seed=moment, in_order=False)
        keys = rig.fill("key", 14, 40_000)
        rig.restart("close")
        rig.store.membership.drain("d0")
        ended = not run_until_transfer(rig, moment)
        rig.devices = crashed(rig, "cut")
        if refusal(rig):
            rig.devices = rig.devices[1:]
            rig.open()
        assert right(rig, keys, 40_000) == len(keys), f"moment {moment}"
