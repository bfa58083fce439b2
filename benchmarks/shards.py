"""What a second shard costs: processor time of all processes for each GB, one shard beside two, on the same two cores.

Clients run on these cores as well, so there is nothing to be won by more shards; what is compared is what the same bytes
cost when each call goes to two processes instead of one.  Devices are of memory.

There are two references.  One shard copies alone; two copy at a time, and where cores wait for memory the processor time
of a copy beside another copy is more than that of the same copy alone: the first line has how much more, on this machine,
of bare copies.  So two shards stand beside two nodes of one shard as well, a client each: the same bytes by as many
processes at a time, but no call goes to more than one of them.

The places of a call's chunks lie in an order of chance, as an engine's blocks do.  Which physical memory a process is
given makes up to a tenth, for as long as it runs: so each pair is of nodes of its own.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack

import mezzo
from benchmarks import contention
from benchmarks.harness import Row, Sample, compared
from benchmarks.processes import threads_cpu_s
from benchmarks.settings import KIB, MIB, Settings, size_name
from benchmarks.shard import TIMEOUT_S, chunk_keys
from mezzo_server.testing import RunningNode, running_node

CORES = 2
CLIENTS = 2
"""threads, each with a client and a region of its own"""
CASES = ((64 * KIB, 512), (MIB, 64))
"""bytes of a chunk, and chunks in one call: a long prefix, and one like that of `spread`"""
VERBS = ("get", "put")
"""Puts come last: they displace what is got."""
CALLS = 4
"""of different chunks, in turn"""
DEVICE_BYTES = 1024 * MIB
"""of each shard: half of one has smaller segments, which devices of terabytes have not"""
TARGET = 1.05

Nodes = tuple[int, ...]
"""Shards of each"""
OURS: Nodes = (2,)
REFERENCES: dict[Nodes, str] = {(1,): "one shard", (1, 1): "two nodes of one shard, a client each"}


def rows(settings: Settings) -> Iterator[Row]:
    """Bare copies; then gets and puts of small and of large chunks, beside each of the references."""
    allowed = os.sched_getaffinity(0)
    cores = set(sorted(allowed)[:CORES])
    try:
        if len(cores) == CORES:
            yield _bare(settings, *sorted(cores))
        os.sched_setaffinity(0, cores)
        for chunk_bytes, count in CASES:
            samples: dict[tuple[str, Nodes], list[tuple[Sample, Sample]]] = {
                (verb, reference): [] for verb in VERBS for reference in REFERENCES
            }
            for number in range(settings.pairs):
                # Who comes first is given the memory that lies together.
                order = (OURS, *REFERENCES) if number % 2 else (*REFERENCES, OURS)
                with ExitStack() as stack:
                    loads = {nodes: Load(stack, nodes, chunk_bytes, count) for nodes in order}
                    for (verb, reference), taken in samples.items():
                        taken.append(_pair(verb, loads[reference], loads[OURS], settings.sample_s))
            for (verb, reference), taken in samples.items():
                yield _row(verb, chunk_bytes, count, REFERENCES[reference], taken)
    finally:
        os.sched_setaffinity(0, allowed)


def _bare(settings: Settings, first: int, second: int) -> Row:
    os.sched_setaffinity(0, {first})
    return compared(
        contention.taken("copying", "copying", (first, second), settings.pairs),
        name="CPU of bare copies of memory, no store",
        unit="s",
        reference="on one core",
        ours="beside the same on the other core",
        better="lower",
    )


def _pair(verb: str, reference: Load, ours: Load, sample_s: float) -> tuple[Sample, Sample]:
    for load in (reference, ours):
        load.warm(verb)
    return reference.sample(verb, sample_s), ours.sample(verb, sample_s)


def _row(verb: str, chunk_bytes: int, count: int, reference: str, taken: list[tuple[Sample, Sample]]) -> Row:
    return compared(
        taken,
        name=f"CPU of {verb}s of {count} chunks of {size_name(chunk_bytes)}, beside {reference}",
        unit="s per GB",
        reference=reference,
        ours=f"two shards; {CLIENTS} clients and all processes on {CORES} cores",
        better="lower",
        target=TARGET,
    )


class Load:
    """Nodes of so many shards, and clients, who have them in turn. `sample` keeps them at it for a while."""

    def __init__(self, stack: ExitStack, nodes: Nodes, chunk_bytes: int, count: int) -> None:
        self._nodes = [stack.enter_context(_node(shards)) for shards in nodes]
        self._device_bytes = sum(nodes) * DEVICE_BYTES
        self.chunk_bytes = chunk_bytes
        self.count = count
        """chunks in one call"""
        self._call_bytes = chunk_bytes * count
        self._fresh = itertools.count()
        self._filled = False
        self._hands: list[tuple[mezzo.Client, list[mezzo.Extent], Iterator[list[bytes]]]] = []
        for number in range(CLIENTS):
            node = self._nodes[number % len(self._nodes)]
            client = stack.enter_context(mezzo.Client(node.grpc, via="direct", timeout_s=TIMEOUT_S))
            region = client.region(self._call_bytes)
            places = [region[at : at + chunk_bytes] for at in range(0, self._call_bytes, chunk_bytes)]
            random.Random(number).shuffle(places)
            known = [chunk_keys(f"{number}-{call}", self.count) for call in range(CALLS)]
            for keys in known:
                if client.put(keys, places).failed:
                    raise RuntimeError("a chunk was not stored")
            self._hands.append((client, places, itertools.cycle(known)))

    def warm(self, verb: str) -> None:
        """Have memory touched that is new: devices that were never written are filled first by puts of a while."""
        calls = CALLS
        if verb == "put" and not self._filled:
            calls = 2 * self._device_bytes // self._call_bytes
            self._filled = True
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

    def sample(self, verb: str, sample_s: float) -> Sample:
        """CPU seconds for each GB, with the GB/s beside."""
        call = {"get": self.get, "put": self.put}[verb]
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
        return [
            pid
            for node in self._nodes
            for pid in (node.pid, node.frontend_pid, *(int(str(one["pid"])) for one in node.shards))
        ]


def _node(shards: int) -> AbstractContextManager[RunningNode]:
    return running_node(
        devices=[f"memory:{DEVICE_BYTES}"] * shards,
        arguments=["--shards", str(shards)],
        config="[shard]\nscrub_bytes_per_s = 0\n",
    )
