"""S7 in real time: a tenant's gets beside a neighbour within his quota, and beside one at ten times it.

A node with metadata, credentials and two tenants on the disk.  What the disk gives is measured first; the
neighbour's quota is a third of that, what the other asks for a fifth (up to what a client of ours can ask
for beside others on two cores).  Both ask at the pace that was set,
whatever becomes of their requests, from processes of their own.
"""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from msgspec import structs

import mezzo
from benchmarks.harness import Row, Sample, compared, quantile, take_pairs
from benchmarks.settings import KIB, MIB, Settings, folder, prewritten, size_name
from benchmarks.shard import TIMEOUT_S, chunk_keys
from benchmarks.tenants import make_tenants, on_metadata
from mezzo_server.tenancy.model import Limit, Quota
from mezzo_server.testing import RunningNode, running_node

CHUNK_BYTES = 256 * KIB
CHUNKS = 512
"""of each tenant; those of a request lie side by side"""
NEIGHBOUR_CHUNKS = 4
"""in one request of the neighbour's"""
THREADS = 8
QUOTA_SHARE, OWN_SHARE = 1 / 3, 1 / 5
"""of what the disk gives"""
QUOTA_MAX, OWN_MAX = 100e6, 100 * CHUNK_BYTES
"""bytes a second, however fast the disk: three processes must not want more than the cores that there are"""
WITHIN, OVER = 0.9, 10.0
"""times his quota that the neighbour asks for"""
CALIBRATION_S = 1.0
SAMPLES_PER_S = 5
"""seconds of load for each second of a sample: a p99 needs some hundred requests"""
QUEUE_MS = 10


def rows(settings: Settings) -> Iterator[Row]:
    """One row: p99 of the same load, beside either neighbour."""
    size = min(settings.device_bytes, 1024 * MIB)
    with folder(settings.disk, size + 64 * MIB) as place:
        device = prewritten(place / "device", size)
        engine = f"sqlite://{place / 'metadata.db'}"
        with _node(engine, device) as node:
            tokens = make_tenants(engine, ("mine", "loud"))
            keys = {name: chunk_keys(name, CHUNKS) for name in tokens}
            for name, token in tokens.items():
                _stock(node.grpc, token, keys[name])
            rate = _calibrate(node.grpc, tokens["mine"], keys["mine"])
            quota = int(min(rate * QUOTA_SHARE, QUOTA_MAX))
            own = min(rate * OWN_SHARE, OWN_MAX)
            limits = Quota(bytes_per_s=Limit(0, quota))
            on_metadata(
                engine,
                lambda registry: registry.set_tenant(
                    "loud", lambda tenant: structs.replace(tenant, quota=limits)
                ),
            )
            time.sleep(2.0)  # until the shard has seen it

            def take(times: float) -> Sample:
                seconds = settings.sample_s * SAMPLES_PER_S
                with _neighbour(node.grpc, tokens["loud"], keys["loud"], times * quota, seconds):
                    return _own(node.grpc, tokens["mine"], keys["mine"], own, seconds)

            samples = take_pairs(lambda: take(WITHIN), lambda: take(OVER), settings.pairs)
    yield compared(
        samples,
        name=f"p99 of gets of {size_name(CHUNK_BYTES)} beside a neighbour at ten times his quota",
        unit="ms",
        better="lower",
        reference="the same beside one within his quota",
        ours="shm, two tenants with credentials, one disk",
        note=f"the goal is 1.2 and one device-queue time, {QUEUE_MS} ms, more; the disk gave {rate / 1e6:.0f} MB/s",
    )


def _node(engine: str, device: Path) -> AbstractContextManager[RunningNode]:
    """A node that refuses callers without a credential."""
    config = f"""
        [metadata]
        engine = "{engine}"
        [access]
        anonymous = ""
        [shard]
        device_queue_ms = {QUEUE_MS}
        scrub_bytes_per_s = 0
        format = true
    """
    return running_node(devices=[str(device)], config=config)


@contextmanager
def _client(address: str, token: str, places: int) -> Iterator[tuple[mezzo.Client, list[mezzo.Extent]]]:
    """A client over shared memory, and places in a region of its own."""
    with mezzo.Client(address, token=token, timeout_s=TIMEOUT_S) as client:
        region = client.region(places * CHUNK_BYTES)
        try:
            yield client, [region[at * CHUNK_BYTES : (at + 1) * CHUNK_BYTES] for at in range(places)]
        finally:
            region.close()


def _stock(address: str, token: str, keys: Sequence[bytes]) -> None:
    with _client(address, token, 16) as (client, places):
        for number, place in enumerate(places):
            place.view[:] = bytes([number + 1]) * CHUNK_BYTES
        for first in range(0, len(keys), 16):
            client.put(list(keys[first : first + 16]), places)


def _calibrate(address: str, token: str, keys: Sequence[bytes]) -> float:
    """Bytes a second that the disk gives to as many readers as there are threads."""
    with _client(address, token, THREADS * NEIGHBOUR_CHUNKS) as (client, places):
        done: list[float] = []
        until = time.perf_counter() + CALIBRATION_S

        def work(number: int) -> None:
            mine = places[number * NEIGHBOUR_CHUNKS : (number + 1) * NEIGHBOUR_CHUNKS]
            for first in itertools.cycle(range(number, len(keys) - NEIGHBOUR_CHUNKS, THREADS)):
                if time.perf_counter() >= until:
                    return
                client.get(list(keys[first : first + NEIGHBOUR_CHUNKS]), mine)
                done.append(NEIGHBOUR_CHUNKS * CHUNK_BYTES)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / CALIBRATION_S


def _own(address: str, token: str, keys: Sequence[bytes], rate: float, seconds: float) -> Sample:
    """p99 in milliseconds of gets of one chunk each, so many bytes a second."""
    latencies = _paced(address, token, keys, 1, rate, seconds)[0]
    if not latencies:
        raise RuntimeError("not one get was answered")
    detail = {"p50_ms": quantile(latencies, 0.5) * 1e3, "requests": float(len(latencies))}
    return Sample(quantile(latencies, 0.99) * 1e3, detail)


def _paced(
    address: str, token: str, keys: Sequence[bytes], batch: int, rate: float, seconds: float
) -> tuple[list[float], int]:
    """Latencies from the moment when a get was due, and how many were refused."""
    every_s = batch * CHUNK_BYTES / rate
    latencies: list[float] = []
    refused = 0
    numbers = itertools.count()
    with _client(address, token, THREADS * batch) as (client, places):
        began = time.perf_counter()

        def work(thread: int) -> None:
            nonlocal refused
            mine = places[thread * batch : (thread + 1) * batch]
            while True:
                number = next(numbers)
                due = began + number * every_s
                if due - began >= seconds:
                    return
                time.sleep(max(0.0, due - time.perf_counter()))
                first = number * 37 % (len(keys) - batch)
                try:
                    client.get(list(keys[first : first + batch]), mine)
                except mezzo.Busy:
                    refused += 1
                else:
                    latencies.append(time.perf_counter() - due)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    return latencies, refused


@contextmanager
def _neighbour(
    address: str, token: str, keys: Sequence[bytes], rate: float, seconds: float
) -> Iterator[None]:
    """Another process asks for so much, from a moment before the block until a moment after it."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(
        target=_ask, args=(address, token, list(keys), rate, seconds + 2.0, ready), daemon=True
    )
    process.start()
    try:
        if not ready.wait(TIMEOUT_S):
            raise RuntimeError("the neighbour did not come")
        time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.join(TIMEOUT_S)


def _ask(
    address: str,
    token: str,
    keys: Sequence[bytes],
    rate: float,
    seconds: float,
    ready: threading.Event,
) -> None:
    """The neighbour's process."""
    ready.set()
    _paced(address, token, keys, NEIGHBOUR_CHUNKS, rate, seconds)
