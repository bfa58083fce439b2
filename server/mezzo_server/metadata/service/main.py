"""Start and stop of a metadata service.

It listens whether or not its engine can be reached: health tells that, and calls fail at once meanwhile.  A stop
says NOT_SERVING, ends watches so that who watches goes on at another replica, and lets other calls end.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping

import grpc.aio
import structlog
from grpc_reflection.v1alpha import reflection
from msgspec import Struct
from msgspec.structs import replace

from mezzo.errors import FormatError, MezzoError, Unavailable, Unsupported
from mezzo_server.config import NodeConfig, TlsConfig
from mezzo_server.config.addresses import host_and_port, parse_host_port
from mezzo_server.config.reach import check_reach, service_guard
from mezzo_server.config.service import service_engine
from mezzo_server.frontend.admin import Health, add_health
from mezzo_server.frontend.calls import Calls, refuse
from mezzo_server.frontend.gate import Guard
from mezzo_server.frontend.numbers import CallNumbers
from mezzo_server.frontend.serving import bind, open_endpoint, run_until_stopped, server_options
from mezzo_server.metadata.engine import Engine
from mezzo_server.metadata.opening import make_engine
from mezzo_server.metadata.remote.calls import PROBE, SERVICE
from mezzo_server.metadata.remote.engine import TRANSACTION_BYTES_MAX
from mezzo_server.metadata.service.gate import NEEDS, PodGate
from mezzo_server.metadata.service.handlers import MetadataHandlers, metadata_service
from mezzo_server.metadata.urls import MEMORY
from mezzo_server.metrics.calls import metadata_sample
from mezzo_server.metrics.catalog import Sample
from mezzo_server.metrics.endpoint import Endpoint
from mezzo_server.pod.planner import Planner
from mezzo_server.tls.certificates import opened

log = structlog.get_logger("mezzo.metadata")

MESSAGE_BYTES_MAX = TRANSACTION_BYTES_MAX + (64 << 10)
ENGINE_S = 3.5
"""An engine that does not answer in this time is away: long enough for it to try another member."""
LOOK_S_MAX = 4.0
"""It says why itself, if it can."""


class ServiceReadiness(Struct, frozen=True):
    """What a metadata service says once it listens."""

    listen: str
    """as in `metadata.engine` of those who call: mezzo://host:port, or mezzos:// over TLS"""
    pid: int
    serving: bool
    """whether the engine could be reached"""
    metrics: str = ""
    """host:port of the metrics; empty: none"""


class MetadataService:
    """One replica, within a running loop: `start`, then `stop`."""

    def __init__(self, config: NodeConfig, engine: Engine | None = None) -> None:
        """``engine``: instead of the one that the settings name; nobody plans over it.

        Raises:
            InvalidArgument: the settings do not fit together.
        """
        self._node = config
        settings = self._settings = config.metadata_service
        url = service_engine(config)
        self._engine = make_engine(url, call_s=ENGINE_S) if engine is None else engine
        self._gate = PodGate(settings.secret_file, settings.shard_secret_file)
        self.numbers = CallNumbers(NEEDS)
        self.calls = Calls(
            self.numbers,
            settings.calls_max,
            self._gate,
            stall_s=settings.stall_s,
            needs=NEEDS,
            of="metadata_service",
            elsewhere=True,
        )
        self._health = Health(
            self._ask,
            self.numbers,
            every_s=settings.health_s,
            what="metadata engine",
            services=("", SERVICE),
            answer_s=LOOK_S_MAX,
        )
        self.handlers = MetadataHandlers(self._engine, lambda: self._health.reason, settings.stall_s)
        self._planner = Planner(url, config.pod.lease_s)
        self._plans = engine is None and url != MEMORY  # which another engine would know nothing of
        self._unusable: MezzoError | None = None
        """what is stored cannot be used"""
        self._server: grpc.aio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._endpoint: Endpoint | None = None
        self._began = time.monotonic()
        self.certificates = opened(_tls(config), time.time)

    async def start(self) -> ServiceReadiness:
        """Listen, and look whether the engine answers.

        Raises:
            InvalidArgument: an address that other hosts can reach, and that nothing protects.
            Unavailable: the address is in use, or cannot be bound.
            FormatError, Unsupported: what is stored cannot be used.
        """
        address = parse_host_port(self._settings.listen)
        check_reach("metadata_service.listen", address, service_guard(self._node))
        guard = Guard(self._gate, refuse, (f"/{SERVICE}/",))
        options = server_options(MESSAGE_BYTES_MAX, self._settings.calls_max, self._settings.connections_max)
        server = self._server = grpc.aio.server(interceptors=(guard,), options=options)
        server.add_generic_rpc_handlers((metadata_service(self.calls, self.handlers),))
        add_health(server, self._health)
        names = (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        port = bind(server, address, self.certificates, "metadata_service.listen")
        metrics = self._node.metrics
        self._endpoint = open_endpoint(metrics.metadata, "metadata", self._sample, insecure=metrics.insecure)
        await self._health.look()
        if self._unusable is not None:
            raise self._unusable
        await server.start()
        if self._plans:
            self._planner.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._health.watch()), loop.create_task(self._look_at_secrets())]
        return ServiceReadiness(
            listen=f"{'mezzo' if self.certificates is None else 'mezzos'}://{host_and_port(address.host, port)}",
            pid=os.getpid(),
            serving=self.numbers.serving,
            metrics="" if self._endpoint is None else self._endpoint.address,
        )

    async def stop(self) -> None:
        """Let calls under way end, within ``drain_s``, and let go of everything. May follow a failed start."""
        log.info("stopping", calls=self.numbers.calls_in_flight)
        self.calls.draining = True
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            await self._health.drain()
            await self._planner.stop()
        self.handlers.end_watches()
        if self._server is not None:
            await self._server.stop(self._settings.drain_s)
        await self._engine.close()
        if self.certificates is not None:
            self.certificates.stop()
        if self._endpoint is not None:
            self._endpoint.close()

    def pod_numbers(self) -> Mapping[str, int | float]:
        """How the pod is planned for."""
        return self._planner.numbers()

    async def _ask(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._engine.get(PROBE)
        except TimeoutError:
            raise Unavailable(f"no answer within {timeout_s:g} s") from None
        except (FormatError, Unsupported) as error:
            self._unusable = error
            raise

    async def _look_at_secrets(self) -> None:
        while True:
            await asyncio.sleep(self._settings.health_s)
            if self._gate.look():
                self.handlers.end_watches()

    def _sample(self) -> Sample:
        return metadata_sample(
            self.numbers,
            time.monotonic() - self._began,
            self.handlers.watches,
            self.certificates,
            self.pod_numbers(),
        )


def serve(config: NodeConfig, announce: Callable[[ServiceReadiness], None]) -> None:
    """Run one metadata service in this process until SIGTERM or SIGINT.

    Raises:
        MezzoError: it could not start; the message says why in one line.
    """
    run_until_stopped(lambda: MetadataService(config), announce)


def _tls(config: NodeConfig) -> TlsConfig:
    """Of the service: clients of the store, and those who sign their certificates, are nobody here."""
    client_ca = config.metadata_service.client_ca
    return replace(config.tls, client_certificates="required" if client_ca else "off", client_ca=client_ca)
