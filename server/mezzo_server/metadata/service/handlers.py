"""The calls of the metadata service: each is one of the engine under it, and keeps nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from mezzo.errors import Unavailable
from mezzo.v1 import metadata_pb2 as api
from mezzo_server.frontend.calls import Calls, Context, parse, send
from mezzo_server.metadata.engine import Change, Check, Compacted, Engine, Entry, Write
from mezzo_server.metadata.remote.calls import SERVICE
from mezzo_server.metadata.service.gate import check_writes
from mezzo_server.metadata.service.hub import Hubs

PAGE_ENTRIES = 1024
PAGE_BYTES = 1 << 20
"""of one message of a stream, unless one entry alone is larger"""
SCANS_MAX = 8
"""at a time, each with all that it found in memory; others wait"""
SCAN_WAIT_S = 2.0
"""and go to another replica after so long: those who scan may have stopped reading"""
BEAT_S = 1.0
"""A watch without news says so often that the service and the engine under it are there."""
STALL = "metadata_service.stall_s"


class MetadataHandlers:
    """What each call does."""

    def __init__(self, engine: Engine, away: Callable[[], str], stall_s: float) -> None:
        """``away``: why the engine cannot be reached at this moment; empty: it can."""
        self._engine = engine
        self._hubs = Hubs(engine)
        self._away = away
        self._stall_s = stall_s
        self._scans = asyncio.Semaphore(SCANS_MAX)
        self._ending = asyncio.Event()
        """of the watches that are under way"""
        self.watches = 0
        """under way"""

    def end_watches(self) -> None:
        """They would last for ever: who watches, and still may, begins anew here or goes on at another replica."""
        self._ending.set()
        self._ending = asyncio.Event()

    async def get(self, request: Any, timeout_s: float) -> api.GetEntryResponse:
        """What a key holds."""
        self._check()
        entry = await self._engine.get(request.key)
        return api.GetEntryResponse(entry=None if entry is None else _told(entry))

    async def transact(self, request: Any, timeout_s: float) -> api.TransactResponse:
        """All writes, if all checks hold."""
        checks = [Check(check.key, check.revision) for check in request.checks]
        writes = [
            Write(write.key, write.value if write.HasField("value") else None, write.lease)
            for write in request.writes
        ]
        check_writes(writes)
        self._check()
        outcome = await self._engine.transact(checks, writes)
        return api.TransactResponse(done=outcome.done, revision=outcome.revision)

    async def grant(self, request: Any, timeout_s: float) -> api.GrantLeaseResponse:
        """A new lease."""
        self._check()
        return api.GrantLeaseResponse(lease=await self._engine.grant(request.ttl_s))

    async def keep(self, request: Any, timeout_s: float) -> api.KeepLeaseResponse:
        """A lease begins anew."""
        self._check()
        return api.KeepLeaseResponse(held=await self._engine.keep(request.lease))

    async def revoke(self, request: Any, timeout_s: float) -> api.RevokeLeaseResponse:
        """A lease ends."""
        self._check()
        await self._engine.revoke(request.lease)
        return api.RevokeLeaseResponse()

    async def scan(self, data: bytes, context: Context, timeout_s: float) -> None:
        """All keys that begin with a text, in pages."""
        request = parse(api.ScanEntriesRequest, data)
        self._check()
        async with self._a_scan():
            scan = await self._engine.scan(request.prefix)
            pages = list(_pages(scan.entries, _entry_bytes))
            for number, page in enumerate(pages or [()]):
                message = api.ScanEntriesResponse(
                    entries=map(_told, page), revision=scan.revision, more=number + 1 < len(pages)
                )
                await self._send(context, message)

    async def watch(self, data: bytes, context: Context, timeout_s: float) -> None:
        """Changes, until whoever watches ends it."""
        request = parse(api.WatchEntriesRequest, data)
        self._check()
        changes = self._hubs.watch(request.prefix, request.after)
        ended = asyncio.ensure_future(self._ending.wait())
        coming: asyncio.Future[Sequence[Change]] | None = None
        self.watches += 1
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(changes))
                await asyncio.wait((coming, ended), timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    raise Unavailable("the metadata service ends its watches, to see who may have them")
                if not coming.done():
                    self._check()
                    await self._send(context, api.WatchEntriesResponse())
                    continue
                arrived, coming = coming, None
                try:
                    batch = arrived.result()
                except Compacted:
                    await self._send(context, api.WatchEntriesResponse(compacted=True))
                    return
                except StopAsyncIteration:
                    raise Unavailable("the engine under the metadata service was closed") from None
                pages = list(_pages(batch, _change_bytes))
                for number, page in enumerate(pages):
                    more = number + 1 < len(pages)
                    await self._send(context, api.WatchEntriesResponse(changes=map(_change, page), more=more))
        finally:
            self.watches -= 1
            ending: list[asyncio.Future[Any]] = [ended] if coming is None else [ended, coming]
            for each in ending:
                each.cancel()
            await asyncio.wait(ending)
            await changes.aclose()

    @asynccontextmanager
    async def _a_scan(self) -> AsyncIterator[None]:
        """One of those that may be under way, for the block. Raises Unavailable."""
        try:
            async with asyncio.timeout(SCAN_WAIT_S):
                await self._scans.acquire()
        except TimeoutError:
            raise Unavailable(f"{SCANS_MAX} scans are under way at the metadata service") from None
        try:
            yield
        finally:
            self._scans.release()

    def _check(self) -> None:
        """Nobody waits for an engine that was away a moment ago. Raises Unavailable."""
        reason = self._away()
        if reason:
            raise Unavailable(f"the engine under the metadata service cannot be reached: {reason}")

    def _send(self, context: Context, message: Any) -> Awaitable[None]:
        return send(context, message.SerializeToString(), self._stall_s, STALL)


def metadata_service(calls: Calls, handlers: MetadataHandlers) -> grpc.GenericRpcHandler:
    """The service, for a server."""
    answers = {
        "GetEntry": (api.GetEntryRequest, handlers.get),
        "Transact": (api.TransactRequest, handlers.transact),
        "GrantLease": (api.GrantLeaseRequest, handlers.grant),
        "KeepLease": (api.KeepLeaseRequest, handlers.keep),
        "RevokeLease": (api.RevokeLeaseRequest, handlers.revoke),
    }
    methods: dict[str, Any] = {
        name: grpc.stream_unary_rpc_method_handler(calls.unary(name, request, answer))
        for name, (request, answer) in answers.items()
    }
    for name, work in (("ScanEntries", handlers.scan), ("WatchEntries", handlers.watch)):
        methods[name] = grpc.stream_stream_rpc_method_handler(calls.stream(name, work))
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _pages(items: Sequence[Any], size_of: Callable[[Any], int]) -> Iterator[Sequence[Any]]:
    """In order, in parts that fit into a message each."""
    page: list[Any] = []
    room = 0
    for item in items:
        size = size_of(item)
        if page and (size > room or len(page) == PAGE_ENTRIES):
            yield page
            page = []
        if not page:
            room = PAGE_BYTES
        page.append(item)
        room -= size
    if page:
        yield page


def _entry_bytes(entry: Entry) -> int:
    return len(entry.key) + len(entry.value)


def _change_bytes(change: Change) -> int:
    return len(change.key) + len(change.value or b"")


def _told(entry: Entry) -> api.Entry:
    return api.Entry(key=entry.key, value=entry.value, revision=entry.revision)


def _change(change: Change) -> api.Change:
    return api.Change(key=change.key, value=change.value, revision=change.revision)
