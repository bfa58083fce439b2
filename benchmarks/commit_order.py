"""What it would cost to write a record's header only after its payloads, as some formats do.

A record has to prove that all of it reached the device.  Either its header is written once the
payloads have completed (linked requests), or everything is written at once and recovery verifies the
payloads of segments that were never sealed.  Both orders here through one bare ring into one file.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import Row, Sample, Skipped, compared, take_pairs
from benchmarks.raw_ring import RawRing
from benchmarks.settings import KIB, MIB, Settings, folder, prewritten, size_name

HEADER_BYTES = 4 * KIB
DEPTH = 8

# (payload bytes, records in flight)
CASES = ((64 * KIB, DEPTH), (MIB, DEPTH), (64 * KIB, 1), (MIB, 1))

Queue = Callable[[RawRing, int, int, int], int]


def rows(settings: Settings) -> Iterator[Row]:
    """Throughput with records in flight, and alone (which shows the latency)."""
    with folder(settings.disk, settings.device_bytes) as home:
        path = prewritten(home / "file", settings.device_bytes)
        for payload_bytes, depth in CASES:
            samples = take_pairs(
                lambda: _sample(path, settings, payload_bytes, depth, _header_after),  # noqa: B023
                lambda: _sample(path, settings, payload_bytes, depth, _at_once),  # noqa: B023
                settings.pairs,
            )
            yield compared(
                samples,
                name=f"commit of {size_name(payload_bytes)}, {depth} in flight",
                unit="GB/s",
                reference="header linked behind its payload",
                ours="header and payload in one write",
            )


def _header_after(ring: RawRing, offset: int, payload_bytes: int, slot: int) -> int:
    """Queue one record; how many completions it takes."""
    start = slot * (HEADER_BYTES + payload_bytes)
    ring.write(offset + HEADER_BYTES, start + HEADER_BYTES, payload_bytes, slot, link=True)
    ring.write(offset, start, HEADER_BYTES, slot)
    return 2


def _at_once(ring: RawRing, offset: int, payload_bytes: int, slot: int) -> int:
    start = slot * (HEADER_BYTES + payload_bytes)
    ring.gather(offset, ((start, HEADER_BYTES), (start + HEADER_BYTES, payload_bytes)), slot, slot)
    return 1


def _sample(path: Path, settings: Settings, payload_bytes: int, depth: int, queue: Queue) -> Sample:
    record_bytes = HEADER_BYTES + payload_bytes
    records = settings.device_bytes // record_bytes
    with mmap.mmap(-1, depth * record_bytes) as memory:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            try:
                ring = RawRing(fd, 4 * DEPTH, memory)
            except OSError as error:
                raise Skipped(f"no io_uring here: {error}") from error
            try:
                return _write(ring, records, payload_bytes, depth, settings.sample_s, queue)
            finally:
                ring.close()
        finally:
            os.close(fd)


def _write(
    ring: RawRing, places: int, payload_bytes: int, depth: int, limit_s: float, queue: Queue
) -> Sample:
    """Records one after the other from the front, ``depth`` at a time, once over the file at most."""
    record_bytes = HEADER_BYTES + payload_bytes
    left = [0] * depth
    free = list(range(depth))
    begun = ended = 0
    began = time.perf_counter()
    cpu = time.process_time()
    while True:
        more = begun < places and time.perf_counter() - began < limit_s
        while more and free and begun < places:
            slot = free.pop()
            left[slot] = queue(ring, begun * record_bytes, payload_bytes, slot)
            begun += 1
        if ended == begun:
            break
        for slot, result in ring.submit_and_wait(1):
            if result <= 0:
                raise OSError(-result, os.strerror(-result))
            left[slot] -= 1
            if not left[slot]:
                free.append(slot)
                ended += 1
    seconds = time.perf_counter() - began
    detail = {
        "us_per_record": seconds / ended * 1e6,
        "cpu_us_per_record": (time.process_time() - cpu) / ended * 1e6,
    }
    return Sample(ended * payload_bytes / seconds / 1e9, detail)
