"""Devices over files, io_uring and threads: the contract, locking, opening, falling back."""

from __future__ import annotations

import errno
import itertools
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mezzo.errors import Busy, InvalidArgument, Unavailable
from mezzo_server.blockstore.devices import descriptor as descriptor_module
from mezzo_server.blockstore.devices import opening
from mezzo_server.blockstore.devices.descriptor import open_descriptor
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.devices.null import NullDevice
from mezzo_server.blockstore.devices.opening import open_device, probe
from mezzo_server.blockstore.devices.threads import ThreadsDevice
from mezzo_server.blockstore.io import Device, Op, Transfer
from mezzo_server.memory import Memory
from tests.contract.device import BLOCK, SIZE_BYTES, FileDeviceContract, do, finish

try:
    from mezzo_server._native.ring import SLICE_BYTES
except ImportError:
    SLICE_BYTES = 0

needs_ring = pytest.mark.skipif(not probe().startswith("io_uring"), reason=probe())
SHM = Path("/dev/shm")
needs_shm = pytest.mark.skipif(not os.access(SHM, os.W_OK), reason="no writable /dev/shm")


class Shm:
    """On tmpfs, which opens O_DIRECT since Linux 6.6 and has no asynchronous reads."""

    @pytest.fixture(autouse=True)
    def _shm(self):
        with tempfile.TemporaryDirectory(dir=SHM, prefix="mezzo-test-") as folder:
            self.shm = Path(folder)
            yield

    def folder(self, tmp_path: Path) -> Path:
        return self.shm


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "device")


@needs_ring
class TestUring(FileDeviceContract):
    def open(self, path: str, **options: object) -> Device:
        return open_device(path, kind="uring", depth=16, **options)

    def test_one_span_in_registered_memory_goes_by_number(self, device, memory):
        assert device.register(memory)
        device.wait_pinned()
        assert device.pinned_bytes == memory.length
        do(device, Op.WRITE, 0, memory.span(0, 4 * BLOCK))
        assert device.fixed_transfers == 1
        # Neighbouring spans are one; apart they go by address.
        do(device, Op.WRITE, 0, memory.span(0, BLOCK), memory.span(BLOCK, BLOCK))
        assert device.fixed_transfers == 2
        do(device, Op.WRITE, 0, memory.span(0, BLOCK), memory.span(2 * BLOCK, BLOCK))
        assert device.fixed_transfers == 2
        device.unregister(memory)
        do(device, Op.WRITE, 0, memory.span(0, BLOCK))
        assert device.fixed_transfers == 2
        device.wait_pinned()
        assert device.pinned_bytes == 0

    def test_across_two_slices_it_goes_by_address(self, device):
        memory = Memory.anonymous(SLICE_BYTES + 2 * BLOCK)
        assert device.register(memory)
        device.wait_pinned()
        for offset, fixed in ((SLICE_BYTES - 2 * BLOCK, 1), (SLICE_BYTES - BLOCK, 1), (SLICE_BYTES, 2)):
            span = memory.span(offset, 2 * BLOCK)
            span.view[:] = bytes([fixed]) * span.length
            assert do(device, Op.WRITE, 0, span) == 2 * BLOCK
            assert device.fixed_transfers == fixed
            assert self.stored(device, 0, 2 * BLOCK) == bytes(span.view)

    def test_memory_may_be_closed_while_it_is_being_pinned(self, device):
        for _ in range(10):
            memory = Memory.anonymous(2 * SLICE_BYTES)
            assert device.register(memory)
            device.unregister(memory)
            memory.close()
        device.wait_pinned()
        assert device.pinned_bytes == 0

    def test_closing_ends_the_pinning(self, tmp_path):
        memory = Memory.anonymous(4 * SLICE_BYTES)
        device = open_device(str(tmp_path / "d"), size_bytes=SIZE_BYTES, kind="uring")
        assert device.register(memory)
        device.close()

    def test_neighbours_of_two_memories_go_by_address(self, device):
        memories = sorted((Memory.anonymous(BLOCK) for _ in range(64)), key=lambda memory: memory.address)
        pairs = [
            (first, second)
            for first, second in itertools.pairwise(memories)
            if first.address + BLOCK == second.address
        ]
        for first, second in pairs:
            device.register(first)
            device.wait_pinned()
            first.view[:], second.view[:] = b"1" * BLOCK, b"2" * BLOCK
            assert do(device, Op.WRITE, 0, first.span(), second.span()) == 2 * BLOCK
            assert self.stored(device, 0, 2 * BLOCK) == b"1" * BLOCK + b"2" * BLOCK
            device.unregister(first)

    def test_pinned_bytes_are_capped(self, tmp_path):
        device = open_device(
            str(tmp_path / "d"), size_bytes=SIZE_BYTES, kind="uring", pinned_bytes_max=1 << 20
        )
        first, second = Memory.anonymous(1 << 20), Memory.anonymous(BLOCK)
        assert device.register(first)
        assert not device.register(second)
        assert do(device, Op.READ, 0, second.span()) == BLOCK
        device.unregister(first)
        device.wait_pinned()
        assert device.register(second)
        device.close()

    def test_a_dropped_device_is_no_crash(self, tmp_path, memory):
        device = self.make(tmp_path)
        device.submit([Transfer(Op.WRITE, n * BLOCK, (memory.span(n * BLOCK, BLOCK),)) for n in range(64)])
        fd = device._descriptor.fd
        del device
        os.close(fd)

    def test_memory_lives_while_it_is_written_from(self, device):
        for _ in range(20):
            memory = Memory.anonymous(1 << 20)
            memory.view[:] = b"\x01" * memory.length
            device.submit([Transfer(Op.WRITE, 0, (memory.span(),))])
            del memory
            assert finish(device, 1)[0].result == 1 << 20


@needs_ring
class TestRing:
    """The native ring under its device."""

    @pytest.fixture
    def ring(self, path):
        from mezzo_server._native.ring import Ring

        descriptor = open_descriptor(path, size_bytes=SIZE_BYTES)
        ring = Ring(
            descriptor.fd,
            4,
            size_bytes=SIZE_BYTES,
            block_bytes=BLOCK,
            memory_align_bytes=512,
            transfers_max=100,
            move_bytes_max=3 * BLOCK,
        )
        yield ring
        ring.close()
        descriptor.release()

    @pytest.mark.parametrize("registered", [False, True])
    def test_short_transfers_go_on_where_they_stopped(self, ring, path, registered):
        memory = Memory.anonymous(64 * BLOCK)
        memory.view[:] = random.Random(1).randbytes(memory.length)
        if registered:
            assert ring.pin(3, memory.address, memory.length) == 0
            ring.publish(memory, 3, 1)
        expected = bytes(memory.view[BLOCK : 11 * BLOCK])
        assert do(ring, Op.WRITE, 5 * BLOCK, memory.span(BLOCK, 10 * BLOCK)) == 10 * BLOCK
        assert ring.retried == 3
        assert ring.fixed_transfers == registered
        with open(path, "rb") as file:
            assert os.pread(file.fileno(), 10 * BLOCK, 5 * BLOCK) == expected
        # Two spans go as one request; what is left of the second goes on alone.
        spans = (memory.span(32 * BLOCK, 2 * BLOCK), memory.span(48 * BLOCK, 8 * BLOCK))
        assert do(ring, Op.READ, 5 * BLOCK, *spans) == 10 * BLOCK
        assert b"".join(bytes(span.view) for span in spans) == expected

    def test_what_the_kernel_gave(self, ring):
        assert ring.fixed_file
        assert ring.fixed_buffers
        assert ring.depth == 4

    def test_limits_of_its_own(self, ring, path):
        memory = Memory.anonymous(BLOCK)
        with pytest.raises(Busy):
            ring.submit([Transfer(Op.READ, 0, (memory.span(),)) for _ in range(101)])
        assert ring.in_flight == 0
        with pytest.raises(InvalidArgument, match="depth"):
            type(ring)(
                0,
                0,
                size_bytes=1,
                block_bytes=1,
                memory_align_bytes=1,
                transfers_max=1,
            )
        with pytest.raises(InvalidArgument, match="operation"):
            ring.submit([Transfer(7, 0, (memory.span(),))])

    def test_a_bad_descriptor_is_an_error_of_the_transfer(self, ring):
        memory = Memory.anonymous(BLOCK)
        reading, writing = os.pipe()
        other = type(ring)(
            reading,
            2,
            size_bytes=SIZE_BYTES,
            block_bytes=BLOCK,
            memory_align_bytes=512,
            transfers_max=10,
        )
        assert do(other, Op.WRITE, 0, memory.span()) < 0
        other.close()
        os.close(reading)
        os.close(writing)


@needs_ring
@needs_shm
class TestUringShm(Shm, TestUring):
    pass


@needs_ring
class TestUringThroughThePageCache(FileDeviceContract):
    def open(self, path: str, **options: object) -> Device:
        device = open_device(path, kind="uring", direct=False, **options)
        assert not device.direct
        return device


class TestThreads(FileDeviceContract):
    def open(self, path: str, **options: object) -> Device:
        return open_device(path, kind="threads", depth=4, **options)


@needs_shm
class TestThreadsShm(Shm, TestThreads):
    pass


def test_a_second_opening_is_refused_and_named(path):
    device = open_device(path, size_bytes=SIZE_BYTES)
    slept = []
    with pytest.raises(Unavailable, match="held by another process") as caught:
        open_device(path, size_bytes=SIZE_BYTES, sleep=slept.append)
    assert path in str(caught.value)
    assert 4.9 <= sum(slept) <= 5.1
    device.close()
    open_device(path, size_bytes=SIZE_BYTES, lock_wait_s=0).close()


def test_the_lock_is_waited_for(path):
    device = open_device(path, size_bytes=SIZE_BYTES)

    def sleep(_: float) -> None:
        device.close()

    open_device(path, size_bytes=SIZE_BYTES, sleep=sleep).close()


HOLDER = """
import sys
from mezzo_server.blockstore.devices.opening import open_device
from mezzo_server.blockstore.io import Op, Transfer
from mezzo_server.memory import Memory
device = open_device(sys.argv[1], size_bytes=int(sys.argv[2]), kind=sys.argv[3])
memory = Memory.anonymous(1 << 20)
device.submit([Transfer(Op.WRITE, n << 20, (memory.span(),)) for n in range(device.size_bytes >> 20)])
print("held", flush=True)
while True:
    device.wait()
    device.submit([Transfer(Op.WRITE, t.offset, t.spans) for t in device.reap()])
"""


@pytest.mark.parametrize("kind", ["threads", pytest.param("uring", marks=needs_ring)])
def test_two_processes_and_a_start_right_after_sigkill(path, kind):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    size_bytes = 16 << 20
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path, str(size_bytes), kind],
        stdout=subprocess.PIPE,
        env=environment,
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Unavailable, match="held by another process"):
            open_device(path, kind=kind, lock_wait_s=0)
        holder.kill()
        # Not even waited for: the ring of the killed process may hold the descriptor for a while.
        device = open_device(path, kind=kind)
        assert device.size_bytes == size_bytes
        device.close()
        holder.wait()


def test_a_file_smaller_than_asked_is_refused(path):
    open_device(path, size_bytes=SIZE_BYTES).close()
    with pytest.raises(InvalidArgument, match=f"{SIZE_BYTES} bytes, fewer than"):
        open_device(path, size_bytes=2 * SIZE_BYTES)
    assert os.stat(path).st_size == SIZE_BYTES


def test_a_larger_file_is_used_in_part(path):
    open_device(path, size_bytes=SIZE_BYTES).close()
    device = open_device(path, size_bytes=SIZE_BYTES // 2)
    assert device.size_bytes == SIZE_BYTES // 2
    memory = Memory.anonymous(BLOCK)
    assert do(device, Op.WRITE, SIZE_BYTES // 2, memory.span()) == -errno.EIO
    device.close()
    device = open_device(path)
    assert device.size_bytes == SIZE_BYTES
    device.close()


def test_what_cannot_be_a_device(tmp_path):
    for path, size_bytes, match in (
        (tmp_path, None, "directory"),
        ("/dev/null", None, "neither"),
        (tmp_path / "missing", None, "does not exist"),
    ):
        with pytest.raises(InvalidArgument, match=match):
            open_device(str(path), size_bytes=size_bytes)
    with pytest.raises(InvalidArgument, match="does not exist"):
        open_device(str(tmp_path / "missing"), size_bytes=SIZE_BYTES, create=False)
    (tmp_path / "tiny").write_bytes(b"x" * 100)
    with pytest.raises(InvalidArgument, match="single block"):
        open_device(str(tmp_path / "tiny"))
    with pytest.raises(InvalidArgument, match="kind"):
        open_device(str(tmp_path / "tiny"), kind="fast")
    assert not (tmp_path / "missing").exists()


def test_no_room_is_told_and_leaves_nothing_behind(path, monkeypatch):
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Unavailable, match=r"no room for 4194304 bytes \(\d+ free\)"):
        open_device(path, size_bytes=SIZE_BYTES)
    assert not os.path.exists(path)


def test_without_direct_io_it_says_so(path, monkeypatch):
    monkeypatch.setattr(descriptor_module, "_set_direct", lambda fd, room: False)
    device = open_device(path, size_bytes=SIZE_BYTES)
    assert device.direct is False
    memory = Memory.anonymous(BLOCK)
    assert do(device, Op.WRITE, 0, memory.span()) == BLOCK
    device.close()


def test_alignments_follow_the_medium(path, monkeypatch):
    monkeypatch.setattr(descriptor_module, "statx_alignments", lambda fd: (4, 16384))
    descriptor = open_descriptor(path, size_bytes=SIZE_BYTES + 4096)
    assert descriptor.block_bytes == 16384
    assert descriptor.memory_align_bytes == 16384
    assert descriptor.size_bytes == SIZE_BYTES
    descriptor.release()


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.EPERM, "seccomp"), (errno.ENOSYS, "no io_uring"), (errno.ENOMEM, "ENOMEM")],
)
@needs_ring
def test_a_blocked_ring_falls_back_and_says_why(path, monkeypatch, code, words):
    monkeypatch.setattr("mezzo_server.blockstore.devices.uring.probe", lambda: (code, 0))
    assert words in probe()
    assert probe().startswith("Threads")
    device = open_device(path, size_bytes=SIZE_BYTES)
    assert isinstance(device, ThreadsDevice)
    device.close()
    with pytest.raises(Unavailable, match=words):
        open_device(path, kind="uring")
    open_device(path, kind="threads", lock_wait_s=0).close()


def test_without_the_native_module_it_falls_back(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mezzo_server.blockstore.devices.uring", None)
    assert "not built" in probe()
    device = open_device(path, size_bytes=SIZE_BYTES)
    assert isinstance(device, ThreadsDevice)
    device.close()


def test_memory_and_null_by_name():
    device = open_device("memory:1MiB")
    assert isinstance(device, MemoryDevice)
    assert device.size_bytes == 1 << 20
    assert isinstance(open_device("null:1.5GiB"), NullDevice)
    assert open_device("memory:1MiB", size_bytes=8192).size_bytes == 8192
    with pytest.raises(InvalidArgument, match="size"):
        open_device("memory:lots")


def test_kinds_are_documented():
    assert opening.KINDS == ("auto", "uring", "threads")
