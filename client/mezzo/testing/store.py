"""A store in memory that behaves as a shard does, without its device. Not for production.

What differs from a shard, on purpose: everything happens at once, space is counted in payload bytes
without headers, and reclaim evicts single chunks, oldest first, instead of whole segments.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mezzo.errors import Busy, Gone, InvalidArgument, TooLarge
from mezzo.in_place import Views, give_back
from mezzo.protocol.messages import PRIORITY_DEFAULT, ChunkStat, EventKind, Events, EventsAre, GapReason
from mezzo.results import PutState

CAPACITY_BYTES = 256 * 1024 * 1024
CHUNK_BYTES_MAX = 64 * 1024 * 1024
LEASED_FRACTION = 0.25
LEASES_MAX = 4096
LEASE_S_MAX = 3600.0


@dataclass(slots=True)
class _Chunk:
    data: bytes
    parts: tuple[int, ...]
    sequence: int
    expires: float
    """on the store's clock"""
    priority: int
    leases: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Lease:
    names: list[tuple[str, bytes]]
    bytes: int
    expires: float


class FakePlaces:
    """Chunks of a `FakeStore` in place; implements `mezzo.in_place.LeasedPlaces`."""

    def __init__(
        self, store: FakeStore, views: Views, sequences: Sequence[tuple[tuple[str, bytes], int]]
    ) -> None:
        self.views = views
        self.hot = len(views)
        self._store = store
        self._sequences = sequences

    def changed(self) -> int:
        """How many were deleted or evicted since; a real shard takes their memory back then."""
        return self._store.outdated(self._sequences)

    def give_back(self) -> int:
        """See `mezzo.in_place.LeasedPlaces.give_back`."""
        return give_back(self.views)


class FakeStore:
    """Chunks by namespace and key. Thread-safe; owner of all its state.

    ``now`` is the clock of leases and of deadlines of chunks.  ``unavailable`` may be set to an error that every call of every
    client then raises, as if the shard were gone.
    """

    def __init__(
        self,
        capacity_bytes: int = CAPACITY_BYTES,
        *,
        chunk_bytes_max: int = CHUNK_BYTES_MAX,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if capacity_bytes <= 0 or chunk_bytes_max <= 0:
            raise InvalidArgument("capacity_bytes and chunk_bytes_max must be positive")
        self.capacity_bytes = capacity_bytes
        self.chunk_bytes_max = min(chunk_bytes_max, capacity_bytes)
        self.now = now
        self.unavailable: Exception | None = None
        self.load_s: Callable[[int], float] = lambda nbytes: 0.0
        """what is told of the time that a load of so many bytes takes"""
        self._lock = threading.Lock()
        self._chunks: dict[tuple[str, bytes], _Chunk] = {}  # oldest first
        self._bytes = 0
        self._sequences = itertools.count(1)
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = itertools.count(1)
        self._leased_bytes = 0
        self._incarnation = os.urandom(16)
        self._events: dict[str, list[tuple[EventKind, bytes, int]]] = {}
        self._counts = {"puts": 0, "gets": 0, "hits": 0, "evicted": 0}

    def __repr__(self) -> str:
        return f"<mezzo.testing.FakeStore {len(self._chunks)} chunks, {self._bytes} of {self.capacity_bytes} bytes>"

    def keys(self, namespace: str = "default") -> list[bytes]:
        """Keys present in a namespace, oldest first: to look behind a client's back."""
        with self._lock:
            names = [name for name in self._chunks if name[0] == namespace]
            return [name[1] for name in names if self._there(name) is not None]

    def put(
        self,
        namespace: str,
        key: bytes,
        data: bytes,
        parts: Sequence[int],
        *,
        ttl_ms: int = 0,
        priority: int = PRIORITY_DEFAULT,
    ) -> PutState:
        """Store one chunk, for ``ttl_ms`` (0: without end). Raises TooLarge, or Busy when leases hold all the space."""
        if len(data) > self.chunk_bytes_max:
            raise TooLarge(f"a chunk of {len(data)} bytes is over chunk_bytes_max = {self.chunk_bytes_max}")
        with self._lock:
            self._check()
            self._counts["puts"] += 1
            if self._there((namespace, key)) is not None:
                return PutState.EXISTS
            self._make_room(len(data))
            expires = self.now() + ttl_ms / 1000 if ttl_ms else math.inf
            self._chunks[namespace, key] = _Chunk(
                data, tuple(parts), next(self._sequences), expires, priority
            )
            self._bytes += len(data)
            self._events.setdefault(namespace, []).append((EventKind.STORED, key, len(data)))
            return PutState.STORED

    def get(self, namespace: str, key: bytes, part: tuple[int, int] | None) -> bytes | None:
        """A chunk's bytes, or those of some of its parts; None for a miss."""
        with self._lock:
            self._check()
            self._counts["gets"] += 1
            chunk = self._there((namespace, key))
            if chunk is None:
                return None
            first, count = part or (0, len(chunk.parts))
            start = sum(chunk.parts[:first])
            data = chunk.data[start : start + sum(chunk.parts[first : first + count])]
            if not data:
                return None
            self._counts["hits"] += 1
            return data

    def prefix(self, namespace: str, keys: Sequence[bytes]) -> tuple[int, int]:
        """How many of ``keys`` are there, from the first on, and their bytes."""
        with self._lock:
            self._check()
            return self._prefix(namespace, keys)

    def acquire(self, namespace: str, keys: Sequence[bytes], ttl_s: float) -> tuple[int, int, int, float]:
        """Lease the present prefix: lease id (0: nothing), chunks, bytes, time of expiry."""
        with self._lock:
            self._check()
            count, total_bytes = self._prefix(namespace, keys)
            if count == 0:
                return 0, 0, 0, self.now()
            if len(self._leases) >= LEASES_MAX:
                raise Busy(f"{LEASES_MAX} leases are held (leases_max)")
            if self._leased_bytes + total_bytes > self.capacity_bytes * LEASED_FRACTION:
                raise Busy("too many bytes are leased (leased_fraction)")
            names = [(namespace, key) for key in keys[:count]]
            lease = next(self._lease_ids)
            for name in names:
                self._chunks[name].leases.add(lease)
            expires = self.now() + min(ttl_s, LEASE_S_MAX)
            self._leases[lease] = _Lease(names, total_bytes, expires)
            self._leased_bytes += total_bytes
            return lease, count, total_bytes, expires

    def places(self, namespace: str, keys: Sequence[bytes]) -> FakePlaces:
        """Present chunks in place: here, all of them are hot."""
        with self._lock:
            chunks = [self._chunks[namespace, key] for key in keys]
            sequences = [((namespace, key), chunk.sequence) for key, chunk in zip(keys, chunks, strict=True)]
            return FakePlaces(self, tuple([memoryview(chunk.data) for chunk in chunks]), sequences)

    def outdated(self, sequences: Sequence[tuple[tuple[str, bytes], int]]) -> int:
        """How many of these chunks are not there any more, as they were."""
        with self._lock:
            now = [self._there(name) for name, _ in sequences]
            return sum(
                chunk is None or chunk.sequence != sequence
                for chunk, (_, sequence) in zip(now, sequences, strict=True)
            )

    def renew(self, lease: int, ttl_s: float) -> float:
        """Let a lease last longer: its new time of expiry. Raises Gone if it has ended."""
        with self._lock:
            self._check()
            held = self._leases.get(lease)
            if held is None:
                raise Gone("the lease has ended; acquire again")
            held.expires = max(held.expires, self.now() + min(ttl_s, LEASE_S_MAX))
            return held.expires

    def release(self, lease: int) -> bool:
        """End a lease; whether it was still held."""
        with self._lock:
            self._check()
            return self._release(lease)

    def delete(self, namespace: str, key: bytes) -> bool:
        """Delete a chunk; whether it was there."""
        with self._lock:
            self._check()
            there = self._there((namespace, key)) is not None
            return there and self._drop((namespace, key), EventKind.DELETED)

    def read_events(self, namespace: str, question: Events) -> EventsAre:
        """What happened after a cursor, or what is there; waits for nothing, and forgets nothing."""
        with self._lock:
            self._check()
            events = self._events.get(namespace, [])
            present = {
                key: len(chunk.data) for (name, key), chunk in self._chunks.items() if name == namespace
            }
            head = len(events)
            if question.parts:
                listed = [key for key in present if hash(key) % question.parts == question.part]
                lengths = [present[key] for key in listed]
                return EventsAre(self._incarnation, head, 0, b"", listed, lengths, len(present))
            gap = GapReason.NONE
            if not question.incarnation:
                gap = GapReason.START
            elif question.incarnation != self._incarnation or question.after > head:
                gap = GapReason.RESTART
            if gap:
                return EventsAre(self._incarnation, head, gap, chunks=len(present))
            told = events[question.after : question.after + question.count_max]
            return EventsAre(
                self._incarnation,
                question.after + len(told),
                0,
                bytes([kind for kind, _, _ in told]),
                [key for _, key, _ in told],
                [length for _, _, length in told],
                len(present),
            )

    def stat(self, namespace: str, key: bytes) -> ChunkStat | None:
        """What is known of a chunk."""
        with self._lock:
            self._check()
            chunk = self._there((namespace, key))
            if chunk is None:
                return None
            left_s = chunk.expires - self.now()
            return ChunkStat(
                len(chunk.data),
                len(chunk.parts),
                chunk.sequence,
                bool(chunk.leases),
                -1 if math.isinf(left_s) else round(left_s * 1000),
                chunk.priority,
            )

    def numbers(self) -> dict[str, float]:
        """Its state in numbers."""
        with self._lock:
            self._check()
            numbers = {
                "chunks": len(self._chunks),
                "bytes_live": self._bytes,
                "bytes_total": self.capacity_bytes,
                "leases": len(self._leases),
                "leased_bytes": self._leased_bytes,
                "rewritten_bytes": 0,
                **self._counts,
            }
            return {name: float(number) for name, number in numbers.items()}

    def _check(self) -> None:
        if self.unavailable is not None:
            raise self.unavailable
        now = self.now()
        for lease in [lease for lease, held in self._leases.items() if held.expires <= now]:
            self._release(lease)

    def _there(self, name: tuple[str, bytes]) -> _Chunk | None:
        """A chunk whose time is not over; one whose time is goes, leased or not."""
        chunk = self._chunks.get(name)
        if chunk is not None and chunk.expires <= self.now():
            self._drop(name, EventKind.EXPIRED)
            return None
        return chunk

    def _prefix(self, namespace: str, keys: Sequence[bytes]) -> tuple[int, int]:
        count = total_bytes = 0
        for key in keys:
            chunk = self._there((namespace, key))
            if chunk is None:
                break
            count += 1
            total_bytes += len(chunk.data)
        return count, total_bytes

    def _make_room(self, needed_bytes: int) -> None:
        excess_bytes = self._bytes + needed_bytes - self.capacity_bytes
        victims = []
        for name, chunk in self._chunks.items():
            if excess_bytes <= 0:
                break
            if not chunk.leases:
                victims.append(name)
                excess_bytes -= len(chunk.data)
        if excess_bytes > 0:
            raise Busy("leases hold all the space")
        for name in victims:
            self._drop(name, EventKind.EVICTED)
        self._counts["evicted"] += len(victims)

    def _drop(self, name: tuple[str, bytes], why: EventKind) -> bool:
        chunk = self._chunks.pop(name, None)
        if chunk is None:
            return False
        self._bytes -= len(chunk.data)
        self._events[name[0]].append((why, name[1], len(chunk.data)))
        return True

    def _release(self, lease: int) -> bool:
        held = self._leases.pop(lease, None)
        if held is None:
            return False
        self._leased_bytes -= held.bytes
        for name in held.names:
            chunk = self._chunks.get(name)
            if chunk is not None:
                chunk.leases.discard(lease)
        return True
