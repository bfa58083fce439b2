"""Workers: what runs checksums, copies and descriptor I/O for the store off its loop.

`NativeWorkers` runs jobs in threads that never meet the interpreter; `ThreadWorkers` is for where
the native module was not built; `InlineWorkers` runs each job in ``submit``, for tools and for tests
that must be deterministic.  One contract suite: tests/contract/workers.py.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence

import xxhash

from mezzo.errors import Busy, InternalError, InvalidArgument
from mezzo_server.blockstore.io import Job, Task, Workers
from mezzo_server.memory import Span

JOBS_MAX = 65536
"""Jobs submitted and not yet reaped; over it ``submit`` raises Busy."""


class InlineWorkers(Workers):
    """Runs each job within ``submit``: nothing happens behind the caller's back."""

    def __init__(self) -> None:
        self._ended: list[Job] = []
        self._closed = False

    def submit(self, jobs: Sequence[Job]) -> None:
        """Run all of them now; see `Workers.submit`."""
        _check(jobs, len(self._ended), self._closed)
        for job in jobs:
            job.result = run_job(job)
        self._ended.extend(jobs)

    def reap(self) -> list[Job]:
        """All that were submitted since the last reap."""
        ended, self._ended = self._ended, []
        return ended

    def wait(self, timeout_s: float | None = None) -> None:
        """Return at once: whatever was submitted has ended."""

    @property
    def in_flight(self) -> int:
        """Jobs not reaped yet."""
        return len(self._ended)

    def checksum(self, source: Sequence[Span], seed: int) -> int:
        """XXH3-64 of ``source`` in order."""
        return checksum_spans(source, seed)

    def close(self) -> None:
        """Refuse further jobs."""
        self._closed = True


def run_job(job: Job) -> int:
    """Do a job here and now, in Python; its result."""
    match job.task:
        case Task.CHECKSUM:
            return checksum_spans(job.source, job.seed)
        case Task.COPY:
            copy_spans(job.source, job.target)
            return 0
        case Task.ZERO:
            for span in job.target:
                ctypes.memset(span.address, 0, span.length)
            return 0
        case Task.FD_READ:
            return _descriptor_io(job, job.target, os.preadv)
        case Task.FD_WRITE:
            return _descriptor_io(job, job.source, os.pwritev)
    raise InvalidArgument(f"unknown task {job.task!r}")


def checksum_spans(source: Sequence[Span], seed: int) -> int:
    """XXH3-64 of the bytes of ``source`` in order."""
    if len(source) == 1:
        return xxhash.xxh3_64_intdigest(source[0].view, seed)
    state = xxhash.xxh3_64(seed=seed)
    for span in source:
        state.update(span.view)
    return state.intdigest()


def copy_spans(source: Sequence[Span], target: Sequence[Span]) -> None:
    """Copy between two lists of equal totals, split in any way."""
    pieces: Iterator[Span] = iter(source)
    from_address = from_length = 0
    for span in target:
        to_address, to_length = span.address, span.length
        while to_length:
            if not from_length:
                piece = next(pieces)
                from_address, from_length = piece.address, piece.length
                continue
            count = min(from_length, to_length)
            ctypes.memmove(to_address, from_address, count)
            from_address, from_length = from_address + count, from_length - count
            to_address, to_length = to_address + count, to_length - count


def _descriptor_io(job: Job, spans: Sequence[Span], move: Callable[[int, list[memoryview], int], int]) -> int:
    """All bytes of ``spans`` by as many calls as it takes; short only at the end of the file."""
    moved = 0
    for span in spans:
        view = span.view
        while len(view):
            try:
                count = move(job.fd, [view], job.offset + moved)
            except OSError as error:
                return -(error.errno or 0)
            if not count:
                return moved
            moved += count
            view = view[count:]
    return moved


def check_jobs(jobs: Sequence[Job]) -> None:
    """InvalidArgument for a copy of unequal totals or descriptor I/O without a descriptor."""
    for job in jobs:
        if job.task == Task.COPY:
            from_bytes = sum(span.length for span in job.source)
            to_bytes = sum(span.length for span in job.target)
            if from_bytes != to_bytes:
                raise InvalidArgument(f"copy of {from_bytes} bytes into {to_bytes}")
        elif job.task in (Task.FD_READ, Task.FD_WRITE) and (job.fd < 0 or job.offset < 0):
            raise InvalidArgument(f"{job.task!r} on descriptor {job.fd} at {job.offset}")


def _check(jobs: Sequence[Job], in_flight: int, closed: bool) -> None:
    if closed:
        raise InternalError("the workers are closed")
    if in_flight + len(jobs) > JOBS_MAX:
        raise Busy(f"{in_flight} jobs in flight; at most {JOBS_MAX}")
    check_jobs(jobs)
