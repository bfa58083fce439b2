"""The admin service of a front-end: operators only, few at a time, and nothing without a line in the audit log.

It has a limit of its own, so that tenants who use up `frontend.calls_max` do not keep operators from
setting limits to them, and only operators count for it.  Attempts of those who are none are told too, so many
a minute for each tenant and for all whom nobody knows, so that they cannot push everything else out of a
bounded log.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message

from mezzo import AsyncClient
from mezzo.errors import Busy, Denied, InternalError, MezzoError, Unauthenticated
from mezzo_server.access.principal import Principal
from mezzo_server.admin.api import NamespaceUsage, TenantUsage, Usage
from mezzo_server.admin.audit import Actor, Audit, Outcome
from mezzo_server.admin.local import LocalAdmin, UsageOf
from mezzo_server.admin.messages import ADMIN_SERVICE
from mezzo_server.admin.service import HANDLERS
from mezzo_server.frontend.calls import Context, parse, refuse
from mezzo_server.frontend.gate import Gate, request_of
from mezzo_server.frontend.permissions import ANYBODY, OPERATOR, check
from mezzo_server.tenancy.model import TenantKey
from mezzo_server.tenancy.registry import Registry

log = structlog.get_logger("mezzo.admin")

CALLS_MAX = 16
"""under way at a time, whether or not their callers still wait"""
STOP_S_MAX = 5.0
"""for them to end when the front-end stops"""
STRANGERS_MAX = 30
"""attempts that are told in `STRANGERS_S`, of one tenant, and of all whom nobody knows"""
STRANGERS_S = 60.0
USAGE_S_MAX = 2.0
"""for the shard to tell what a tenant uses"""


def _ignore() -> None:
    """Nobody wants to know."""


class Strangers:
    """Whether to tell of one more attempt by somebody who is no operator. Owner of the counts. No clock.

    As many counts as there are tenants, at most.
    """

    def __init__(self, now: float) -> None:
        self._since = now
        self._tried: Counter[bytes | None] = Counter()
        self._left_out: Counter[bytes | None] = Counter()

    def tried(self, tenant: bytes | None, now: float) -> int | None:
        """Of a tenant's, or of nobody whom we know (None): how many attempts were left out before this one,
        which is to be told; None: it is left out as well.
        """
        if now - self._since >= STRANGERS_S:
            self._since = now
            self._tried.clear()
        if self._tried[tenant] >= STRANGERS_MAX:
            self._left_out[tenant] += 1
            return None
        self._tried[tenant] += 1
        return self._left_out.pop(tenant, 0)


class Administration:
    """Answers operators. Owner of what they have begun."""

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
        """``now``: a clock for intervals; ``now_s``: Unix time. ``changed`` is called whenever something
        may have been changed. ``new_key``: see `LocalAdmin`.
        """
        self.audit = audit
        self._gate = gate
        self._registry = registry
        self._now = now
        self._now_s = now_s
        self._usage = usage
        self._changed = changed
        self._new_key = new_key
        self._under_way: set[asyncio.Task[Message]] = set()
        self._strangers = Strangers(now())

    def service(self) -> grpc.GenericRpcHandler:
        """The service, for a server."""
        return grpc.method_handlers_generic_handler(
            ADMIN_SERVICE,
            {name: grpc.stream_unary_rpc_method_handler(self.handler(name)) for name in HANDLERS},
        )

    def handler(self, method: str) -> Callable[[object, Context], Awaitable[bytes]]:
        """A handler of raw bytes, which it reads from its context."""

        async def handle(requests: object, context: Context) -> bytes:
            error: MezzoError
            try:
                return await self._answer(method, context)
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

    async def stop(self) -> None:
        """Wait for what was begun, so that how it ended is told."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=STOP_S_MAX)

    async def _answer(self, method: str, context: Context) -> bytes:
        principal = await self._admit(method, context)
        data = await request_of(context)
        if len(self._under_way) >= CALLS_MAX:
            raise Busy(f"{CALLS_MAX} calls of operators are under way")
        kind, answer = HANDLERS[method]
        admin = LocalAdmin(
            self._registry,
            self.audit,
            Actor(principal.credential, context.peer()),
            now=self._now_s,
            usage=self._usage,
            new_key=self._new_key,
        )
        task = asyncio.ensure_future(answer(admin, parse(kind, data)))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        # Once begun it goes on, and is told, whether or not the caller still waits.
        message = await asyncio.shield(task)
        return message.SerializeToString()

    def _ended(self, task: asyncio.Task[Message]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits hears of it
        self._changed()

    async def _admit(self, method: str, context: Context) -> Principal:
        """The operator who calls. Who is none is refused, and that is told."""
        principal: Principal | None = None
        try:
            principal = await self._gate.admit(context, method, ANYBODY)
            check(principal, method, OPERATOR)
        except (Unauthenticated, Denied) as error:
            tenant, who = (None, "") if principal is None else (principal.tenant, principal.credential)
            left_out = self._strangers.tried(tenant, self._now())
            if left_out is not None:
                await asyncio.to_thread(
                    self.audit.record,
                    Actor(who, context.peer()),
                    method,
                    Outcome.REFUSED,
                    error=error.code.name,
                    why=str(error),
                    left_out=left_out or None,
                )
            raise
        return principal


async def usage_of(tenant_id: bytes, registry: Registry, shards: Sequence[AsyncClient]) -> TenantUsage | None:
    """What a tenant uses, as the shards tell an operator; None: one of them cannot be asked."""
    try:
        ids = [namespace.id for namespace in await registry.namespaces(tenant_id)]
        asked = [shard.tenant_stat(tenant_id, ids, timeout_s=USAGE_S_MAX) for shard in shards]
        told = await asyncio.gather(*asked)
    except MezzoError as error:
        log.info("what a tenant uses is not known", error=str(error))
        return None
    each: dict[bytes, NamespaceUsage] = {}
    for use in (use for one in told for use in one.namespaces):
        before = each.get(use.namespace, NamespaceUsage(0, 0))
        each[use.namespace] = NamespaceUsage(before.chunks + use.chunks, before.bytes + use.bytes)
    usage = Usage(
        sum(use.chunks for use in each.values()),
        sum(one.bytes for one in told),
        sum(one.hot_bytes for one in told),
        sum(one.leased_bytes for one in told),
    )
    return TenantUsage(usage, each)
