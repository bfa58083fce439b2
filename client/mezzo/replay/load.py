"""A load generator: puts, gets and lookups in a given mix against a running shard.

First a working set is put; then ``depth`` threads, each with a client and a region of its own,
draw one operation after the other. Gets and lookups name chunks of the working set, puts new ones.
What it says is what a caller would see; to compare devices and transports, see benchmarks/.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import count
from random import Random
from typing import Any

from msgspec import Struct

from mezzo.errors import Busy, DeadlineExceeded, InvalidArgument
from mezzo.replay.figures import Latency, latency
from mezzo.replay.payload import Pattern, check_block_bytes
from mezzo.replay.worker import StoreClient

OPERATIONS = ("get", "put", "lookup")
DEPTH_MAX = 256
REGION_BYTES_MAX = 4 * 1024**3
"""of each thread: one request's chunks have to fit"""
OPERATIONS_MAX = 50_000_000


class LoadOptions(Struct, frozen=True, kw_only=True):
    """What to do, how much of it at a time, and for how long."""

    chunk_bytes: int = 1024**2
    batch: int = 4
    """chunks in one request"""
    depth: int = 4
    """requests in flight"""
    chunks: int = 256
    """working set"""
    get: float = 80.0
    """share of the requests, in proportion to the others"""
    put: float = 20.0
    lookup: float = 0.0
    duration_s: float = 10.0
    operations: int = 0
    """end after so many requests; 0: by time alone"""
    verify: bool = False
    """compare every byte that a get brings (it costs the generator's time)"""
    seed: int = 1
    salt: str = ""
    """part of every key; with another one nothing that is in the store is touched"""


class OperationReport(Struct, frozen=True):
    """What one kind of request came to."""

    requests: int
    chunks: int
    """named in the requests"""
    done: int
    """found, stored or present"""
    bytes: int
    gb_per_s: float
    """10**9 bytes a second, over the whole run"""
    latency: Latency


class LoadReport(Struct, frozen=True):
    """What a run came to."""

    options: LoadOptions
    duration_s: float
    fill_s: float
    requests_per_s: float
    get: OperationReport
    put: OperationReport
    lookup: OperationReport
    busy: int
    timed_out: int
    wrong_bytes: int


class _Tally(Struct):
    chunks: dict[str, int]
    done: dict[str, int]
    times_s: dict[str, list[float]]
    busy: int = 0
    timed_out: int = 0
    wrong_bytes: int = 0


class Load:
    """One run. The threads share the operations left, the next new chunk and the first error."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[StoreClient]],
        options: LoadOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `InvalidArgument` for options that make no sense."""
        _check(options)
        self._connect = connect
        self._options = options
        self._clock = clock
        self._left = iter(range(options.operations or OPERATIONS_MAX))
        self._fresh = count(options.chunks, options.batch)
        self._filling = iter(range(0, options.chunks, options.batch))
        self._filled = threading.Barrier(options.depth)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._tallies: list[_Tally] = []
        self._start_s = 0.0

    @property
    def done(self) -> int:
        """Requests up to now, those that put the working set aside."""
        return sum(len(times) for tally in self._tallies for times in tally.times_s.values())

    def run(self, progress: Callable[[float], None] | None = None, progress_s: float = 0.2) -> LoadReport:
        """Fill and run; calls ``progress`` with the seconds since the mix began.

        Raises the first error of the tree other than `Busy`, and in the mix `DeadlineExceeded`: they are counted.
        """
        begin_s = self._clock()
        threads = []
        for number in range(self._options.depth):
            tally = _Tally(
                dict.fromkeys(OPERATIONS, 0), dict.fromkeys(OPERATIONS, 0), {n: [] for n in OPERATIONS}
            )
            self._tallies.append(tally)
            threads.append(threading.Thread(target=self._work, args=(number, tally), name=f"load-{number}"))
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(progress_s)
                    if progress is not None and self._start_s:
                        progress(self._clock() - self._start_s)
        finally:
            self._stop.set()
            self._filled.abort()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._error is not None:
            raise self._error
        return self._report(self._start_s - begin_s, self._clock() - self._start_s)

    def _work(self, number: int, tally: _Tally) -> None:
        try:
            with self._connect() as client:
                hand = _Hand(client, self._options, tally)
                try:
                    while (first := next(self._filling, None)) is not None and not self._stop.is_set():
                        hand.put(
                            range(first, min(first + self._options.batch, self._options.chunks)), self._stop
                        )
                    if self._filled.wait() == 0:
                        self._start_s = self._clock()
                    self._filled.wait()
                    self._mix(hand, Random(self._options.seed * DEPTH_MAX + number), tally)
                finally:
                    hand.close()
        except threading.BrokenBarrierError:
            return  # another thread failed, or the run was interrupted
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._stop.set()
            self._filled.abort()

    def _mix(self, hand: _Hand, rng: Random, tally: _Tally) -> None:
        options = self._options
        weights = (options.get, options.put, options.lookup)
        until_s = self._start_s + options.duration_s
        while not self._stop.is_set() and self._clock() < until_s and next(self._left, None) is not None:
            (name,) = rng.choices(OPERATIONS, weights)
            if name == "put":
                first = next(self._fresh)
                ids: Sequence[int] = range(first, first + options.batch)
            else:
                ids = rng.choices(range(options.chunks), k=options.batch)
            ready = hand.prepare(name, ids)
            start_s = self._clock()
            try:
                done = ready()
            except Busy as busy:
                tally.busy += 1
                self._stop.wait(min(1.0, max(0.001, busy.retry_after_s)))
                continue
            except DeadlineExceeded:
                tally.timed_out += 1
                continue
            tally.times_s[name].append(self._clock() - start_s)
            tally.chunks[name] += len(ids)
            tally.done[name] += done
            if options.verify and name == "get":
                tally.wrong_bytes += hand.wrong_bytes()

    def _report(self, fill_s: float, duration_s: float) -> LoadReport:
        seconds = max(duration_s, 1e-9)
        reports = {}
        for name in OPERATIONS:
            times = [value for tally in self._tallies for value in tally.times_s[name]]
            done = sum(tally.done[name] for tally in self._tallies)
            moved = done * self._options.chunk_bytes if name != "lookup" else 0
            reports[name] = OperationReport(
                requests=len(times),
                chunks=sum(tally.chunks[name] for tally in self._tallies),
                done=done,
                bytes=moved,
                gb_per_s=moved / seconds / 1e9,
                latency=latency(times),
            )
        return LoadReport(
            options=self._options,
            duration_s=duration_s,
            fill_s=fill_s,
            requests_per_s=sum(report.requests for report in reports.values()) / seconds,
            get=reports["get"],
            put=reports["put"],
            lookup=reports["lookup"],
            busy=sum(tally.busy for tally in self._tallies),
            timed_out=sum(tally.timed_out for tally in self._tallies),
            wrong_bytes=sum(tally.wrong_bytes for tally in self._tallies),
        )


class _Hand:
    """One thread's client and memory; it does one request at a time."""

    def __init__(self, client: StoreClient, options: LoadOptions, tally: _Tally) -> None:
        size = options.chunk_bytes
        self._client = client
        self._options = options
        self._tally = tally
        self._pattern = Pattern(size, options.salt)
        self._region = client.region(options.batch * size)
        self._extents: list[Any] = [self._region[i * size : (i + 1) * size] for i in range(options.batch)]
        self._views = [self._region.view[i * size : (i + 1) * size] for i in range(options.batch)]
        self._ids: Sequence[int] = ()
        self._found: Sequence[bool] = ()

    def close(self) -> None:
        """Give the memory back."""
        self._extents.clear()
        for view in self._views:
            view.release()
        self._region.close()

    def prepare(self, name: str, ids: Sequence[int]) -> Callable[[], int]:
        """Get payload and keys ready; the call itself, which says how many chunks it was good for."""
        keys = [self._pattern.key(number) for number in ids]
        extents = self._extents[: len(keys)]
        self._ids = ids
        if name == "lookup":
            return lambda: int(self._client.lookup(keys).prefix)
        if name == "put":
            for number, view in zip(ids, self._views, strict=False):
                self._pattern.fill(view, number)
            return lambda: int(self._client.put(keys, extents).stored)
        if self._options.verify:
            for number, view in zip(ids, self._views, strict=False):
                self._pattern.spoil(view, number)

        def get() -> int:
            answer = self._client.get(keys, extents)
            self._found = answer.found
            return int(answer.count)

        return get

    def put(self, ids: Sequence[int], stop: threading.Event) -> None:
        """Put chunks of the working set, however long the server is busy, unless it is to ``stop``."""
        ready = self.prepare("put", ids)
        while not stop.is_set():
            try:
                ready()
            except Busy as busy:
                self._tally.busy += 1
                stop.wait(min(1.0, max(0.001, busy.retry_after_s)))
            else:
                return

    def wrong_bytes(self) -> int:
        """Wrong bytes of what the last get found."""
        return sum(
            self._pattern.wrong_bytes(view, number)
            for number, view, found in zip(self._ids, self._views, self._found, strict=False)
            if found
        )


def _check(options: LoadOptions) -> None:
    check_block_bytes(options.chunk_bytes)
    if not 0 < options.depth <= DEPTH_MAX:
        raise InvalidArgument(f"depth: {options.depth} is not from 1 to {DEPTH_MAX}")
    if options.batch < 1 or options.batch * options.chunk_bytes > REGION_BYTES_MAX:
        raise InvalidArgument(f"batch: {options.batch} chunks are none, or over {REGION_BYTES_MAX} bytes")
    if not 0 < options.chunks <= OPERATIONS_MAX:
        raise InvalidArgument(f"chunks: {options.chunks} is not from 1 to {OPERATIONS_MAX}")
    if min(options.get, options.put, options.lookup) < 0 or not options.get + options.put + options.lookup:
        raise InvalidArgument("get, put, lookup: shares are 0 or more, and one of them is over 0")
    if not 0 < options.duration_s <= 86400:
        raise InvalidArgument(f"duration: {options.duration_s} is not over 0 and up to 86400 s")
    if not 0 <= options.operations <= OPERATIONS_MAX:
        raise InvalidArgument(f"operations: {options.operations} is not from 0 to {OPERATIONS_MAX}")
