"""A block store without payload: everything that decides is the store's own code, the rest costs nothing.

The device takes writes and counts them; checksums are all 0, so that whatever is read back verifies.
Time is the trace's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b

from mezzo.errors import MezzoError
from mezzo_server.blockstore.api import GetChunk, GetOutcome, PutChunk, PutOutcome, PutStatus, Scope
from mezzo_server.blockstore.devices.null import KEPT_BYTES, NullDevice
from mezzo_server.blockstore.format.superblock import DATA_OFFSET
from mezzo_server.blockstore.io import Op, Transfer
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.memory import Memory, Span
from mezzo_server.simulate.workload import ChunkRequest
from mezzo_server.staging import StagingPool
from mezzo_server.workers import InlineWorkers

SCOPE = Scope(b"simulated tenant", b"simulated space.")
STAGING_BYTES = 16 << 20
ROUNDS_MAX = 1_000_000
"""of the store's loop for one request: more are a fault"""


class NoWork(InlineWorkers):
    """Every checksum is 0: there is no payload."""

    def checksum(self, source: Sequence[Span], seed: int) -> int:
        """Always 0."""
        return 0

    def copy_checksum(self, source: Sequence[Span], target: Sequence[Span], seed: int) -> int:
        """Always 0."""
        return 0


class CountingDevice(NullDevice):
    """Stores nothing and counts what is written to it, superblocks aside."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes, name="simulated", kept_bytes=KEPT_BYTES)
        self.written_bytes = 0

    def _perform(self, transfer: Transfer) -> int:
        if transfer.op is Op.WRITE and transfer.offset >= DATA_OFFSET:
            self.written_bytes += transfer.length
        return super()._perform(transfer)


class SimulatedNode:
    """Serves requests as a client and a shard would: look up, get the prefix, put the rest.

    Owner of the store, its clock and its memory; `close` it.
    """

    def __init__(
        self, options: StoreOptions, *, segments: int, segment_bytes: int, chunk_bytes_max: int, seed: int
    ) -> None:
        """A device of ``segments`` segments; ``seed`` decides keys and whatever else is drawn."""
        self._now_s = 0.0
        self._salt = seed.to_bytes(8, "little")
        self._device = CountingDevice(DATA_OFFSET + segments * segment_bytes)
        self._payload = Memory.anonymous(chunk_bytes_max)
        self._spans: dict[int, tuple[Span, ...]] = {}
        self._keys: dict[int, bytes] = {}
        self._staging = StagingPool(STAGING_BYTES, now=lambda: self._now_s)
        self.store = BlockStore.open(
            [self._device],
            NoWork(),
            self._staging,
            options,
            now=lambda: self._now_s,
            entropy=random.Random(seed).randbytes,
        )
        self.references = 0
        self.hits = 0
        self.hit_bytes = 0
        self.asked_bytes = 0
        self.refused = 0
        """chunks that were put and neither stored nor there"""

    @property
    def written_bytes(self) -> int:
        """Bytes written to the device: headers, tables and padding included."""
        return self._device.written_bytes

    def serve(self, request: ChunkRequest, sizes: Sequence[int]) -> int:
        """One request at its time; how many chunks of its prefix were there."""
        store = self.store
        self._now_s = max(self._now_s, request.time_s)
        store.tick()
        keys = [self._key(number) for number in request.ids]
        prefix, size = store.prefix(SCOPE, keys)
        if prefix:
            got: list[GetOutcome] = []
            wanted = [GetChunk(keys[place], self._span(sizes[place])) for place in range(prefix)]
            store.get(SCOPE, wanted, got.append)
            self._until(got)
        if prefix < len(keys):
            put: list[PutOutcome] = []
            chunks = [
                PutChunk(keys[place], (sizes[place],), self._span(sizes[place]), position=place)
                for place in range(prefix, len(keys))
            ]
            try:
                store.put(SCOPE, chunks, put.append)
            except MezzoError:
                self.refused += len(chunks)
            else:
                self._until(put)
                self.refused += sum(one not in _THERE for one in put[0].statuses)
        self.references += len(keys)
        self.hits += prefix
        self.hit_bytes += size
        self.asked_bytes += sum(sizes)
        self._rest()
        return prefix

    def close(self) -> None:
        """Give the memory back."""
        self.store.close()
        self._spans.clear()
        self._payload.close()
        self._staging.close()

    def _key(self, number: int) -> bytes:
        key = self._keys.get(number)
        if key is None:
            key = blake2b(number.to_bytes(8, "little"), digest_size=16, key=self._salt).digest()
            self._keys[number] = key
        return key

    def _span(self, size: int) -> tuple[Span, ...]:
        spans = self._spans.get(size)
        if spans is None:
            spans = self._spans[size] = (self._payload.span(0, size),)
        return spans

    def _until(self, outcomes: Sequence[object]) -> None:
        for _ in range(ROUNDS_MAX):
            if outcomes:
                return
            self.store.pump()
            if not outcomes and not self.store.eager:
                # Nothing moves any more: a put that finds no space waits for its deadline.
                self._now_s += 0.05
                self.store.tick()
        raise RuntimeError("a simulated request does not end")

    def _rest(self) -> None:
        """Let reclaim come to its end: the device is never short of time."""
        for _ in range(ROUNDS_MAX):
            if not self.store.pump() and not self.store.eager:
                return
        raise RuntimeError("a simulated store does not come to rest")


_THERE = frozenset({PutStatus.STORED, PutStatus.EXISTS})
