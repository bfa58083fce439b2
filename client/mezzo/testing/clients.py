"""Clients of a `FakeStore`, with the methods of the real ones. They copy every byte, and wait for nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from mezzo import mapping
from mezzo.backoff import Backoff
from mezzo.base import check_seconds, copy_bytes, disabled_by_environment
from mezzo.calls import Grant, check_in_place, check_ttl
from mezzo.errors import ClientClosed, ForkedError, TooLarge, Unsupported
from mezzo.events import AsyncEventStream, Cursor, EventReader, EventStream
from mezzo.identity import Identity, bound_name, derived_name, make_identity
from mezzo.lease import AsyncLease, Lease
from mezzo.moves import check_chunk_bytes, check_get, check_put, put_result
from mezzo.places import Memory, Parts, check_keys
from mezzo.protocol.messages import PRIORITY_DEFAULT, ChunkStat, DeviceAction, DeviceState, Events, EventsAre
from mezzo.regions import Region
from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult, PutState
from mezzo.statistics import ClientStatistics, Counters
from mezzo.testing.store import FakeStore
from mezzo.transfers import cut

T = TypeVar("T")

LOOK_S = 0.01
"""between two looks of a stream of events whether something has happened"""


class _FakeBase:
    """What a client does, with everything but the waiting."""

    def __init__(
        self,
        store: FakeStore,
        *,
        namespace: str = "default",
        identity: Identity | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self.store = store
        self.identity = identity
        self.namespace_name = namespace
        self.timeout_s = check_seconds("timeout_s", timeout_s)
        self.disabled = disabled_by_environment()
        self._counters = Counters()
        self._closed = False
        self._pid = os.getpid()
        self._leases: set[int] = set()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "disabled" if self.disabled else "connected"
        return f"<mezzo.testing.{type(self).__name__} namespace={self.namespace_name!r} {state}>"

    def namespace(self, *, name: str | None = None, **identity: Any) -> Self:
        """See `mezzo.Client.namespace`."""
        self._begin(None)
        made = make_identity(**identity)
        bound = bound_name(name or derived_name(made), made)
        return type(self)(self.store, namespace=bound, identity=made, timeout_s=self.timeout_s)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def region(self, length: int) -> Region:
        """See `mezzo.Client.region`."""
        return mapping.owned(length)

    def adopt(self, source: int | str | os.PathLike[str], length: int, offset: int = 0) -> Region:
        """See `mezzo.Client.adopt`."""
        return mapping.adopted(source, length, offset)

    def statistics(self) -> ClientStatistics:
        """See `mezzo.Client.statistics`."""
        return self._counters.snapshot()

    def _begin(self, timeout_s: float | None) -> None:
        if os.getpid() != self._pid:
            raise ForkedError("this client was made before a fork; make a new one in the child process")
        if self._closed:
            raise ClientClosed("the client is closed")
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        self._counters.requests += 1

    def _put(
        self,
        keys: Iterable[bytes],
        sources: Sequence[Memory],
        parts: Parts,
        position: int,
        ttl_s: float | None,
        priority: int,
    ) -> PutResult:
        arguments = check_put(keys, sources, parts, position, ttl_s, priority)
        ttl_ms = arguments.terms.ttl_ms
        check_chunk_bytes(arguments.sources, self.identity)
        count = len(arguments.keys)
        if self.disabled:
            return put_result([PutState.FAILED] * count)
        for index, place in enumerate(arguments.sources):
            if place.length > self.store.chunk_bytes_max:
                limit = self.store.chunk_bytes_max
                raise TooLarge(f"sources[{index}] has {place.length} bytes, over chunk_bytes_max = {limit}")
        states = []
        for index, (key, place) in enumerate(zip(arguments.keys, arguments.sources, strict=True)):
            own_parts = arguments.parts[index if len(arguments.parts) > 1 else 0] if arguments.parts else None
            data = b"".join(place.memory())
            state = self.store.put(
                self.namespace_name, key, data, own_parts or [len(data)], ttl_ms=ttl_ms, priority=priority
            )
            states.append(state)
            if state is PutState.STORED:
                self._counters.bytes_put += len(data)
        return put_result(states)

    def _get(
        self, keys: Iterable[bytes], targets: Sequence[Memory], part: tuple[int, int] | None
    ) -> GetResult:
        arguments = check_get(keys, targets, part)
        lengths = [0] * len(arguments.keys)
        if not self.disabled:
            chunks = [self.store.get(self.namespace_name, key, part) for key in arguments.keys]
            for index, (data, place) in enumerate(zip(chunks, arguments.targets, strict=True)):
                if data is not None and len(data) > place.length:
                    raise TooLarge(f"chunk {index} has {len(data)} bytes, its target has {place.length}")
            for index, (data, place) in enumerate(zip(chunks, arguments.targets, strict=True)):
                if data is not None:
                    copy_bytes(cut(place.memory(), len(data)), [memoryview(data)])
                    lengths[index] = len(data)
        found = tuple([length > 0 for length in lengths])
        self._counters.bytes_got += sum(lengths)
        return GetResult(found, sum(found), tuple(lengths), sum(lengths))

    def _lookup(self, keys: Iterable[bytes]) -> LookupResult:
        checked = check_keys(keys)
        if self.disabled:
            return LookupResult(0, 0, 0.0)
        prefix, total_bytes = self.store.prefix(self.namespace_name, checked)
        return LookupResult(prefix, total_bytes, 0.0)

    def _acquire(self, keys: Iterable[bytes], ttl_s: float, in_place: bool, load: bool) -> tuple[Grant, int]:
        checked = check_keys(keys)
        lease_ms = check_ttl(ttl_s)
        wish = check_in_place(in_place, load)
        if self.disabled:
            return Grant((), 0, 0, 0.0, self.store.now()), 0
        lease, prefix, total_bytes, expires = self.store.acquire(
            self.namespace_name, checked, lease_ms / 1000
        )
        self._leases.add(lease)
        places = self.store.places(self.namespace_name, checked[:prefix]) if wish else None
        return Grant((), prefix, total_bytes, 0.0, expires, places), lease

    def _end_lease(self, lease: int) -> bool:
        self._begin(None)
        self._leases.discard(lease)
        return self.store.release(lease)

    def _renew_lease(self, lease: int, ttl_s: float) -> float:
        self._begin(None)
        return self.store.renew(lease, check_ttl(ttl_s) / 1000)

    def _read_events(self, question: Events) -> EventsAre | None:
        return None if self.disabled else self.store.read_events(self.namespace_name, question)

    def _delete(self, keys: Iterable[bytes]) -> DeleteResult:
        checked = check_keys(keys)
        deleted = tuple(
            [not self.disabled and self.store.delete(self.namespace_name, key) for key in checked]
        )
        return DeleteResult(deleted, sum(deleted))

    def _stat(self, keys: Iterable[bytes]) -> tuple[ChunkStat | None, ...]:
        checked = check_keys(keys)
        return tuple(
            [None if self.disabled else self.store.stat(self.namespace_name, key) for key in checked]
        )

    def _shard_stat(self) -> dict[str, float]:
        return {} if self.disabled else self.store.numbers()

    def _devices(self) -> tuple[DeviceState, ...]:
        if self.disabled:
            return ()
        numbers = self.store.numbers()
        chunks, live, total = (int(numbers[name]) for name in ("chunks", "bytes_live", "bytes_total"))
        return (DeviceState("memory", "serving", total, live, chunks, 0, 0, 0),)

    def _change_device(self) -> None:
        if not self.disabled:
            raise Unsupported("a fake store's device cannot be changed")

    def _close(self) -> None:
        self._closed = True
        for lease in self._leases:  # leases end with their connection
            self.store.release(lease)
        self._leases.clear()


class FakeClient(_FakeBase):
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
        timeout_s: float | None = None,
    ) -> GetResult:
        """See `mezzo.Client.get`."""
        self._begin(timeout_s)
        return self._get(keys, targets, part)

    def lookup(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> LookupResult:
        """See `mezzo.Client.lookup`."""
        self._begin(timeout_s)
        return self._lookup(keys)

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

    def stat(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> tuple[ChunkStat | None, ...]:
        """See `mezzo.Client.stat`."""
        self._begin(timeout_s)
        return self._stat(keys)

    def shard_stat(self, *, timeout_s: float | None = None) -> dict[str, float]:
        """See `mezzo.Client.shard_stat`."""
        self._begin(timeout_s)
        return self._shard_stat()

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


class AsyncFakeClient(_FakeBase):
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
        timeout_s: float | None = None,
    ) -> GetResult:
        """See `mezzo.Client.get`."""
        return await self._later(timeout_s, lambda: self._get(keys, targets, part))

    async def lookup(self, keys: Iterable[bytes], *, timeout_s: float | None = None) -> LookupResult:
        """See `mezzo.Client.lookup`."""
        return await self._later(timeout_s, lambda: self._lookup(keys))

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

    async def stat(
        self, keys: Iterable[bytes], *, timeout_s: float | None = None
    ) -> tuple[ChunkStat | None, ...]:
        """See `mezzo.Client.stat`."""
        return await self._later(timeout_s, lambda: self._stat(keys))

    async def shard_stat(self, *, timeout_s: float | None = None) -> dict[str, float]:
        """See `mezzo.Client.shard_stat`."""
        return await self._later(timeout_s, self._shard_stat)

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
