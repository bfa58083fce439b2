"""What a core's work costs here while another core works too: python -m benchmarks.contention.

Processor time of the same work, alone and beside a process on another core, in turn; the median of the ratios.  Where
copies beside copies are far above one, memory is what cores wait for, and whatever copies on two cores at a time is
charged for it in processor time.  Where computing beside computing is above one, the "cores" are threads of one core.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import time
from collections.abc import Callable

from benchmarks.harness import Sample, median

ROUNDS = 7
COPY_BYTES = 64 << 20
"""far more than caches hold"""


def copies() -> Callable[[], None]:
    """Work that waits for memory."""
    # Shared, so that a fork does not make the next write to each page a fault.
    target, source = memoryview(mmap.mmap(-1, COPY_BYTES)), memoryview(mmap.mmap(-1, COPY_BYTES))
    for memory in (target, source):
        memory[:] = bytes(COPY_BYTES)

    def work() -> None:
        for _ in range(4):
            target[:] = source

    return work


def computes() -> Callable[[], None]:
    """Work within a core's own caches."""

    def work() -> None:
        counts: dict[int, int] = {}
        for number in range(400_000):
            counts[number & 1023] = counts.get(number & 511, 0) + number

    return work


WORKS = {"copying": copies, "computing": computes}


def taken(own: str, other: str, cores: tuple[int, int], pairs: int) -> list[tuple[Sample, Sample]]:
    """Processor time of ``own`` work alone, and while another process does ``other``, seconds, in turn.

    The caller is on the first of the cores.
    """
    fork = multiprocessing.get_context("fork")
    work = WORKS[own]()
    work()
    samples = []
    for _ in range(pairs):
        alone = Sample(_cpu_s(work))
        begun = fork.Event()
        process = fork.Process(target=_forever, args=(other, cores[1], begun.set), daemon=True)
        process.start()
        begun.wait()
        samples.append((alone, Sample(_cpu_s(work))))
        process.kill()
        process.join()
    return samples


def _cpu_s(work: Callable[[], None]) -> float:
    began = time.process_time()
    for _ in range(10):
        work()
    return time.process_time() - began


def _forever(name: str, core: int, tell: Callable[[], None]) -> None:
    os.sched_setaffinity(0, {core})
    work = WORKS[name]()
    work()
    tell()
    while True:
        work()


def main() -> None:
    """Print each work beside each."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        raise SystemExit("this process may run on one core only: there is nothing beside it")
    first, second = sorted(allowed)[:2]
    os.sched_setaffinity(0, {first})
    for own in WORKS:
        for other in WORKS:
            pairs = taken(own, other, (first, second), ROUNDS)
            ratio = median([beside.value / alone.value for alone, beside in pairs])
            print(f"{own:9} beside {other:9} {ratio:5.2f} times the processor time that it takes alone")


if __name__ == "__main__":
    main()
