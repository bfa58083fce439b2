"""What every device that stores data must do; subclassed once for each of them.

A subclass says how to make a device and how to look at what it stored without using the device.
Hazards for the next implementer stand beside the tests that catch them.
"""

from __future__ import annotations

import errno
import os
import random
import select
from pathlib import Path

import pytest

from mezzo.errors import Busy, DeviceFailed, InvalidArgument
from mezzo_server.blockstore.io import Device, Op, Transfer
from mezzo_server.memory import Memory, Span

SIZE_BYTES = 4 << 20
BLOCK = 4096


def finish(device: Device, count: int | None = None) -> list[Transfer]:
    """Reap until nothing is in flight; all that came back, in order of return."""
    ended: list[Transfer] = []
    while device.in_flight:
        device.wait(30)
        ended += device.reap()
    assert count is None or len(ended) == count
    return ended


def do(device: Device, op: Op, offset: int = 0, *spans: Span) -> int:
    """One transfer, to its end."""
    transfer = Transfer(op, offset, spans)
    device.submit([transfer])
    assert finish(device) == [transfer]
    return transfer.result


class DeviceContract:
    """The suite."""

    def make(self, folder: Path) -> Device:
        """A zeroed device of SIZE_BYTES."""
        raise NotImplementedError

    def stored(self, device: Device, offset: int, length: int) -> bytes:
        """What is at rest, by other means than the device's."""
        raise NotImplementedError

    @pytest.fixture
    def device(self, tmp_path):
        device = self.make(tmp_path)
        yield device
        device.close()

    @pytest.fixture
    def memory(self):
        memory = Memory.anonymous(2 << 20)
        memory.view[:] = random.Random(7).randbytes(memory.length)
        return memory

    def test_says_what_it_is(self, device):
        assert device.name
        assert device.size_bytes == SIZE_BYTES
        assert device.block_bytes == BLOCK
        assert device.memory_align_bytes in (512, 1024, 2048, 4096)
        assert device.in_flight == 0
        assert device.reap() == []
        device.wait()  # nothing in flight: returns

    def test_a_new_device_reads_zeros(self, device, memory):
        assert do(device, Op.READ, 8 * BLOCK, memory.span(0, 4 * BLOCK)) == 4 * BLOCK
        assert bytes(memory.view[: 4 * BLOCK]) == bytes(4 * BLOCK)

    def test_writes_land_where_they_should_and_nowhere_else(self, device, memory):
        assert do(device, Op.WRITE, 3 * BLOCK, memory.span(BLOCK, 2 * BLOCK)) == 2 * BLOCK
        assert self.stored(device, 2 * BLOCK, 4 * BLOCK) == (
            bytes(BLOCK) + bytes(memory.view[BLOCK : 3 * BLOCK]) + bytes(BLOCK)
        )

    def test_reads_fill_their_spans_and_nothing_else(self, device, memory):
        before = bytes(memory.view)
        do(device, Op.WRITE, 0, memory.span(0, 2 * BLOCK))
        assert do(device, Op.READ, 0, memory.span(8 * BLOCK, 2 * BLOCK)) == 2 * BLOCK
        assert bytes(memory.view[8 * BLOCK : 10 * BLOCK]) == before[: 2 * BLOCK]
        assert bytes(memory.view[: 8 * BLOCK]) == before[: 8 * BLOCK]
        assert bytes(memory.view[10 * BLOCK :]) == before[10 * BLOCK :]

    def test_the_last_block(self, device, memory):
        assert do(device, Op.WRITE, SIZE_BYTES - BLOCK, memory.span(0, BLOCK)) == BLOCK
        assert do(device, Op.READ, SIZE_BYTES - BLOCK, memory.span(BLOCK, BLOCK)) == BLOCK
        assert bytes(memory.view[:BLOCK]) == bytes(memory.view[BLOCK : 2 * BLOCK])

    def test_vectored(self, device, memory):
        # Spans out of order, of unequal lengths, of two memories, one of them empty.
        other = Memory.anonymous(BLOCK)
        other.view[:] = b"o" * BLOCK
        spans = [
            memory.span(9 * BLOCK, 512 * 5),
            other.span(512, 512 * 3),
            memory.span(0, 0),
            memory.span(BLOCK, 2 * BLOCK),
            memory.span(3 * BLOCK, BLOCK),  # goes on where the one before ended
        ]
        if device.memory_align_bytes > 512:
            spans = [memory.span(9 * BLOCK, BLOCK), other.span(), memory.span(BLOCK, 2 * BLOCK)]
        expected = b"".join(bytes(span.view) for span in spans)
        assert do(device, Op.WRITE, 5 * BLOCK, *spans) == len(expected)
        assert self.stored(device, 5 * BLOCK, len(expected)) == expected
        for span in spans:
            span.view[:] = bytes(span.length)
        assert do(device, Op.READ, 5 * BLOCK, *spans) == len(expected)
        assert b"".join(bytes(span.view) for span in spans) == expected

    def test_more_spans_than_one_system_call_takes(self, device):
        # readv and writev take 1024: the rest must go on behind them.
        memory = Memory.anonymous(3000 * 2 * 512)
        memory.view[:] = random.Random(1).randbytes(memory.length)
        step = device.memory_align_bytes
        spans = [memory.span(2 * index * step, step) for index in range(memory.length // (2 * step))]
        spans = spans[: len(spans) - len(spans) % (BLOCK // step)]
        expected = b"".join(bytes(span.view) for span in spans)
        assert do(device, Op.WRITE, BLOCK, *spans) == len(expected)
        assert self.stored(device, BLOCK, len(expected)) == expected
        for span in spans:
            span.view[:] = bytes(step)
        assert do(device, Op.READ, BLOCK, *spans) == len(expected)
        assert b"".join(bytes(span.view) for span in spans) == expected

    def test_batches_over_the_depth(self, device, memory):
        writes = [
            Transfer(Op.WRITE, index * BLOCK, (memory.span(index % 256 * BLOCK, BLOCK),), context=index)
            for index in range(SIZE_BYTES // BLOCK)
        ]
        device.submit(writes)
        assert device.in_flight == len(writes)
        ended = finish(device, len(writes))
        assert {id(transfer) for transfer in ended} == {id(transfer) for transfer in writes}
        assert all(transfer.result == BLOCK for transfer in ended)
        assert self.stored(device, 0, SIZE_BYTES) == bytes(memory.view[: 256 * BLOCK]) * 4

    def test_batches_while_others_are_in_flight(self, device, memory):
        ended: list[Transfer] = []
        for index in range(200):
            device.submit([Transfer(Op.WRITE, index * BLOCK, (memory.span(index * BLOCK, BLOCK),))])
            if index % 7 == 0:
                ended += device.reap()
        ended += finish(device)
        assert len(ended) == 200
        assert self.stored(device, 0, 200 * BLOCK) == bytes(memory.view[: 200 * BLOCK])

    def test_submit_of_nothing(self, device):
        device.submit([])
        assert device.in_flight == 0

    @pytest.mark.parametrize(
        ("offset", "start", "length"),
        [
            (512, 0, BLOCK),
            (0, 0, 512),
            (0, 1, BLOCK),
            (0, 256, BLOCK),
            (0, 0, BLOCK + 1),
            (-BLOCK, 0, BLOCK),
            (0, 0, 0),
        ],
    )
    @pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
    def test_unaligned_is_refused_before_anything_begins(self, device, memory, op, offset, start, length):
        good = Transfer(Op.WRITE, 0, (memory.span(0, BLOCK),))
        with pytest.raises(ValueError, match=r"\d"):
            device.submit([good, Transfer(op, offset, (memory.span(start, length),))])
        assert device.in_flight == 0
        assert self.stored(device, 0, BLOCK) == bytes(BLOCK)

    def test_spans_of_uneven_length_are_refused(self, device, memory):
        with pytest.raises(InvalidArgument, match="aligned"):
            device.submit([Transfer(Op.READ, 0, (memory.span(0, 100), memory.span(BLOCK, BLOCK - 100)))])

    def test_memory_that_is_not_there_is_refused(self, device, memory):
        # A span is a tuple that anybody can make: addresses are checked, not believed.
        for span in (Span(memory, memory.length, BLOCK), Span(memory, -BLOCK, BLOCK)):
            with pytest.raises(InvalidArgument, match="outside"):
                device.submit([Transfer(Op.READ, 0, (span,))])
        closed = Memory.anonymous(BLOCK)
        span = closed.span()
        closed.close()
        with pytest.raises(InvalidArgument, match="outside"):
            device.submit([Transfer(Op.READ, 0, (span,))])

    @pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
    def test_past_the_end_is_an_error_and_touches_nothing(self, device, memory, op):
        # On a file a write past the end would make it grow: the device must look before it writes.
        before = bytes(memory.view)
        last = SIZE_BYTES - BLOCK
        assert do(device, op, last, memory.span(0, 2 * BLOCK)) == -errno.EIO
        assert do(device, op, SIZE_BYTES + BLOCK, memory.span(0, BLOCK)) == -errno.EIO
        assert do(device, op, 1 << 62, memory.span(0, BLOCK)) == -errno.EIO
        assert bytes(memory.view) == before
        assert self.stored(device, last, BLOCK) == bytes(BLOCK)

    def test_an_error_leaves_its_neighbours_alone(self, device, memory):
        good = [Transfer(Op.WRITE, index * BLOCK, (memory.span(0, BLOCK),)) for index in range(4)]
        bad = Transfer(Op.WRITE, SIZE_BYTES, (memory.span(0, BLOCK),))
        device.submit([*good[:2], bad, *good[2:]])
        finish(device, 5)
        assert [transfer.result for transfer in good] == [BLOCK] * 4
        assert bad.result == -errno.EIO

    def test_flush(self, device, memory):
        do(device, Op.WRITE, 0, memory.span(0, BLOCK))
        assert do(device, Op.FLUSH) == 0
        device.submit(
            [Transfer(Op.FLUSH), Transfer(Op.WRITE, BLOCK, (memory.span(0, BLOCK),)), Transfer(Op.FLUSH)]
        )
        assert sorted(transfer.result for transfer in finish(device, 3)) == [0, 0, BLOCK]

    def test_the_event_tells_when_there_is_something_to_reap(self, device, memory):
        if device.event_fd is None:
            device.submit([Transfer(Op.WRITE, 0, (memory.span(0, BLOCK),))])
            finish(device, 1)
            return
        for offset in (0, SIZE_BYTES):  # the second is an error without any I/O
            assert not select.select([device.event_fd], [], [], 0)[0]
            device.submit([Transfer(Op.WRITE, offset, (memory.span(0, BLOCK),))])
            assert select.select([device.event_fd], [], [], 30)[0]
            device.wait(30)
            assert select.select([device.event_fd], [], [], 30)[0], "wait must leave the event to reap"
            assert len(device.reap()) == 1

    def test_callbacks_are_the_callers(self, device, memory):
        called = []
        device.submit([Transfer(Op.WRITE, 0, (memory.span(0, BLOCK),), done=called.append)])
        finish(device, 1)
        assert called == []

    def test_registered_memory_works_like_any_other(self, device, memory):
        device.register(memory)
        device.register(memory)
        expected = bytes(memory.view[: 64 * BLOCK])
        device.submit([Transfer(Op.WRITE, n * BLOCK, (memory.span(n * BLOCK, BLOCK),)) for n in range(64)])
        finish(device, 64)
        assert self.stored(device, 0, 64 * BLOCK) == expected
        both = (memory.span(0, BLOCK), memory.span(128 * BLOCK, BLOCK))
        assert do(device, Op.READ, 0, *both) == 2 * BLOCK
        assert bytes(memory.view[128 * BLOCK : 129 * BLOCK]) == expected[BLOCK : 2 * BLOCK]
        device.unregister(memory)
        device.unregister(memory)
        memory.view[: 64 * BLOCK] = bytes(64 * BLOCK)
        assert do(device, Op.READ, 0, memory.span(0, 64 * BLOCK)) == 64 * BLOCK
        assert bytes(memory.view[: 64 * BLOCK]) == expected

    def test_borrow_is_the_stored_bytes_or_nothing(self, device, memory):
        do(device, Op.WRITE, BLOCK, memory.span(0, BLOCK))
        span = device.borrow(BLOCK, BLOCK)
        assert span is None or bytes(span.view) == bytes(memory.view[:BLOCK])

    def test_close_lets_what_is_in_flight_end(self, device, memory):
        writes = [Transfer(Op.WRITE, n * BLOCK, (memory.span(n * BLOCK, BLOCK),)) for n in range(300)]
        device.submit(writes)
        device.close()
        ended = device.reap()
        assert len(ended) == 300
        assert all(transfer.result == BLOCK for transfer in ended)
        assert device.in_flight == 0
        with pytest.raises(DeviceFailed):
            device.submit([Transfer(Op.FLUSH)])
        device.close()

    def test_transfers_in_flight_are_bounded(self, device, memory):
        flood = [Transfer(Op.READ, 0, (memory.span(0, BLOCK),))] * 65537
        with pytest.raises(Busy):
            device.submit(flood)
        assert device.in_flight == 0

    def test_random_traffic_is_what_a_dictionary_says(self, device, memory):
        rng = random.Random(11)
        blocks = 64
        expected = bytearray(blocks * BLOCK)
        for _ in range(60):
            # Disjoint transfers only: of concurrent ones at one place either may win.
            cuts = sorted(rng.sample(range(blocks + 1), 6))
            batch = []
            for first, last in zip(cuts[::2], cuts[1::2], strict=True):
                length = (last - first) * BLOCK
                start = rng.randrange((memory.length - length) // 512) * 512
                start -= start % device.memory_align_bytes
                batch.append(Transfer(Op.WRITE, first * BLOCK, (memory.span(start, length),)))
                expected[first * BLOCK : last * BLOCK] = memory.view[start : start + length]
            device.submit(batch)
            finish(device, 3)
        target = Memory.anonymous(blocks * BLOCK)
        assert do(device, Op.READ, 0, target.span()) == blocks * BLOCK
        assert bytes(target.view) == bytes(expected)


class FileDeviceContract(DeviceContract):
    """For devices that keep their bytes in a file: more to hold, and the file to look at."""

    def open(self, path: str, **options: object) -> Device:
        raise NotImplementedError

    def folder(self, tmp_path: Path) -> Path:
        return tmp_path

    def make(self, folder: Path) -> Device:
        self.path = str(self.folder(folder) / "device")
        return self.open(self.path, size_bytes=SIZE_BYTES)

    def stored(self, device: Device, offset: int, length: int) -> bytes:
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), length, offset)

    def test_the_file_is_whole_from_the_start_and_never_grows(self, device, memory):
        status = os.stat(self.path)
        assert status.st_size == SIZE_BYTES
        assert status.st_blocks * 512 >= SIZE_BYTES
        assert status.st_mode & 0o077 == 0
        do(device, Op.WRITE, SIZE_BYTES, memory.span(0, BLOCK))
        assert os.stat(self.path).st_size == SIZE_BYTES

    def test_a_restart_finds_everything(self, tmp_path, memory):
        device = self.make(tmp_path)
        do(device, Op.WRITE, BLOCK, memory.span(0, 8 * BLOCK))
        device.close()
        device = self.open(self.path, size_bytes=SIZE_BYTES)
        assert do(device, Op.READ, BLOCK, memory.span(16 * BLOCK, 8 * BLOCK)) == 8 * BLOCK
        assert bytes(memory.view[16 * BLOCK : 24 * BLOCK]) == bytes(memory.view[: 8 * BLOCK])
        device.close()

    def test_a_file_cut_short_behind_its_back_is_an_error(self, device, memory):
        os.truncate(self.path, SIZE_BYTES // 2)
        assert do(device, Op.READ, SIZE_BYTES // 2, memory.span(0, BLOCK)) == -errno.EIO
        # A read across the new end moves a part, then meets the end.
        assert do(device, Op.READ, SIZE_BYTES // 2 - BLOCK, memory.span(0, 2 * BLOCK)) == -errno.EIO
