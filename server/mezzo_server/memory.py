"""Memory that the ring, the workers and sockets all reach: mapped once, addressed by offset.

``Memory`` is one mapping; a ``Span`` is a range of one.  ``StagingPool`` hands out aligned pieces of
one bounded arena for bytes that cannot go straight between a device and a region.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import NamedTuple

PAGE_BYTES = mmap.PAGESIZE


class Memory:
    """A writable mapping with a stable address.

    Owner of the mapping; ``close`` unmaps it once nothing is in flight.
    """

    __slots__ = ("_anchor", "_map", "address", "length", "view")

    def __init__(self, mapping: mmap.mmap) -> None:
        self._map = mapping
        self.length = len(mapping)
        self._anchor = ctypes.c_char.from_buffer(mapping)
        self.address = ctypes.addressof(self._anchor)
        self.view = memoryview(mapping)

    @classmethod
    def anonymous(cls, length: int) -> Memory:
        """Zeroed private memory of ``length`` bytes, rounded up to whole pages."""
        return cls(
            mmap.mmap(-1, -(-length // PAGE_BYTES) * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        )

    def span(self, offset: int = 0, length: int | None = None) -> Span:
        """The range ``[offset, offset + length)``; to the end by default. ValueError outside."""
        size = self.length - offset if length is None else length
        if offset < 0 or size < 0 or offset + size > self.length:
            raise ValueError(f"span {offset}+{size} is outside of {self.length} bytes")
        return Span(self, offset, size)

    def advise_huge(self) -> None:
        """Ask for huge pages, where the kernel has them: cheaper to pin and to walk. A hint, never fails."""
        try:
            self._map.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass

    def close(self) -> None:
        """Unmap. Views handed out must have been dropped (BufferError otherwise)."""
        self.view.release()
        del self._anchor
        # A span kept by mistake is out of range from here on, instead of pointing at what is gone.
        self.address = self.length = 0
        self._map.close()


class Span(NamedTuple):
    """A range of a `Memory`."""

    memory: Memory
    offset: int
    length: int

    @property
    def address(self) -> int:
        """Address of the first byte."""
        return self.memory.address + self.offset

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return self.memory.view[self.offset : self.offset + self.length]

    def part(self, offset: int, length: int) -> Span:
        """A range within this span."""
        if offset < 0 or length < 0 or offset + length > self.length:
            raise ValueError(f"part {offset}+{length} is outside of {self.length} bytes")
        return Span(self.memory, self.offset + offset, length)
