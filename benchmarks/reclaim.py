"""What reclaim costs: puts into a store that is full, beside puts into one that is empty."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Row, Sample, compared
from benchmarks.settings import MIB, Settings, folder, prewritten
from benchmarks.shard import chunk_keys, client_of, endless_keys, shard, window

CHUNK_BYTES = MIB
BATCH = 16
REQUESTS = 2
SLOTS = 128
FILL = 0.6


def rows(settings: Settings) -> Iterator[Row]:
    """With nothing worth keeping, and with one chunk in eight read since it was written."""
    for read_every, name in ((0, "nothing is kept"), (8, "one chunk in eight was read")):
        samples = [_sample(settings, read_every) for _ in range(settings.pairs)]
        yield compared(
            samples,
            name=f"put 1 MiB into a full store, {name}",
            unit="GB/s",
            reference="ours into an empty store",
            ours=f"shm, {REQUESTS} x {BATCH} chunks offered",
        )


def _sample(settings: Settings, read_every: int) -> tuple[Sample, Sample]:
    """(filling, replacing) of one store."""
    number = int(settings.device_bytes * FILL) // CHUNK_BYTES
    with folder(settings.disk, settings.device_bytes) as home:
        path = prewritten(home / "device", settings.device_bytes)
        with (
            shard(str(path), capacity_bytes=settings.device_bytes) as server,
            window(server, server.unix, CHUNK_BYTES, SLOTS, batch=BATCH, requests=REQUESTS) as client,
        ):
            keys = chunk_keys("fill", number)
            client.put(chunk_keys("first", BATCH))
            filling = client.put(keys)
            rest = endless_keys("rest")
            client.put([next(rest) for _ in range(settings.device_bytes // CHUNK_BYTES - number)])
            with client_of(server.unix) as watcher, watcher.region(CHUNK_BYTES) as region:
                if read_every:
                    for key in keys[::read_every]:
                        watcher.get([key], [region])
                before = watcher.shard_stat()
                replacing = client.put([next(rest) for _ in range(number)])
                after = watcher.shard_stat()
    moved = {
        name: after.get(name, 0.0) - before.get(name, 0.0)
        for name in ("segments_reclaimed", "chunks_evicted", "rewritten_bytes")
    }
    return filling, Sample(replacing.value, replacing.detail | moved)
