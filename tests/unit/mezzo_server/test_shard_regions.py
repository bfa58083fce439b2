from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mezzo.errors import Busy, InvalidArgument, MezzoError, RegionError, TooLarge
from mezzo_server.memory import PAGE_BYTES, Memory
from mezzo_server.shard.regions import Region, RegionRegistry, RegionTable
from tests.held import descriptors

SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Devices:
    """Which memories are registered."""

    def __init__(self) -> None:
        self.registered: list[Memory] = []

    def register(self, memory: Memory) -> bool:
        self.registered.append(memory)
        return True

    def unregister(self, memory: Memory) -> None:
        self.registered.remove(memory)


@pytest.fixture
def devices() -> Devices:
    return Devices()


@pytest.fixture
def registry(devices: Devices) -> RegionRegistry:
    return RegionRegistry(devices.register, devices.unregister, bytes_max=1 << 20)


@pytest.fixture
def regions(registry: RegionRegistry) -> Iterator[RegionTable]:
    before = descriptors()
    table = RegionTable(registry, regions_max=3, bytes_max=1 << 19)
    yield table
    table.close()
    assert registry.count == registry.bytes_total == registry.lingering == 0
    assert descriptors() <= before


def memfd(size: int = 4 * PAGE_BYTES, seals: int = SEALS) -> int:
    fd = os.memfd_create("region", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.posix_fallocate(fd, 0, size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def add(table: RegionTable, number: int, fd: int, length: int = PAGE_BYTES, offset: int = 0) -> Region:
    outcome = try_add(table, number, fd, length, offset)
    assert isinstance(outcome, Region)
    return outcome


def try_add(
    table: RegionTable, number: int, fd: int, length: int = PAGE_BYTES, offset: int = 0
) -> Region | MezzoError:
    outcomes: list[Region | MezzoError] = []
    table.add(number, fd, offset, length, outcomes.append)
    assert len(outcomes) == 1
    return outcomes[0]


def test_sealed_memory_is_mapped(regions: RegionTable, devices: Devices) -> None:
    fd = memfd()
    keep = os.dup(fd)
    region = add(regions, 1, fd, 2 * PAGE_BYTES, PAGE_BYTES)
    assert region.memory is not None
    assert devices.registered == [region.memory]
    os.pwrite(keep, b"hello", PAGE_BYTES + 8)
    (span,) = region.spans([8, 5])
    assert bytes(span.view) == b"hello"
    span.view[:] = b"world"
    assert os.pread(keep, 5, PAGE_BYTES + 8) == b"world"
    del span
    os.close(keep)
    gone: list[bool] = []
    regions.remove(1, lambda: gone.append(True))
    assert gone == [True]
    assert not devices.registered


def test_memory_whose_pages_do_not_exist_is_mapped_and_not_pinned(
    regions: RegionTable, devices: Devices
) -> None:
    fd = os.memfd_create("sparse", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4 * PAGE_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    keep = os.dup(fd)
    region = add(regions, 1, fd)
    assert region.memory is not None
    assert not region.registered
    assert not devices.registered
    assert os.fstat(keep).st_blocks == 0
    os.close(keep)


def test_who_goes_while_pages_are_filled_in_leaves_nothing(devices: Devices) -> None:
    waiting: list[tuple[Callable[[], None], Callable[[], None]]] = []
    registry = RegionRegistry(
        devices.register,
        devices.unregister,
        bytes_max=1 << 20,
        offload=lambda work, done: waiting.append((work, done)),
    )
    before = descriptors()
    for ending in ("close", "remove"):
        table = RegionTable(registry, regions_max=3, bytes_max=1 << 20)
        outcomes: list[Region | MezzoError] = []
        table.add(1, memfd(), 0, PAGE_BYTES, outcomes.append)
        assert not outcomes
        if ending == "close":
            table.close()
        else:
            table.remove(1, lambda: None)
        while waiting:
            work, done = waiting.pop()
            work()
            done()
        assert len(outcomes) == (ending == "remove")
        table.close()
        assert registry.count == registry.lingering == 0
        assert not devices.registered
        assert descriptors() <= before


def test_memory_is_given_back_in_another_thread(devices: Devices) -> None:
    """The last to unmap the memory of a client that died frees all its pages."""
    waiting: list[tuple[Callable[[], None], Callable[[], None]]] = []
    registry = RegionRegistry(
        None, devices.unregister, bytes_max=1 << 20, offload=lambda work, done: waiting.append((work, done))
    )
    before = descriptors()
    table = RegionTable(registry, regions_max=3, bytes_max=1 << 20)
    for number in (1, 2):
        add(table, number, memfd())
    gone: list[int] = []
    table.remove(1, lambda: gone.append(1))
    table.close()
    assert len(waiting) == 2
    assert len(descriptors() - before) == 2
    assert (gone, registry.count) == ([], 2)
    for work, done in waiting:
        work()
        assert not gone or registry.count == 1
        done()
    assert (gone, registry.count, registry.bytes_total) == ([1], 0, 0)
    assert descriptors() <= before


def test_nothing_is_asked_of_what_is_no_shared_memory_and_it_is_not_closed_here(
    devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of a filesystem in user space: neither fstat nor close may be called on it in the loop."""
    discarded: list[int] = []
    registry = RegionRegistry(
        devices.register, devices.unregister, bytes_max=1 << 20, discard=discarded.append
    )
    table = RegionTable(registry, regions_max=3, bytes_max=1 << 20)
    fd = os.open("/proc/self/exe", os.O_RDONLY)
    touched: list[int] = []
    with monkeypatch.context() as patched:
        for name in ("fstat", "close", "fstatvfs"):
            patched.setattr(os, name, touched.append)
        assert isinstance(try_add(table, 1, fd), RegionError)
    assert not touched
    assert discarded == [fd]
    os.close(fd)


def test_unsealed_memory_is_kept_as_a_descriptor(regions: RegionTable, devices: Devices) -> None:
    region = add(regions, 1, memfd(seals=0), 2 * PAGE_BYTES, PAGE_BYTES)
    assert region.memory is None
    assert not devices.registered
    assert region.pairs([0, 10, PAGE_BYTES, 5]) == [(PAGE_BYTES, 10), (2 * PAGE_BYTES, 5)]
    with pytest.raises(RegionError):
        region.spans([0, 1])
    assert not region.is_truncated()
    os.ftruncate(region.fd, 2 * PAGE_BYTES)
    assert region.is_truncated()


def test_sealing_against_growing_alone_does_not_make_it_safe_to_map(regions: RegionTable) -> None:
    assert add(regions, 1, memfd(seals=fcntl.F_SEAL_GROW)).memory is None


def test_a_file_in_dev_shm_is_kept_as_a_descriptor(regions: RegionTable) -> None:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.truncate(PAGE_BYTES)
        assert add(regions, 1, os.dup(file.fileno())).memory is None


def test_files_on_disk_are_refused(regions: RegionTable, tmp_path: Path) -> None:
    for path in (tmp_path / "file", Path("/proc/self/exe")):
        if path.parent == tmp_path:
            path.write_bytes(bytes(PAGE_BYTES))
        fd = os.open(path, os.O_RDWR if path.parent == tmp_path else os.O_RDONLY)
        outcome = try_add(regions, 1, fd)
        # tmp_path may itself be on tmpfs
        if isinstance(outcome, Region):
            assert outcome.memory is None
            regions.remove(1, lambda: None)
        else:
            assert isinstance(outcome, RegionError)


def test_what_is_no_file_is_refused(regions: RegionTable) -> None:
    reader, writer = os.pipe()
    os.close(writer)
    assert isinstance(try_add(regions, 1, reader), RegionError)
    assert isinstance(try_add(regions, 1, os.open("/dev/zero", os.O_RDWR)), RegionError)
    assert isinstance(try_add(regions, 1, os.open("/", os.O_RDONLY)), RegionError)


def test_descriptors_must_be_writable(regions: RegionTable) -> None:
    fd = memfd()
    read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    appending = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_APPEND)
    path_only = os.open(f"/proc/self/fd/{fd}", os.O_PATH)
    os.close(fd)
    for bad in (read_only, appending, path_only):
        assert isinstance(try_add(regions, 1, bad), RegionError)


def test_memory_sealed_against_writing_is_refused(regions: RegionTable) -> None:
    assert isinstance(try_add(regions, 1, memfd(seals=SEALS | fcntl.F_SEAL_WRITE)), RegionError)


@pytest.mark.parametrize("seals", [SEALS, 0])
def test_a_region_must_lie_within_its_file(regions: RegionTable, seals: int) -> None:
    for length, offset in ((5 * PAGE_BYTES, 0), (PAGE_BYTES, 4 * PAGE_BYTES), (1, 1 << 40)):
        assert isinstance(try_add(regions, 1, memfd(seals=seals), length, offset), RegionError)
    add(regions, 1, memfd(seals=seals), 4 * PAGE_BYTES)


def test_wrong_numbers_are_refused(regions: RegionTable) -> None:
    add(regions, 1, memfd())
    for number, length, offset in ((1, 1, 0), (0, 1, 0), (2, 0, 0), (2, 1, 1)):
        assert isinstance(try_add(regions, number, memfd(), length, offset), InvalidArgument)


def test_limits(registry: RegionRegistry, regions: RegionTable) -> None:
    assert isinstance(try_add(regions, 1, memfd(1 << 20), (1 << 19) + 1), TooLarge)
    for number in (1, 2, 3):
        add(regions, number, memfd())
    assert isinstance(try_add(regions, 4, memfd()), TooLarge)
    others = [RegionTable(registry, regions_max=3, bytes_max=1 << 20) for _ in range(2)]
    add(others[0], 1, memfd(1 << 20), (1 << 20) - 3 * PAGE_BYTES)
    assert isinstance(try_add(others[1], 1, memfd()), Busy)
    others[0].close()
    add(others[1], 1, memfd())
    others[1].close()


@pytest.mark.parametrize("extents", [[0, 0], [PAGE_BYTES, 1], [0, PAGE_BYTES + 1], [2**63 - 1, 2**63 - 1]])
def test_extents_stay_within_the_region(regions: RegionTable, extents: list[int]) -> None:
    mapped = add(regions, 1, memfd())
    unmapped = add(regions, 2, memfd(seals=0))
    for longer in (extents, [0, 1, *extents]):
        with pytest.raises((RegionError, InvalidArgument)):
            mapped.spans(longer)
        with pytest.raises((RegionError, InvalidArgument)):
            unmapped.pairs(longer)
    with pytest.raises(InvalidArgument):
        mapped.spans([0, 1, 2])
    with pytest.raises(InvalidArgument):
        unmapped.pairs([0, 1, 2])


def test_removal_waits_for_transfers(regions: RegionTable, devices: Devices) -> None:
    region = add(regions, 1, memfd())
    region.hold()
    region.hold()
    gone: list[bool] = []
    regions.remove(1, lambda: gone.append(True))
    with pytest.raises(RegionError):
        regions.get(1)
    region.drop()
    assert not gone
    assert devices.registered
    region.drop()
    assert gone == [True]
    assert not devices.registered
    with pytest.raises(RegionError):
        regions.remove(1, lambda: None)


def test_a_dead_connections_transfers_hold_up_the_same_file_only(
    registry: RegionRegistry, regions: RegionTable, devices: Devices
) -> None:
    fd = memfd()
    dead = RegionTable(registry, regions_max=3, bytes_max=1 << 20)
    region = add(dead, 1, os.dup(fd))
    region.hold()
    dead.close()
    assert registry.lingering == 1
    outcomes: list[Region | MezzoError] = []
    regions.add(1, os.dup(fd), 0, PAGE_BYTES, outcomes.append)
    add(regions, 2, memfd())
    assert not outcomes
    with pytest.raises(RegionError):
        regions.get(1)
    region.drop()
    assert len(outcomes) == 1
    assert isinstance(outcomes[0], Region)
    assert registry.lingering == 0
    os.close(fd)


def test_who_goes_while_waiting_leaves_nothing(registry: RegionRegistry, regions: RegionTable) -> None:
    fd = memfd()
    dead = RegionTable(registry, regions_max=3, bytes_max=1 << 20)
    region = add(dead, 1, os.dup(fd))
    region.hold()
    dead.close()
    hasty = RegionTable(registry, regions_max=3, bytes_max=1 << 20)
    outcomes: list[Region | MezzoError] = []
    hasty.add(1, fd, 0, PAGE_BYTES, outcomes.append)
    hasty.close()
    region.drop()
    assert not outcomes


def test_views_that_outlive_a_region_keep_its_memory(regions: RegionTable) -> None:
    region = add(regions, 1, memfd())
    view = region.spans([0, 8])[0].view
    regions.remove(1, lambda: None)
    view[:] = b"still ok"
    assert bytes(view) == b"still ok"
