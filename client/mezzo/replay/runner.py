"""Runs a trace against a shard.

``concurrency`` threads, each with a client and a region of its own, take the requests in the
order of the trace. Threads, not tasks: making and comparing bytes releases the interpreter lock,
so two cores are kept busy, and what a thread waits for is the latency of its call alone.

State shared by the threads: the next request's number and the first error, both under one lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from msgspec import Struct

from mezzo.errors import InvalidArgument
from mezzo.replay.figures import Served
from mezzo.replay.payload import check_block_bytes
from mezzo.replay.trace import Request, Trace
from mezzo.replay.worker import ReplayOptions, StoreClient, Tally, Worker

CONCURRENCY_MAX = 256

Connect = Callable[[], AbstractContextManager[StoreClient]]


class Outcome(Struct, frozen=True):
    """A finished run."""

    tally: Tally
    duration_s: float


class Replay:
    """One run of a trace. `run` does it, once; `done` can be read by other threads meanwhile."""

    def __init__(
        self,
        connect: Connect,
        trace: Trace,
        options: ReplayOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``connect`` makes a client for each thread; ``clock`` gives seconds.

        Raises `InvalidArgument` for options that make no sense.
        """
        if not 0 < options.concurrency <= CONCURRENCY_MAX:
            raise InvalidArgument(f"concurrency: {options.concurrency} is not from 1 to {CONCURRENCY_MAX}")
        if not 0 <= options.time_scale < 1e9:
            raise InvalidArgument(f"time scale: {options.time_scale} is not from 0 to 1e9")
        check_block_bytes(options.block_bytes)
        self.trace = trace
        self._connect = connect
        self._options = options
        self._clock = clock
        self._seen_before = trace.seen_before()
        self._lock = threading.Lock()
        self._next = 0
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._start_s = 0.0
        self._tallies: list[Tally] = []

    @property
    def done(self) -> int:
        """Requests served up to now."""
        return sum(tally.requests for tally in self._tallies)

    def run(self, progress: Callable[[int], None] | None = None, progress_s: float = 0.2) -> Outcome:
        """Run the trace; calls ``progress`` with the requests served every ``progress_s`` seconds.

        Raises the first error of the tree that no repetition helps against.
        """
        self._start_s = self._clock()
        threads = []
        for number in range(min(self._options.concurrency, max(1, len(self.trace.requests)))):
            tally = Tally()
            self._tallies.append(tally)
            threads.append(threading.Thread(target=self._work, args=(tally,), name=f"replay-{number}"))
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(progress_s)
                    if progress is not None:
                        progress(self.done)
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        duration_s = self._clock() - self._start_s
        if self._error is not None:
            raise self._error
        total = Tally()
        for tally in self._tallies:
            total.add(tally)
        return Outcome(total, duration_s)

    def _work(self, tally: Tally) -> None:
        try:
            with self._connect() as client:
                worker = Worker(client, self._options, tally, clock=self._clock, stop=self._stop)
                try:
                    while (number := self._take()) is not None:
                        request = self.trace.requests[number]
                        self._await_time(request, tally)
                        in_place = tally.in_place
                        hits, got, put = worker.serve(number, request)
                        end_s = self._clock() - self._start_s
                        seen_before = self._seen_before[number]
                        served = Served(
                            end_s,
                            len(request.hash_ids),
                            seen_before,
                            hits,
                            got,
                            put,
                            tally.in_place - in_place,
                        )
                        tally.served.append(served)
                        tally.requests += 1
                finally:
                    worker.close()
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._stop.set()

    def _take(self) -> int | None:
        over_s = self._options.stop_s
        if over_s and self._clock() - self._start_s >= over_s:
            return None
        with self._lock:
            if self._stop.is_set() or self._next >= len(self.trace.requests):
                return None
            self._next += 1
            return self._next - 1

    def _await_time(self, request: Request, tally: Tally) -> None:
        if not self._options.time_scale:
            return
        offset_s = (request.timestamp_ms - self.trace.requests[0].timestamp_ms) / 1000
        wait_s = self._start_s + offset_s / self._options.time_scale - self._clock()
        if wait_s > 0:
            self._stop.wait(wait_s)
        else:
            tally.late_s_max = max(tally.late_s_max, -wait_s)
