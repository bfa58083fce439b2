"""I/O errors at every point: typed errors, nothing left held, nothing wrong; fencing."""

from __future__ import annotations

import pytest

from mezzo.errors import DeviceFailed, FormatError, MezzoError
from mezzo_server.blockstore.api import GetChunk, GetOutcome, PutOutcome, PutStatus
from mezzo_server.blockstore.devices.faults import Fault, FaultKind, FaultPlan
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.blockstore.io import Op
from mezzo_server.blockstore.options import Durability
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.memory import Memory
from mezzo_server.staging import StagingPool
from mezzo_server.workers import InlineWorkers
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.simulation.world import options

KINDS = (FaultKind.EIO_READ, FaultKind.EIO_WRITE, FaultKind.ENOSPC, FaultKind.EIO_FLUSH, FaultKind.SHORT)


def story(rig: Rig) -> dict[bytes, bool | None]:
    """Puts, gets, deletes, reclaim; what must be there afterwards (None: may)."""
    known: dict[bytes, bool | None] = {}
    for number in range(26):
        key = b"k%d" % number
        length = (100, 60_000, 4097, 150_000)[number % 4]
        status = rig.put(key, length)
        known[key] = None if status is PutStatus.FAILED else True
        if number % 5 == 4:
            gone = b"k%d" % (number - 2)
            _, error = rig.delete(gone)
            known[gone] = None if error else False
            assert error is None or isinstance(error, MezzoError)
        if number % 3 == 2:
            data = rig.get(b"k%d" % (number // 2))
            assert data in (None, content(b"k%d" % (number // 2), len(data or b"")))
        rig.store.tick()
        for _ in range(20):
            rig.store.pump()
    return known


def settle(rig: Rig) -> None:
    for _ in range(400):
        rig.time += 0.1
        rig.store.tick()
        for _ in range(50):
            if not rig.store.pump() and not rig.store.busy:
                break
    assert not rig.store.busy
    audit.check_rest(rig.store)


def verify(rig: Rig, known: dict[bytes, bool | None], *, evicted: bool) -> None:
    for key, there in known.items():
        data = rig.get(key)
        if data is None:
            assert there is not True or evicted
        else:
            assert there is not False, f"{key!r} came back"
            assert data == content(key, len(data))


@pytest.mark.parametrize("kind", KINDS)
def test_each_transfer_fails_once(kind: FaultKind) -> None:
    nth = 0
    injected = 1
    while injected:
        nth += 3 if kind in (FaultKind.ENOSPC, FaultKind.SHORT) else 1
        rig = Rig(segments=8)
        rig.devices = [device.kill(faults=[Fault(kind, nth=(nth,))]) for device in rig.devices]
        try:
            rig.open()
        except DeviceFailed:
            assert nth < 5, "a start without anything on the devices has done its I/O"
            continue
        known = story(rig)
        settle(rig)
        injected = sum(device.injected[kind] for device in rig.devices)
        fenced = any("fenced" in device.state for device in rig.store.report().devices)
        assert fenced == (kind is FaultKind.EIO_FLUSH and injected > 0) or kind is not FaultKind.EIO_FLUSH
        verify(rig, known, evicted=True)
        rig.restart()
        verify(rig, known, evicted=True)
        rig.drain()
    assert nth > 10


@pytest.mark.parametrize("kind", [FaultKind.EIO_READ, FaultKind.EIO_WRITE, FaultKind.EIO_FLUSH])
def test_each_transfer_of_a_start_fails_once(kind: FaultKind) -> None:
    first = Rig(segments=8)
    story(first)
    first.drain()
    image = first.devices[0].peek()
    nth = 0
    while True:
        nth += 1
        device = FaultyDevice(image, faults=[Fault(kind, nth=(nth,))], in_order=True)
        rig = Rig.__new__(Rig)
        rig.options, rig.time, rig.random, rig.devices = first.options, 0.0, first.random, [device]
        try:
            rig.open()
        except DeviceFailed:
            assert device.injected[kind]
            continue
        if not device.injected[kind]:
            break
        for key in (b"k%d" % number for number in range(26)):
            data = rig.get(key)
            assert data is None or data == content(key, len(data))
        rig.drain()
    assert nth > 3


def test_a_failed_flush_fences() -> None:
    rig = Rig(options=options(durability=Durability.POWER))
    rig.put(b"before", 5000)
    rig.restart(faults=[Fault(FaultKind.EIO_FLUSH, nth=(3,))])
    statuses = [rig.put(b"k%d" % n, 5000) for n in range(5)]
    assert PutStatus.FAILED in statuses
    assert statuses[-1] is PutStatus.FAILED, "a failed flush is never retried"
    assert rig.get(b"before") is None
    assert rig.store.prefix(SCOPE, [b"before"]) == (0, 0)
    assert rig.store.pin(SCOPE, b"before") == 0
    assert isinstance(rig.delete(b"before")[1], DeviceFailed)
    state = rig.store.report().devices[0].state
    assert state.startswith("fenced: flush failed")
    rig.store.close()


def test_many_io_errors_fence() -> None:
    rig = Rig(options=options(io_errors_max=3))
    keys = rig.fill("k", 6, 5000)
    rig.restart("close", faults=[Fault(FaultKind.EIO_READ, within=(2 << 20, 1 << 40), nth=range(40, 400))])
    for _ in range(10):
        for key in keys:
            rig.get(key)
    assert "fenced" in rig.store.report().devices[0].state
    assert all(rig.get(key) is None for key in keys)
    settle(rig)


def test_one_device_is_fenced_and_the_other_goes_on() -> None:
    rig = Rig(devices=2)
    keys = rig.fill("k", 40, 20_000)
    rig.drain()
    sick = audit.context_of(rig.store).logs[0]
    there = [key for key in keys if rig.has(key)]
    assert len(there) == 40
    sick.fence("for this test")
    after = [key for key in keys if rig.has(key)]
    assert 0 < len(after) < 40
    lost = [key for key in keys if key not in after]
    for key in after:
        assert rig.get(key) == content(key, 20_000)
    # what was lost can be put again, and be deleted, on the device that is left
    assert rig.put(lost[0], 20_000) is PutStatus.STORED
    assert rig.put(lost[1], 20_000) is PutStatus.STORED
    assert rig.delete(lost[0], lost[2], after[0]) == ([True, False, True], None)
    settle(rig)
    assert rig.delete(lost[3])[1] is None
    # both are there at the next start: what was deleted stays so, also on the device that was away
    rig.restart()
    for key in (lost[0], lost[2], lost[3], after[0]):
        assert rig.get(key) is None, key
    assert rig.get(lost[1]) == content(lost[1], 20_000)
    assert rig.get(lost[4]) == content(lost[4], 20_000)
    rig.drain()


def test_tombstones_for_a_fenced_device_are_kept_but_do_not_pile_up() -> None:
    rig = Rig(devices=2, segments=8)
    rig.fill("k", 30, 20_000)
    rig.drain()
    audit.context_of(rig.store).logs[0].fence("for this test")
    settle(rig)
    for round_ in range(400):
        key = b"again-%d" % (round_ % 3)
        assert rig.put(key, 20_000) is PutStatus.STORED
        assert rig.delete(key) == ([True], None)
        rig.drain(ticks=1)
    carried = rig.counters["tombstones_written"] - 400
    assert carried < 400, f"{carried} tombstones were carried on"
    rig.restart()
    assert not any(rig.has(b"again-%d" % n) for n in range(3))


def test_fenced_in_the_middle_of_everything() -> None:
    for moment in range(0, 60, 2):
        rig = Rig(devices=2, segments=8, in_order=False, seed=moment)
        rig.fill("k", 50, 30_000)
        answers: list[PutOutcome] = []
        for number in range(12):
            rig.store.put(SCOPE, [chunk(b"new-%d" % number, bytes(30_000))], answers.append)
        rig.store.delete(SCOPE, [b"k-%d" % n for n in range(0, 50, 5)], lambda deleted, error: None)
        rig.store.tick()
        for _ in range(moment):
            rig.store.pump()
        audit.context_of(rig.store).logs[moment % 2].fence("for this test")
        settle(rig)
        assert len(answers) == 12
        assert rig.put(b"after", 30_000) is PutStatus.STORED
        rig.store.close()
        rig.restart()
        assert rig.has(b"after")


def test_all_devices_fenced() -> None:
    rig = Rig(devices=2)
    rig.fill("k", 5, 5000)
    for log in audit.context_of(rig.store).logs:
        log.fence("for this test")
    outcome = rig.put_chunks([chunk(b"m", b"bytes")])
    assert outcome.statuses == [PutStatus.FAILED]
    assert isinstance(outcome.error, DeviceFailed)
    assert rig.get(b"k-1") is None
    assert rig.stream(b"k-1") is None
    settle(rig)
    rig.store.close()


def test_puts_that_wait_for_space_hear_of_the_fence() -> None:
    rig = Rig(segments=8)
    waiting = rig.fill_with_leases(190_000)
    audit.context_of(rig.store).logs[0].fence("for this test")
    settle(rig)
    assert isinstance(waiting[0].error, DeviceFailed)


def test_a_stuck_device_holds_up_only_what_it_has() -> None:
    rig = Rig(devices=2)
    keys = rig.fill("k", 20, 20_000)
    rig.store.close()
    context = audit.context_of(rig.store)
    place = context.find(context.index.namespace(SCOPE), keys[0])
    assert place is not None
    start = place[0].offset + place[0].table.block[place[1]] * 4096
    device = _device(rig, keys[0])
    rig.devices = [
        one.kill(
            faults=[Fault(FaultKind.STUCK, within=(start, start + 4096), op=Op.READ)] if n == device else ()
        )
        for n, one in enumerate(rig.devices)
    ]
    rig.open()
    memory = Memory.anonymous(20_480)
    outcomes: list[GetOutcome] = []
    rig.store.get(SCOPE, [GetChunk(keys[0], (memory.span(),))], outcomes.append)
    for key in keys[1:]:
        assert rig.get(key) == content(key, 20_000)
    assert not outcomes
    rig.devices[device].release()
    rig.until(lambda: bool(outcomes))
    assert outcomes[0].lengths == [20_000]
    rig.drain()


def _device(rig: Rig, key: bytes) -> int:
    context = audit.context_of(rig.store)
    place = context.find(context.index.namespace(SCOPE), key)
    assert place is not None
    return context.logs.index(place[0].log)


def test_a_device_is_missing() -> None:
    rig = Rig(devices=3)
    keys = rig.fill("k", 40, 20_000)
    rig.delete(*keys[:5])
    rig.store.close()
    place = {key: _device(rig, key) for key in keys[5:]}
    all_three = [device.kill() for device in rig.devices]

    rig.devices = all_three[:2]
    with pytest.raises(FormatError, match="3 devices, 2 are here"):
        rig.open()
    rig.devices = all_three[1:]
    rig.open(options(allow_missing_devices=True))
    for key, device in place.items():
        assert (rig.get(key) is not None) == (device != 0)
    assert not any(rig.has(key) for key in keys[:5])
    rig.store.close()
    # the device that was given up does not come back
    rig.devices = [all_three[0], *[device.kill() for device in rig.devices]]
    for missing in (False, True):
        with pytest.raises(FormatError, match="given up"):
            rig.open(options(allow_missing_devices=missing))
    rig.devices = rig.devices[1:]
    rig.open(options())
    assert all(rig.has(key) for key, device in place.items() if device)


def test_devices_of_two_stores_are_not_mixed() -> None:
    one, two = Rig(seed=1), Rig(seed=2)
    with pytest.raises(FormatError, match="different stores"):
        BlockStore.open([one.devices[0], two.devices[0]], InlineWorkers(), StagingPool(1 << 20), one.options)


def test_a_segment_whose_header_cannot_be_read_is_retired() -> None:
    rig = Rig()
    keys = rig.fill("k", 12, 60_000)
    rig.store.close()
    offset = 2 << 20
    rig.devices = [
        device.kill(faults=[Fault(FaultKind.EIO_READ, within=(offset, offset + 4096), times_max=1)])
        for device in rig.devices
    ]
    # the superblocks' sample ends where the first segment begins
    rig.open()
    assert rig.store.report().devices[0].segments_retired == 1
    left = [key for key in keys if rig.has(key)]
    assert 0 < len(left) < len(keys)
    rig.drain()
    rig.restart()
    assert [key for key in keys if rig.has(key)] == left


@pytest.mark.parametrize("offset", [0, 1 << 20, 4096, (2 << 20) - 4096, -4096])
def test_a_place_that_cannot_be_read_and_says_nothing_of_what_a_device_holds_is_no_obstacle(
    offset: int,
) -> None:
    """One copy of the superblock, what lies around them, or the device's end: at each start."""
    rig = Rig(segments=16)
    keys = rig.fill("k", 3, 60_000)
    for _ in range(2):
        rig.store.close()
        at = offset % rig.devices[0].size_bytes
        rig.devices = [
            device.kill(faults=[Fault(FaultKind.EIO_READ, within=(at, at + 4096))]) for device in rig.devices
        ]
        rig.open()
        assert all(rig.has(key) for key in keys)


@pytest.mark.parametrize("within", [(0, (1 << 20) + 4096), (0, 1 << 40)])
def test_a_device_of_which_no_superblock_can_be_read_is_left_as_it_is(within: tuple[int, int]) -> None:
    rig = Rig()
    keys = rig.fill("k", 3, 60_000)
    rig.store.close()
    whole = rig.devices
    rig.devices = [device.kill(faults=[Fault(FaultKind.EIO_READ, within=within)]) for device in whole]
    with pytest.raises(DeviceFailed, match="device d0 cannot be read: Input/output error"):
        rig.open()
    rig.devices = [device.kill() for device in rig.devices]
    rig.open()
    assert all(rig.has(key) for key in keys)


def test_a_new_device_that_cannot_be_read_is_not_formatted() -> None:
    rig = Rig()
    blank = FaultyDevice(rig.devices[0].size_bytes, faults=[Fault(FaultKind.EIO_READ, within=(8192, 12288))])
    with pytest.raises(DeviceFailed, match="cannot be read"):
        BlockStore.open([blank], InlineWorkers(), StagingPool(1 << 20), rig.options, format_foreign=True)
    assert blank.kill().peek() == bytes(blank.size_bytes)


def test_a_segment_that_failed_and_cannot_be_left_is_no_reason_to_evict_others() -> None:
    """A leased chunk of it cannot be rewritten, since these writes fail too; there is space enough."""
    rig = Rig(segments=16)
    keys = rig.fill("k", 24, 60_000)
    rig.put(b"leased", 60_000)
    assert rig.store.pin(SCOPE, b"leased")
    rig.devices[0]._plan = FaultPlan([Fault(FaultKind.EIO_WRITE, times_max=7)], rig.random)
    assert rig.put(b"more", 60_000) is PutStatus.FAILED
    settle(rig)
    assert rig.counters["io_errors"] == 7
    assert not rig.counters["chunks_evicted"]
    assert all(rig.has(key) for key in (*keys, b"leased"))
