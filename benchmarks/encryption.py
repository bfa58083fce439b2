"""What encryption at rest costs: one tenant whose chunks are encrypted beside one whose are not.

Both in one store in this process, on a device of memory, with the workers that a shard has.  The path
without encryption moves bytes straight between region and device; with it they pass through staging.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from benchmarks.harness import Row, Sample, compared, take_pairs
from benchmarks.settings import KIB, MIB, Settings, size_name
from mezzo_server.blockstore.api import GetChunk, PutChunk, Scope
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.memory import Memory
from mezzo_server.staging import StagingPool
from mezzo_server.workers import ThreadWorkers, open_workers

# (chunk bytes, chunks in a request)
CASES = ((64 * KIB, 32), (MIB, 8), (4 * MIB, 4))
DEVICE_BYTES = 1024 * MIB
PLAIN, SEALED = Scope(b"p" * 16, b"n" * 16), Scope(b"s" * 16, b"n" * 16)


def rows(settings: Settings) -> Iterator[Row]:
    """Gets and puts of each size."""
    for chunk_bytes, batch in CASES:
        bench = _Bench(chunk_bytes, batch)
        try:
            for name, take in (("get", bench.get), ("put", bench.put)):
                samples = take_pairs(
                    lambda: _sample(settings, PLAIN, bench, take),  # noqa: B023
                    lambda: _sample(settings, SEALED, bench, take),  # noqa: B023
                    settings.pairs,
                )
                yield compared(
                    samples,
                    name=f"{name} {size_name(chunk_bytes)} of an encrypted tenant",
                    unit="GB/s",
                    reference="a tenant that is not encrypted",
                    ours=f"memory device, requests of {batch}",
                )
        finally:
            bench.close()


def _sample(settings: Settings, scope: Scope, bench: _Bench, take: Callable[[Scope], None]) -> Sample:
    until = time.perf_counter() + settings.sample_s / 2
    began, cpu = time.perf_counter(), time.process_time()
    moved = 0
    while time.perf_counter() < until:
        take(scope)
        moved += bench.chunk_bytes * bench.batch
    seconds = time.perf_counter() - began
    return Sample(moved / seconds / 1e9, {"cpu_s_per_gb": (time.process_time() - cpu) / moved * 1e9})


class _Bench:
    """A store of both tenants, and memory for one request."""

    def __init__(self, chunk_bytes: int, batch: int) -> None:
        self.chunk_bytes = chunk_bytes
        self.batch = batch
        self._workers = open_workers(threads=1)
        self._ciphers = ThreadWorkers(1)
        self._staging = StagingPool(256 * MIB)
        self._device = MemoryDevice(DEVICE_BYTES)
        self._store = BlockStore.open(
            [self._device],
            self._workers,
            self._staging,
            StoreOptions(scrub_bytes_per_s=0),
            ciphers=self._ciphers,
        )
        self._store.set_tenant_keys({SEALED.tenant: os.urandom(32)})
        self._memory = Memory.anonymous(batch * chunk_bytes)
        self._memory.view[:] = os.urandom(1 << 16) * (batch * chunk_bytes >> 16)
        self._spans = [self._memory.span(n * chunk_bytes, chunk_bytes) for n in range(batch)]
        self._keys = [b"k%d" % n for n in range(batch)]
        self._fresh = 0
        for scope in (PLAIN, SEALED):
            self._put(scope, self._keys)

    def get(self, scope: Scope) -> None:
        lengths: list[list[int]] = []
        chunks = [GetChunk(key, (span,)) for key, span in zip(self._keys, self._spans, strict=True)]
        self._store.get(scope, chunks, lambda outcome: lengths.append(outcome.lengths))
        self._until(lengths)
        if lengths[0] != [self.chunk_bytes] * self.batch:
            # reclaimed by the puts of a row before
            self._put(scope, self._keys)

    def put(self, scope: Scope) -> None:
        self._fresh += self.batch
        self._put(scope, [b"f%d" % (self._fresh + n) for n in range(self.batch)])

    def _put(self, scope: Scope, keys: list[bytes]) -> None:
        ended: list[object] = []
        chunks = [
            PutChunk(key, (self.chunk_bytes,), (span,)) for key, span in zip(keys, self._spans, strict=True)
        ]
        self._store.put(scope, chunks, ended.append)
        self._until(ended)

    def _until(self, ended: list[object] | list[list[int]]) -> None:
        store = self._store
        while not ended:
            if not store.pump() and not store.eager:
                for workers in store.all_workers:
                    if workers.in_flight:
                        workers.wait(0.01)
                        break
                else:
                    store.tick()

    def close(self) -> None:
        self._store.close()
        for closed in (self._ciphers, self._workers, self._staging, self._device):
            closed.close()
        self._memory.close()
