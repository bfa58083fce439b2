"""Devices that come, go and grow while the store serves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mezzo.errors import Busy, FormatError, InvalidArgument
from mezzo_server.blockstore.api import PutStatus
from mezzo_server.blockstore.attach import inspect
from mezzo_server.blockstore.devices.faults import Fault, FaultKind
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.superblock import DATA_OFFSET, Content
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.simulation.world import SEGMENT_BYTES, options
from tests.unit.mezzo_server.blockstore.membership_rig import (
    add,
    device_of,
    forget,
    prepared,
    refusal,
    right,
    settle,
    state,
    step,
)


def on(rig: Rig, name: str) -> int:
    """Chunks on a device."""
    return state(rig, name).chunks


# -- add ---------------------------------------------------------------------------------------------


def test_an_added_device_takes_chunks_at_once_and_is_there_after_a_restart() -> None:
    rig = Rig()
    keys = rig.fill("before", 10, 40_000)
    add(rig, device_of("new"))
    settle(rig)
    assert state(rig, "new").state == "serving"
    assert (state(rig, "new").change, state(rig, "new").change_state) == ("add", "done")
    keys += rig.fill("after", 20, 40_000)
    assert on(rig, "new") >= 10
    rig.restart("close")
    assert right(rig, keys, 40_000) == len(keys)
    rig.restart("cut")
    assert right(rig, keys, 40_000) == len(keys)


def test_without_the_added_device_a_start_says_what_is_missing() -> None:
    rig = Rig()
    add(rig, device_of("new"))
    settle(rig)
    rig.store.close()
    forget(rig, "new")
    with pytest.raises(
        FormatError, match=r"2 devices, 1 are here \(d0\).*mezzo device add.*\[shard\] devices"
    ):
        rig.open()


def test_a_device_that_was_prepared_and_not_added_can_be_added_again() -> None:
    rig = Rig()
    device = device_of("new")
    prepared(rig, device)
    add(rig, device)
    settle(rig)
    assert state(rig, "new").state == "serving"


def test_what_may_not_be_added() -> None:
    rig = Rig(devices=2)
    with pytest.raises(InvalidArgument, match="part of the store already"):
        prepared(rig, rig.devices[0])
    foreign = device_of("foreign")
    foreign.poke(1080, b"\x53\xef")
    with pytest.raises(FormatError, match="not Mezzo's; --format"):
        prepared(rig, foreign)
    assert foreign.peek(0, 1080) == bytes(1080)
    other = Rig(seed=5)
    with pytest.raises(FormatError, match="chunks of another store; --format"):
        prepared(rig, other.devices[0])
    with pytest.raises(InvalidArgument, match="room for 1 segments"):
        prepared(rig, device_of("small", segments=4))
    device = device_of("new")
    block = prepared(rig, device)
    rig.store.membership.add(device, block)
    with pytest.raises(InvalidArgument, match="already"):
        rig.store.membership.add(device, block)
    with pytest.raises(InvalidArgument, match="already"):
        rig.store.membership.add(device_of("new"), replace(block, device_id=b"x" * 16, members=(b"x" * 16,)))
    with pytest.raises(Busy, match="under way"):
        rig.store.membership.drain("new")
    settle(rig)


def test_a_foreign_device_is_added_if_it_may_be_formatted() -> None:
    rig = Rig()
    foreign = device_of("foreign")
    foreign.poke(1080, b"\x53\xef")
    add(rig, foreign, format_foreign=True)
    settle(rig)
    rig.restart("kill")
    assert len(rig.store.devices) == 2


def test_a_segment_of_the_new_device_must_hold_the_largest_chunk() -> None:
    rig = Rig(segments=8 * 16, options=options(segment_bytes=4 << 20, chunk_bytes_max=3 << 20))
    limit = rig.store.chunk_bytes_max
    assert limit > SEGMENT_BYTES
    with pytest.raises(InvalidArgument, match=f"chunks of up to {limit} bytes"):
        prepared(rig, device_of("small", segments=64))


def test_no_more_than_32_devices() -> None:
    rig = Rig(devices=32)
    with pytest.raises(InvalidArgument, match="32 devices, the most"):
        rig.store.join_terms()


def test_an_added_device_that_fails_at_once_can_be_drained() -> None:
    rig = Rig()
    device = device_of("new", faults=[Fault(FaultKind.EIO_WRITE, nth=[3])])
    add(rig, device)
    settle(rig)
    assert state(rig, "new").state.startswith("fenced")
    assert state(rig, "new").change_state.startswith("failed")
    rig.store.membership.drain("new")
    settle(rig)
    assert state(rig, "new").state == "gone"
    forget(rig, "new")
    rig.restart("kill")


# -- drain -------------------------------------------------------------------------------------------


def test_a_drained_device_leaves_and_nothing_is_lost() -> None:
    rig = Rig(devices=3)
    keys = rig.fill("key", 60, 40_000)
    rig.delete(*keys[:10])
    assert on(rig, "d1") > 10
    rig.store.membership.drain("d1")
    assert state(rig, "d1").state == "draining"
    settle(rig)
    status = state(rig, "d1")
    assert (status.state, status.change, status.change_state) == ("gone", "drain", "done")
    assert status.change_bytes_done == status.change_bytes > 0
    assert len(rig.store.devices) == 2
    assert right(rig, keys, 40_000) == 50
    gone = forget(rig, "d1")
    assert inspect(gone.kill()).content is Content.LEFT
    for how in ("close", "cut"):
        rig.restart(how)
        assert right(rig, keys, 40_000) == 50, how
    audit.check_rest(rig.store)


def test_a_drained_device_in_the_configuration_is_named() -> None:
    rig = Rig(devices=2)
    rig.store.membership.drain("d1")
    settle(rig)
    rig.store.close()
    rig.devices = [device.kill() for device in rig.devices]
    with pytest.raises(FormatError, match="d1 was given up: `mezzo device drain`"):
        rig.open()


def test_a_drained_device_alone_is_not_taken_for_an_empty_one() -> None:
    rig = Rig()
    new = device_of("new")
    rig.store.membership.replace("d0", new, prepared(rig, new))
    settle(rig)
    rig.devices = [rig.devices[0].kill()]
    assert "remove it from [shard] devices" in refusal(rig)


def test_a_drained_device_can_be_added_anew_and_brings_nothing_back() -> None:
    rig = Rig(devices=2)
    keys = rig.fill("key", 30, 40_000)
    rig.store.membership.drain("d1")
    settle(rig)
    rig.delete(*keys)
    back = forget(rig, "d1").kill()
    add(rig, back)
    settle(rig)
    rig.restart("kill")
    assert right(rig, keys, 40_000) == 0


def test_reads_puts_and_leases_while_a_device_is_drained() -> None:
    rig = Rig(devices=2, segments=20)
    keys = rig.fill("key", 60, 40_000)
    leased = [key for key in keys if rig.store.pin(SCOPE, key)][::3]
    for key in keys:
        if key not in leased:
            rig.store.unpin(SCOPE, key)
    rig.store.membership.drain("d0")
    more: list[bytes] = []
    turn = 0
    while rig.store.membership.running:
        turn += 1
        step(rig)
        if turn % 5 == 0:
            key = b"during-%d" % turn
            if rig.put(key, 40_000) is PutStatus.STORED:
                more.append(key)
            assert rig.get(keys[turn % 60]) == content(keys[turn % 60], 40_000)
        if turn % 11 == 0:
            assert rig.delete(b"never-there")[1] is None
    assert state(rig, "d0").state == "gone", state(rig, "d0")
    for key in leased:
        assert rig.has(key)
        rig.store.unpin(SCOPE, key)
    assert more
    assert right(rig, more, 40_000) == len(more)
    audit.check_counts(rig.store)


def test_a_drain_into_full_devices_makes_room_by_their_reclaim() -> None:
    rig = Rig(devices=2, segments=12)
    keys = rig.fill("key", 200, 40_000)
    rig.store.membership.drain("d0")
    settle(rig)
    assert state(rig, "d0").state == "gone"
    assert right(rig, keys, 40_000) > 20
    assert rig.put(b"more", 40_000) is PutStatus.STORED


def test_a_drain_that_does_not_fit_fails_and_the_device_serves_on() -> None:
    rig = Rig(devices=2)
    keys = rig.fill("key", 300, 40_000)
    leased = [key for key in keys if rig.store.pin(SCOPE, key)]
    rig.store.membership.drain("d0")
    settle(rig)
    status = state(rig, "d0")
    assert status.state == "serving"
    assert status.change_state.startswith("failed: the other devices do not take")
    assert right(rig, leased, 40_000) == len(leased)
    for key in leased:
        rig.store.unpin(SCOPE, key)
    assert rig.put(b"more", 40_000) is PutStatus.STORED
    rig.store.membership.drain("d0")
    settle(rig)
    assert state(rig, "d0").state == "gone"


def test_a_cancelled_drain_leaves_the_device_serving() -> None:
    slow = options(drain_bytes_per_s=100_000.0)
    rig = Rig(devices=2, options=slow, segments=20)
    keys = rig.fill("key", 60, 40_000)
    rig.store.membership.drain("d0")
    settle(rig, lambda: rig.time > 4)
    assert rig.store.membership.running
    done = state(rig, "d0").change_bytes_done
    assert 100_000 <= done <= 800_000, "about as much as the rate allows"
    with pytest.raises(Busy, match="under way already"):
        rig.store.membership.drain("d0")
    rig.store.membership.cancel("d0")
    settle(rig)
    assert (state(rig, "d0").state, state(rig, "d0").change_state) == ("serving", "failed: cancelled")
    with pytest.raises(InvalidArgument, match="not being drained"):
        rig.store.membership.cancel("d0")
    assert right(rig, keys, 40_000) == 60
    rig.restart("kill")
    assert right(rig, keys, 40_000) == 60


def test_a_store_that_is_closed_ends_its_drains() -> None:
    rig = Rig(devices=2, options=options(drain_bytes_per_s=1000.0))
    keys = rig.fill("key", 20, 40_000)
    rig.store.membership.drain("d0")
    rig.store.pump()
    rig.restart("close")
    assert right(rig, keys, 40_000) == 20


def test_what_may_not_be_drained() -> None:
    rig = Rig()
    with pytest.raises(InvalidArgument, match="the last one"):
        rig.store.membership.drain("d0")
    with pytest.raises(InvalidArgument, match="no device d7; it has d0"):
        rig.store.membership.drain("d7")


def test_the_other_device_fails_during_a_drain() -> None:
    rig = Rig(devices=2, segments=20)
    rig.fill("key", 40, 40_000)
    rig.store.membership.drain("d0")
    for _ in range(10):
        step(rig)
    audit.context_of(rig.store).logs[1].fence("for this test")
    settle(rig)
    assert state(rig, "d0").state == "serving"
    assert "no other device" in state(rig, "d0").change_state
    assert rig.put(b"more", 40_000) is PutStatus.STORED


def test_deletes_hold_whatever_is_drained() -> None:
    rig = Rig(devices=3, segments=12)
    keys = rig.fill("key", 40, 40_000)
    rig.delete(*keys[::2])
    for name in ("d0", "d1"):
        rig.store.membership.drain(name)
        while rig.store.membership.running:
            step(rig)
            if keys and rig.has(keys[-1]):
                rig.delete(keys[-1])
        forget(rig, name)
        rig.restart("kill")
        assert right(rig, keys[::2], 40_000) == 0
    assert not rig.has(keys[-1])


# -- a device that fails -----------------------------------------------------------------------------


def test_unreadable_chunks_are_given_up_and_counted() -> None:
    rig = Rig(devices=2, segments=20, options=options(io_errors_max=1000))
    keys = rig.fill("key", 40, 40_000)
    bad = (DATA_OFFSET, DATA_OFFSET + SEGMENT_BYTES)
    rig.store.close()
    rig.devices = [
        rig.devices[0].kill(faults=[Fault(FaultKind.EIO_READ, within=(bad[0] + 4096, bad[1] - 65536))]),
        rig.devices[1].kill(),
    ]
    rig.open()
    rig.store.membership.drain("d0")
    settle(rig)
    status = state(rig, "d0")
    assert status.state == "gone"
    assert "could not be read" in status.change_state
    there = right(rig, keys, 40_000)
    assert 30 <= there < 40
    forget(rig, "d0")
    rig.restart("kill")
    assert right(rig, keys, 40_000) == there


def test_what_rotted_is_noticed_while_it_is_moved() -> None:
    rig = Rig(devices=2, segments=20)
    keys = rig.fill("key", 40, 40_000)
    context = audit.context_of(rig.store)
    place = next(
        place
        for place in (context.find(context.index.peek(SCOPE), key) for key in keys)
        if place is not None and place[0].log.device is rig.devices[0]
    )
    segment, number = place
    rig.devices[0].flip(segment.offset + segment.table.block[number] * BLOCK_BYTES + 123, 5)
    rig.store.membership.drain("d0")
    settle(rig)
    assert state(rig, "d0").state == "gone"
    # Nobody has read it: it was the move that looked.
    assert rig.counters["chunks_corrupt"] == rig.counters["chunks_lost"] == 1
    assert right(rig, keys, 40_000) == 39
    assert rig.counters["chunks_corrupt"] == 1


def test_a_fenced_device_is_drained_of_what_can_be_read() -> None:
    rig = Rig(devices=2, segments=20)
    keys = rig.fill("key", 40, 40_000)
    deleted = [key for key in keys if rig.has(key)][:6]
    rig.delete(*deleted)
    audit.context_of(rig.store).logs[0].fence("for this test")
    rig.until(lambda: not rig.store.busy)
    missing = [key for key in keys if not rig.has(key)]
    assert len(missing) > 15
    again = missing[-1]
    rig.put_chunks([chunk(again, content(again, 40_000))])
    rig.store.membership.drain("d0")
    settle(rig)
    assert state(rig, "d0").state == "gone"
    assert state(rig, "d0").change_state == "done"
    assert right(rig, keys, 40_000) == 34
    forget(rig, "d0")
    rig.restart("close")
    assert right(rig, keys, 40_000) == 34
    assert right(rig, deleted, 40_000) == 0


def test_a_device_that_is_fenced_while_it_is_drained() -> None:
    for moment in range(1, 100, 3):
        rig = Rig(devices=2, segments=20, in_order=False, seed=moment)
        keys = rig.fill("key", 40, 40_000)
        rig.store.membership.drain("d0")
        for _ in range(moment):
            step(rig)
        if not rig.store.membership.running:
            break
        audit.context_of(rig.store).logs[0].fence("for this test")
        settle(rig)
        assert state(rig, "d0").state == "gone"
        assert right(rig, keys, 40_000) == 40, moment
        forget(rig, "d0")
        rig.restart("kill")
        assert right(rig, keys, 40_000) == 40, moment


# -- replace, grow -----------------------------------------------------------------------------------


def test_the_last_device_is_replaced() -> None:
    rig = Rig()
    keys = rig.fill("key", 30, 40_000)
    new = device_of("new", segments=16)
    rig.store.membership.replace("d0", new, prepared(rig, new))
    rig.devices.append(new)
    settle(rig)
    assert (state(rig, "d0").state, state(rig, "d0").change) == ("gone", "replace")
    assert state(rig, "d0").change_state == "done"
    forget(rig, "d0")
    assert right(rig, keys, 40_000) == 30
    rig.restart("kill")
    assert right(rig, keys, 40_000) == 30


def test_a_grown_device_has_more_segments_at_once_and_after_a_restart() -> None:
    rig = Rig()
    keys = rig.fill("key", 10, 40_000)
    before = state(rig, "d0")
    with pytest.raises(InvalidArgument, match="whole segments"):
        rig.store.membership.grow("d0")
    rig.devices[0].grow(DATA_OFFSET + 30 * SEGMENT_BYTES + 4096)
    rig.store.membership.grow("d0")
    settle(rig)
    after = state(rig, "d0")
    assert (after.change, after.change_state) == ("grow", "done")
    assert after.segments_total == 30
    assert after.segments_free == before.segments_free + 20
    keys += rig.fill("more", 120, 40_000)
    assert right(rig, keys, 40_000) == 130
    for how in ("close", "kill"):
        rig.restart(how)
        assert right(rig, keys, 40_000) == 130


# -- what a drain must carry along -------------------------------------------------------------------


def test_tombstones_move_with_a_drain_as_long_as_they_cover_something() -> None:
    rig = Rig(devices=2, segments=20, options=options(drain_bytes_per_s=400_000.0))
    keys = rig.fill("key", 60, 40_000)
    rig.store.membership.drain("d0")
    settle(rig, lambda: state(rig, "d0").change_bytes_done > 100_000)
    rig.store.membership.cancel("d0")
    settle(rig)
    # copies of what has moved are left on d0, in a segment that was not emptied: dead, but there
    assert right(rig, keys, 40_000) == 60
    rig.delete(*keys)
    rig.store.membership.drain("d1")
    settle(rig)
    assert state(rig, "d1").state == "gone"
    forget(rig, "d1")
    for how in ("kill", "cut"):
        rig.restart(how)
        assert right(rig, keys, 40_000) == 0
