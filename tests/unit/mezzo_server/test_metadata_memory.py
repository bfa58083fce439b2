"""The metadata engine in memory."""

from __future__ import annotations

import asyncio

from mezzo_server.metadata.engine import Engine
from mezzo_server.metadata.memory import MemoryEngine
from tests.contract.metadata import MetadataContract, Rig


class _Shared(MemoryEngine):
    """A second handle on the same engine is the same engine; it is closed once all are."""

    handles = 0

    async def close(self) -> None:
        self.handles -= 1
        if not self.handles:
            await super().close()


class MemoryRig(Rig):
    engine: _Shared | None = None

    def open(self, changes_max: int = 10_000) -> Engine:
        if self.engine is None or changes_max != 10_000:
            self.engine = _Shared(self.clock, changes_max)
        self.engine.handles += 1
        return self.engine

    def close(self) -> None:
        if self.engine is not None and not self.engine.closed:
            asyncio.run(MemoryEngine.close(self.engine))


class TestMemoryEngine(MetadataContract):
    def make(self) -> Rig:
        return MemoryRig()
