"""A registry over an engine in memory, with time and randomness that tests choose."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Any, TypeVar

from mezzo_server.metadata.engine import Engine
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

    def do(self, work: Awaitable[T]) -> T:
        async def main() -> Any:
            return await work

        return asyncio.run(main())

    def catalog(self) -> Catalog:
        loader = CatalogLoader(lambda key, why: self.complaints.append((key, why)))
        loader.load(self.do(self.engine.scan(CATALOG)))
        return loader.catalog()


def identity(**fields: Any) -> Identity:
    defaults: dict[str, Any] = {
        "model": "llama",
        "kv_dtype": "bf16",
        "layout": "lkthd",
        "chunk_tokens": 256,
        "chunk_bytes": 1 << 20,
    }
    return Identity(**{**defaults, **fields})
