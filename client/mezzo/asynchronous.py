"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from mezzo import calls, moves, shard_calls
from mezzo.async_performing import AsyncPerforming
from mezzo.asyncio_link import AsyncioLink
from mezzo.backoff import Backoff
from mezzo.errors import (
    Busy,
    ClientClosed,
    MezzoError,
    Unavailable,
)
from mezzo.events import AsyncEventStream, Cursor, EventReader
from mezzo.lease import AsyncLease
from mezzo.loading import LoadDecision, load_question
from mezzo.places import Memory, Parts
from mezzo.protocol.messages import (
    PRIORITY_DEFAULT,
    DeviceAction,
    DeviceChange,
    DeviceState,
    Events,
    EventsAre,
    TenantStated,
)
from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult, Stats

T = TypeVar("T")

_COPY_INLINE_BYTES_MAX = 1024 * 1024  # what is larger is copied in the loop's executor


class AsyncClient(AsyncPerforming):
    """A client of a shard, or of all shards of a node or pod, for one event loop; `mezzo.Client` in all else.

    Tasks share one connection (to each shard) and their requests are pipelined on it.  Cancelling a task cancels its
    requests with the server too; the task ends when the server has let go of the call's memory (at
    most ``cancel_grace_s`` later, or the connection is ended).  Errors are those of `mezzo.Client`.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def put(
        self,
        keys: Iterable[bytes],
        sources: Sequence[Memory],
        *,
        parts: Parts = None,
        position: int = 0,
        ttl_s: float | None = None,
        priority: int = PRIORITY_DEFAULT,
        timeout_s: float | None = None,
    ) -> PutResult:
        """See `mezzo.Client.put`."""
        call = moves.put(self._context, keys, sources, parts, position, ttl_s, priority)
        return await self._perform(call, timeout_s)

    async def get(
        self,
        keys: Iterable[bytes],
        targets: Sequence[Memory],
        *,
        part: tuple[int, int] | None = None,
        deadline_s: float | None = None,
        timeout_s: float | None = None,
    ) -> GetResult:
        """See `mezzo.Client.get`."""
        return await self._perform(moves.get(self._context, keys, targets, part), timeout_s, deadline_s)

    async def lookup(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> LookupResult:
        """See `mezzo.Client.lookup`."""
        return await self._perform(calls.lookup(self._context, keys), timeout_s)

    async def should_load(
        self,
        keys: Iterable[bytes],
        recompute_tokens_per_s: float,
        chunk_tokens: int | None = None,
        *,
        overhead_s: float = 0.0,
        deadline_s: float | None = None,
        timeout_s: float | None = None,
    ) -> LoadDecision:
        """See `mezzo.Client.should_load`."""
        question = load_question(self.identity, recompute_tokens_per_s, chunk_tokens, overhead_s, deadline_s)
        try:
            return question.answer(await self.lookup(keys, timeout_s=timeout_s))
        except MezzoError as error:
            return question.answer(error)

    async def acquire(
        self,
        keys: Iterable[bytes],
        ttl_s: float,
        *,
        in_place: bool = False,
        load: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncLease:
        """See `mezzo.Client.acquire`."""
        grant = await self._perform(calls.acquire(self._context, keys, ttl_s, in_place, load), timeout_s)
        return AsyncLease(
            grant,
            self._surroundings.now,
            lambda: self._perform(calls.release(grant.leases, grant.over), None),
            lambda ttl_s: self._perform(calls.renew(self._context, grant.leases, ttl_s, grant.over), None),
        )

    async def renew(self, lease: AsyncLease, ttl_s: float) -> float:
        """See `mezzo.Client.renew`."""
        return await lease.renew(ttl_s)

    async def release(self, lease: AsyncLease) -> bool:
        """See `mezzo.Client.release`."""
        return await lease.release()

    def events(self, after: Cursor | None = None, *, snapshot: bool = False) -> AsyncEventStream:
        """See `mezzo.Client.events`."""
        return AsyncEventStream(
            lambda question, wait_s: self.read_events(question, timeout_s=wait_s + self.timeout_s),
            EventReader(after, snapshot),
            Backoff(self._surroundings.random),
            self._surroundings.now,
        )

    async def read_events(self, question: Events, *, timeout_s: float | None = None) -> EventsAre | None:
        """See `mezzo.Client.read_events`."""
        return await self._perform(shard_calls.read_events(self._context, question), timeout_s)

    async def delete(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> DeleteResult:
        """See `mezzo.Client.delete`."""
        return await self._perform(calls.delete(self._context, keys), timeout_s)

    async def stat(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> Stats:
        """See `mezzo.Client.stat`."""
        return await self._perform(calls.stat(self._context, keys), timeout_s)

    async def shard_stat(self, *, timeout_s: float | None = None) -> dict[str, float]:
        """See `mezzo.Client.shard_stat`."""
        return await self._perform(shard_calls.shard_stat(self._context), timeout_s)

    async def tenant_stat(
        self, tenant: bytes, namespaces: Sequence[bytes] = (), *, timeout_s: float | None = None
    ) -> TenantStated:
        """See `mezzo.Client.tenant_stat`."""
        return await self._perform(shard_calls.tenant_stat(self._context, tenant, namespaces), timeout_s)

    async def devices(self, *, timeout_s: float | None = None) -> tuple[DeviceState, ...]:
        """See `mezzo.Client.devices`."""
        return await self._perform(shard_calls.devices(self._context), timeout_s)

    async def change_device(
        self,
        action: DeviceAction,
        device: str,
        *,
        by: str = "",
        capacity_bytes: int = 0,
        erase: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """See `mezzo.Client.change_device`."""
        change = DeviceChange(int(action), device, by, capacity_bytes, erase)
        await self._perform(shard_calls.change_device(self._context, change), timeout_s)

    async def chunk_bytes_max(self, *, timeout_s: float | None = None) -> int:
        """See `mezzo.Client.chunk_bytes_max`."""
        return await self._perform(shard_calls.chunk_bytes_max(self._context), timeout_s)

    async def ping(self, *, timeout_s: float | None = None) -> float:
        """See `mezzo.Client.ping`."""
        return await self._perform(shard_calls.ping(self._context), timeout_s)

    async def connect(self, timeout_s: float | None = None) -> None:
        """See `mezzo.Client.connect`."""
        self._check_usable()
        if self.disabled:
            return
        deadline = self._deadline(timeout_s)
        while True:
            try:
                await self._connected(deadline)
            except (Unavailable, Busy):
                now = self._surroundings.now()
                wait_s = max(0.0, self._backoff.not_before - now)
                if now + wait_s >= deadline or self._closed:
                    raise
                await asyncio.sleep(wait_s)
            else:
                return

    async def close(self) -> None:
        """See `mezzo.Client.close`."""
        if self._closed:
            return
        self._closed = True
        link, self._link = self._link, None
        if self._forked():
            if link is not None:
                link.close_descriptors()
            return
        renewing = self._renewing
        if renewing is not None and renewing.get_loop() is asyncio.get_running_loop():
            renewing.cancel()
            await asyncio.wait((renewing,))
        if isinstance(link, AsyncioLink):
            link.end(ClientClosed("the client was closed"))
        elif link is not None:
            await link.close(ClientClosed("the client was closed"))
        self._staging.close()

    def __del__(self) -> None:
        link = self._link
        if getattr(self, "_closed", True) or link is None:
            return
        self._link = None
        if self._forked():
            link.close_descriptors()
        else:
            link.end_from_anywhere(ClientClosed("the client was closed"))
