"""Clients of a `FakeStore`, with the methods of the real ones. They copy every byte, and wait for nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from mezzo.backoff import Backoff
from mezzo.errors import MezzoError
from mezzo.events import AsyncEventStream, Cursor, EventReader, EventStream
from mezzo.lease import AsyncLease, Lease
from mezzo.loading import LoadDecision, load_question
from mezzo.places import Memory, Parts
from mezzo.protocol.messages import (
    PRIORITY_DEFAULT,
    DeviceAction,
    DeviceState,
    Events,
    EventsAre,
    TenantStated,
)
from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult, Stats
from mezzo.testing.base import FakeBase

T = TypeVar("T")

LOOK_S = 0.01
"""between two looks of a stream of events whether something has happened"""


class FakeClient(FakeBase):
    """`mezzo.Client` over a `FakeStore`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def put(
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
        self._begin(timeout_s)
        return self._put(keys, sources, parts, position, ttl_s, priority)

    def get(
        self,
        keys: Iterable[bytes],
        targets: Sequence[Memory],
        *,
        part: tuple[int, int] | None = None,
        deadline_s: float | None = None,
        timeout_s: float | None = None,
    ) -> GetResult:
        """See `mezzo.Client.get`."""
        self._begin(timeout_s)
        return self._get(keys, targets, part, deadline_s)

    def lookup(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> LookupResult:
        """See `mezzo.Client.lookup`."""
        self._begin(timeout_s)
        return self._lookup(keys)

    def should_load(
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
            return question.answer(self.lookup(keys, timeout_s=timeout_s))
        except MezzoError as error:
            return question.answer(error)

    def acquire(
        self,
        keys: Iterable[bytes],
        ttl_s: float,
        *,
        in_place: bool = False,
        load: bool = False,
        timeout_s: float | None = None,
    ) -> Lease:
        """See `mezzo.Client.acquire`."""
        self._begin(timeout_s)
        grant, lease = self._acquire(keys, ttl_s, in_place, load)
        return Lease(
            grant, self.store.now, lambda: self._end_lease(lease), lambda ttl: self._renew_lease(lease, ttl)
        )

    def renew(self, lease: Lease, ttl_s: float) -> float:
        """See `mezzo.Client.renew`."""
        return lease.renew(ttl_s)

    def release(self, lease: Lease) -> bool:
        """See `mezzo.Client.release`."""
        return lease.release()

    def events(self, after: Cursor | None = None, *, snapshot: bool = False) -> EventStream:
        """See `mezzo.Client.events`. Nothing is ever forgotten here, and a question waits a little."""

        def ask(question: Events, wait_s: float) -> EventsAre | None:
            answer = self.read_events(question)
            if answer is not None and not (answer.kinds or answer.gap or question.parts):
                time.sleep(min(wait_s, LOOK_S))
            return answer

        return EventStream(
            ask, EventReader(after, snapshot), Backoff(lambda: 0.5), time.monotonic, time.sleep
        )

    def read_events(self, question: Events, *, timeout_s: float | None = None) -> EventsAre | None:
        """See `mezzo.Client.read_events`."""
        self._begin(timeout_s)
        return self._read_events(question)

    def delete(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> DeleteResult:
        """See `mezzo.Client.delete`."""
        self._begin(timeout_s)
        return self._delete(keys)

    def stat(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> Stats:
        """See `mezzo.Client.stat`."""
        self._begin(timeout_s)
        return self._stat(keys)

    def shard_stat(self, *, timeout_s: float | None = None) -> dict[str, float]:
        """See `mezzo.Client.shard_stat`."""
        self._begin(timeout_s)
        return self._shard_stat()

    def tenant_stat(
        self, tenant: bytes, namespaces: Sequence[bytes] = (), *, timeout_s: float | None = None
    ) -> TenantStated:
        """See `mezzo.Client.tenant_stat`."""
        self._begin(timeout_s)
        return self._tenant_stat()

    def devices(self, *, timeout_s: float | None = None) -> tuple[DeviceState, ...]:
        """See `mezzo.Client.devices`: the fake has one, which is memory."""
        self._begin(timeout_s)
        return self._devices()

    def change_device(
        self,
        action: DeviceAction,
        device: str,
        *,
        by: str = "",
        capacity_bytes: int = 0,
        erase: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """See `mezzo.Client.change_device`: always `Unsupported`."""
        self._begin(timeout_s)
        self._change_device()

    def chunk_bytes_max(self, *, timeout_s: float | None = None) -> int:
        """See `mezzo.Client.chunk_bytes_max`."""
        self._begin(timeout_s)
        return self.store.chunk_bytes_max

    def ping(self, *, timeout_s: float | None = None) -> float:
        """See `mezzo.Client.ping`."""
        self._begin(timeout_s)
        return 0.0

    def connect(self, timeout_s: float | None = None) -> None:
        """See `mezzo.Client.connect`."""
        self._begin(timeout_s)

    def close(self) -> None:
        """See `mezzo.Client.close`."""
        if not self._closed:
            self._close()


class AsyncFakeClient(FakeBase):
    """`mezzo.AsyncClient` over a `FakeStore`. Each call lets other tasks run once."""

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
        return await self._later(
            timeout_s, lambda: self._put(keys, sources, parts, position, ttl_s, priority)
        )

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
        return await self._later(timeout_s, lambda: self._get(keys, targets, part, deadline_s))

    async def lookup(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> LookupResult:
        """See `mezzo.Client.lookup`."""
        return await self._later(timeout_s, lambda: self._lookup(keys))

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
        grant, lease = await self._later(timeout_s, lambda: self._acquire(keys, ttl_s, in_place, load))

        async def end() -> bool:
            return self._end_lease(lease)

        async def renew(ttl_s: float) -> float:
            return self._renew_lease(lease, ttl_s)

        return AsyncLease(grant, self.store.now, end, renew)

    async def renew(self, lease: AsyncLease, ttl_s: float) -> float:
        """See `mezzo.Client.renew`."""
        return await lease.renew(ttl_s)

    async def release(self, lease: AsyncLease) -> bool:
        """See `mezzo.Client.release`."""
        return await lease.release()

    def events(self, after: Cursor | None = None, *, snapshot: bool = False) -> AsyncEventStream:
        """See `mezzo.Client.events`. Nothing is ever forgotten here, and a question waits a little."""

        async def ask(question: Events, wait_s: float) -> EventsAre | None:
            answer = await self.read_events(question)
            if answer is not None and not (answer.kinds or answer.gap or question.parts):
                await asyncio.sleep(min(wait_s, LOOK_S))
            return answer

        return AsyncEventStream(ask, EventReader(after, snapshot), Backoff(lambda: 0.5), time.monotonic)

    async def read_events(self, question: Events, *, timeout_s: float | None = None) -> EventsAre | None:
        """See `mezzo.Client.read_events`."""
        return await self._later(timeout_s, lambda: self._read_events(question))

    async def delete(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> DeleteResult:
        """See `mezzo.Client.delete`."""
        return await self._later(timeout_s, lambda: self._delete(keys))

    async def stat(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> Stats:
        """See `mezzo.Client.stat`."""
        return await self._later(timeout_s, lambda: self._stat(keys))

    async def shard_stat(self, *, timeout_s: float | None = None) -> dict[str, float]:
        """See `mezzo.Client.shard_stat`."""
        return await self._later(timeout_s, self._shard_stat)

    async def tenant_stat(
        self, tenant: bytes, namespaces: Sequence[bytes] = (), *, timeout_s: float | None = None
    ) -> TenantStated:
        """See `mezzo.Client.tenant_stat`."""
        return await self._later(timeout_s, self._tenant_stat)

    async def devices(self, *, timeout_s: float | None = None) -> tuple[DeviceState, ...]:
        """See `mezzo.Client.devices`: the fake has one, which is memory."""
        return await self._later(timeout_s, self._devices)

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
        """See `mezzo.Client.change_device`: always `Unsupported`."""
        await self._later(timeout_s, self._change_device)

    async def chunk_bytes_max(self, *, timeout_s: float | None = None) -> int:
        """See `mezzo.Client.chunk_bytes_max`."""
        return await self._later(timeout_s, lambda: self.store.chunk_bytes_max)

    async def ping(self, *, timeout_s: float | None = None) -> float:
        """See `mezzo.Client.ping`."""
        return await self._later(timeout_s, lambda: 0.0)

    async def connect(self, timeout_s: float | None = None) -> None:
        """See `mezzo.Client.connect`."""
        await self._later(timeout_s, lambda: None)

    async def close(self) -> None:
        """See `mezzo.Client.close`."""
        if not self._closed:
            self._close()

    async def _later(self, timeout_s: float | None, work: Callable[[], T]) -> T:
        self._begin(timeout_s)
        await asyncio.sleep(0)
        return work()
