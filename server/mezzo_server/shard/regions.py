"""Client memory that a connection registered: checked, mapped, counted, let go.

Invariants: a region is mapped only if its file is sealed against shrinking, so that no access to the
mapping can fault; anything else is reached through its descriptor alone.  Nothing is unmapped or
closed while a transfer holds it.  A file that a dead connection still has transfers on is registered
anew only after they ended: what they write cannot land in what the client then does with it.  Nothing is
asked of a descriptor, and none is closed here, before it is known to be shared memory: whoever gave it may have
made a file whose owner never answers.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Callable, Sequence

from mezzo.errors import Busy, CallerError, InvalidArgument, MezzoError, RegionError, TooLarge
from mezzo_server.memory import PAGE_BYTES, Memory, Span

MADV_POPULATE_WRITE = 23  # <linux/mman.h>, Linux 5.14
TMPFS_MAGIC = 0x01021994  # statfs(2)
_WANTED = "a region must be shared memory (a memfd, or a file on tmpfs)"
STATFS_BYTES = 256  # struct statfs is smaller on every platform; f_type is its first long

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

Offload = Callable[[Callable[[], None], Callable[[], None]], None]
"""Runs the first in another thread, then the second in ours."""


def run_here(work: Callable[[], None], done: Callable[[], None]) -> None:
    """An `Offload` that runs both at once."""
    work()
    done()


def close_here(fd: int) -> None:
    """For who knows what clients give."""
    os.close(fd)


def _nothing() -> None:
    """Nobody waits."""


class Region:
    """One registered region. ``memory`` is None where it is reached through ``fd`` only."""

    __slots__ = (
        "_gone",
        "_users",
        "allocated",
        "fd",
        "file",
        "length",
        "memory",
        "number",
        "offset",
        "registered",
    )

    def __init__(
        self,
        number: int,
        fd: int,
        memory: Memory | None,
        offset: int,
        length: int,
        file: tuple[int, int],
        allocated: bool = False,
    ) -> None:
        self.number = number
        self.fd = fd
        self.memory = memory
        self.offset = offset
        self.length = length
        self.file = file
        self.allocated = allocated
        """all its pages exist"""
        self.registered = False
        self._users = 0
        self._gone: Callable[[], None] | None = None

    @property
    def users(self) -> int:
        """Transfers that hold this region."""
        return self._users

    def hold(self) -> None:
        """A transfer begins to use it."""
        self._users += 1

    def drop(self) -> None:
        """A transfer ended."""
        self._users -= 1
        if self._users == 0 and self._gone is not None:
            gone, self._gone = self._gone, None
            gone()

    def when_unused(self, gone: Callable[[], None]) -> None:
        """Call ``gone`` once no transfer holds it: now, or from the last `drop`."""
        if self._users == 0:
            gone()
        else:
            self._gone = gone

    def spans(self, extents: Sequence[int]) -> tuple[Span, ...]:
        """The mapped memory of ``[offset, length, offset, length, ...]``.

        Raises:
            InvalidArgument: the list has an odd length or an empty extent.
            RegionError: an extent leaves the region.
        """
        memory, size = self.memory, self.length
        if memory is None:
            raise RegionError(f"region {self.number} is not mapped")
        if len(extents) == 2:
            offset, length = extents
            if length <= 0 or offset < 0 or offset + length > size:
                raise self._outside(offset, length)
            return (Span(memory, offset, length),)
        if len(extents) & 1:
            raise InvalidArgument("an extent list needs an offset and a length for each extent")
        spans = []
        pairs = iter(extents)
        for offset, length in zip(pairs, pairs, strict=True):
            if length <= 0 or offset < 0 or offset + length > size:
                raise self._outside(offset, length)
            spans.append(Span(memory, offset, length))
        return tuple(spans)

    def pairs(self, extents: Sequence[int]) -> list[tuple[int, int]]:
        """The same as (offset within the file, length), for a region without a mapping."""
        if len(extents) & 1:
            raise InvalidArgument("an extent list needs an offset and a length for each extent")
        result = []
        pairs = iter(extents)
        for offset, length in zip(pairs, pairs, strict=True):
            if length <= 0 or offset < 0 or offset + length > self.length:
                raise self._outside(offset, length)
            result.append((self.offset + offset, length))
        return result

    def is_truncated(self) -> bool:
        """Whether its file has become too short for it."""
        try:
            return os.fstat(self.fd).st_size < self.offset + self.length
        except OSError:
            return True

    def _outside(self, offset: int, length: int) -> CallerError:
        if length <= 0:
            return InvalidArgument(f"extent {offset}+{length} is empty")
        return RegionError(
            f"extent {offset}+{length} is outside of region {self.number} ({self.length} bytes)"
        )

    def close(self) -> None:
        """Unmap and close; nothing uses it."""
        if self.memory is not None:
            try:
                self.memory.close()
            except BufferError:
                pass  # somebody still holds a view: the mapping goes with the last of them
            self.memory = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class RegionRegistry:
    """The regions of all connections. Owner of their total and of those that outlive theirs."""

    def __init__(
        self,
        register: Callable[[Memory], bool] | None,
        unregister: Callable[[Memory], None],
        *,
        bytes_max: int,
        offload: Offload = run_here,
        discard: Callable[[int], None] = close_here,
    ) -> None:
        """``register`` is None where no device gains by it; ``discard`` closes what was given and is no region."""
        self._offload = offload
        self.discard = discard
        self._register = register
        self._unregister = unregister
        self.bytes_max = bytes_max
        self.bytes_total = 0
        self.count = 0
        # Files of regions whose connection died with transfers in flight, and who waits for them.
        self._lingering: dict[tuple[int, int], int] = {}
        self._waiting: dict[tuple[int, int], list[Callable[[], None]]] = {}

    def registers_with(self, register: Callable[[Memory], bool] | None) -> None:
        """The devices have changed: how regions are made known to them from now on; None: not at all."""
        self._register = register

    @property
    def lingering(self) -> int:
        """Regions of closed connections that transfers still hold."""
        return sum(self._lingering.values())

    def admit(self, length: int) -> None:
        """Count ``length`` bytes. Busy over the limit of the shard."""
        if self.bytes_total + length > self.bytes_max:
            raise Busy(
                f"with {length} bytes more, all regions would hold more than they may ({self.bytes_max}, "
                "region_bytes_total_max)",
                1.0,
            )
        self.bytes_total += length
        self.count += 1

    def dismiss(self, length: int) -> None:
        """Undo `admit`."""
        self.bytes_total -= length
        self.count -= 1

    def register(self, region: Region, done: Callable[[], None]) -> None:
        """Let the devices know a mapped region, where they can, then call ``done``.

        Only if all its pages exist: pinning would make the others, at our expense.  Our page table is
        filled in another thread first, since pinning without that holds the loop 20 times as long.
        """
        memory, register = region.memory, self._register
        if memory is None or register is None or not region.allocated:
            done()
            return
        filled = False

        def fill() -> None:
            nonlocal filled
            filled = _libc.madvise(memory.address, memory.length, MADV_POPULATE_WRITE) == 0

        def ready() -> None:
            if filled:
                region.registered = register(memory)
            region.drop()
            done()

        region.hold()
        self._offload(fill, ready)

    def release(self, region: Region, released: Callable[[], None] = _nothing) -> None:
        """Nothing uses the region any more: unmap, close, uncount, and then call ``released``.

        In another thread: the pages of a client that died are freed by that, some gigabytes a second.
        """
        if region.memory is not None and region.registered:
            self._unregister(region.memory)

        def closed() -> None:
            self.dismiss(region.length)
            released()

        self._offload(region.close, closed)

    def linger(self, region: Region) -> None:
        """The connection is gone: release as soon as nothing uses the region."""
        if region.users == 0:
            self.release(region)
            return
        file = region.file
        self._lingering[file] = self._lingering.get(file, 0) + 1

        def gone() -> None:
            self.release(region)
            left = self._lingering[file] - 1
            if left:
                self._lingering[file] = left
                return
            del self._lingering[file]
            for go_on in self._waiting.pop(file, ()):
                go_on()

        region.when_unused(gone)

    def when_clear(self, file: tuple[int, int], go_on: Callable[[], None]) -> None:
        """Call ``go_on`` once no dead connection has transfers on this file."""
        if file in self._lingering:
            self._waiting.setdefault(file, []).append(go_on)
        else:
            go_on()


class RegionTable:
    """The regions of one connection."""

    def __init__(self, registry: RegionRegistry, *, regions_max: int, bytes_max: int) -> None:
        self._registry = registry
        self.regions_max = regions_max
        self.bytes_max = bytes_max
        self.bytes_total = 0
        self._regions: dict[int, Region | None] = {}  # None: waits to be opened
        self._leaving: dict[int, Region] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._regions)

    def get(self, number: int) -> Region:
        """The region of this number. RegionError if there is none."""
        region = self._regions.get(number)
        if region is None:
            raise RegionError(f"region {number} is not registered on this connection")
        return region

    def add(
        self, number: int, fd: int, offset: int, length: int, done: Callable[[Region | MezzoError], None]
    ) -> None:
        """Register what ``fd`` names; takes the descriptor over, whatever comes of it.

        ``done`` gets the region or the error: within this call, or once older transfers ended. It is
        not called after `close`.
        """
        try:
            file = self._admit(number, fd, offset, length)
        except MezzoError as error:
            self._registry.discard(fd)
            done(error)
            return
        self._regions[number] = None
        self.bytes_total += length

        def go_on() -> None:
            if self._closed:
                self._registry.dismiss(length)
                self._registry.discard(fd)
                return
            try:
                region = open_region(number, fd, offset, length, file)
            except MezzoError as error:
                self._registry.discard(fd)
                del self._regions[number]
                self.bytes_total -= length
                self._registry.dismiss(length)
                done(error)
                return
            self._regions[number] = region

            def registered() -> None:
                if not self._closed:
                    done(region)

            self._registry.register(region, registered)

        self._registry.when_clear(file, go_on)

    def remove(self, number: int, done: Callable[[], None]) -> None:
        """Forget a region; ``done`` once nothing touches it. RegionError if there is none."""
        region = self.get(number)
        del self._regions[number]
        self._leaving[id(region)] = region

        def released() -> None:
            self.bytes_total -= region.length
            done()

        def gone() -> None:
            if self._leaving.pop(id(region), None) is not None:
                self._registry.release(region, released)

        region.when_unused(gone)

    def close(self) -> None:
        """The connection is gone."""
        self._closed = True
        regions = [region for region in self._regions.values() if region is not None]
        regions.extend(self._leaving.values())
        self._regions.clear()
        self._leaving.clear()
        for region in regions:
            self._registry.linger(region)

    def _admit(self, number: int, fd: int, offset: int, length: int) -> tuple[int, int]:
        if number == 0:
            raise InvalidArgument("region numbers start with 1")
        if number in self._regions:
            raise InvalidArgument(f"region {number} is registered already")
        if len(self._regions) + len(self._leaving) >= self.regions_max:
            raise TooLarge(f"{self.regions_max} regions are registered on this connection (regions_max)")
        if length <= 0 or offset < 0 or offset % PAGE_BYTES:
            raise InvalidArgument(
                f"a region needs a length over 0 and an offset that is a multiple of {PAGE_BYTES}"
            )
        if self.bytes_total + length > self.bytes_max:
            raise TooLarge(
                f"regions of this connection hold {self.bytes_total} bytes, {length} more would be over "
                f"the limit ({self.bytes_max}, region_bytes_max)"
            )
        _seals(fd)
        status = os.fstat(fd)
        self._registry.admit(length)
        return status.st_dev, status.st_ino


def open_region(number: int, fd: int, offset: int, length: int, file: tuple[int, int]) -> Region:
    """Map what is sealed, keep a descriptor of other shared memory, refuse the rest.

    Raises:
        RegionError: too short, not shared memory, not writable.
    """
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_ACCMODE != os.O_RDWR or flags & (os.O_APPEND | os.O_PATH):
        raise RegionError("a region's descriptor must be open for reading and writing")
    if _filesystem(fd) != TMPFS_MAGIC:
        raise RegionError(f"{_WANTED} of normal pages")
    # Seals are never taken back: read first, a size seen afterwards can only grow.
    sealed = bool(_seals(fd) & fcntl.F_SEAL_SHRINK)
    status = os.fstat(fd)
    if status.st_size < offset + length:
        raise RegionError(f"a region of {length} bytes at {offset} leaves its file of {status.st_size} bytes")
    if not sealed:
        return Region(number, fd, None, offset, length, file)
    try:
        mapping = mmap.mmap(
            fd, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=offset
        )
    except (OSError, ValueError) as error:
        raise RegionError(f"cannot map the region: {error}") from None
    os.close(fd)
    allocated = status.st_blocks * 512 >= status.st_size
    return Region(number, -1, Memory(mapping), offset, length, file, allocated)


def _seals(fd: int) -> int:
    """The seals of shared memory; RegionError for anything else.

    The one question that the kernel answers by itself: a filesystem in user space, or a remote one, could hold
    up for ever whoever asks for more, or closes the file.
    """
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise RegionError(_WANTED) from None


def _filesystem(fd: int) -> int:
    buffer = ctypes.create_string_buffer(STATFS_BYTES)
    if _libc.fstatfs(fd, buffer) != 0:
        raise RegionError(f"cannot tell the region's filesystem: {os.strerror(ctypes.get_errno())}")
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFF_FFFF
