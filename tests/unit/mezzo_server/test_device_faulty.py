"""The faulty device: without faults it is a device; with them it does what its rules say."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import DeviceFailed, InvalidArgument
from mezzo_server.blockstore.devices.faults import Fault, FaultKind
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.blockstore.io import Device, Op, Transfer
from mezzo_server.memory import Memory
from tests.contract.device import BLOCK, SIZE_BYTES, DeviceContract, do, finish


class TestFaultless(DeviceContract):
    def make(self, folder: Path) -> Device:
        return FaultyDevice(SIZE_BYTES, seed=5)

    def stored(self, device: Device, offset: int, length: int) -> bytes:
        return device.peek(offset, length)


class TestFaultlessInOrder(TestFaultless):
    def make(self, folder: Path) -> Device:
        return FaultyDevice(bytes(SIZE_BYTES), in_order=True, atom_bytes=512)


BLOCKS = 16


class Rig:
    """A small device with block n full of byte n, written through memory of the test's own."""

    def __init__(self, *faults: Fault, **options: object) -> None:
        contents = b"".join(bytes([block]) * BLOCK for block in range(BLOCKS))
        self.device = FaultyDevice(contents, faults=faults, seed=1, **options)
        self.memory = Memory.anonymous(BLOCKS * BLOCK)

    def write(self, block: int, value: int, count: int = 1, device: FaultyDevice | None = None) -> Transfer:
        span = self.memory.span(block * BLOCK, count * BLOCK)
        span.view[:] = bytes([value]) * span.length
        transfer = Transfer(Op.WRITE, block * BLOCK, (span,))
        (device or self.device).submit([transfer])
        return transfer

    def read(self, block: int, count: int = 1) -> tuple[int, bytes]:
        span = self.memory.span(block * BLOCK, count * BLOCK)
        span.view[:] = b"\xee" * span.length
        return do(self.device, Op.READ, block * BLOCK, span), bytes(span.view)

    def flush(self) -> int:
        return do(self.device, Op.FLUSH)

    def written(self, block: int, value: int, count: int = 1) -> int:
        transfer = self.write(block, value, count)
        finish(self.device, 1)
        return transfer.result

    def blocks(self, device: FaultyDevice | None = None) -> list[int]:
        """First byte of each block at rest, -1 for one that is not all the same."""
        data = (device or self.device).peek()
        pieces = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
        return [piece[0] if piece == piece[:1] * BLOCK else -1 for piece in pieces]


UNTOUCHED = list(range(BLOCKS))


def test_eio_on_read():
    rig = Rig(Fault(FaultKind.EIO_READ, nth=[2]))
    assert rig.read(3) == (BLOCK, b"\x03" * BLOCK)
    assert rig.read(3, 4)[0] == -errno.EIO
    assert rig.read(3)[0] == BLOCK
    assert rig.device.injected == {FaultKind.EIO_READ: 1}


def test_eio_on_write_lands_some():
    rig = Rig(Fault(FaultKind.EIO_WRITE))
    for block in range(0, BLOCKS, 2):
        assert rig.written(block, 200, 2) == -errno.EIO
    blocks = rig.blocks()
    assert 0 < blocks.count(200) < BLOCKS
    assert all(value in (block, 200) for block, value in enumerate(blocks))


def test_enospc_lands_nothing():
    rig = Rig(Fault(FaultKind.ENOSPC))
    assert rig.written(2, 200, 2) == -errno.ENOSPC
    assert rig.blocks() == UNTOUCHED


def test_eio_on_flush():
    rig = Rig(Fault(FaultKind.EIO_FLUSH, nth=[1]))
    rig.written(0, 99)
    assert rig.flush() == -errno.EIO
    assert rig.device.unflushed_bytes == BLOCK
    assert rig.flush() == 0
    assert rig.device.unflushed_bytes == 0


def test_lost_flush_is_silent():
    rig = Rig(Fault(FaultKind.LOST_FLUSH))
    rig.written(0, 99)
    assert rig.flush() == 0
    assert rig.device.unflushed_bytes == BLOCK


def test_lost_write_is_silent():
    rig = Rig(Fault(FaultKind.LOST_WRITE, within=(2 * BLOCK, 3 * BLOCK)))
    assert rig.written(1, 100) == BLOCK
    assert rig.written(2, 100) == BLOCK
    assert rig.written(3, 100) == BLOCK
    assert rig.blocks()[1:4] == [100, 2, 100]


def test_torn_writes_are_silent():
    rig = Rig(Fault(FaultKind.TORN_TAIL))
    assert rig.written(0, 100, 8) == 8 * BLOCK
    torn = rig.blocks()[:8]
    kept = torn.count(100)
    assert kept < 8
    assert torn == [100] * kept + list(range(kept, 8))
    rig = Rig(Fault(FaultKind.TORN_WRITE))
    assert rig.written(0, 100, 16) == 16 * BLOCK
    assert 0 < rig.blocks().count(100) < 16


def test_sectors_may_tear_within_a_block():
    rig = Rig(Fault(FaultKind.TORN_TAIL), atom_bytes=512)
    assert rig.written(4, 100) == BLOCK
    data = rig.device.peek(4 * BLOCK, BLOCK)
    kept = data.count(100)
    assert kept % 512 == 0
    assert data == bytes([100]) * kept + bytes([4]) * (BLOCK - kept)


def test_misdirected_write_lands_elsewhere():
    rig = Rig(Fault(FaultKind.MISDIRECTED_WRITE))
    assert rig.written(5, 100, 2) == 2 * BLOCK
    blocks = rig.blocks()
    assert blocks.count(100) == 2
    assert blocks[5:7] != [100, 100]


def test_misdirected_read_is_of_elsewhere():
    rig = Rig(Fault(FaultKind.MISDIRECTED_READ))
    for _ in range(50):
        result, data = rig.read(5)
        assert result == BLOCK
        assert data == data[:1] * BLOCK
        assert data[0] != 5


def test_stale_read_is_of_before_the_last_write():
    rig = Rig(Fault(FaultKind.STALE_READ, probability=1.0))
    assert rig.read(5, 2)[1] == b"\x05" * BLOCK + b"\x06" * BLOCK
    rig.written(5, 100)
    rig.written(5, 101)
    assert rig.read(5, 2) == (2 * BLOCK, b"\x64" * BLOCK + b"\x06" * BLOCK)
    assert rig.blocks()[5] == 101


def test_one_bit_rots():
    def flipped(data: bytes, value: int) -> int:
        return sum((byte ^ value).bit_count() for byte in data)

    rig = Rig(Fault(FaultKind.ROTTEN_WRITE, nth=[1]), Fault(FaultKind.ROTTEN_READ, nth=[1]))
    assert rig.written(0, 100) == BLOCK
    assert flipped(rig.device.peek(0, BLOCK), 100) == 1
    assert flipped(rig.read(7)[1], 7) == 1
    assert flipped(rig.read(7)[1], 7) == 0
    rig.device.flip(7 * BLOCK + 9, 3)
    assert flipped(rig.read(7)[1], 7) == 1
    assert rig.device.peek(7 * BLOCK + 9, 1) == bytes([7 ^ 8])


def test_short_transfers_are_finished_inside():
    rig = Rig(Fault(FaultKind.SHORT), in_order=True)
    transfer = rig.write(0, 100, 8)
    assert rig.device.reap() == []
    landed = rig.blocks()[:8].count(100)
    assert 0 < landed < 8
    assert rig.device.reap() == [transfer]
    assert transfer.result == 8 * BLOCK
    assert rig.blocks()[:8] == [100] * 8
    assert rig.read(0, 8) == (8 * BLOCK, b"\x64" * 8 * BLOCK)
    assert rig.device.injected == {FaultKind.SHORT: 2}


def test_latency_and_stuck():
    rig = Rig(
        Fault(FaultKind.LATENCY, reaps=4, within=(0, BLOCK)),
        Fault(FaultKind.STUCK, op=Op.WRITE, within=(BLOCK, 2 * BLOCK)),
    )
    late, stuck, prompt = rig.write(0, 100), rig.write(1, 100), rig.write(2, 100)
    assert rig.device.reap() == [prompt]
    assert [rig.device.reap() for _ in range(3)] == [[], [], []]
    assert rig.device.reap() == [late]
    assert rig.device.reap() == []
    assert (rig.device.in_flight, rig.device.stuck) == (1, 1)
    rig.device.settle()
    assert rig.device.reap() == []
    rig.device.release()
    assert rig.device.reap() == [stuck]
    assert rig.blocks()[:3] == [100, 100, 100]


def test_settle_ends_all_and_reap_returns_it():
    rig = Rig(Fault(FaultKind.LATENCY, reaps=100))
    transfers = {id(rig.write(block, 100)) for block in range(8)}
    rig.device.settle()
    assert rig.blocks()[:8] == [100] * 8
    assert {id(transfer) for transfer in rig.device.reap()} == transfers


def test_rules_by_count_place_and_number_of_times():
    fault = Fault(FaultKind.LOST_WRITE, nth=[2, 3, 4], within=(0, 8 * BLOCK), times_max=2)
    rig = Rig(fault)
    for block in (0, 9, 1, 10, 2, 3, 4):
        rig.written(block, 100)
    assert rig.blocks()[:5] == [100, 1, 2, 100, 100]
    assert rig.blocks()[9:11] == [100, 100]


def test_completion_is_out_of_order_and_repeatable():
    def order(seed: int) -> list[int]:
        device = FaultyDevice(SIZE_BYTES, seed=seed)
        memory = Memory.anonymous(BLOCK)
        device.submit([Transfer(Op.WRITE, n * BLOCK, (memory.span(),), context=n) for n in range(50)])
        return [transfer.context for transfer in finish(device, 50)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != sorted(order(1))
    device = FaultyDevice(SIZE_BYTES, in_order=True)
    memory = Memory.anonymous(BLOCK)
    transfers = [Transfer(Op.WRITE, n * BLOCK, (memory.span(),)) for n in range(50)]
    device.submit(transfers)
    assert device.reap() == transfers


def test_a_power_cut_keeps_what_was_flushed_and_any_version_since():
    outcomes = set()
    for seed in range(60):
        rig = Rig()
        rig.written(0, 100)
        rig.written(1, 100)
        assert rig.flush() == 0
        rig.written(1, 101)
        rig.written(2, 102)
        rig.written(2, 103)
        after = rig.blocks(rig.device.power_cut(seed))
        assert after[0] == 100
        assert after[3:] == UNTOUCHED[3:]
        outcomes.add(tuple(after[1:3]))
    assert outcomes == {(first, second) for first in (100, 101) for second in (2, 102, 103)}


def test_a_flush_covers_only_what_had_come_back_before_it_was_submitted():
    lost = 0
    for seed in range(40):
        rig = Rig(in_order=True)
        rig.write(0, 100)
        rig.device.submit([Transfer(Op.FLUSH)])  # the write has not come back yet
        assert len(rig.device.reap()) == 2
        lost += rig.blocks(rig.device.power_cut(seed))[0] == 0
    assert 0 < lost < 40


def test_kill_keeps_what_landed_and_parts_of_what_did_not():
    outcomes = set()
    for seed in range(60):
        rig = Rig()
        rig.written(0, 100)
        in_flight = rig.write(4, 101, 3)
        after = rig.device.kill(seed=seed)
        assert rig.device.reap() == []
        assert rig.device.in_flight == 0
        with pytest.raises(DeviceFailed):
            rig.device.submit([in_flight])
        blocks = rig.blocks(after)
        assert blocks[0] == 100
        outcomes.add(tuple(value == 101 for value in blocks[4:7]))
        # A flush after the restart covers what the killed process had written.
        do(after, Op.FLUSH)
        assert rig.blocks(after.power_cut(seed)) == blocks
    assert {(True,) * 3, (False,) * 3} < outcomes


def test_after_a_kill_the_cache_is_still_volatile():
    lost = 0
    for seed in range(40):
        rig = Rig()
        rig.written(0, 100)
        lost += rig.blocks(rig.device.kill(seed=seed).power_cut(seed))[0] == 0
    assert 0 < lost < 40


def test_wrong_sizes_are_refused():
    for contents, options in ((0, {}), (100, {}), (BLOCK, {"atom_bytes": 1000})):
        with pytest.raises(InvalidArgument):
            FaultyDevice(contents, **options)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    rates=st.dictionaries(st.sampled_from(FaultKind), st.floats(0.05, 0.5), max_size=5),
    cut=st.booleans(),
)
def test_everything_comes_back_once_whatever_goes_wrong(seed, rates, cut):
    """And the same seed goes wrong in the same way."""

    def run() -> tuple[list[tuple[int, int]], bytes]:
        faults = [Fault(kind, probability=rate) for kind, rate in rates.items()]
        device = FaultyDevice(BLOCKS * BLOCK, seed=seed, faults=faults)
        memory = Memory.anonymous(BLOCKS * BLOCK)
        rng = random.Random(seed)
        returned: list[tuple[int, int]] = []
        submitted = 0
        for _ in range(20):
            batch = []
            for _ in range(rng.randint(0, 4)):
                op = rng.choice((Op.READ, Op.WRITE, Op.WRITE, Op.FLUSH))
                first = rng.randrange(BLOCKS)
                span = memory.span(first * BLOCK, rng.randint(1, BLOCKS - first) * BLOCK)
                if op == Op.WRITE:
                    span.view[:] = rng.randbytes(1) * span.length
                spans = () if op == Op.FLUSH else (span,)
                batch.append(Transfer(op, rng.randrange(BLOCKS) * BLOCK, spans, context=submitted))
                submitted += 1
            device.submit(batch)
            returned += [(transfer.context, transfer.result) for transfer in device.reap()]
        if cut:
            return returned, device.power_cut(seed).peek()
        device.close()
        returned += [(transfer.context, transfer.result) for transfer in device.reap()]
        assert sorted(context for context, _ in returned) == list(range(submitted))
        return returned, device.peek()

    assert run() == run()
