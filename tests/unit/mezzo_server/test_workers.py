"""Workers: the contract for each kind, and what is special to one."""

from __future__ import annotations

import gc
import os

import pytest
import xxhash

from mezzo.errors import InvalidArgument
from mezzo_server.blockstore.io import Job, Task, Workers
from mezzo_server.memory import Memory
from mezzo_server.workers import InlineWorkers, NativeWorkers, ThreadWorkers, open_workers
from tests.contract.workers import WorkersContract, finish
from tests.held import kernel_threads

try:
    from mezzo_server._native import pool
except ImportError:
    pool = None

needs_native = pytest.mark.skipif(pool is None, reason="the native module was not built")


class TestInline(WorkersContract):
    def make(self) -> Workers:
        return InlineWorkers()


class TestThreads(WorkersContract):
    def make(self) -> Workers:
        return ThreadWorkers()


@needs_native
class TestNative(WorkersContract):
    def make(self) -> Workers:
        return NativeWorkers()


@needs_native
def test_auto_is_native_where_it_was_built():
    workers = open_workers()
    assert isinstance(workers, NativeWorkers)
    workers.close()


def test_auto_falls_back_where_it_was_not(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mezzo_server._native.pool", None)
    monkeypatch.delattr("mezzo_server._native.pool", raising=False)
    workers = open_workers()
    assert isinstance(workers, ThreadWorkers)
    workers.close()
    with pytest.raises(ImportError):
        open_workers("native")


def test_unknown_kinds_are_named():
    with pytest.raises(InvalidArgument, match="auto, native"):
        open_workers("quick")


@needs_native
def test_memory_lives_while_a_job_works_on_it():
    workers = NativeWorkers(1)
    memory = Memory.anonymous(8 << 20)
    memory.view[:] = b"\x05" * memory.length
    expected = xxhash.xxh3_64_intdigest(bytes(memory.view))
    workers.submit([Job(Task.CHECKSUM, source=(memory.span(),)) for _ in range(20)])
    del memory
    gc.collect()
    assert {job.result for job in finish(workers, 20)} == {expected}
    workers.close()


@needs_native
def test_a_pool_that_is_dropped_ends_its_threads():
    before = kernel_threads()
    workers = NativeWorkers(2)
    workers.submit([Job(Task.ZERO, target=(Memory.anonymous(1 << 20).span(),)) for _ in range(10)])
    its_own = kernel_threads() - before
    assert len(its_own) >= 2
    del workers
    gc.collect()
    while its_own & kernel_threads():
        pass  # joined, but the kernel lets go of them a moment later


@needs_native
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_may_drop_a_pool_but_not_use_it():
    workers = NativeWorkers(2)
    memory = Memory.anonymous(4096)
    child = os.fork()
    if not child:
        code = 1
        try:
            workers.submit([Job(Task.ZERO, target=(memory.span(),))])
        except Exception as error:
            code = 0 if "forked" in str(error) else 2
        workers.close()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    workers.submit([Job(Task.ZERO, target=(memory.span(),))])
    finish(workers, 1)
    workers.close()


@needs_native
@pytest.mark.parametrize("length", [100, 1 << 20])
def test_at_once(length):
    memory = Memory.anonymous(2 << 20)
    memory.view[:length] = b"a" * length
    halves = (memory.span(0, length // 2), memory.span(length // 2, length - length // 2))
    assert pool.checksum(halves, 3) == xxhash.xxh3_64_intdigest(b"a" * length, 3)
    pool.copy(halves, (memory.span(1 << 20, length),))
    assert bytes(memory.view[1 << 20 : (1 << 20) + length]) == b"a" * length
    pool.zero(halves)
    assert bytes(memory.view[:length]) == bytes(length)
    with pytest.raises(InvalidArgument):
        pool.copy(halves, (memory.span(0, length + 1),))
