"""How far loads are from what was estimated of them, under a steady load: no reference, only our own word.

Each load asks first (a lookup) and loads then; what is told is the median of |took / estimated - 1|, in percent,
and on the side where nine of ten lie and how many took longer than the high estimate.  The time is the client's:
from its call to its return, so it has in it what the shard cannot know of.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import mezzo
from benchmarks.harness import Row, Sample, alone, median, quantile
from benchmarks.settings import MIB, Settings, folder, prewritten, size_name
from benchmarks.shard import chunk_keys, client_of, shard
from mezzo_server.testing import RunningShard, running_frontend

CHUNK_BYTES = 1 * MIB
CHUNKS = 16
WARM_UP = 60
TARGET_PERCENT = 20.0
HOT_BYTES = 256 * MIB


def rows(settings: Settings) -> Iterator[Row]:
    """A device, the hot tier, TCP and gRPC; one client, and four."""
    size = settings.device_bytes
    with folder(settings.disk, size) as home:
        file = prewritten(home / "device", size)
        with shard(str(file)) as server:
            yield from _transport(settings, server, server.unix, "from the disk, shm", (1, 4))
            yield from _transport(settings, server, server.tcp, "from the disk, tcp", (1,))
    with shard("memory:1GiB", hot_bytes=HOT_BYTES) as server:
        yield from _transport(settings, server, server.unix, "hot, shm", (1, 4))
        yield from _transport(settings, server, server.tcp, "hot, tcp", (1,))
        with running_frontend(server.unix) as frontend:
            yield from _transport(settings, server, frontend.grpc, "hot, grpc", (1,))


def _transport(
    settings: Settings, server: RunningShard, address: str, what: str, clients: Sequence[int]
) -> Iterator[Row]:
    keys = chunk_keys(f"estimates-{what}", CHUNKS)
    source = bytes(range(256)) * (CHUNK_BYTES // 256)
    with client_of(server.unix) as client:
        client.put(keys, [source] * CHUNKS)
    for count in clients:
        samples = _samples(settings, address, keys, count)
        yield alone(
            samples,
            name=f"Load of {CHUNKS} times {size_name(CHUNK_BYTES)} {what}, {count} at a time",
            unit="% off, p50",
            ours="the client's time over the estimate of the lookup before it",
            target=TARGET_PERCENT,
        )


def _samples(settings: Settings, address: str, keys: list[bytes], clients: int) -> list[Sample]:
    """One for each stretch of ``sample_s``, with so many clients that load all the time."""
    ratios: list[float] = []
    high: list[bool] = []
    lock = threading.Lock()
    stop = threading.Event()

    def work() -> None:
        via = "proxy" if address.startswith("grpc") else "auto"
        with mezzo.Client(address, via=via, timeout_s=60.0) as client:  # type: ignore[arg-type]
            region = client.region(len(keys) * CHUNK_BYTES)
            places = [region[at : at + CHUNK_BYTES] for at in range(0, len(region), CHUNK_BYTES)]
            while not stop.is_set():
                said = client.lookup(keys)
                began = time.perf_counter()
                if client.get(keys, places).count != len(keys):
                    raise RuntimeError("chunks are missing")
                took = time.perf_counter() - began
                with lock:
                    ratios.append(took / said.load_s)
                    high.append(took > said.load_high_s)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    samples = []
    try:
        _until(lambda: len(ratios) >= WARM_UP, threads)
        for _ in range(settings.pairs):
            with lock:
                ratios.clear()
                high.clear()
            time.sleep(settings.sample_s)
            _until(lambda: len(ratios) >= 5, threads)
            with lock:
                errors = [abs(ratio - 1) * 100 for ratio in ratios]
                detail = {
                    "p90_percent": quantile(errors, 0.9),
                    "over_high_percent": 100 * sum(high) / len(high),
                    "loads": float(len(errors)),
                }
                samples.append(Sample(median(errors), detail))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return samples


def _until(reached: Callable[[], bool], threads: Sequence[threading.Thread]) -> None:
    """Wait, as long as all clients live."""
    while not reached():
        if not all(thread.is_alive() for thread in threads):
            raise RuntimeError("a client gave up")
        time.sleep(0.01)
