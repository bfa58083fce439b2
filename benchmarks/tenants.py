"""Tenants of a node with metadata, made as an operator's command would make them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mezzo_server.metadata.opening import make_engine
from mezzo_server.tenancy.registry import Registry

T = TypeVar("T")


def on_metadata(url: str, work: Callable[[Registry], Awaitable[T]]) -> T:
    """What work on the metadata of a node that runs comes to."""

    async def main() -> T:
        engine = make_engine(url, create=False)
        try:
            return await work(Registry(engine, time.time, secrets.token_bytes))
        finally:
            await engine.close()

    return asyncio.run(main())


def make_tenants(url: str, names: Sequence[str]) -> dict[str, str]:
    """New tenants; a token of each, good for reading and writing."""

    async def make(registry: Registry) -> dict[str, str]:
        tokens = {}
        for name in names:
            tenant = await registry.create_tenant(name)
            tokens[name] = (await registry.credentials.issue(tenant.id, ["read", "write"])).token
        return tokens

    return on_metadata(url, make)
