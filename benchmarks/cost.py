"""What we cost ourselves: CPU per chunk, server and client, with a device that moves nothing.

The null device leaves the memory of a read as it is, where the right bytes lie already, and every
checksum is computed and verified as ever.  So the checksum stands beside it, alone; and fio with its
own null engine, which shows what a C program pays for an operation that is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from benchmarks.harness import Row, Sample, Skipped, alone, compared, take_pairs
from benchmarks.reference_fio import FioJob, fio
from benchmarks.settings import KIB, MIB, Settings, size_name
from benchmarks.shard import chunk_keys, endless_keys, shard, window
from mezzo_server.memory import Memory

REGION_BYTES = 256 * MIB
# (chunk bytes, chunks in one request); one request at a time, so that nothing but the work is seen
CASES = ((64 * KIB, 64), (MIB, 16), (4 * MIB, 8))


def rows(settings: Settings) -> Iterator[Row]:
    """Gets, puts and checksums of each size."""
    for chunk_bytes, batch in CASES:
        slots = REGION_BYTES // chunk_bytes
        job = FioJob(
            pattern="randread",
            block_bytes=chunk_bytes,
            depth=8,
            size_bytes=1024 * MIB,
            sample_s=settings.sample_s,
            engine="null",
        )

        def row(
            samples: list[tuple[Sample, Sample]],
            verb: str,
            chunk_bytes: int = chunk_bytes,
            batch: int = batch,
        ) -> Row:
            return compared(
                samples,
                name=f"CPU of {verb} {size_name(chunk_bytes)}",
                unit="us per chunk",
                reference="fio, null engine",
                ours=f"shm, null device, {batch} chunks in a request, server and client",
                better="lower",
            )

        with (
            shard("null:8GiB") as server,
            window(server, server.unix, chunk_bytes, slots, batch=batch) as client,
        ):
            keys = chunk_keys("cost", slots)
            client.put(keys)
            yield row(_pairs(settings, job, lambda: client.get(keys, settings.sample_s)), "get")  # noqa: B023
            fresh = endless_keys("fresh")
            yield row(_pairs(settings, job, lambda: client.put(fresh, settings.sample_s)), "put")  # noqa: B023
        yield _checksum(settings, chunk_bytes, slots)


def _pairs(settings: Settings, job: FioJob, ours: Callable[[], Sample]) -> list[tuple[Sample, Sample]]:
    def cpu(take: Callable[[], Sample]) -> Sample:
        sample = take()
        return Sample(
            max(1e-3, sample.detail["cpu_us_per_chunk"]), sample.detail | {"gb_per_s": sample.value}
        )

    return take_pairs(lambda: cpu(lambda: fio(job)), lambda: cpu(ours), settings.pairs)


def _checksum(settings: Settings, chunk_bytes: int, slots: int) -> Row:
    try:
        from mezzo_server._native.pool import checksum
    except ImportError:
        raise Skipped("the native module was not built") from None
    memory = Memory.anonymous(slots * chunk_bytes)
    memory.view[:] = b"\xa5" * memory.length
    spans = [(memory.span(i * chunk_bytes, chunk_bytes),) for i in range(slots)]

    def take() -> Sample:
        chunks = 0
        until = time.perf_counter() + settings.sample_s / 4
        began = time.process_time()
        while time.perf_counter() < until:
            for span in spans:
                checksum(span, 1)
            chunks += slots
        return Sample((time.process_time() - began) / chunks * 1e6)

    try:
        return alone(
            [take() for _ in range(settings.pairs)],
            name=f"CPU of a checksum of {size_name(chunk_bytes)}, once",
            unit="us per chunk",
            ours="XXH3 over memory that no cache holds",
        )
    finally:
        memory.close()
