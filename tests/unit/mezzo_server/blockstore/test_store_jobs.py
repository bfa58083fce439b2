"""Jobs for worker threads: bounded, in turn by tenant, and each of them once."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.io import Job, Task
from mezzo_server.blockstore.jobs import RATE_START, JobQueue
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.payloads import SMALL_BYTES
from mezzo_server.blockstore.schedule import BACKGROUND, TRANSFER_COST_BYTES
from mezzo_server.blockstore.shares import Shares
from mezzo_server.memory import Memory
from mezzo_server.workers import InlineWorkers
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.simulation.world import options

A, B = b"a" * 16, b"b" * 16
MIB = 1 << 20
OTHER = Scope(B, b"n" * 16)


class Held(InlineWorkers):
    """Threads that have taken jobs and done none of them yet."""

    def __init__(self) -> None:
        super().__init__()
        self.held: deque[Job] = deque()

    def submit(self, jobs: Sequence[Job]) -> None:
        self.held.extend(jobs)


class Weights(Shares):
    """A weighs three times what B does."""

    def weight(self, tenant: bytes) -> float:
        return 3.0 if tenant == A else 1.0


class Played:
    """A queue of jobs before threads that end them one by one."""

    def __init__(self, shares: Shares | None = None) -> None:
        self.now = 0.0
        self.shares = shares or Shares()
        self.workers = Held()
        self.jobs = JobQueue(self.workers, StoreOptions(), self.now)
        self.ended: list[Job] = []

    def come(self, tenant: bytes, count: int = 1, length: int = MIB) -> list[Job]:
        jobs = [Job(Task.CHECKSUM) for _ in range(count)]
        for job in jobs:
            self.jobs.add(job, tenant, length)
        self.submit()
        return jobs

    def submit(self) -> None:
        self.jobs.submit(self.shares, lambda: self.now)

    def step(self, at: int = 0) -> Job:
        """A thread ends one of those that it has."""
        job = self.workers.held[at]
        del self.workers.held[at]
        self.now += (job.length + TRANSFER_COST_BYTES) / RATE_START
        self.jobs.ended([job], self.now)
        self.ended.append(job)
        if self.jobs.schedule.waiting:
            self.submit()
        return job


def test_one_request_alone_goes_to_the_threads_at_once() -> None:
    played = Played()
    jobs = played.come(A, 4)
    assert list(played.workers.held) == jobs
    assert played.jobs.schedule.waiting == 0


def test_who_comes_late_passes_a_flood_by() -> None:
    played = Played()
    played.come(A, 400)
    began = played.now
    mine = played.come(B)[0]
    while mine not in played.ended:
        played.step()
    assert played.now - began <= StoreOptions().device_queue_s + 3 * (MIB + TRANSFER_COST_BYTES) / RATE_START
    assert played.jobs.schedule.waiting > 300


def test_it_goes_by_weight() -> None:
    played = Played(Weights())
    played.come(A, 200)
    played.come(B, 200)
    for _ in range(120):
        played.step()
    done = Counter(job.tenant for job in played.ended[20:])
    assert 2.4 <= done[A] / done[B] <= 3.6


def test_what_nobody_asked_for_gets_a_fifth_at_least_and_all_when_alone() -> None:
    played = Played()
    played.come(BACKGROUND, 200)
    played.come(A, 200)
    for _ in range(120):
        played.step()
    done = Counter(job.tenant for job in played.ended[20:])
    assert 0.15 <= done[BACKGROUND] / 100 <= 0.25
    while played.workers.held:
        played.step()
    assert len(played.ended) == 400


@given(
    st.lists(
        st.one_of(st.tuples(st.sampled_from([A, B, BACKGROUND]), st.integers(1, 12 * MIB)), st.just("end")),
        max_size=100,
    ),
    st.integers(0, 99),
)
def test_each_job_comes_back_once(events: list[object], seed: int) -> None:
    """Whatever comes, and in whatever order the threads end it."""
    played, pick = Played(), random.Random(seed)
    came: list[Job] = []
    for event in events:
        if event != "end":
            tenant, length = event  # type: ignore[misc]
            came += played.come(tenant, 1, length)
        elif played.workers.held:
            played.step(pick.randrange(len(played.workers.held)))
        assert played.workers.held or not played.jobs.schedule.waiting, (
            "something waits, nothing is under way"
        )
    while played.workers.held:
        played.step(pick.randrange(len(played.workers.held)))
    assert sorted(map(id, played.ended)) == sorted(map(id, came))
    assert played.jobs.schedule.outstanding == played.jobs.schedule.waiting == 0


def test_the_store_says_whose_each_job_is() -> None:
    """Puts, gets, fills and encryption are their tenant's; rewriting and scrub are nobody's."""
    rig = Rig(keys={B: b"K" * 32}, hot={}, options=options(inline_bytes=0, scrub_bytes_per_s=1e7))
    rig.ciphers = InlineWorkers()
    rig.restart("close")
    seen: dict[bytes, set[Task]] = {}
    for queue in rig.store._context.job_queues:
        add = queue.add

        def spy(job: Job, tenant: bytes, length: int, add: object = add) -> None:
            assert length > 0
            seen.setdefault(tenant, set()).add(job.task)
            add(job, tenant, length)  # type: ignore[operator]

        queue.add = spy  # type: ignore[method-assign]
    data = content(b"k", 100_000)
    for scope in (SCOPE, OTHER):
        rig.put_chunks([chunk(b"k", data, shift=3)], scope)
        assert rig.get(b"k", scope) == data
        assert rig.stream(b"k", scope) == data
    assert seen == {SCOPE.tenant: {Task.COPY_CHECKSUM}, B: {Task.COPY_CHECKSUM, Task.CHECKSUM, Task.SEAL}}
    rig.fill("k", 60, 60_000)
    for _ in range(20):
        rig.time += 0.02
        rig.drain(ticks=1)
    assert seen[BACKGROUND] == {Task.CHECKSUM}, "scrub and reclaim"
    rig.drain()


def test_half_of_what_the_loop_does_in_a_turn_is_for_small_ones() -> None:
    """Large ones find a worker when they have had their half, or were longer than that; small ones take what is left."""
    large = 2 * SMALL_BYTES
    rig = Rig(options=options(inline_bytes=3 * large))
    context, found = rig.store._context, []
    memory = Memory.anonymous(large)

    def handed_over(size: int) -> bool:
        before = len(context.jobs.queue)
        context.digest(0, 0, [size], [memory.span(0, size)], found.append, A)
        return len(context.jobs.queue) > before

    context.inline_left = context.options.inline_bytes
    assert [handed_over(size) for size in (large, large, SMALL_BYTES, large)] == [False, True, False, True]
    assert [handed_over(SMALL_BYTES) for _ in range(4)] == [False, False, False, True]
    rig.until(lambda: len(found) == 8)
    assert not handed_over(large), "another turn"
    rig.drain()


def test_jobs_of_a_caller_wait_their_turn_too() -> None:
    rig = Rig()
    memory = Memory.anonymous(4096)
    memory.view[:] = b"x" * 4096
    ended: list[Job] = []
    rig.store.run_jobs([Job(Task.ZERO, target=(memory.span(),), done=ended.append)], A)
    assert rig.store.eager, "there is something to hand over"
    rig.until(lambda: bool(ended))
    assert bytes(memory.view) == bytes(4096)
    assert (ended[0].tenant, ended[0].length) == (A, 4096)
    rig.drain()


def test_a_request_of_more_than_the_threads_are_given_at_once() -> None:
    """What waits goes on by itself until all is done."""
    rig = Rig(options=options(inline_bytes=0))
    schedule = rig.store._context.jobs.schedule
    schedule.outstanding_max = 10_000
    lengths = (20_000,) * 8
    data = content(b"k", sum(lengths))
    begun, _ = rig.begin_put([chunk(b"k", data, parts=lengths)])
    rig.store._submit()
    assert schedule.waiting == rig.store.jobs_scheduled == 7
    assert rig.store.busy
    rig.until(lambda: bool(begun))
    assert rig.get(b"k") == data
    rig.drain()
