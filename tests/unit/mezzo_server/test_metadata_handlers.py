"""What the metadata service does for those who ask, whatever others do who asked before."""

from __future__ import annotations

import asyncio

import pytest

from mezzo.errors import Unavailable
from mezzo.v1 import metadata_pb2 as api
from mezzo_server.metadata.engine import Write
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.metadata.service import handlers
from mezzo_server.metadata.service.handlers import SCANS_MAX, MetadataHandlers


class Caller:
    """Takes what it is sent once it reads."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.taken: list[bytes] = []

    async def write(self, message: bytes) -> None:
        await self.reads.wait()
        self.taken.append(message)


def test_who_scans_and_does_not_read_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "SCAN_WAIT_S", 0.02)
    asked = api.ScanEntriesRequest(prefix="").SerializeToString()

    async def main() -> None:
        engine = MemoryEngine(lambda: 0.0)
        await engine.transact([], [Write("key", b"value")])
        service = MetadataHandlers(engine, lambda: "", 1000.0)
        callers = [Caller() for _ in range(SCANS_MAX + 2)]
        stopped = [
            asyncio.ensure_future(service.scan(asked, caller, 1.0))  # type: ignore[arg-type]
            for caller in callers[:SCANS_MAX]
        ]
        for _ in range(3):
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match=f"{SCANS_MAX} scans"):
            await service.scan(asked, callers[-2], 1.0)  # type: ignore[arg-type]
        # Each is there again when it was read, or given up.
        callers[0].reads.set()
        stopped[1].cancel()
        callers[-1].reads.set()
        await asyncio.wait_for(service.scan(asked, callers[-1], 1.0), 5)  # type: ignore[arg-type]
        [message] = callers[-1].taken
        assert [entry.key for entry in api.ScanEntriesResponse.FromString(message).entries] == ["key"]
        for caller in callers:
            caller.reads.set()
        await asyncio.gather(*stopped, return_exceptions=True)
        assert service._scans._value == SCANS_MAX

    asyncio.run(main())
