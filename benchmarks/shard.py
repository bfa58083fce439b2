"""Our side: a shard in a process of its own, and a client that keeps chunks in flight.

The client keeps ``requests`` calls of ``batch`` chunks under way on one connection, and a new one
follows each that ends.  How many of their chunks a device sees at once the shard's ``--depth`` bounds.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, cycle, islice

import mezzo
from benchmarks.harness import Sample
from benchmarks.processes import cpu_s
from mezzo_server.testing import RunningShard, running_shard

TIMEOUT_S = 60.0

Call = Callable[[list[bytes], list[mezzo.Extent]], int]


@contextmanager
def shard(
    device: str,
    *,
    capacity_bytes: int | None = None,
    depth: int = 128,
    segment_bytes: int | None = None,
    hot_bytes: int = 0,
) -> Iterator[RunningShard]:
    """A shard on the loopback that does nothing in the background; formats what holds no store of ours."""
    arguments = ["--format", "--depth", str(depth), "--scrub", "0"]
    if segment_bytes is not None:
        arguments += ["--segment", str(segment_bytes)]
    capacity = None if capacity_bytes is None else str(capacity_bytes)
    config = f"[shard.hot]\nbytes = {hot_bytes}\n" if hot_bytes else ""
    with running_shard(devices=[device], capacity=capacity, arguments=arguments, config=config) as server:
        yield server


def client_of(address: str) -> mezzo.Client:
    """A blocking client with a timeout that a busy machine does not meet."""
    return mezzo.Client(address, timeout_s=TIMEOUT_S)


def chunk_keys(salt: str, number: int) -> list[bytes]:
    """Keys of 32 bytes, as long as a SHA-256."""
    return list(islice(endless_keys(salt), number))


def endless_keys(salt: str) -> Iterator[bytes]:
    """New ones for ever."""
    for i in count():
        yield hashlib.blake2b(f"{salt}/{i}".encode(), digest_size=32).digest()


class Window:
    """A client that keeps chunks in flight; see the head of this file.

    One region has ``slots`` places of ``chunk_bytes``, used in turn from the first one on in each
    sample: more of them than chunks under way, so that no two of these share one.
    """

    def __init__(
        self,
        server: RunningShard,
        address: str,
        chunk_bytes: int,
        slots: int,
        *,
        batch: int,
        requests: int,
        client: Callable[[str], mezzo.Client] = client_of,
    ) -> None:
        if slots < batch * (requests + 1):
            raise ValueError(f"{slots} places for {requests} requests of {batch} chunks")
        self._server = server
        self._client = client(address)
        self._region = self._client.region(chunk_bytes * slots)
        self.chunk_bytes = chunk_bytes
        self.slots = slots
        self._batch = batch
        self._requests = requests
        self._places = [self._region[i * chunk_bytes : (i + 1) * chunk_bytes] for i in range(slots)]
        for i, place in enumerate(self._places):
            # Not all alike, and never zeros: no device gets an easy time.
            place.view[:] = (hashlib.shake_256(str(i).encode()).digest(4096) * -(-chunk_bytes // 4096))[
                :chunk_bytes
            ]

    def close(self) -> None:
        """Hang up and give the memory back."""
        self._client.close()
        self._region.close()

    def put(self, keys: Iterable[bytes], limit_s: float = 600.0) -> Sample:
        """Put one new chunk for each key, as many as ``limit_s`` allows."""

        def call(keys: list[bytes], places: list[mezzo.Extent]) -> int:
            result = self._client.put(keys, places)
            if result.stored != len(keys):
                raise RuntimeError(f"{len(keys) - result.stored} of {len(keys)} chunks were not stored")
            return result.stored

        return self._run(call, iter(keys), limit_s)

    def get(self, keys: Sequence[bytes], limit_s: float) -> Sample:
        """Get chunks, ``keys`` again and again."""

        def call(keys: list[bytes], places: list[mezzo.Extent]) -> int:
            result = self._client.get(keys, places)
            if result.count != len(keys):
                raise RuntimeError(f"{len(keys) - result.count} of {len(keys)} chunks were missing")
            return result.count

        return self._run(call, cycle(keys), limit_s)

    def _run(self, call: Call, keys: Iterator[bytes], limit_s: float) -> Sample:
        """GB/s, with what it cost the server and the client."""
        places = cycle(self._places)
        lock = threading.Lock()
        done: list[int] = []
        errors: list[BaseException] = []
        until = time.perf_counter() + limit_s

        def work() -> None:
            try:
                while (time.perf_counter() < until or not done) and not errors:
                    with lock:
                        mine = list(islice(keys, self._batch))
                        where = list(islice(places, len(mine)))
                    if not mine:
                        return
                    done.append(call(mine, where))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(self._requests - 1)]
        server_began = cpu_s(self._server.pid)
        own_began = time.process_time()
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        seconds = time.perf_counter() - began
        own = time.process_time() - own_began
        server = cpu_s(self._server.pid) - server_began
        chunks = sum(done)
        moved = chunks * self.chunk_bytes
        detail = {
            "cpu_s_per_gb": (server + own) / moved * 1e9,
            "cpu_us_per_chunk": (server + own) / chunks * 1e6,
            "server_cpu_us_per_chunk": server / chunks * 1e6,
            "client_cpu_us_per_chunk": own / chunks * 1e6,
        }
        return Sample(moved / seconds / 1e9, detail)


@contextmanager
def window(
    server: RunningShard, address: str, chunk_bytes: int, slots: int, *, batch: int, requests: int = 1
) -> Iterator[Window]:
    """A `Window`, closed at the end."""
    made = Window(server, address, chunk_bytes, slots, batch=batch, requests=requests)
    try:
        yield made
    finally:
        made.close()
