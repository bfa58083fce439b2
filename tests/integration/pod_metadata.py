"""What the metadata of a pod say, for tests of real ones, and changes as operators make them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mezzo.errors import InvalidArgument
from mezzo_server.metadata.opening import make_engine
from mezzo_server.pod.operating import PodOperator, PodSeen
from mezzo_server.tenancy.registry import Registry

T = TypeVar("T")
LOOK_S = 0.1
"""between two looks at a pod that is waited for: each costs 20 ms of a core, which those need who are waited for"""


class PodMetadata:
    """The engine at ``url``, opened anew for each question: whoever hurts it has no connection of ours to mind."""

    def __init__(self, url: str) -> None:
        self.url = url

    def do(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Something with the engine."""

        async def run() -> T:
            engine = make_engine(self.url)
            try:
                return await work(engine)
            finally:
                await engine.close()

        return asyncio.run(run())

    def look(self) -> PodSeen:
        """The pod as it is."""
        return self.do(lambda engine: PodOperator(engine, time.time).look())

    def states(self) -> dict[str, str]:
        """Of each node's shard, once there is a pod and all of them follow the map."""
        try:
            seen = self.look()
        except InvalidArgument:  # a front-end that is ready makes one a moment later
            return {}
        return {} if seen.behind else {shard.node: shard.state for shard in seen.shards}

    def ids(self) -> tuple[bytes, bytes]:
        """Those of the tenant "default" and of its namespace of that name."""

        async def work(engine: Any) -> tuple[bytes, bytes]:
            registry = Registry(engine, time.time, os.urandom)
            tenant = await registry.tenant("default")
            return tenant.id, (await registry.namespace(tenant.id, "default")).id

        return self.do(work)
