"""Reads and writes of whole chunks through a shard over shm, beside fio on the same filesystem.

Both have `DEPTH` operations in the kernel: fio by ``iodepth``, the shard by ``--depth``, so that what
the client asks for beyond it queues in the shard.  Reads are random over the same file; writes go
front to back, the shard's into an empty store, fio's into a file beside it, both written before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct, structs

from benchmarks.harness import Row, Sample, compared, take_pairs
from benchmarks.reference_fio import FioJob, fio, fixed_buffers
from benchmarks.settings import KIB, MIB, Settings, folder, prewritten, size_name, wiped
from benchmarks.shard import chunk_keys, client_of, shard, window
from mezzo_server.testing import RunningShard

SMALL, MEDIUM, LARGE = 64 * KIB, MIB, 4 * MIB
DEPTH = 8
FILL = 0.6
"""Share of the device that is filled: no reclaim yet"""


class Case(Struct, frozen=True):
    """What one row moves, and what it shall reach."""

    chunk_bytes: int
    batch: int
    """chunks in one request"""
    requests: int
    """under way"""
    target: float | None
    prefixes: bool = False
    """ask for chunks in the order in which they were put, one prefix with each request"""

    @property
    def slots(self) -> int:
        """Places in the client's region: as few as keep the requests going, as fio has ``DEPTH`` buffers.

        Memory that is used again soon is in the processor's cache, for either.
        """
        return self.batch * (self.requests + 1)


def reads(settings: Settings, parent: Path, cases: tuple[Case, ...]) -> Iterator[Row]:
    """One row for each case."""
    with folder(parent, settings.device_bytes) as home:
        path = prewritten(home / "device", settings.device_bytes)
        for case in cases:
            with shard(str(wiped(path)), capacity_bytes=settings.device_bytes, depth=DEPTH) as server:
                yield _reads(settings, path, case, server)


def _reads(settings: Settings, path: Path, case: Case, server: RunningShard) -> Row:
    keys = chunk_keys("read", int(settings.device_bytes * FILL) // case.chunk_bytes)
    order = list(keys)
    if not case.prefixes:
        random.Random(1).shuffle(order)
    job = FioJob(
        pattern="randread",
        block_bytes=case.chunk_bytes,
        depth=DEPTH,
        path=path,
        size_bytes=settings.device_bytes,
        sample_s=settings.sample_s,
        direct=is_direct(server),
        fixed_buffers=fixed_buffers(path),
    )
    slots = case.slots
    with window(
        server, server.unix, case.chunk_bytes, slots, batch=case.batch, requests=case.requests
    ) as client:
        client.put(keys)
        samples = take_pairs(lambda: fio(job), lambda: client.get(order, settings.sample_s), settings.pairs)
    return compared(
        samples,
        name=f"read {size_name(case.chunk_bytes)}{', prefixes' if case.prefixes else ''}",
        unit="GB/s",
        reference=f"fio, io_uring{', O_DIRECT' if job.direct else ''}, depth {DEPTH}",
        ours=f"shm, {case.requests} x {case.batch} chunks asked for, depth {DEPTH}",
        target=case.target,
    )


def writes(settings: Settings, parent: Path, cases: tuple[Case, ...]) -> Iterator[Row]:
    """One row for each case, and one with fio made to flush as often as a shard seals a segment."""
    with folder(parent, 2 * settings.device_bytes) as home:
        path = prewritten(home / "device", settings.device_bytes)
        beside = prewritten(home / "beside", settings.device_bytes)
        for case in cases:
            with shard(str(path), capacity_bytes=settings.device_bytes, depth=DEPTH) as server:
                direct, segment_bytes = is_direct(server), segment_bytes_of(server)
            job = FioJob(
                pattern="write",
                block_bytes=case.chunk_bytes,
                depth=DEPTH,
                path=beside,
                size_bytes=settings.device_bytes,
                sample_s=settings.sample_s,
                direct=direct,
                fixed_buffers=fixed_buffers(beside),
            )
            yield _writes(settings, path, case, job, "", case.target)
            flushing = structs.replace(job, sync_blocks=max(1, segment_bytes // case.chunk_bytes))
            yield _writes(settings, path, case, flushing, f", flushed every {size_name(segment_bytes)}", None)


def _writes(settings: Settings, path: Path, case: Case, job: FioJob, how: str, target: float | None) -> Row:
    return compared(
        take_pairs(lambda: fio(job), lambda: _fill(settings, path, case), settings.pairs),
        name=f"write {size_name(case.chunk_bytes)}{', fio flushing too' if how else ''}",
        unit="GB/s",
        reference=f"fio, io_uring{', O_DIRECT' if job.direct else ''}, depth {DEPTH}{how}",
        ours=f"shm, {case.requests} x {case.batch} chunks offered, depth {DEPTH}",
        target=target,
    )


def _fill(settings: Settings, path: Path, case: Case) -> Sample:
    """Put into an empty store for a while, but not until it is full."""
    keys = chunk_keys("write", int(settings.device_bytes * FILL) // case.chunk_bytes)
    slots = case.slots
    with (
        shard(str(wiped(path)), capacity_bytes=settings.device_bytes, depth=DEPTH) as server,
        window(
            server, server.unix, case.chunk_bytes, slots, batch=case.batch, requests=case.requests
        ) as client,
    ):
        # Connect, register the region and open the first segment outside of what is timed.
        client.put(chunk_keys("first", case.batch))
        return client.put(keys, settings.sample_s)


def is_direct(server: RunningShard) -> bool:
    """Whether the shard has its device open with O_DIRECT."""
    devices = server.readiness["devices"]
    return isinstance(devices, list) and all(device["direct"] for device in devices)


def segment_bytes_of(server: RunningShard) -> int:
    """The unit of space on the shard's device."""
    with client_of(server.unix) as client:
        state = client.shard_stat()
    return int(state["bytes_total"] // state["segments_total"])
