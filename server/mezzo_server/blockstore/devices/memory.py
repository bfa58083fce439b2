"""A device that is memory: for tests, for tools, and for measuring all but the device."""

from __future__ import annotations

import ctypes
import errno

from mezzo.errors import InvalidArgument
from mezzo_server.blockstore.devices.base import BLOCK_BYTES, MEMORY_ALIGN_BYTES, ImmediateDevice
from mezzo_server.blockstore.io import Op, Transfer
from mezzo_server.memory import Memory, Span


class MemoryDevice(ImmediateDevice):
    """Zeroed memory of ``size_bytes``, or the contents of another one.

    Transfers are copies made in ``submit`` (the interpreter lock is released meanwhile, the caller
    is not); whoever can should `borrow` instead.  Aligned as strictly as a file, so that what works
    here works there.
    """

    def __init__(self, size_bytes: int, *, name: str = "memory", memory: Memory | None = None) -> None:
        """``memory``: contents to go on with, at least ``size_bytes`` long; see `restarted`."""
        super().__init__(name, size_bytes, BLOCK_BYTES, MEMORY_ALIGN_BYTES)
        if memory is not None and memory.length < size_bytes:
            raise InvalidArgument(f"{memory.length} bytes of memory do not hold {size_bytes}")
        self.memory = Memory.anonymous(size_bytes) if memory is None else memory

    def restarted(self) -> MemoryDevice:
        """A new device over the same bytes, as if the process had been started again."""
        return MemoryDevice(self.size_bytes, name=self.name, memory=self.memory)

    def borrow(self, offset: int, length: int) -> Span | None:
        """The bytes in place. They outlive ``close``: the memory goes with its last user."""
        return self.memory.span(offset, length)

    def _perform(self, transfer: Transfer) -> int:
        if transfer.op == Op.FLUSH:
            return 0
        if transfer.offset + transfer.length > self.size_bytes:
            return -errno.EIO
        place = self.memory.address + transfer.offset
        for span in transfer.spans:
            if transfer.op == Op.READ:
                ctypes.memmove(span.address, place, span.length)
            else:
                ctypes.memmove(place, span.address, span.length)
            place += span.length
        return transfer.length
