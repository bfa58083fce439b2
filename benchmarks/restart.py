"""A restart with many small chunks: how soon it serves, and what each costs in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.harness import Row, Sample, alone
from benchmarks.processes import resident_bytes
from benchmarks.settings import GIB, KIB, Settings, folder
from benchmarks.shard import chunk_keys, client_of
from mezzo_server.testing import RunningShard, running_shard

CHUNK_BYTES = 4 * KIB
BATCH = 2048
SLOTS = 4 * BATCH
ROUNDS_MAX = 7
JUDGED_CHUNKS = 1_000_000
"""below it the start of the process itself outweighs what is measured"""


def rows(settings: Settings) -> Iterator[Row]:
    """Time from the start of the process to readiness, of that the recovery, and memory per chunk."""
    chunks = settings.chunks
    rounds = min(settings.pairs, ROUNDS_MAX)
    # A block for each chunk, one in a hundred for headers and tables, and room so that nothing is evicted.
    capacity_bytes = int(chunks * CHUNK_BYTES * 1.5) // GIB * GIB + GIB
    with folder(settings.disk, capacity_bytes) as home:
        empty_bytes = _empty(home / "empty", capacity_bytes)
        path = home / "device"
        with _shard(path, capacity_bytes) as server:
            _fill(server, chunks)
            clean = [_restart(server, chunks, empty_bytes, kill=False) for _ in range(rounds)]
            killed = [_restart(server, chunks, empty_bytes, kill=True) for _ in range(rounds)]
    judged = chunks >= JUDGED_CHUNKS
    yield alone(
        [Sample(sample.value, {"recovery_s": sample.detail["recovery_s"]}) for sample in clean],
        name=f"restart with {chunks:,} chunks",
        unit="s until ready",
        ours="from the start of the process to its readiness line",
        target=5.0 if judged else None,
    )
    yield alone(
        [Sample(sample.value, {"recovery_s": sample.detail["recovery_s"]}) for sample in killed],
        name=f"restart with {chunks:,} chunks after SIGKILL",
        unit="s until ready",
        ours="from the start of the process to its readiness line",
        target=5.0 if judged else None,
    )
    yield alone(
        [Sample(sample.detail["bytes_per_chunk"]) for sample in clean],
        name=f"memory per chunk, {chunks:,} chunks",
        unit="bytes",
        ours="resident memory over that of an empty store",
        target=250.0 if judged else None,
    )


def _shard(path: Path, capacity_bytes: int) -> AbstractContextManager[RunningShard]:
    return running_shard(devices=[str(path)], capacity=str(capacity_bytes), arguments=["--scrub", "0"])


def _empty(path: Path, capacity_bytes: int) -> int:
    """Resident bytes of a shard without a chunk."""
    with _shard(path, capacity_bytes) as server:
        server.restart()
        resident = resident_bytes(server.pid)
    path.unlink()
    return resident


def _fill(server: RunningShard, chunks: int) -> None:
    keys = chunk_keys("restart", chunks)
    with client_of(server.unix) as client, client.region(SLOTS * CHUNK_BYTES) as region:
        region.view[:] = bytes(range(256)) * (region.length // 256)
        places = [region[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES] for i in range(SLOTS)]
        for first in range(0, chunks, BATCH):
            batch = keys[first : first + BATCH]
            at = first % SLOTS
            if client.put(batch, places[at : at + len(batch)]).stored != len(batch):
                raise RuntimeError("chunks were not stored")


def _restart(server: RunningShard, chunks: int, empty_bytes: int, *, kill: bool) -> Sample:
    if kill:
        server.kill()
    else:
        server.stop()
    began = time.perf_counter()
    server.start()
    seconds = time.perf_counter() - began
    recovered = server.readiness["chunks"]
    if recovered != chunks:
        raise RuntimeError(f"{chunks} chunks were put, {recovered} recovered")
    bytes_per_chunk = (resident_bytes(server.pid) - empty_bytes) / chunks
    recovery_s = server.readiness["recovery_s"]
    return Sample(seconds, {"recovery_s": float(str(recovery_s)), "bytes_per_chunk": bytes_per_chunk})
