"""The memory and null devices."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mezzo.errors import InvalidArgument
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.devices.null import NullDevice
from mezzo_server.blockstore.io import Device, Op
from mezzo_server.memory import Memory
from tests.contract.device import BLOCK, SIZE_BYTES, DeviceContract, do


class TestMemory(DeviceContract):
    def make(self, folder: Path) -> Device:
        return MemoryDevice(SIZE_BYTES)

    def stored(self, device: Device, offset: int, length: int) -> bytes:
        return bytes(device.memory.view[offset : offset + length])

    def test_borrowed_bytes_are_in_place_and_outlive_the_device(self, device, memory):
        span = device.borrow(BLOCK, 2 * BLOCK)
        do(device, Op.WRITE, 2 * BLOCK, memory.span(0, BLOCK))
        device.close()
        assert bytes(span.view) == bytes(BLOCK) + bytes(memory.view[:BLOCK])

    def test_a_restart_keeps_the_bytes(self, device, memory):
        do(device, Op.WRITE, 0, memory.span(0, BLOCK))
        device.close()
        again = device.restarted()
        assert do(again, Op.READ, 0, memory.span(BLOCK, BLOCK)) == BLOCK
        assert bytes(memory.view[:BLOCK]) == bytes(memory.view[BLOCK : 2 * BLOCK])

    def test_contents_must_be_large_enough(self):
        with pytest.raises(InvalidArgument):
            MemoryDevice(SIZE_BYTES, memory=Memory.anonymous(BLOCK))
        with pytest.raises(InvalidArgument):
            MemoryDevice(100)


class TestNull:
    @pytest.fixture
    def device(self):
        return NullDevice(SIZE_BYTES)

    @pytest.fixture
    def memory(self):
        memory = Memory.anonymous(64 * BLOCK)
        memory.view[:] = b"m" * memory.length
        return memory

    def test_reads_leave_the_target_as_it_is(self, device, memory):
        assert do(device, Op.WRITE, 1 << 20, memory.span()) == memory.length
        memory.view[:BLOCK] = b"n" * BLOCK
        assert do(device, Op.READ, 1 << 20, memory.span()) == memory.length
        assert bytes(memory.view[: 2 * BLOCK]) == b"n" * BLOCK + b"m" * BLOCK
        assert do(device, Op.FLUSH) == 0

    def test_the_ends_are_real(self, device, memory):
        for offset in (0, BLOCK, SIZE_BYTES - BLOCK):
            target = memory.span(BLOCK, BLOCK)
            assert do(device, Op.WRITE, offset, memory.span(0, BLOCK)) == BLOCK
            target.view[:] = b"x" * BLOCK
            assert do(device, Op.READ, offset, target) == BLOCK
            assert bytes(target.view) == b"m" * BLOCK

    def test_across_the_edge_of_what_is_kept(self, device, memory):
        offset = 64 * 1024 - BLOCK
        do(device, Op.WRITE, offset, memory.span(0, 2 * BLOCK))
        memory.view[: 2 * BLOCK] = b"y" * (2 * BLOCK)
        assert do(device, Op.READ, offset, memory.span(0, BLOCK), memory.span(BLOCK, BLOCK)) == 2 * BLOCK
        assert bytes(memory.view[: 2 * BLOCK]) == b"m" * BLOCK + b"y" * BLOCK

    def test_nothing_is_kept_if_nothing_is_asked(self, memory):
        device = NullDevice(SIZE_BYTES, kept_bytes=0)
        do(device, Op.WRITE, 0, memory.span(0, BLOCK))
        memory.view[:BLOCK] = b"z" * BLOCK
        do(device, Op.READ, 0, memory.span(0, BLOCK))
        assert bytes(memory.view[:BLOCK]) == b"z" * BLOCK

    def test_past_the_end(self, device, memory):
        assert do(device, Op.WRITE, SIZE_BYTES, memory.span(0, BLOCK)) == -errno.EIO
        with pytest.raises(InvalidArgument):
            do(device, Op.WRITE, 1, memory.span(0, BLOCK))
