"""The metadata service for tests: replicas in threads of their own, over engines of another rig."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from mezzo_server.config import NodeConfig, load_with_origins
from mezzo_server.metadata.engine import Engine
from mezzo_server.metadata.remote.engine import ServiceEngine
from mezzo_server.metadata.remote.place import FORM, parse_service
from mezzo_server.metadata.service.main import MetadataService
from tests.contract.metadata import Rig
from tests.patience import PATIENCE_S


def service_config(tls: dict[str, object] | None = None, **settings: object) -> NodeConfig:
    """Of a metadata service alone, with these settings of its table besides."""
    table = {"listen": "127.0.0.1:0", "engine": "memory:", **settings}
    flags = {"metadata_service": table, "metrics": {"metadata": ""}, "tls": tls or {}}
    return load_with_origins(flags=flags, process="metadata").config


class Replica:
    """One replica. Owner of its thread."""

    def __init__(self, make: Callable[[], Engine | None], config: NodeConfig | None = None) -> None:
        """``make``: the engine under it; None: the one that ``config`` names."""
        self._make = make
        self._config = config or service_config()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.service, self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(
            PATIENCE_S
        )

    @property
    def endpoint(self) -> str:
        return self.url.partition("://")[2]

    async def _start(self) -> tuple[MetadataService, str]:
        service = MetadataService(self._config, self._make())
        try:
            return service, (await service.start()).listen
        except BaseException:
            await service.stop()
            raise

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.service.stop(), self._loop).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class ServiceRig(Rig):
    """Two replicas over the engines of another rig; each engine that is opened begins with another of them."""

    def __init__(self, inner: Rig) -> None:
        self.inner = inner
        self.logged = inner.logged
        self.replicas: list[Replica] = []
        self.opened = 0
        self.beneath: type[Engine] = Engine

    def open(self, changes_max: int = 10_000) -> Engine:
        if not self.replicas or changes_max != 10_000:
            self.replicas[:0] = [Replica(lambda: self._under(changes_max)), Replica(self._under)]
        here = [replica.endpoint for replica in self.replicas[:2]]
        if changes_max != 10_000:
            here = here[:1]
        self.opened += 1
        return ServiceEngine(parse_service(FORM.plain + ",".join(here)), first=self.opened)

    def _under(self, changes_max: int = 10_000) -> Engine:
        engine = self.inner.open(changes_max)
        self.beneath = type(engine)
        return engine

    def counting(self, engine: Engine) -> type[Engine]:
        return self.beneath

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.inner.wait(seconds)

    def close(self) -> None:
        for replica in self.replicas:
            replica.stop()
        self.inner.close()
