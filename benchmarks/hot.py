"""Gets out of the hot tier: beside one thread that copies the same bytes, and beside iperf3.

Both sides read memory that no cache holds and write memory that no cache holds: more of each than the
last-level cache has, chunk after chunk, in the same order.  The device is memory too, and is not asked:
a run in which it was counts for nothing.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mezzo
from benchmarks.harness import Row, Sample, compared, take_pairs
from benchmarks.reference_network import iperf
from benchmarks.settings import MIB, Settings, size_name
from benchmarks.shard import TIMEOUT_S, Window, chunk_keys, shard, window
from mezzo_server.memory import Memory
from mezzo_server.testing import RunningShard

CHUNK_BYTES = 4 * MIB
BATCH = 8
ARENA_BYTES = 64 * MIB
CACHE_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
SET_BYTES_MIN = 256 * MIB
FILL_ROUNDS_MAX = 20
TCP_SLOTS = 48
TCP_BATCH = 16


def rows(settings: Settings) -> Iterator[Row]:
    """One row over shared memory, one over TCP."""
    slots = working_set_bytes() // CHUNK_BYTES
    keys = chunk_keys("hot", slots)
    with (
        hot_shard(slots) as server,
        _filled(server, server.unix, keys, BATCH) as client,
        copies(slots) as copy,
    ):
        samples = take_pairs(
            lambda: copy(settings.sample_s), lambda: client.get(keys, settings.sample_s), settings.pairs
        )
        check_hot(server)
    yield compared(
        samples,
        name=f"Hot get of {size_name(CHUNK_BYTES)} into the caller's region",
        unit="GB/s",
        reference="memmove in one thread, memory as cold",
        ours=f"shm, {BATCH} chunks in a request, one worker, verified",
        target=0.7,
        note=f"{size_name(slots * CHUNK_BYTES)} on each side",
    )
    keys = chunk_keys("hot-tcp", TCP_SLOTS)
    with (
        hot_shard(TCP_SLOTS) as server,
        _filled(server, server.tcp, keys, TCP_BATCH) as client,
        iperf(settings.sample_s) as reference,
    ):
        samples = take_pairs(reference, lambda: client.get(keys, settings.sample_s), settings.pairs)
        check_hot(server)
    yield compared(
        samples,
        name=f"Hot TCP get of {size_name(CHUNK_BYTES)}",
        unit="GB/s",
        reference="iperf3, one stream, loopback",
        ours="one connection, verified by the client",
        target=1.2,
    )


def working_set_bytes() -> int:
    """Whole chunks, a quarter more than the largest cache of this machine."""
    sizes = [path.read_text().strip() for path in CACHE_FOLDER.glob("index*/size")]
    largest = max((int(size[:-1]) * 1024 for size in sizes if size.endswith("K")), default=0)
    return max(SET_BYTES_MIN, -(-largest * 5 // 4 // CHUNK_BYTES) * CHUNK_BYTES)


@contextmanager
def hot_shard(slots: int) -> Iterator[RunningShard]:
    """A shard whose hot tier has room for so many chunks, and an arena to spare."""
    arenas = -(-slots * CHUNK_BYTES // ARENA_BYTES) + 1
    device_bytes = 2 * slots * CHUNK_BYTES + 512 * MIB
    with shard(f"memory:{device_bytes}", hot_bytes=arenas * (ARENA_BYTES + MIB)) as server:
        yield server


@contextmanager
def _filled(server: RunningShard, address: str, keys: list[bytes], batch: int) -> Iterator[Window]:
    """A client of a shard that has all of the chunks hot."""
    with window(server, address, CHUNK_BYTES, len(keys), batch=batch) as client:
        make_hot(server, client, keys, batch)
        yield client


def make_hot(server: RunningShard, client: Window, keys: list[bytes], batch: int) -> None:
    """Put the chunks, and get them until none comes from the device any more."""
    client.put(keys)
    for _ in range(FILL_ROUNDS_MAX):
        # those that found no room while an arena was being made become hot by a get
        mark(server)
        for first in range(0, len(keys), batch):
            client.get(keys[first : first + batch], 0.001)
        if _from_device(server) == _device_gets[server.pid]:
            break


_device_gets: dict[int, float] = {}


def mark(server: RunningShard) -> None:
    """Remember how many chunks came from the device so far."""
    _device_gets[server.pid] = _from_device(server)


def check_hot(server: RunningShard) -> None:
    """RuntimeError if chunks came from the device since `mark`."""
    missed = _from_device(server) - _device_gets[server.pid]
    if missed:
        raise RuntimeError(f"{missed:.0f} chunks came from the device, not from the hot tier")


def _from_device(server: RunningShard) -> float:
    with mezzo.Client(server.unix, timeout_s=TIMEOUT_S) as client:
        return client.shard_stat()["chunks_got_device"]


@contextmanager
def copies(slots: int) -> Iterator[Callable[[float], Sample]]:
    """Each call copies chunks in one thread for so many seconds, in GB/s."""
    source, target = Memory.anonymous(slots * CHUNK_BYTES), Memory.anonymous(slots * CHUNK_BYTES)
    for memory in (source, target):
        ctypes.memset(memory.address, 0xA5, memory.length)

    def take(sample_s: float) -> Sample:
        moved = 0
        began = time.perf_counter()
        until = began + sample_s
        while time.perf_counter() < until:
            for _ in range(BATCH):
                at = moved % source.length
                ctypes.memmove(target.address + at, source.address + at, CHUNK_BYTES)
                moved += CHUNK_BYTES
        return Sample(moved / (time.perf_counter() - began) / 1e9)

    try:
        yield take
    finally:
        source.close()
        target.close()
