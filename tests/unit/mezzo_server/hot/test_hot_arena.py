"""An arena as the kernel sees it: sealed, allocated whole, left out of core dumps."""

from __future__ import annotations

import fcntl
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezzo_server.hot.arena import SEALS, AnonymousArena, Arena
from mezzo_server.hot.slots import PAGE_BYTES, arena_bytes_for
from tests.held import descriptors

F_GET_SEALS = getattr(fcntl, "F_GET_SEALS", 1034)


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(7, b"t" * 16, arena_bytes_for(300 * PAGE_BYTES))
    yield arena
    arena.close()


def test_layout(arena: Arena) -> None:
    assert (arena.number, arena.tenant, arena.page_bytes) == (7, b"t" * 16, PAGE_BYTES)
    assert arena.bytes - arena.data_offset == 300 * PAGE_BYTES
    arena.publish(0, 1)
    arena.publish(299, 1 << 40)
    assert arena.generation(299) == 1 << 40
    head = os.pread(arena.fd, 300 * 8, 0)
    assert int.from_bytes(head[:8], "little") == 1
    assert int.from_bytes(head[299 * 8 :], "little") == 1 << 40
    arena.memory.view[arena.data_offset :] = b"\x5a" * (300 * PAGE_BYTES)
    assert os.pread(arena.fd, 10, arena.data_offset) == b"\x5a" * 10


def test_sealed(arena: Arena) -> None:
    assert fcntl.fcntl(arena.fd, F_GET_SEALS) == SEALS == 0x17
    assert not os.get_inheritable(arena.fd)


def test_all_of_it_is_allocated(arena: Arena) -> None:
    assert os.fstat(arena.fd).st_blocks * 512 == arena.bytes


def test_not_dumped(arena: Arena) -> None:
    maps = Path("/proc/self/smaps").read_text()
    entry = re.search(rf"^{arena.memory.address:x}-.*?^VmFlags:(.*?)$", maps, re.M | re.S)
    assert entry is not None
    assert "mezzo-hot-7" in entry[0]
    assert "dd" in entry[1].split()


def reopened(arena: Arena) -> int:
    return os.open(f"/proc/self/fd/{arena.fd}", os.O_RDWR)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("way", ["write", "pwrite", "map", "grow", "shrink", "punch", "allocate", "seal"])
def test_nobody_can_write_or_resize(arena: Arena, way: str, again: bool) -> None:
    fd = reopened(arena) if again else os.dup(arena.fd)
    attempts = {
        "write": lambda: os.write(fd, b"x"),
        "pwrite": lambda: os.pwrite(fd, b"x", 5),
        "map": lambda: mmap.mmap(fd, arena.bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        "grow": lambda: os.ftruncate(fd, arena.bytes + PAGE_BYTES),
        "shrink": lambda: os.ftruncate(fd, PAGE_BYTES),
        "punch": lambda: _fallocate(fd, 3, 0, PAGE_BYTES),
        "allocate": lambda: _fallocate(fd, 0, arena.bytes, PAGE_BYTES),
        "seal": lambda: fcntl.fcntl(fd, 1033, 8),
    }
    with pytest.raises(OSError, match=r"permitted|denied"):
        attempts[way]()
    os.close(fd)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_int(fd), ctypes.c_int(mode), ctypes.c_int64(offset), ctypes.c_int64(length))
    if libc.fallocate(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def test_it_can_be_mapped_for_reading(arena: Arena) -> None:
    arena.memory.view[arena.data_offset] = 9
    with mmap.mmap(arena.fd, arena.bytes, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
        assert mapping[arena.data_offset] == 9
        arena.memory.view[arena.data_offset] = 8
        assert mapping[arena.data_offset] == 8


def test_close_gives_everything_back() -> None:
    before = descriptors()
    arena = Arena(99, b"t" * 16, arena_bytes_for(10 * PAGE_BYTES))
    arena.close()
    arena.close()
    assert descriptors() <= before
    assert "mezzo-hot-99" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("nbytes", [0, PAGE_BYTES, 2 * PAGE_BYTES + 1])
@pytest.mark.parametrize("kind", [Arena, AnonymousArena])
def test_sizes_that_make_no_arena(kind: type, nbytes: int) -> None:
    with pytest.raises(ValueError, match="whole pages"):
        kind(1, b"t" * 16, nbytes)


def test_no_memory_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = descriptors()
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space"):
        Arena(1, b"t" * 16, arena_bytes_for(PAGE_BYTES))
    assert descriptors() <= before
