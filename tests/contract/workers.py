"""What all workers must do; subclassed once for each of them."""

from __future__ import annotations

import errno
import itertools
import os
import random
import select

import pytest
import xxhash

from mezzo.errors import Busy, InternalError, InvalidArgument
from mezzo_server.blockstore.io import Job, Task, Workers
from mezzo_server.memory import Memory, Span


def finish(workers: Workers, count: int | None = None) -> list[Job]:
    """Reap until nothing is in flight."""
    ended: list[Job] = []
    while workers.in_flight:
        workers.wait(30)
        ended += workers.reap()
    assert count is None or len(ended) == count
    return ended


def do(workers: Workers, task: Task, **fields: object) -> int:
    """One job, to its end."""
    job = Job(task, **fields)
    workers.submit([job])
    assert finish(workers) == [job]
    return job.result


class WorkersContract:
    """The suite."""

    def make(self) -> Workers:
        raise NotImplementedError

    @pytest.fixture
    def workers(self):
        workers = self.make()
        yield workers
        workers.close()

    @pytest.fixture
    def memory(self):
        memory = Memory.anonymous(1 << 20)
        memory.view[:] = random.Random(3).randbytes(memory.length)
        return memory

    @pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
    @pytest.mark.parametrize("cuts", [[], [0], [1, 300, 301, 5000], [64, 128, 192, 256, 1024, 500_000]])
    def test_checksum_streams_across_spans(self, workers, memory, seed, cuts):
        edges = [0, *cuts, 700_001]
        spans = [memory.span(first, last - first) for first, last in itertools.pairwise(edges)]
        expected = xxhash.xxh3_64_intdigest(bytes(memory.view[:700_001]), seed)
        assert do(workers, Task.CHECKSUM, source=spans, seed=seed) == expected
        assert workers.checksum(spans, seed) == expected

    @pytest.mark.parametrize("length", [0, 1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 1024, 1025, 65536])
    def test_checksum_of_every_length_class(self, workers, memory, length):
        span = (memory.span(13, length),)
        expected = xxhash.xxh3_64_intdigest(bytes(memory.view[13 : 13 + length]), 42)
        assert workers.checksum(span, 42) == expected
        assert do(workers, Task.CHECKSUM, source=span, seed=42) == expected

    def test_checksum_of_nothing(self, workers):
        assert workers.checksum((), 9) == xxhash.xxh3_64_intdigest(b"", 9)
        assert do(workers, Task.CHECKSUM, seed=9) == xxhash.xxh3_64_intdigest(b"", 9)

    def test_copy_between_any_splits(self, workers, memory):
        target = Memory.anonymous(1 << 20)
        source = [memory.span(5, 1000), memory.span(5000, 0), memory.span(100_000, 70_000)]
        pieces = [
            target.span(0, 1),
            target.span(9000, 70_000),
            target.span(300_000, 0),
            target.span(200_000, 999),
        ]
        assert do(workers, Task.COPY, source=source, target=pieces) == 0
        assert b"".join(bytes(span.view) for span in pieces) == b"".join(bytes(span.view) for span in source)
        assert sum(bytes(target.view)[1:9000]) == 0

    @pytest.mark.parametrize("length", [0, 1, 100, 4097, 131_072, 131_073, 700_001])
    def test_copy_checksum(self, workers, memory, length):
        target = Memory.anonymous(1 << 20)
        expected = xxhash.xxh3_64_intdigest(bytes(memory.view[5 : 5 + length]), 77)
        source, pieces = (memory.span(5, length),), (target.span(64, length),)
        assert do(workers, Task.COPY_CHECKSUM, source=source, target=pieces, seed=77) == expected
        assert bytes(target.view[64 : 64 + length]) == bytes(memory.view[5 : 5 + length])
        assert sum(target.view[:64]) + sum(bytes(target.view[64 + length :])) == 0
        # split in any way, and at once
        source = (memory.span(5, length // 3), memory.span(5 + length // 3, length - length // 3))
        pieces = (
            target.span(64, length // 2),
            target.span(90_000, 0),
            target.span(100 + length // 2, length - length // 2),
        )
        assert do(workers, Task.COPY_CHECKSUM, source=source, target=pieces, seed=77) == expected
        assert workers.copy_checksum(source, pieces, 77) == expected
        assert b"".join(bytes(span.view) for span in pieces) == bytes(memory.view[5 : 5 + length])
        with pytest.raises(InvalidArgument):
            workers.copy_checksum(source, (target.span(0, length + 1),), 77)

    def test_zero(self, workers, memory):
        before = bytes(memory.view)
        assert do(workers, Task.ZERO, target=(memory.span(10, 20), memory.span(500, 100_000))) == 0
        expected = bytearray(before)
        expected[10:30] = bytes(20)
        expected[500:100_500] = bytes(100_000)
        assert bytes(memory.view) == bytes(expected)

    def test_descriptor_io(self, workers, memory, tmp_path):
        with open(tmp_path / "file", "w+b") as file:
            fd = file.fileno()
            source = (memory.span(0, 3), memory.span(100, 100_000))
            assert do(workers, Task.FD_WRITE, source=source, fd=fd, offset=7) == 100_003
            expected = bytes(memory.view[:3]) + bytes(memory.view[100:100_100])
            assert os.pread(fd, 200_000, 0) == bytes(7) + expected
            target = Memory.anonymous(1 << 20)
            pieces = (target.span(0, 50_000), target.span(60_000, 200_000))
            # Short at the end of the file: the rest of the target stays as it is.
            assert do(workers, Task.FD_READ, target=pieces, fd=fd, offset=7) == 100_003
            assert bytes(target.view[:50_000]) + bytes(target.view[60_000:110_003]) == expected
            assert sum(bytes(target.view[110_003:])) == 0
            assert do(workers, Task.FD_READ, target=pieces, fd=fd, offset=1 << 40) == 0

    def test_descriptor_errors_come_back(self, workers, memory, tmp_path):
        reading = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        assert do(workers, Task.FD_READ, target=(memory.span(0, 10),), fd=reading) == -errno.EISDIR
        os.close(reading)
        assert do(workers, Task.FD_WRITE, source=(memory.span(0, 10),), fd=reading) == -errno.EBADF

    def test_each_job_comes_back_once(self, workers, memory):
        jobs = [Job(Task.CHECKSUM, source=(memory.span(n, 100),), seed=n, context=n) for n in range(3000)]
        ended = []
        for first in range(0, 3000, 100):
            workers.submit(jobs[first : first + 100])
            ended += workers.reap()
        assert workers.in_flight == 3000 - len(ended)
        ended += finish(workers)
        assert {id(job) for job in ended} == {id(job) for job in jobs}
        assert len(ended) == 3000
        data = bytes(memory.view)
        assert all(
            job.result == xxhash.xxh3_64_intdigest(data[job.context : job.context + 100], job.context)
            for job in jobs
        )

    def test_the_event_tells_when_there_is_something_to_reap(self, workers, memory):
        if workers.event_fd is None:
            return
        for _ in range(100):
            # A job may be reaped before its thread has come to tell of it, which then tells of nothing.
            for _ in range(3):
                if select.select([workers.event_fd], [], [], 0)[0]:
                    assert workers.reap() == []
                else:
                    break
            else:
                raise AssertionError("it does not fall silent")
            workers.submit([Job(Task.ZERO, target=(memory.span(0, 1),)) for _ in range(2)])
            left = 2
            while left:
                assert select.select([workers.event_fd], [], [], 30)[0]
                workers.wait()
                assert select.select([workers.event_fd], [], [], 30)[0]
                left -= len(workers.reap())

    def test_wait_gives_up(self, workers):
        workers.wait(0)
        workers.wait()
        assert workers.reap() == []

    def test_wrong_jobs_are_refused_before_anything_begins(self, workers, memory):
        before = bytes(memory.view)
        good = Job(Task.ZERO, target=(memory.span(),))
        for wrong in (
            Job(Task.COPY, source=(memory.span(0, 10),), target=(memory.span(20, 11),)),
            Job(Task.COPY_CHECKSUM, source=(memory.span(0, 10),), target=(memory.span(20, 11),)),
            Job(Task.FD_READ, target=(memory.span(0, 10),)),
            Job(Task.FD_WRITE, source=(memory.span(0, 10),), fd=1, offset=-1),
            Job(Task.CHECKSUM, source=(Span(memory, memory.length - 5, 10),)),
            Job(Task.ZERO, target=(Span(memory, -5, 10),)),
        ):
            with pytest.raises(InvalidArgument):
                workers.submit([good, wrong])
            assert workers.in_flight == 0
        assert bytes(memory.view) == before

    def test_jobs_in_flight_are_bounded(self, workers, memory):
        with pytest.raises(Busy):
            workers.submit([Job(Task.ZERO, target=(memory.span(0, 1),))] * 65537)
        assert workers.in_flight == 0

    def test_close_lets_what_is_in_flight_end(self, workers, memory):
        workers.submit([Job(Task.CHECKSUM, source=(memory.span(),), seed=n) for n in range(50)])
        workers.close()
        ended = workers.reap()
        assert len(ended) == 50
        assert workers.in_flight == 0
        assert ended[0].result == xxhash.xxh3_64_intdigest(bytes(memory.view), ended[0].seed)
        with pytest.raises(InternalError):
            workers.submit([])
        workers.close()
