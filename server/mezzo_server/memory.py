"""Memory that the ring, the workers and sockets all reach: mapped once, addressed by offset.

``Memory`` is one mapping; a ``Span`` is a range of one.  ``StagingPool`` hands out aligned pieces of
one bounded arena for bytes that cannot go straight between a device and a region.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import NamedTuple

PAGE_BYTES = mmap.PAGESIZE
SPARE_BYTES_MAX = 1 << 20
SPARES_MAX = 4
"""What `Spares` keep at most: each of them, and how many."""


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


class Spares:
    """Memory for little that is written once in a while: what is given back is used again. Owner of what it keeps.

    To map and to unmap a page costs several times what filling it does.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: list[Memory] = []

    def take(self, length: int) -> Memory:
        """``length`` bytes or more, of any content: the caller's until it gives them back."""
        for place, memory in enumerate(self._kept):
            if memory.length >= length:
                return self._kept.pop(place)
        return Memory.anonymous(length)

    def give(self, memory: Memory) -> None:
        """Keep it for the next, or unmap it: it is long, or there is enough. Nobody uses it any more."""
        if memory.length <= SPARE_BYTES_MAX and len(self._kept) < SPARES_MAX:
            self._kept.append(memory)
        else:
            memory.close()


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
