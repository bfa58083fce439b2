"""What the store keeps for each device beside its log: reclaim, scrub, and the memory that it was told of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.delete import Deletes
from mezzo_server.blockstore.device_log import DeviceLog
from mezzo_server.blockstore.drain import Drain
from mezzo_server.blockstore.reclaim import Reclaim
from mezzo_server.blockstore.scrub import Scrub
from mezzo_server.blockstore.writer import Writer
from mezzo_server.memory import Memory

REGISTER_STEP = 8
"""Memories that a new device is told of in one turn: each costs a system call or two."""


class DeviceParts:
    """Owner of the reclaims and scrubs of all devices of the set, and of the list of registered memory."""

    def __init__(self, context: Context, writer: Writer, deletes: Deletes) -> None:
        self._context = context
        self._writer = writer
        self._deletes = deletes
        self._memories: dict[Memory, None] = {}
        self._reclaim_of: dict[DeviceLog, Reclaim] = {}
        self._scrub_of: dict[DeviceLog, Scrub] = {}
        for log in context.logs:
            self.serves(log)

    @property
    def reclaims(self) -> list[Reclaim]:
        """One for each device of the set."""
        return list(self._reclaim_of.values())

    @property
    def scrubs(self) -> list[Scrub]:
        """One for each device of the set."""
        return list(self._scrub_of.values())

    # -- memory

    def register(self, memory: Memory) -> bool:
        """Tell all devices, and those that come, of memory. True: one of them pinned it."""
        self._memories[memory] = None
        pinned = [log.device.register(memory) for log in self._context.logs]
        return any(pinned)

    def unregister(self, memory: Memory) -> None:
        """Undo `register`."""
        self._memories.pop(memory, None)
        for log in self._context.logs:
            log.device.unregister(memory)

    # -- devices that come and go

    async def joining(self, log: DeviceLog) -> None:
        """Tell a new device of all memory; what is registered meanwhile it learns with the others."""
        for step, memory in enumerate(list(self._memories)):
            if step % REGISTER_STEP == REGISTER_STEP - 1:
                await self._context.later.turn()
            if memory in self._memories:
                log.device.register(memory)

    def serves(self, log: DeviceLog) -> None:
        """A device is one of the set, or has more room than before."""
        if log not in self._reclaim_of:
            freed = self._writer.space_came
            self._reclaim_of[log] = Reclaim(self._context, log, self._writer, self._deletes, freed)
            self._scrub_of[log] = Scrub(self._context, log, self._deletes.drop)
        self._context.resized()
        self._writer.space_came()

    def left(self, log: DeviceLog) -> None:
        """A device is none of the store's any more."""
        self._reclaim_of.pop(log, None)
        self._scrub_of.pop(log, None)
        self._context.left_blocks += log.written_blocks
        self._context.resized()
        for memory in self._memories:
            log.device.unregister(memory)

    def drain(self, log: DeviceLog, pause: Callable[[], Awaitable[None]], check: Callable[[], None]) -> Drain:
        """What empties a device."""
        return Drain(self._context, log, self._reclaim_of[log], self._writer, self._deletes, pause, check)
