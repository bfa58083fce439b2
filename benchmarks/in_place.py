"""Acquire of 64 hot chunks in place, beside a bare echo of frames of the same sizes.

Each sample times the acquire with its views; the release that must follow is timed apart.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mezzo
from benchmarks.harness import (
    LATENCIES_MAX,
    Row,
    Sample,
    compared,
    latencies,
    latency_us,
    median,
    take_pairs,
)
from benchmarks.processes import placed
from benchmarks.reference_network import echo
from benchmarks.settings import KIB, MIB, Settings
from benchmarks.shard import chunk_keys
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Acquire, Acquired, InPlace, Kind
from mezzo_server.testing import running_shard

KEYS = 64
TTL_S = 60.0


def rows(settings: Settings) -> Iterator[Row]:
    """Two sizes of chunks: the ratio must not depend on them. Client and server on two cores, and on one."""
    yield from _rows(settings, 64 * KIB)
    yield from _rows(settings, 4 * MIB)


def _rows(settings: Settings, chunk_bytes: int) -> Iterator[Row]:
    keys = chunk_keys("in-place", KEYS)
    request_bytes = len(encode(Kind.ACQUIRE, 1, Acquire(keys, int(TTL_S * 1000), InPlace.HOT)))
    places = [
        number for index in range(KEYS) for number in (1 + index // 15, 1 + index, chunk_bytes, 1 + index)
    ]
    answer = Acquired(1, KEYS, KEYS * chunk_bytes, int(TTL_S * 1000), 1000, places)
    answer_bytes = len(encode(Kind.ACQUIRED, 1, answer))
    with (
        tempfile.TemporaryDirectory(prefix="mezzo-bench-") as home,
        _hot(keys, chunk_bytes) as (client, pid),
        echo(Path(home), request_bytes, answer_bytes) as reference,
    ):
        for apart in (True, False):
            with placed([pid, reference.pid], apart=apart):
                samples = take_pairs(
                    lambda: latency_us(reference.exchange, settings.sample_s),
                    lambda: _acquire_us(client, keys, settings.sample_s),
                    settings.pairs,
                )
            yield compared(
                samples,
                name=f"acquire of {KEYS} hot chunks of {chunk_bytes // KIB} KiB in place, p50, "
                + ("two cores" if apart else "one core"),
                unit="us",
                reference=f"echo, {request_bytes} bytes out, {answer_bytes} back",
                ours="blocking client, Unix socket, views included",
                better="lower",
                target=4.0 if apart else None,
            )


@contextmanager
def _hot(keys: list[bytes], chunk_bytes: int) -> Iterator[tuple[mezzo.Client, int]]:
    """A client of a shard in which all ``keys`` are hot, and the shard's process."""
    total = KEYS * chunk_bytes
    # Twice what is held at a time, and for each arena what is left over when it is cut into slots.
    config = f"[shard.hot]\nbytes = {3 * total + 64 * MIB}\narena_bytes = {max(16 * MIB, 8 * chunk_bytes)}\n"
    with (
        running_shard(devices=[f"memory:{4 * total + 256 * MIB}"], config=config) as server,
        mezzo.Client(server.unix, timeout_s=60.0) as client,
    ):
        with client.region(chunk_bytes) as region:
            for key in keys:
                client.put([key], [region[:chunk_bytes]])
        with client.acquire(keys, TTL_S, in_place=True, load=True) as lease:
            if lease.hot != KEYS:
                raise RuntimeError(f"only {lease.hot} of {KEYS} chunks are hot")
        yield client, server.pid


def _acquire_us(client: mezzo.Client, keys: list[bytes], sample_s: float) -> Sample:
    clock = time.perf_counter_ns
    times: list[float] = []
    releases: list[float] = []
    until = clock() + int(sample_s * 1e9)
    began = clock()
    while began < until and len(times) < LATENCIES_MAX:
        lease = client.acquire(keys, TTL_S, in_place=True)
        views = lease.views
        ended = clock()
        times.append((ended - began) / 1000)
        if len(views) != KEYS or lease.hot != KEYS:
            raise RuntimeError("a chunk was not in place")
        began = clock()
        lease.release()
        releases.append((clock() - began) / 1000)
        began = clock()
    return latencies(times, release_us=median(releases))
