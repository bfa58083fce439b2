"""A registry over an engine in memory, with time and randomness that tests choose."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, TypeVar

from mezzo.errors import Unavailable
from mezzo_server.metadata.engine import Change, Check, Engine, Entry, Outcome, Scan, Write
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.entries import CATALOG
from mezzo_server.tenancy.loading import CatalogLoader
from mezzo_server.tenancy.model import Identity
from mezzo_server.tenancy.registry import Registry

T = TypeVar("T")


class Tenancy:
    """An engine, a registry over it, and catalogs of what is in it."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.now = 1_700_000_000.0
        self.random = random.Random(7)
        self.engine = engine or MemoryEngine(lambda: self.now)
        self.registry = Registry(self.engine, lambda: self.now, self.random.randbytes)
        self.complaints: list[tuple[str, str]] = []
        self._loader = CatalogLoader(lambda key, why: self.complaints.append((key, why)))

    def do(self, work: Awaitable[T]) -> T:
        async def main() -> Any:
            return await work

        return asyncio.run(main())

    def catalog(self) -> Catalog:
        self._loader.load(self.do(self.engine.scan(CATALOG)))
        return self._loader.catalog()


def identity(**fields: Any) -> Identity:
    defaults: dict[str, Any] = {
        "model": "llama",
        "kv_dtype": "bf16",
        "layout": "lkthd",
        "chunk_tokens": 256,
        "chunk_bytes": 1 << 20,
    }
    return Identity(**{**defaults, **fields})


class AwayEngine(Engine):
    """An engine that can be away: every call fails, and watches break, until it is back."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.away = False
        self.fault: Exception | None = None
        """what every call raises: not an outage, but a fault of ours"""
        self.calls = 0

    def _enter(self) -> Engine:
        self.calls += 1
        if self.fault is not None:
            raise self.fault
        if self.away:
            raise Unavailable("the engine is away")
        return self.engine

    async def get(self, key: str) -> Entry | None:
        return await self._enter().get(key)

    async def scan(self, prefix: str) -> Scan:
        return await self._enter().scan(prefix)

    async def transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        return await self._enter().transact(checks, writes)

    async def grant(self, ttl_s: float) -> int:
        return await self._enter().grant(ttl_s)

    async def keep(self, lease: int) -> bool:
        return await self._enter().keep(lease)

    async def revoke(self, lease: int) -> None:
        await self._enter().revoke(lease)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Change]]:
        async for changes in self._enter().watch(prefix, after):
            self._enter()
            yield changes

    async def close(self) -> None:
        """The one below is the test's."""
