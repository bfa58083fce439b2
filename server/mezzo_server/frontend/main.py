"""Start and stop of the front-end: what is built in which order, and taken down in the reverse.

It listens before it says that it is ready, and it says so whether or not its shard can be reached: health
tells that.  A stop says NOT_SERVING, takes no new calls, lets those under way end, and closes the
connections to the shard; leases that were held through it end with them.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable, Sequence

import grpc
import grpc.aio
import structlog
from msgspec import Struct

from mezzo import TLS, AsyncClient
from mezzo.errors import InvalidArgument
from mezzo.pod import MapSource
from mezzo_server.access.principal import Principal
from mezzo_server.admin.messages import ADMIN_SERVICE
from mezzo_server.admin.opening import audit_of, tenant_keys_of
from mezzo_server.config import NodeConfig
from mezzo_server.config.addresses import Address, host_and_port, parse_host_port
from mezzo_server.config.reach import check_reach, frontend_guard
from mezzo_server.config.shards import ShardTold, parse_shard
from mezzo_server.frontend.access import OPERATOR, Access
from mezzo_server.frontend.admin import OWN_SERVICES, Health, add_health, add_tools
from mezzo_server.frontend.administration import Administration, usage_of
from mezzo_server.frontend.calls import Calls, refuse
from mezzo_server.frontend.events import EventHandlers
from mezzo_server.frontend.gate import Guard
from mezzo_server.frontend.get import Gets
from mezzo_server.frontend.leases import LeaseTable
from mezzo_server.frontend.metadata import FrontendMetadata
from mezzo_server.frontend.namespaces import Namespaces
from mezzo_server.frontend.naming import NamespaceHandlers, namespace_service
from mezzo_server.frontend.numbers import FrontendNumbers
from mezzo_server.frontend.pod import FrontendPod
from mezzo_server.frontend.put import Puts
from mezzo_server.frontend.room import Room
from mezzo_server.frontend.serving import bind, open_endpoint, run_until_stopped, server_options
from mezzo_server.frontend.session import SessionHandlers, session_service
from mezzo_server.frontend.shards import NodeShards
from mezzo_server.frontend.store import NUMBERS_NAMESPACE, StoreHandlers, store_service
from mezzo_server.frontend.way import Way
from mezzo_server.metrics.calls import frontend_sample
from mezzo_server.metrics.catalog import Sample
from mezzo_server.metrics.endpoint import Endpoint
from mezzo_server.tls.certificates import Certificates, opened

log = structlog.get_logger("mezzo.frontend")

CLIENT_NAME = "mezzo-frontend"
CLOSE_GRACE_S = 0.2
"""for calls of the admin port, which may watch for ever"""
ATTEND_S = 0.5
"""between two looks at who is not welcome any more, and at leases whose time is over"""


class Readiness(Struct, frozen=True):
    """What a front-end says once it listens."""

    listen: str
    """grpc://host:port; grpcs://host:port over TLS"""
    admin: str
    """host:port of health, administration, reflection and channelz"""
    shard: str
    pid: int
    serving: bool
    """whether the shard could be reached"""
    metrics: str = ""
    """host:port of the metrics; empty: none"""


class Frontend:
    """One front-end, within a running loop: `start`, then `stop`."""

    def __init__(self, config: NodeConfig) -> None:
        """
        Raises:
            InvalidArgument: the settings do not fit together.
        """
        settings = config.frontend
        told = _shards(config)
        if not told:
            raise InvalidArgument("no shard: give --shard unix:///path or --shard tcp://host:port")
        self._config = settings
        self._node = config
        self.certificates: Certificates | None = None
        """in force; None: without TLS"""
        self._address = told[0].asked_at or told[0].addresses[0]
        self.numbers = FrontendNumbers()
        self.metadata = FrontendMetadata(config) if config.metadata.engine else None
        """None: none are kept, and everybody is of the one tenant"""
        if self.metadata is None:
            self.access = Access(config)
        else:
            self.access = Access(config, self.metadata.catalog, self.metadata.credentials, self.metadata.look)
        self.administration = None if self.metadata is None else self._administration(self.metadata)
        """of operators; None: there is nothing that they could look after"""
        self.calls = Calls(self.numbers, settings.calls_max, self.access.gate, stall_s=settings.stall_s)
        ensure = None if self.metadata is None else self.metadata.open_namespace
        self._leases = LeaseTable(settings.leases_max, time.monotonic, os.urandom)
        self._room = Room(settings.staging_bytes, settings.calls_max, self.numbers)
        self.pod = FrontendPod(config) if config.pod.enabled else None
        """None: the node is its own"""
        self.shards = NodeShards(told, self._probe, platform.node(), plans=self.pod is None)
        several = self.pod is not None or self.shards.map_source is not None
        self._namespaces = Namespaces(
            self._namespace_client, settings.namespaces_max, ensure, several=several
        )
        self._everywhere = None if self.pod is None else self._namespace_client(OPERATOR, NUMBERS_NAMESPACE)
        """a connection to all shards of the pod, that may ask for numbers"""
        self._servers: list[grpc.aio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._endpoint: Endpoint | None = None
        self._began = time.monotonic()

    async def start(self) -> Readiness:
        """Listen, and look whether the shard serves.

        Raises:
            InvalidArgument: an address that other hosts can reach, and that nothing protects; a certificate that
                cannot be used.
            Unavailable: an address is in use, or cannot be bound.
        """
        settings = self._config
        listen = _checked("frontend.listen", settings.listen, self._node)
        admin_text = settings.admin_listen or _next_port(listen)
        admin = _checked("frontend.admin_listen", admin_text, self._node)
        self.certificates = opened(self._node.tls, time.time)
        self._health = Health(self.shards.ping, self.numbers, every_s=settings.health_s)
        if self.metadata is not None:
            await self.metadata.start()
        if self.pod is not None:
            self.pod.start()
        await self.access.start()
        guard = Guard(self.access.gate, refuse, OWN_SERVICES)
        options = server_options(settings.message_bytes_max, settings.calls_max, settings.connections_max)
        data_server = grpc.aio.server(interceptors=(guard,), options=options)
        data_server.add_generic_rpc_handlers((self._store(), self._sessions(), self._naming()))
        add_health(data_server, self._health)
        own = (*OWN_SERVICES, f"/{ADMIN_SERVICE}/")
        admin_guard = Guard(self.access.gate, refuse, own)
        admin_server = grpc.aio.server(interceptors=(admin_guard,), options=options)
        add_health(admin_server, self._health)
        if self.administration is not None:
            admin_server.add_generic_rpc_handlers((self.administration.service(),))
        add_tools(admin_server, () if self.administration is None else (ADMIN_SERVICE,))
        self._servers = [data_server, admin_server]
        ports = [
            bind(data_server, listen, self.certificates, "frontend.listen"),
            bind(admin_server, admin, self.certificates, _admin_setting(settings.admin_listen)),
        ]
        metrics = self._node.metrics
        self._endpoint = open_endpoint(metrics.frontend, "frontend", self._sample, insecure=metrics.insecure)
        await self._health.look()
        for server in self._servers:
            await server.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._health.watch()), loop.create_task(self._attend())]
        return Readiness(
            listen=f"{'grpc' if self.certificates is None else 'grpcs'}://{host_and_port(listen.host, ports[0])}",
            admin=host_and_port(admin.host, ports[1]),
            shard=self._address,
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
        for server, grace_s in zip(self._servers, (self._config.drain_s, CLOSE_GRACE_S), strict=False):
            await server.stop(grace_s)
        if self.administration is not None:
            await self.administration.stop()
        await self._namespaces.close()
        if self._everywhere is not None:
            await self._everywhere.close()
        await self.shards.close()
        await self.access.stop()
        if self.pod is not None:
            await self.pod.stop()
        if self.metadata is not None:
            await self.metadata.stop()
        self._room.close()
        if self.certificates is not None:
            self.certificates.stop()
        if self._endpoint is not None:
            self._endpoint.close()

    def _sample(self) -> Sample:
        return frontend_sample(
            self.numbers,
            time.monotonic() - self._began,
            self.certificates,
            self.access.authentication,
            None if self.metadata is None else self.metadata.numbers(),
            None if self.administration is None else self.administration.audit,
            None if self.pod is None else self.pod.numbers(),
        )

    def _namespace_client(self, principal: Principal, namespace: str) -> AsyncClient:
        source = self.shards.map_source if self.pod is None else self.pod.map_source
        return self._client(self._address, principal, namespace, source)

    def _probe(self, address: str) -> AsyncClient:
        return self._client(address, OPERATOR, NUMBERS_NAMESPACE)

    def _client(
        self, address: str, principal: Principal, namespace: str, map_source: MapSource | None = None
    ) -> AsyncClient:
        """A connection of ours to a shard, or to all that the map has, which speaks for the tenant of ``principal``."""
        tls = self._node.tls
        trust = TLS(ca=tls.ca, certificate=tls.certificate, key=tls.key, server_name=tls.server_name)
        return AsyncClient(
            address,
            namespace=namespace,
            name=CLIENT_NAME,
            tls=trust,
            # Ours is no caller: what the environment says of tokens is not for it.
            token="",
            ticket=self.access.source_for(principal),
            map_source=map_source,
        )

    def _store(self) -> grpc.GenericRpcHandler:
        settings = self._config
        puts = Puts(
            self._namespaces,
            self._room,
            self.numbers,
            put_bytes_max=settings.put_bytes_max,
            stall_s=settings.stall_s,
        )
        way = Way()
        gets = Gets(
            self._namespaces,
            self._room,
            self.numbers,
            piece_bytes=settings.piece_bytes,
            stall_s=settings.stall_s,
            way=way,
        )
        handlers = StoreHandlers(self._namespaces, self._leases, time.monotonic, way)
        events = EventHandlers(self._namespaces, readers_max=settings.events_max, stall_s=settings.stall_s)
        return store_service(self.calls, handlers, puts, gets, events)

    def _sessions(self) -> grpc.GenericRpcHandler:
        handlers = SessionHandlers(
            self.shards,
            self._config,
            self.numbers,
            self.access.office,
            self.metadata,
            self.pod,
            self._everywhere,
        )
        return session_service(self.calls, handlers)

    def _naming(self) -> grpc.GenericRpcHandler:
        return namespace_service(self.calls, NamespaceHandlers(self.metadata))

    def _administration(self, metadata: FrontendMetadata) -> Administration:
        return Administration(
            self.access.gate,
            metadata.registry,
            audit_of(self._node),
            now=time.monotonic,
            now_s=time.time,
            usage=lambda tenant_id: usage_of(tenant_id, metadata.registry, self._asked()),
            changed=metadata.refresh,
            new_key=tenant_keys_of(self._node),
        )

    def _asked(self) -> Sequence[AsyncClient]:
        """Whom to ask what a tenant uses: all shards of the pod, or of the node."""
        return self.shards.clients if self._everywhere is None else (self._everywhere,)

    async def _attend(self) -> None:
        """What is to be done from time to time, until cancelled."""
        while True:
            self.calls.end_unwelcome(self.access.unwelcome)
            self._leases.expire()
            self.numbers.leases = len(self._leases)
            self.numbers.namespaces = len(self._namespaces)
            await asyncio.sleep(ATTEND_S)


def serve(config: NodeConfig, announce: Callable[[Readiness], None]) -> None:
    """Run one front-end in this process until SIGTERM or SIGINT.

    Raises:
        MezzoError: it could not start; the message says why in one line.
    """
    run_until_stopped(lambda: Frontend(config), announce)


def _shards(config: NodeConfig) -> list[ShardTold]:
    """The shards that it serves, each with the addresses that clients are told; they find out which they can reach."""
    settings = config.frontend
    if settings.shards:
        return [parse_shard(text) for text in settings.shards]
    if not settings.shard:
        return []
    listen = config.shard.listen if settings.shard in config.shard.listen else []
    addresses = settings.advertise or [settings.shard, *listen]
    return [ShardTold(tuple(dict.fromkeys(addresses)), asked_at=settings.shard)]


def _checked(name: str, text: str, config: NodeConfig) -> Address:
    address = parse_host_port(text)
    check_reach(name, address, frontend_guard(config))
    return address


def _admin_setting(said: str) -> str:
    """What says where the admin port is, for people who may have named none."""
    if said:
        return "frontend.admin_listen"
    return "the admin port, one after frontend.listen unless frontend.admin_listen is set"


def _next_port(listen: Address) -> str:
    return host_and_port(listen.host, listen.port + 1 if listen.port else 0)
