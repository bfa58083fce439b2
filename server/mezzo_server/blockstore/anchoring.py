"""Writes down what time it is, in the superblocks, as long as anything depends on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mezzo_server.blockstore.clock import Anchor
from mezzo_server.blockstore.device_log import DeviceLog, Role
from mezzo_server.blockstore.format.superblock import Superblock

if TYPE_CHECKING:
    from mezzo_server.blockstore.context import Context


class Anchoring:
    """Keeps anchors on the devices. Driven by `tick`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.writing = False

    def tick(self) -> None:
        """Write another one if chunks with a deadline are there, and the last one is old."""
        if self.wanted and self._context.clock.due and not self.writing and not self._context.closing:
            self.begin()

    @property
    def wanted(self) -> bool:
        """Whether anything depends on what time it is."""
        return self._context.expiry.places > 0

    def begin(self) -> None:
        """Write one now, on all devices of the set."""
        self.writing = True
        self._context.start(self._write())

    async def _write(self) -> None:
        clock = self._context.clock
        anchor = clock.anchor()
        logs = [log for log in self._context.logs if log.role in (Role.SERVING, Role.DRAINING)]
        written = [await _write_on(log, anchor) for log in logs]
        if any(written):
            clock.anchored(anchor)
        self.writing = False


async def _write_on(log: DeviceLog, anchor: Anchor) -> bool:
    def anchored(block: Superblock) -> Superblock:
        return replace(block, anchor=anchor)

    return log.fenced is None and not log.left and await log.change_superblock(anchored)
