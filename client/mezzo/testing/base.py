"""What both clients of a `FakeStore` do, with everything but the waiting."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Self, TypeVar

from mezzo import mapping
from mezzo.base import check_seconds, copy_bytes
from mezzo.calls import NOT_FOUND, Grant, check_in_place, check_ttl
from mezzo.environment import DISABLE_VARIABLE, says
from mezzo.errors import ClientClosed, DeadlineExceeded, ForkedError, TooLarge, Unsupported
from mezzo.identity import Identity, bound_name, derived_name, make_identity
from mezzo.moves import check_chunk_bytes, check_get, check_put, put_result
from mezzo.places import Memory, Parts, check_keys
from mezzo.protocol.messages import (
    DeviceState,
    Events,
    EventsAre,
    TenantStated,
)
from mezzo.regions import Region
from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult, PutState, Stats
from mezzo.statistics import ClientStatistics, Counters
from mezzo.testing.store import FakeStore
from mezzo.transfers import cut

T = TypeVar("T")

LOOK_S = 0.01
"""between two looks of a stream of events whether something has happened"""


class FakeBase:
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
        self.disabled = says(DISABLE_VARIABLE)
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
        self,
        keys: Iterable[bytes],
        targets: Sequence[Memory],
        part: tuple[int, int] | None,
        deadline_s: float | None,
    ) -> GetResult:
        arguments = check_get(keys, targets, part)
        lengths = [0] * len(arguments.keys)
        if deadline_s is not None:
            check_seconds("deadline_s", deadline_s)
        if not self.disabled:
            if deadline_s is not None:
                self._check_deadline(arguments.keys, deadline_s)
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

    def _check_deadline(self, keys: list[bytes], deadline_s: float) -> None:
        chunks = [self.store.stat(self.namespace_name, key) for key in keys]
        nbytes = sum([chunk.bytes for chunk in chunks if chunk is not None])
        load_s = self.store.load_s(nbytes)
        if load_s > deadline_s:
            raise DeadlineExceeded(
                f"loading {nbytes} bytes would take about {load_s * 1000:.1f} ms, which is beyond the deadline"
            )

    def _found(self, prefix: int, total_bytes: int) -> LookupResult:
        load_s = self.store.load_s(total_bytes)
        return LookupResult(prefix, total_bytes, load_s, load_s, prefix, total_bytes, load_s, 0.0)

    def _lookup(self, keys: Iterable[bytes]) -> LookupResult:
        checked = check_keys(keys)
        if self.disabled:
            return NOT_FOUND
        prefix, total_bytes = self.store.prefix(self.namespace_name, checked)
        return self._found(prefix, total_bytes)

    def _acquire(self, keys: Iterable[bytes], ttl_s: float, in_place: bool, load: bool) -> tuple[Grant, int]:
        checked = check_keys(keys)
        lease_ms = check_ttl(ttl_s)
        wish = check_in_place(in_place, load)
        if self.disabled:
            return Grant((), NOT_FOUND, self.store.now()), 0
        lease, prefix, total_bytes, expires = self.store.acquire(
            self.namespace_name, checked, lease_ms / 1000
        )
        self._leases.add(lease)
        places = self.store.places(self.namespace_name, checked[:prefix]) if wish else None
        return Grant((), self._found(prefix, total_bytes), expires, places), lease

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

    def _stat(self, keys: Iterable[bytes]) -> Stats:
        checked = check_keys(keys)
        return Stats.of(
            [None if self.disabled else self.store.stat(self.namespace_name, key) for key in checked]
        )

    def _shard_stat(self) -> dict[str, float]:
        return {} if self.disabled else self.store.numbers()

    def _tenant_stat(self) -> TenantStated:
        if self.disabled:
            return TenantStated(0, 0, 0)
        raise Unsupported("a fake store has no tenants")

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
