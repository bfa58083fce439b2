"""Arenas: memory that the server writes and that clients of one tenant may map, to read only.

    head    one word (64 bits, little endian) for each page of data: the generation of the slot that
            begins at that page
    data    slots, from ``data_offset`` on

A memfd, allocated whole (so that no write can fail for want of memory), mapped here for writing and
then sealed: nobody can change its size, and nobody can map or write it for writing any more, however
he reopens the descriptor.  Not part of core dumps.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import sys
from threading import Lock

from mezzo.errors import Unsupported
from mezzo_server.hot.slots import PAGE_BYTES, head_pages
from mezzo_server.memory import Memory

F_ADD_SEALS = getattr(fcntl, "F_ADD_SEALS", 1033)
SEALS = (
    getattr(fcntl, "F_SEAL_SEAL", 0x01)
    | getattr(fcntl, "F_SEAL_SHRINK", 0x02)
    | getattr(fcntl, "F_SEAL_GROW", 0x04)
    | getattr(fcntl, "F_SEAL_FUTURE_WRITE", 0x10)  # Linux 5.1; not in every Python's fcntl
)
POPULATE_STEP_BYTES = 1 << 20


class Arena:
    """One arena. Owner of its descriptor and of the server's mapping; `close` gives both back."""

    def __init__(self, number: int, tenant: bytes, nbytes: int) -> None:
        """Allocate ``nbytes`` (whole pages, head included); takes about 20 ms for 64 MiB.

        Raises:
            OSError: there is no such memory, or the kernel has no such seals.
        """
        _check(nbytes)
        self.number = number
        self.tenant = tenant
        self.bytes = nbytes
        self.page_bytes = PAGE_BYTES
        self.data_offset = head_pages(nbytes) * PAGE_BYTES
        self.fd = os.memfd_create(f"mezzo-hot-{number}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self.fd, 0, nbytes)
            mapping = mmap.mmap(self.fd, nbytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            mapping.madvise(mmap.MADV_DONTDUMP)
            fcntl.fcntl(self.fd, F_ADD_SEALS, SEALS)
        except BaseException:
            os.close(self.fd)
            raise
        self.memory = Memory(mapping)
        self._words = self.memory.view[: self.data_offset].cast("Q")
        self._fence = Lock()
        # Page by page now rather than one fault for each page within the first copies; ctypes lets the
        # interpreter lock go meanwhile.
        for at in range(0, nbytes, POPULATE_STEP_BYTES):
            ctypes.memset(self.memory.address + at, 0, min(POPULATE_STEP_BYTES, nbytes - at))

    def publish(self, page: int, generation: int) -> None:
        """Write a page's generation word; no byte written later is seen before it, by any processor."""
        self._words[page] = generation
        # A release and the acquire that follows it are a barrier where stores may be reordered.
        with self._fence:
            pass
        with self._fence:
            pass

    def generation(self, page: int) -> int:
        """A page's generation word."""
        return self._words[page]

    def close(self) -> None:
        """Unmap and close; the memory is free once no client maps it any more."""
        if self.fd >= 0:
            self._words.release()
            self.memory.close()
            os.close(self.fd)
            self.fd = -1


class AnonymousArena:
    """An arena that nobody else can map: for simulations, and where there is no memfd."""

    def __init__(self, number: int, tenant: bytes, nbytes: int) -> None:
        """``nbytes`` are whole pages, head included."""
        _check(nbytes)
        self.number = number
        self.tenant = tenant
        self.fd = -1
        self.bytes = nbytes
        self.page_bytes = PAGE_BYTES
        self.data_offset = head_pages(nbytes) * PAGE_BYTES
        self.memory = Memory.anonymous(nbytes)
        self._words = self.memory.view[: self.data_offset].cast("Q")

    def publish(self, page: int, generation: int) -> None:
        """Write a page's generation word."""
        self._words[page] = generation

    def generation(self, page: int) -> int:
        """A page's generation word."""
        return self._words[page]

    def close(self) -> None:
        """Unmap."""
        if self.memory.length:
            self._words.release()
            self.memory.close()


def _check(nbytes: int) -> None:
    if sys.byteorder != "little":
        raise Unsupported("the hot tier needs a little-endian processor")
    if nbytes < 2 * PAGE_BYTES or nbytes % PAGE_BYTES:
        raise ValueError(f"an arena of {nbytes} bytes: at least two whole pages of {PAGE_BYTES} are needed")
