"""Makes regions: memfds of our own, and mappings that exist."""

from __future__ import annotations

import fcntl
import mmap
import os

from mezzo.errors import InvalidArgument, RegionError, Unavailable
from mezzo.regions import Region

PAGE_BYTES = mmap.PAGESIZE
_OWNED_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def owned(length: int) -> Region:
    """A region of fresh zeroed memory (a memfd of sealed size), rounded up to whole pages.

    Raises:
        InvalidArgument: ``length`` is not positive.
        Unavailable: the system gives no memory or no descriptor.
    """
    if length <= 0:
        raise InvalidArgument(f"a region has at least one byte, not {length}")
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES
    if length > memory_bytes:
        # Asked page by page for more than there is, the system would kill somebody before it said no.
        raise Unavailable(f"no memory for a region of {length} bytes: this machine has {memory_bytes}")
    try:
        descriptor = os.memfd_create("mezzo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise Unavailable(f"no memory for a region of {length} bytes: {error}") from error
    try:
        # All pages at once, on this process's account: a shard pins only memory that exists, and want
        # of memory is an error here instead of a fault at some later access.
        os.posix_fallocate(descriptor, 0, -(-length // PAGE_BYTES) * PAGE_BYTES)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _OWNED_SEALS)
        return _map(descriptor, offset=0, length=length, sealed=True, adopted=False)
    except OSError as error:
        os.close(descriptor)
        raise Unavailable(f"no memory for a region of {length} bytes: {error}") from error


def adopted(source: int | str | os.PathLike[str], length: int, offset: int = 0) -> Region:
    """A region over memory that exists: ``length`` bytes from ``offset`` on of a memfd or tmpfs file.

    ``source`` is a descriptor open for reading and writing (duplicated; yours stays yours) or a path.
    A memfd that allows it is sealed against shrinking, so that a shard may map it; any other memory
    is reached by the shard through the descriptor alone, at the price of one copy.

    Raises:
        InvalidArgument: ``offset`` is not a multiple of the page size, or ``length`` not positive.
        RegionError: the memory is smaller than ``offset + length``, or cannot be opened or mapped.
    """
    if length <= 0:
        raise InvalidArgument(f"a region has at least one byte, not {length}")
    if offset < 0 or offset % PAGE_BYTES:
        raise InvalidArgument(f"offset must be a multiple of the page size ({PAGE_BYTES}), not {offset}")
    try:
        if isinstance(source, int):
            descriptor = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 0)
        else:
            descriptor = os.open(source, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise RegionError(f"cannot open {source!r}: {error}") from error
    try:
        sealed = _seal(descriptor)
        size = os.fstat(descriptor).st_size
        if size < offset + length:
            raise RegionError(f"{source!r} has {size} bytes, less than offset + length = {offset + length}")
        return _map(descriptor, offset=offset, length=length, sealed=sealed, adopted=True)
    except OSError as error:
        os.close(descriptor)
        raise RegionError(f"cannot map {source!r}: {error}") from error
    except RegionError:
        os.close(descriptor)
        raise


def _seal(descriptor: int) -> bool:
    """Seal against shrinking. False: this memory cannot be sealed."""
    try:
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            return True
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError:
        return False
    return True


def _map(descriptor: int, *, offset: int, length: int, sealed: bool, adopted: bool) -> Region:
    mapping = mmap.mmap(descriptor, length, offset=offset)
    view = memoryview(mapping)

    def release() -> None:
        os.close(descriptor)
        try:
            view.release()
            mapping.close()
        except BufferError:
            # Somebody holds a view (an array): the mapping goes when the last of them does.
            pass

    return Region(view, descriptor, offset=offset, sealed=sealed, adopted=adopted, release=release)
