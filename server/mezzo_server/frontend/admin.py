"""Health, reflection and channelz: what tools and load balancers ask a front-end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc.aio
import structlog
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from mezzo.errors import MezzoError
from mezzo.frontend.exchange import SESSION_SERVICE, STORE_SERVICE
from mezzo.frontend.naming import NAMESPACE_SERVICE
from mezzo_server.frontend.numbers import CallNumbers

log = structlog.get_logger("mezzo.frontend")

SERVICES = ("", STORE_SERVICE, SESSION_SERVICE, NAMESPACE_SERVICE)
"""whose health is told; the empty name stands for the whole"""
OWN_SERVICES = tuple(f"/{service}/" for service in SERVICES[1:])
"""which `Calls` serves"""
CHANNELZ_SERVICE = "grpc.channelz.v1.Channelz"
PROBE_S_MAX = 2.0


class Health:
    """Whether what is behind the calls can be reached, asked again and again. Owner of the health service's states."""

    def __init__(
        self,
        ping: Callable[[float], Awaitable[object]],
        numbers: CallNumbers,
        *,
        every_s: float,
        what: str = "shard",
        services: Sequence[str] = SERVICES,
        answer_s: float = PROBE_S_MAX,
    ) -> None:
        """``ping`` asks it, and raises MezzoError if there is no answer within so many seconds, ``answer_s``."""
        self.servicer: Any = health.HealthServicer()
        self.reason = "it was not asked yet"
        """why it does not serve; empty: it does"""
        self._ping = ping
        self._numbers = numbers
        self._every_s = every_s
        self._what = what
        self._services = services
        self._answer_s = answer_s
        self._told: bool | None = None

    async def look(self) -> None:
        """Ask once, and tell."""
        try:
            await self._ping(self._answer_s)
        except MezzoError as error:
            self.reason = str(error)
        except (
            Exception
        ) as error:  # must be seen, and must not end the asking: what was told last would be told for ever
            log.exception(f"the {self._what} could not be asked")
            self.reason = f"a fault of ours: {error!r}"
        else:
            self.reason = ""
        await self._tell(not self.reason)

    async def watch(self) -> None:
        """Ask until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def drain(self) -> None:
        """Not serving from now on, for good."""
        self._numbers.serving = False
        await self.servicer.enter_graceful_shutdown()

    async def _tell(self, serving: bool) -> None:
        if serving is self._told:
            return
        self._told = self._numbers.serving = serving
        if serving:
            log.info(f"the {self._what} serves")
        else:
            log.warning(f"the {self._what} cannot be reached", error=self.reason)
        kinds = health_pb2.HealthCheckResponse
        for service in self._services:
            await self.servicer.set(service, kinds.SERVING if serving else kinds.NOT_SERVING)


def add_health(server: grpc.aio.Server, watched: Health) -> None:
    """The health service."""
    health_pb2_grpc.add_HealthServicer_to_server(watched.servicer, _ByPath(server))


class _ByPath:
    """A server to which methods are added as all others are, found by their path.

    Generated code also registers each by itself.  gRPC then waits for its calls apart, with a task and a callback
    for each such method, which every call of any method pays for.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """See `grpc.aio.Server`."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, methods: Any) -> None:
        """They are generic ones already."""


def add_tools(server: grpc.aio.Server, services: tuple[str, ...] = ()) -> None:
    """Reflection and channelz; ``services``: those of this server besides."""
    names = (*SERVICES[1:], *services, "grpc.health.v1.Health", CHANNELZ_SERVICE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    channelz.add_channelz_servicer(server)
