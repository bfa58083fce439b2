"""The calls that move no chunks, and the table of all methods of the store."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from mezzo.errors import Gone, InvalidArgument
from mezzo.frontend.exchange import STORE_SERVICE
from mezzo.results import LookupResult
from mezzo.v1 import store_pb2
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.calls import Answer, Calls, keys_of
from mezzo_server.frontend.events import EventHandlers
from mezzo_server.frontend.get import Gets
from mezzo_server.frontend.leases import LeaseTable
from mezzo_server.frontend.namespaces import Namespaces
from mezzo_server.frontend.patience import for_shards
from mezzo_server.frontend.put import Puts
from mezzo_server.frontend.way import Way

NUMBERS_NAMESPACE = "default"
"""whose connection asks for numbers: every tenant has a namespace of this name"""


class StoreHandlers:
    """Handlers of ``mezzo.v1.StoreService`` but for ``Put`` and ``Get``: the SDK's calls."""

    def __init__(
        self, namespaces: Namespaces, leases: LeaseTable, now: Callable[[], float], way: Way
    ) -> None:
        """``way``: how long chunks take through the front-end."""
        self._way = way
        self._namespaces = namespaces
        self._leases = leases
        self._now = now

    def in_time(self, answer: Answer) -> Answer:
        """``answer``, so early that what the shards have said reaches the caller."""

        def early(request: Any, timeout_s: float) -> Awaitable[Message]:
            return answer(request, for_shards(timeout_s, several=self._namespaces.several))

        return early

    async def lookup(self, request: store_pb2.LookupRequest, timeout_s: float) -> store_pb2.LookupResponse:
        """See ``Lookup``."""
        async with self._namespaces.use(request.namespace) as namespace:
            found = await namespace.client.lookup(keys_of(request), timeout_s=timeout_s)
        return store_pb2.LookupResponse(prefix=found.prefix, bytes=found.bytes, **self._told(found))

    async def acquire(self, request: store_pb2.AcquireRequest, timeout_s: float) -> store_pb2.AcquireResponse:
        """See ``Acquire``."""
        if request.lease_ms < 1:
            raise InvalidArgument("lease_ms must be at least 1")
        keys = keys_of(request)
        with self._leases.reserved(caller().tenant) as add:
            async with self._namespaces.use(request.namespace) as namespace:
                lease = await namespace.client.acquire(keys, request.lease_ms / 1000, timeout_s=timeout_s)
                name = add(lease, namespace) if lease.prefix else b""
        if not name:
            return store_pb2.AcquireResponse(**self._told(lease.found))
        return store_pb2.AcquireResponse(
            lease=name,
            prefix=lease.prefix,
            bytes=lease.bytes,
            lease_ms=max(0, math.floor((lease.expires - self._now()) * 1000)),
            **self._told(lease.found),
        )

    def _told(self, found: LookupResult) -> dict[str, Any]:
        """What a get through this front-end would take: the shard's time, or that of the way if it is longer."""
        way_s = self._way.seconds(found.bytes)
        return {
            "load_us": math.ceil(max(found.load_s, way_s) * 1e6),
            "load_high_us": math.ceil(max(found.load_high_s, way_s) * 1e6),
            "hot_prefix": found.hot_prefix,
            "hot_bytes": found.hot_bytes,
            "hot_load_us": math.ceil(found.hot_load_s * 1e6),
            "device_load_us": math.ceil(found.device_load_s * 1e6),
            "load_wait_us": math.floor(found.load_wait_s * 1e6),
            "unanswered": found.unanswered,
        }

    async def renew(self, request: store_pb2.RenewRequest, timeout_s: float) -> store_pb2.RenewResponse:
        """See ``Renew``."""
        if request.lease_ms < 1:
            raise InvalidArgument("lease_ms must be at least 1")
        with self._leases.renewing(request.lease, caller().tenant) as held:
            if held is None:
                raise Gone(
                    "the lease has ended: its time was over, it was released, or what it held was erased; acquire again"
                )
            left_s = await held.lease.renew(request.lease_ms / 1000)
        return store_pb2.RenewResponse(lease_ms=max(0, math.floor(left_s * 1000)))

    async def release(self, request: store_pb2.ReleaseRequest, timeout_s: float) -> store_pb2.ReleaseResponse:
        """See ``Release``."""
        held = self._leases.take(request.lease, caller().tenant)
        return store_pb2.ReleaseResponse(held=held is not None and await held.lease.release())

    async def delete(self, request: store_pb2.DeleteRequest, timeout_s: float) -> store_pb2.DeleteResponse:
        """See ``Delete``."""
        async with self._namespaces.use(request.namespace) as namespace:
            result = await namespace.client.delete(keys_of(request), timeout_s=timeout_s)
        return store_pb2.DeleteResponse(deleted=result.deleted)

    async def stat(self, request: store_pb2.StatRequest, timeout_s: float) -> store_pb2.StatResponse:
        """See ``Stat``."""
        async with self._namespaces.use(request.namespace) as namespace:
            chunks = await namespace.client.stat(keys_of(request), timeout_s=timeout_s)
        return store_pb2.StatResponse(
            chunks=[
                store_pb2.ChunkStat()
                if chunk is None
                else store_pb2.ChunkStat(
                    present=True,
                    bytes=chunk.bytes,
                    parts=chunk.parts,
                    sequence=chunk.sequence,
                    leased=chunk.leased,
                    ttl_ms=chunk.ttl_ms if chunk.ttl_ms >= 0 else None,
                    priority=chunk.priority,
                )
                for chunk in chunks
            ],
            unanswered=chunks.unanswered,
        )

    async def shard_stat(
        self, request: store_pb2.ShardStatRequest, timeout_s: float
    ) -> store_pb2.ShardStatResponse:
        """See ``ShardStat``."""
        async with self._namespaces.use(NUMBERS_NAMESPACE) as namespace:
            numbers = await namespace.client.shard_stat(timeout_s=timeout_s)
        return store_pb2.ShardStatResponse(numbers=numbers)


def store_service(
    calls: Calls, handlers: StoreHandlers, puts: Puts, gets: Gets, events: EventHandlers
) -> grpc.GenericRpcHandler:
    """The service, for a server. Messages pass as bytes: payload is framed by hand (`mezzo.frontend.wire`)."""
    unary: dict[str, tuple[type[Any], Any]] = {
        "Lookup": (store_pb2.LookupRequest, handlers.lookup),
        "Acquire": (store_pb2.AcquireRequest, handlers.acquire),
        "Renew": (store_pb2.RenewRequest, handlers.renew),
        "Release": (store_pb2.ReleaseRequest, handlers.release),
        "Delete": (store_pb2.DeleteRequest, handlers.delete),
        "Stat": (store_pb2.StatRequest, handlers.stat),
        "ShardStat": (store_pb2.ShardStatRequest, handlers.shard_stat),
    }
    methods: dict[str, Any] = {
        name: grpc.stream_unary_rpc_method_handler(calls.unary(name, request, handlers.in_time(answer)))
        for name, (request, answer) in unary.items()
    }
    poll = calls.unary("PollEvents", store_pb2.PollEventsRequest, events.poll)
    methods["PollEvents"] = grpc.stream_unary_rpc_method_handler(poll)
    methods["Put"] = grpc.stream_unary_rpc_method_handler(calls.taking("Put", puts.put))
    methods["Get"] = grpc.stream_stream_rpc_method_handler(calls.stream("Get", gets.get))
    methods["Events"] = grpc.stream_stream_rpc_method_handler(calls.stream("Events", events.stream))
    return grpc.method_handlers_generic_handler(STORE_SERVICE, methods)
