"""Workers: what runs checksums, copies and descriptor I/O for the store off its loop.

`NativeWorkers` runs jobs in threads that never meet the interpreter; `ThreadWorkers` is for where
the native module was not built; `InlineWorkers` runs each job in ``submit``, for tools and for tests
that must be deterministic.  One contract suite: tests/contract/workers.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import xxhash

from mezzo.errors import Busy, InternalError, InvalidArgument
from mezzo_server.blockstore.io import Job, Task, Workers
from mezzo_server.blockstore.sealing import Seal, Unseal, run_seal, run_unseal
from mezzo_server.mailbox import Mailbox
from mezzo_server.memory import Span

JOBS_MAX = 65536
"""Jobs submitted and not yet reaped; over it ``submit`` raises Busy."""


WORKER_THREADS = 2
"""Threads of a pool: one keeps up with one device, a second with checksums of both directions."""


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

    def copy_checksum(self, source: Sequence[Span], target: Sequence[Span], seed: int) -> int:
        """Copy; XXH3-64 of what arrived."""
        return copy_checksum_spans(source, target, seed)

    def close(self) -> None:
        """Refuse further jobs."""
        self._closed = True


class NativeWorkers(Workers):
    """Threads of the native pool: no interpreter in between, at most a wake-up each way.

    Belongs to one thread at a time.  A forked child must not use it.
    """

    def __init__(self, threads: int = WORKER_THREADS, *, jobs_max: int = JOBS_MAX) -> None:
        """ImportError where the native module was not built."""
        from mezzo_server._native import pool

        self._pool = pool.Pool(threads, jobs_max=jobs_max)
        self._checksum = pool.checksum
        self._copy_checksum = pool.copy_checksum

    def submit(self, jobs: Sequence[Job]) -> None:
        """Begin all of them; InvalidArgument (and none begun) for one that breaks the contract."""
        self._pool.submit(jobs)

    def reap(self) -> list[Job]:
        """Those that ended since."""
        return self._pool.reap()

    def wait(self, timeout_s: float | None = None) -> None:
        """See `Workers.wait`; the interpreter lock is released meanwhile."""
        self._pool.wait(timeout_s)

    @property
    def in_flight(self) -> int:
        """Jobs submitted and not reaped."""
        return self._pool.in_flight

    @property
    def event_fd(self) -> int | None:
        """An eventfd of the pool's own; only `reap` and `wait` read it. None once closed."""
        descriptor = self._pool.event_fd
        return descriptor if descriptor >= 0 else None

    def checksum(self, source: Sequence[Span], seed: int) -> int:
        """XXH3-64 at once; over 32 KiB the interpreter lock is released meanwhile."""
        return self._checksum(source, seed)

    def copy_checksum(self, source: Sequence[Span], target: Sequence[Span], seed: int) -> int:
        """Copy and XXH3-64 at once; over 16 KiB the interpreter lock is released meanwhile."""
        return self._copy_checksum(source, target, seed)

    def close(self) -> None:
        """Let what is in flight end (it may still be reaped), end the threads."""
        self._pool.close()


class ThreadWorkers(Workers):
    """Threads of the interpreter: for where the native module was not built.

    Checksums, copies and descriptor I/O release the interpreter lock for their bytes, though not for
    each span.
    """

    def __init__(self, threads: int = WORKER_THREADS, *, jobs_max: int = JOBS_MAX) -> None:
        """At most ``jobs_max`` jobs in flight."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="mezzo-worker")
        self._mailbox: Mailbox[Job] = Mailbox()
        self._jobs_max = jobs_max
        self._closed = False

    def submit(self, jobs: Sequence[Job]) -> None:
        """Begin all of them; see `Workers.submit`."""
        _check(jobs, self.in_flight, self._closed, self._jobs_max)
        self._mailbox.expect(len(jobs))
        for job in jobs:
            self._executor.submit(self._run, job)

    def reap(self) -> list[Job]:
        """Those that ended since."""
        return self._mailbox.take()

    def wait(self, timeout_s: float | None = None) -> None:
        """See `Workers.wait`."""
        self._mailbox.wait(timeout_s)

    @property
    def in_flight(self) -> int:
        """Jobs submitted and not reaped."""
        return self._mailbox.expected

    @property
    def event_fd(self) -> int | None:
        """An eventfd; only `reap` reads it. None once closed."""
        return self._mailbox.event_fd

    def checksum(self, source: Sequence[Span], seed: int) -> int:
        """XXH3-64 at once."""
        return checksum_spans(source, seed)

    def copy_checksum(self, source: Sequence[Span], target: Sequence[Span], seed: int) -> int:
        """Copy; XXH3-64 of what arrived."""
        return copy_checksum_spans(source, target, seed)

    def close(self) -> None:
        """Let what is in flight end (it may still be reaped), end the threads."""
        self._closed = True
        self._executor.shutdown(wait=True)
        self._mailbox.close()

    def _run(self, job: Job) -> None:
        try:
            job.result = run_job(job)
        except Exception:
            # A region closed meanwhile, no memory: a job always comes back, and this is no digest.
            job.result = -errno.EFAULT
        self._mailbox.put(job)


def open_workers(kind: str = "auto", *, threads: int = WORKER_THREADS) -> Workers:
    """Workers of ``kind``: ``native``, ``threads``, ``inline``, or ``auto``: native where it was built.

    ImportError for ``native`` where it was not; InvalidArgument for any other word.
    """
    if kind in ("auto", "native"):
        try:
            return NativeWorkers(threads)
        except ImportError:
            if kind == "native":
                raise
            return ThreadWorkers(threads)
    if kind == "threads":
        return ThreadWorkers(threads)
    if kind == "inline":
        return InlineWorkers()
    raise InvalidArgument(f"workers of kind {kind!r}: auto, native, threads or inline")


def run_job(job: Job) -> int:
    """Do a job here and now, in Python; its result."""
    match job.task:
        case Task.CHECKSUM:
            return checksum_spans(job.source, job.seed)
        case Task.COPY:
            copy_spans(job.source, job.target)
            return 0
        case Task.COPY_CHECKSUM:
            return copy_checksum_spans(job.source, job.target, job.seed)
        case Task.ZERO:
            for span in job.target:
                ctypes.memset(span.address, 0, span.length)
            return 0
        case Task.FD_READ:
            return _descriptor_io(job, job.target, os.preadv)
        case Task.FD_WRITE:
            return _descriptor_io(job, job.source, os.pwritev)
        case Task.SEAL if isinstance(job.context, Seal):
            return run_seal(job.context, job.source, job.target)
        case Task.UNSEAL if isinstance(job.context, Unseal):
            return run_unseal(job.context, job.source, job.target)
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


def copy_checksum_spans(source: Sequence[Span], target: Sequence[Span], seed: int) -> int:
    """Copy as `copy_spans` does; XXH3-64 of the bytes as they are in ``target``."""
    if sum(span.length for span in source) != sum(span.length for span in target):
        raise InvalidArgument("a copy between lists of unequal totals")
    copy_spans(source, target)
    return checksum_spans(target, seed)


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
    """InvalidArgument for spans outside of their memory, unequal totals, no descriptor."""
    for job in jobs:
        for spans in (job.source, job.target):
            for span in spans:
                if span.offset < 0 or span.length < 0 or span.offset + span.length > span.memory.length:
                    raise InvalidArgument(f"span {span.offset}+{span.length} is outside of its memory")
        if job.task in (Task.COPY, Task.COPY_CHECKSUM):
            from_bytes = sum(span.length for span in job.source)
            to_bytes = sum(span.length for span in job.target)
            if from_bytes != to_bytes:
                raise InvalidArgument(f"copy of {from_bytes} bytes into {to_bytes}")
        elif job.task in (Task.FD_READ, Task.FD_WRITE) and (job.fd < 0 or job.offset < 0):
            raise InvalidArgument(f"{job.task!r} on descriptor {job.fd} at {job.offset}")


def _check(jobs: Sequence[Job], in_flight: int, closed: bool, jobs_max: int = JOBS_MAX) -> None:
    if closed:
        raise InternalError("the workers are closed")
    if in_flight + len(jobs) > jobs_max:
        raise Busy(f"{in_flight} jobs in flight; at most {jobs_max}")
    check_jobs(jobs)
