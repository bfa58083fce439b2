"""What a second shard costs: processor time of all processes for each GB, one shard beside two, on the same two cores.

Clients run on these cores as well, so there is nothing to be won by more shards; what is compared is what the same bytes
cost when each call goes to two processes instead of one.  Devices are of memory.

The places of a call's chunks lie in an order of chance, as an engine's blocks do.  Where they lie one behind the other,
one shard goes through memory from its beginning to its end, which the processor's prefetching likes, and each of two
shards leaves out what is the other's: that line is there as well, without a target.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import mezzo
from benchmarks.harness import Row, Sample, compared, take_pairs
from benchmarks.processes import threads_cpu_s
from benchmarks.settings import KIB, MIB, Settings, size_name
from benchmarks.shard import TIMEOUT_S, chunk_keys
from mezzo_server.testing import RunningNode, running_node

CORES = 2
CLIENTS = 2
"""threads, each with a client and a region of its own"""
CASES = ((64 * KIB, 512), (MIB, 64))
"""bytes of a chunk, and chunks in one call: a long prefix, and one like that of `spread`"""
LINES = (("get", False), ("get", True), ("put", False))
"""What is called, and whether the places of its chunks lie one behind the other, in the order of the call. Puts come last:
they displace what is got."""
ROUNDS = 8
"""with other nodes each: which physical memory a process is given makes up to a tenth, for as long as it runs"""
CALLS = 4
"""of different chunks, in turn"""
DEVICE_BYTES = 1024 * MIB
"""of each shard: half of one has smaller segments, which devices of terabytes have not"""
TARGET = 1.05


def rows(settings: Settings) -> Iterator[Row]:
    """Gets and puts of small and of large chunks."""
    allowed = os.sched_getaffinity(0)
    cores = set(sorted(allowed)[:CORES])
    os.sched_setaffinity(0, cores)
    try:
        for chunk_bytes, count in CASES:
            samples: list[list[tuple[Sample, Sample]]] = [[] for _ in LINES]
            rounds = min(ROUNDS, settings.pairs)
            for number in range(rounds):
                pairs = (settings.pairs + number) // rounds
                with ExitStack() as stack:
                    # Who comes first is given the memory that lies together.
                    order = (1, 2) if number % 2 else (2, 1)
                    loads = {shards: Load(stack, shards, chunk_bytes, count) for shards in order}
                    one, two = loads[1], loads[2]
                    for (verb, in_order), taken in zip(LINES, samples, strict=True):
                        taken += _taken(verb, one, two, settings.sample_s, pairs, in_order=in_order)
            for (verb, in_order), taken in zip(LINES, samples, strict=True):
                yield _row(verb, chunk_bytes, count, taken, in_order=in_order)
    finally:
        os.sched_setaffinity(0, allowed)


def _taken(
    verb: str, one: Load, two: Load, sample_s: float, pairs: int, *, in_order: bool
) -> list[tuple[Sample, Sample]]:
    calls = {load: {"get": load.get, "put": load.put}[verb] for load in (one, two)}
    for load in (one, two):
        load.lay(in_order=in_order)
        load.warm(verb)
    return take_pairs(
        lambda: one.sample(calls[one], sample_s), lambda: two.sample(calls[two], sample_s), pairs
    )


def _row(
    verb: str, chunk_bytes: int, count: int, taken: list[tuple[Sample, Sample]], *, in_order: bool
) -> Row:
    return compared(
        taken,
        name=f"CPU of {verb}s of {count} chunks of {size_name(chunk_bytes)}{', places in order' * in_order}",
        unit="s per GB",
        reference="one shard",
        ours=f"two shards; {CLIENTS} clients and all processes on {CORES} cores",
        better="lower",
        target=None if in_order else TARGET,
    )


class Load:
    """A node of so many shards, and its clients. `sample` keeps them at it for a while."""

    def __init__(self, stack: ExitStack, shards: int, chunk_bytes: int, count: int) -> None:
        self._node = stack.enter_context(_node(shards))
        self._shards = shards
        self.chunk_bytes = chunk_bytes
        self.count = count
        """chunks in one call"""
        self._call_bytes = chunk_bytes * count
        self._fresh = itertools.count()
        self._hands: list[tuple[mezzo.Client, list[mezzo.Extent], Iterator[list[bytes]]]] = []
        for number in range(CLIENTS):
            client = stack.enter_context(mezzo.Client(self._node.grpc, via="direct", timeout_s=TIMEOUT_S))
            region = client.region(self._call_bytes)
            places = [region[at : at + chunk_bytes] for at in range(0, self._call_bytes, chunk_bytes)]
            known = [chunk_keys(f"{number}-{call}", self.count) for call in range(CALLS)]
            for keys in known:
                if client.put(keys, places).failed:
                    raise RuntimeError("a chunk was not stored")
            self._hands.append((client, places, itertools.cycle(known)))

    def lay(self, *, in_order: bool) -> None:
        """Where a call's chunks lie: one behind the other, or in an order of chance, the same for every node."""
        for number, (_, places, _) in enumerate(self._hands):
            places.sort(key=lambda place: place.offset)
            if not in_order:
                random.Random(number).shuffle(places)

    def warm(self, verb: str) -> None:
        """Have memory touched that is new: a device that was never written is filled first by puts of a while."""
        calls = 2 * self._shards * DEVICE_BYTES // self._call_bytes if verb == "put" else CALLS
        for turn in range(calls):
            (self.put if verb == "put" else self.get)(turn % CLIENTS)

    def get(self, number: int) -> None:
        """One call of a client."""
        client, places, known = self._hands[number]
        if client.get(next(known), places).count != self.count:
            raise RuntimeError("a chunk was not found")

    def put(self, number: int) -> None:
        """One call of a client, with new keys."""
        client, places, _ = self._hands[number]
        if client.put(chunk_keys(f"fresh-{next(self._fresh)}", self.count), places).failed:
            raise RuntimeError("a chunk was not stored")

    def sample(self, call: Callable[[int], None], sample_s: float) -> Sample:
        """CPU seconds for each GB, with the GB/s beside."""
        calls = [0] * CLIENTS
        errors: list[BaseException] = []
        until = time.perf_counter() + sample_s

        def work(number: int) -> None:
            try:
                while time.perf_counter() < until:
                    call(number)
                    calls[number] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
        # What looking at the processes takes, which is more the more there are, is not of the calls.
        others_before_s = self._others_cpu_s()
        began_s, own_before_s = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s, used_s = time.perf_counter() - began_s, time.process_time() - own_before_s
        used_s += self._others_cpu_s() - others_before_s
        if errors:
            raise errors[0]
        moved_gb = sum(calls) * self._call_bytes / 1e9
        return Sample(used_s / moved_gb, {"gb_per_s": moved_gb / took_s, "cores": used_s / took_s})

    def _others_cpu_s(self) -> float:
        return sum(threads_cpu_s(pid) for pid in self._pids())

    def _pids(self) -> list[int]:
        return [self._node.pid, self._node.frontend_pid, *(int(str(one["pid"])) for one in self._node.shards)]


def _node(shards: int) -> AbstractContextManager[RunningNode]:
    return running_node(
        devices=[f"memory:{DEVICE_BYTES}"] * shards,
        arguments=["--shards", str(shards)],
        config="[shard]\nscrub_bytes_per_s = 0\n",
    )
