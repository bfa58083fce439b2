"""The admin service of a front-end: operators only, few at a time, and nothing without a line in the audit log.

It has a limit of its own, so that tenants who use up `frontend.calls_max` do not keep operators from
setting limits to them.  Attempts of those who are no operators are told too; of those who are nobody only
so many a minute, so that they cannot push everything else out of a bounded log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio
import structlog

from mezzo import AsyncClient
from mezzo.errors import Busy, Denied, InternalError, MezzoError, Unauthenticated
from mezzo_server.access.principal import Principal
from mezzo_server.admin.api import NamespaceUsage, TenantUsage, Usage
from mezzo_server.admin.audit import Actor, Audit, Outcome
from mezzo_server.admin.local import LocalAdmin, UsageOf
from mezzo_server.admin.messages import ADMIN_SERVICE
from mezzo_server.admin.service import HANDLERS
from mezzo_server.frontend.calls import Context, parse, refuse
from mezzo_server.frontend.gate import Gate
from mezzo_server.frontend.permissions import ANYBODY, OPERATOR, check
from mezzo_server.tenancy.model import TenantKey
from mezzo_server.tenancy.registry import Registry

log = structlog.get_logger("mezzo.admin")

CALLS_MAX = 16
"""under way at a time"""
STRANGERS_MAX = 30
"""attempts without a valid credential that are told in `STRANGERS_S`"""
STRANGERS_S = 60.0
USAGE_S_MAX = 2.0
"""for the shard to tell what a tenant uses"""


def _ignore() -> None:
    """Nobody wants to know."""


class Administration:
    """Answers operators. Owner of the count of their calls."""

    def __init__(
        self,
        gate: Gate,
        registry: Registry,
        audit: Audit,
        *,
        now: Callable[[], float],
        now_s: Callable[[], float],
        usage: UsageOf | None = None,
        changed: Callable[[], None] = _ignore,
        new_key: Callable[[bytes], TenantKey] | None = None,
    ) -> None:
        """``now``: a clock for intervals; ``now_s``: Unix time. ``changed`` is called when something may have
        been changed. ``new_key``: see `LocalAdmin`.
        """
        self.audit = audit
        self._gate = gate
        self._registry = registry
        self._now = now
        self._now_s = now_s
        self._usage = usage
        self._changed = changed
        self._new_key = new_key
        self._calls = 0
        self._strangers_since = now()
        self._strangers = 0

    def service(self) -> grpc.GenericRpcHandler:
        """The service, for a server."""
        return grpc.method_handlers_generic_handler(
            ADMIN_SERVICE,
            {name: grpc.unary_unary_rpc_method_handler(self.handler(name)) for name in HANDLERS},
        )

    def handler(self, method: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """A handler of raw bytes."""

        async def handle(data: bytes, context: Context) -> bytes:
            error: MezzoError
            try:
                return await self._answer(method, data, context)
            except MezzoError as raised:
                error = raised
            except Exception as raised:
                log.error("a call failed", method=method, exc_info=raised)
                error = InternalError(
                    f"{method} failed: {type(raised).__name__}; the front-end's log says more"
                )
            await refuse(context, error)
            raise error  # abort does not return

        return handle

    async def _answer(self, method: str, data: bytes, context: Context) -> bytes:
        if self._calls >= CALLS_MAX:
            raise Busy(f"{CALLS_MAX} calls of operators are under way")
        self._calls += 1
        try:
            principal = await self._admit(method, context)
            kind, answer = HANDLERS[method]
            admin = LocalAdmin(
                self._registry,
                self.audit,
                Actor(principal.credential, context.peer()),
                now=self._now_s,
                usage=self._usage,
                new_key=self._new_key,
            )
            # Once begun it goes on, and is told, whether or not the caller still waits.
            message = await asyncio.shield(answer(admin, parse(kind, data)))
            self._changed()
            return message.SerializeToString()
        finally:
            self._calls -= 1

    async def _admit(self, method: str, context: Context) -> Principal:
        """The operator who calls. Who is none is refused, and that is told."""
        who = ""
        try:
            principal = await self._gate.admit(context, method, ANYBODY)
            who = principal.credential
            check(principal, method, OPERATOR)
        except (Unauthenticated, Denied) as error:
            if who or self._tells_of_stranger():
                await asyncio.to_thread(
                    self.audit.record,
                    Actor(who, context.peer()),
                    method,
                    Outcome.REFUSED,
                    error=error.code.name,
                    why=str(error),
                )
            raise
        return principal

    def _tells_of_stranger(self) -> bool:
        now = self._now()
        if now - self._strangers_since >= STRANGERS_S:
            self._strangers_since, self._strangers = now, 0
        self._strangers += 1
        return self._strangers <= STRANGERS_MAX


async def usage_of(tenant_id: bytes, registry: Registry, shard: AsyncClient) -> TenantUsage | None:
    """What a tenant uses, as the shard tells an operator; None: it cannot be asked."""
    try:
        ids = [namespace.id for namespace in await registry.namespaces(tenant_id)]
        told = await shard.tenant_stat(tenant_id, ids, timeout_s=USAGE_S_MAX)
    except MezzoError as error:
        log.info("what a tenant uses is not known", error=str(error))
        return None
    each = {use.namespace: NamespaceUsage(use.chunks, use.bytes) for use in told.namespaces}
    chunks = sum(use.chunks for use in each.values())
    return TenantUsage(Usage(chunks, told.bytes, told.hot_bytes, told.leased_bytes), each)
