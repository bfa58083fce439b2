"""Whole chunks beside what people use today: Redis, and one file per chunk in the page cache.

Eight chunks at a time for all of them: a pipeline of Redis, a call of ours.  Our device is memory, as
Redis's is.  Puts are of new chunks in a store that is full (FIFO makes room); Redis overwrites the
same keys, which it does in place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Literal

from benchmarks.harness import Row, Sample, Skipped, Unmeasured, compared, take_pairs
from benchmarks.reference_stores import PIPELINE, Files, Redis, redis_server
from benchmarks.settings import MIB, Settings, folder, size_name
from benchmarks.shard import Window, chunk_keys, endless_keys, shard, window

SIZES = (MIB, 4 * MIB)
SET_BYTES = 256 * MIB
DEVICE = "memory:1GiB"

Verb = Literal["get", "put"]
Transport = Literal["unix", "tcp"]


def rows(settings: Settings) -> Iterator[Row | Unmeasured]:
    """Redis over each transport, then files."""
    transports: tuple[Transport, ...] = ("unix", "tcp")
    for transport in transports:
        try:
            yield from _redis(settings, transport)
        except Skipped as reason:
            yield Unmeasured(name=f"Redis, {transport}", reason=str(reason))
    yield from _files(settings)


def _redis(settings: Settings, transport: Transport) -> Iterator[Row]:
    name = "shm" if transport == "unix" else "tcp"
    for chunk_bytes in SIZES:
        number = SET_BYTES // chunk_bytes
        keys = chunk_keys("redis", number)
        values = [memoryview(bytes([i % 251 + 1]) * chunk_bytes) for i in range(number)]
        with (
            tempfile.TemporaryDirectory(prefix="mezzo-bench-") as home,
            redis_server(Path(home), transport) as redis,
        ):
            redis.put(keys, values)
            for verb in _verbs():
                ours = _ours(
                    settings, verb, transport, chunk_bytes, _redis_take(settings, redis, verb, keys, values)
                )
                yield compared(
                    ours,
                    name=f"{verb} {size_name(chunk_bytes)} over {name}",
                    unit="GB/s",
                    reference=f"Redis, {'Unix socket' if transport == 'unix' else 'TCP'}, pipelines of {PIPELINE}",
                    ours=f"memory device, {PIPELINE} chunks in a call",
                    target=2.0,
                )


def _files(settings: Settings) -> Iterator[Row]:
    for chunk_bytes in SIZES:
        number = SET_BYTES // chunk_bytes
        keys = chunk_keys("files", number)
        values = [memoryview(bytearray([i % 251 + 1]) * chunk_bytes) for i in range(number)]
        with folder(settings.disk, SET_BYTES) as home:
            files = Files(home)
            files.put(keys, values)
            for verb in _verbs():
                yield compared(
                    _ours(
                        settings, verb, "unix", chunk_bytes, _files_take(settings, files, verb, keys, values)
                    ),
                    name=f"{verb} {size_name(chunk_bytes)} over shm, beside files",
                    unit="GB/s",
                    reference="one file per chunk, page cache",
                    ours=f"memory device, {PIPELINE} chunks in a call",
                )


def _verbs() -> tuple[Verb, ...]:
    return ("get", "put")


def _ours(
    settings: Settings, verb: Verb, transport: Transport, chunk_bytes: int, reference: Callable[[], Sample]
) -> list[tuple[Sample, Sample]]:
    slots = SET_BYTES // chunk_bytes
    with shard(DEVICE) as server:
        address = server.unix if transport == "unix" else server.tcp
        with window(server, address, chunk_bytes, slots, batch=PIPELINE) as client:
            return take_pairs(reference, _ours_take(settings, client, verb), settings.pairs)


def _ours_take(settings: Settings, client: Window, verb: Verb) -> Callable[[], Sample]:
    if verb == "get":
        keys = chunk_keys("ours", client.slots)
        client.put(keys)
        return lambda: client.get(keys, settings.sample_s)
    fresh = endless_keys("fresh")
    # Fill it first, so that each sample meets a full store.
    client.put(fresh, 2 * settings.sample_s)
    return lambda: client.put(fresh, settings.sample_s)


def _redis_take(
    settings: Settings, redis: Redis, verb: Verb, keys: list[bytes], values: list[memoryview]
) -> Callable[[], Sample]:
    chunk_bytes = len(values[0])
    if verb == "get":
        return lambda: _rounds(settings, lambda: redis.get(keys, chunk_bytes), len(keys) * chunk_bytes)
    return lambda: _rounds(settings, lambda: redis.put(keys, values), len(keys) * chunk_bytes)


def _files_take(
    settings: Settings, files: Files, verb: Verb, keys: list[bytes], values: list[memoryview]
) -> Callable[[], Sample]:
    act = files.get if verb == "get" else files.put
    moved = len(keys) * len(values[0])
    return lambda: _rounds(settings, lambda: act(keys, values), moved)


def _rounds(settings: Settings, once: Callable[[], None], moved: int) -> Sample:
    """GB/s of whole rounds over the working set."""
    rounds = 0
    began = perf_counter()
    while perf_counter() - began < settings.sample_s:
        once()
        rounds += 1
    return Sample(rounds * moved / (perf_counter() - began) / 1e9)
