"""A device that stores nothing, for measuring what all but the device costs.

Writes are acknowledged and forgotten; reads leave the target memory as it is.  Checksums are still
verified: a benchmark gets chunks into the very memory that it put them from, where the right bytes
lie already, and any other target is a mismatch and hence a miss.

So that a store can be made and opened on it, the first and the last ``kept_bytes`` (where
superblocks live) are real.
"""

from __future__ import annotations

import errno

from mezzo_server.blockstore.devices.base import BLOCK_BYTES, MEMORY_ALIGN_BYTES, ImmediateDevice
from mezzo_server.blockstore.io import Op, Transfer

KEPT_BYTES = 64 * 1024


class NullDevice(ImmediateDevice):
    """Pretends to be ``size_bytes`` large; everything ends in ``submit``."""

    def __init__(self, size_bytes: int, *, name: str = "null", kept_bytes: int = KEPT_BYTES) -> None:
        """``kept_bytes`` at either end are stored in earnest; 0: none."""
        super().__init__(name, size_bytes, BLOCK_BYTES, MEMORY_ALIGN_BYTES)
        self.kept_bytes = kept_bytes
        self._kept: dict[int, bytes] = {}

    def _perform(self, transfer: Transfer) -> int:
        if transfer.op == Op.FLUSH:
            return 0
        end = transfer.offset + transfer.length
        if end > self.size_bytes:
            return -errno.EIO
        if transfer.offset < self.kept_bytes or end > self.size_bytes - self.kept_bytes:
            self._keep(transfer)
        return transfer.length

    def _keep(self, transfer: Transfer) -> None:
        """The slow way for the few transfers at the ends: block by block."""
        reading = transfer.op == Op.READ
        data = bytearray().join(span.view for span in transfer.spans)
        for at in range(0, transfer.length, self.block_bytes):
            block = transfer.offset + at
            if self.kept_bytes <= block < self.size_bytes - self.kept_bytes:
                continue
            if reading:
                data[at : at + self.block_bytes] = self._kept.get(block, bytes(self.block_bytes))
            else:
                self._kept[block] = bytes(data[at : at + self.block_bytes])
        if reading:
            at = 0
            for span in transfer.spans:
                span.view[:] = data[at : at + span.length]
                at += span.length
