"""Clients that ask a pod for everything at a time, and write down what they are told."""

from __future__ import annotations

import math
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mezzo import Client
from mezzo.errors import Busy, DeadlineExceeded, Gone, MezzoError, RegionError, Unavailable, WrongEpoch
from mezzo.regions import Extent, Region
from mezzo.results import PutState
from tests.chaos.history import CHUNK_BYTES_MAX, Called, History, number_of, payload
from tests.chaos.register import Answer, Operation

ROUND_S = 1.5
"""For so long clients put and delete the same keys; then there are others, and the old ones are read."""
ROUND_KEYS = 24
KEYS_MAX = 8
TIMEOUT_S = 2.0
PAUSE_S = 0.01
"""between two calls of a client: the machine has other things to do"""
EXPECTED = (Unavailable, DeadlineExceeded, Busy, WrongEpoch, RegionError)
"""what a pod that is hurt may answer"""


class Teller:
    """One client's calls, told to a history. Used by one thread."""

    def __init__(self, client: Client, name: str, history: History, *, erasable: bool = False) -> None:
        self._client = client
        self.run = history.run
        self._name = name
        self._history = history
        self._operations = history.erasable if erasable else history.operations
        # What is being put while its namespace is emptied is told so.
        self._expected = (*EXPECTED, Gone) if erasable else EXPECTED
        self._region: Region | None = None

    def put(self, keys: Sequence[bytes], timeout_s: float = TIMEOUT_S) -> Called:
        """Bytes of this call's own under each."""
        numbers = [self._history.number() for _ in keys]
        data = [payload(key, number) for key, number in zip(keys, numbers, strict=True)]
        answers: list[Answer | None] = ["maybe"] * len(keys)
        before = self._client.statistics().retries
        with self._calling("put", keys, timeout_s) as called:
            done = self._client.put(keys, data, timeout_s=timeout_s)
            called.unanswered = done.unanswered
            answers = [_PUT[state] for state in done.states]
        retried = self._client.via == "proxy" or self._client.statistics().retries != before
        for key, number, answer in zip(keys, numbers, answers, strict=True):
            if answer is not None:
                self._tell(key, "put", answer, called, number, retried)
        return called

    def get(self, keys: Sequence[bytes], timeout_s: float = TIMEOUT_S) -> tuple[Called, int]:
        """What is there; how many are.

        A client of the shards has memory that it shares with those that can, and has other memory where a shard that it
        lost may still write to that.
        """
        got, read = None, []
        with self._calling("get", keys, timeout_s) as called:
            targets = self._targets(len(keys))
            got = self._client.get(keys, targets, timeout_s=timeout_s)
            called.unanswered = got.unanswered
            read = [
                bytes((target.view if isinstance(target, Extent) else memoryview(target))[:length])
                for target, length in zip(targets, got.lengths, strict=True)
            ]
        if isinstance(called.error, RegionError) and self._region is not None:
            self._region.close()
            self._region = None
        if got is None or not read:
            return called, 0
        for key, found, data in zip(keys, got.found, read, strict=True):
            if found:
                self._tell(key, "get", "found", called, number_of(key, data))
        return called, got.count

    def _targets(self, count: int) -> list[Extent] | list[bytearray]:
        if self._client.via != "direct" or count > KEYS_MAX:
            return [bytearray(CHUNK_BYTES_MAX) for _ in range(count)]
        if self._region is None:
            self._region = self._client.region(KEYS_MAX * CHUNK_BYTES_MAX)
        return [self._region[at * CHUNK_BYTES_MAX : (at + 1) * CHUNK_BYTES_MAX] for at in range(count)]

    def lookup(self, keys: Sequence[bytes], timeout_s: float = TIMEOUT_S) -> Called:
        """How many are there, from the first one on."""
        prefix = 0
        with self._calling("lookup", keys, timeout_s) as called:
            found = self._client.lookup(keys, timeout_s=timeout_s)
            called.unanswered, prefix = found.unanswered, found.prefix
        for key in keys[:prefix]:
            self._tell(key, "get", "present", called)
        return called

    def delete(self, keys: Sequence[bytes], timeout_s: float = TIMEOUT_S) -> Called:
        """Have them removed."""
        answers: list[Answer] = ["maybe"] * len(keys)
        with self._calling("delete", keys, timeout_s) as called:
            done = self._client.delete(keys, timeout_s=timeout_s)
            answers = ["deleted" if there else "absent" for there in done.deleted]
        for key, answer in zip(keys, answers, strict=True):
            self._tell(key, "delete", answer, called)
        return called

    @contextmanager
    def _calling(self, kind: str, keys: Sequence[bytes], timeout_s: float) -> Iterator[Called]:
        called = Called(self._name, kind, len(keys), time.monotonic(), timeout_s)
        self._history.calls.append(called)
        try:
            yield called
        except self._expected as error:
            called.error = error
        called.end = time.monotonic()

    def _tell(
        self, key: bytes, kind: str, answer: Answer, called: Called, value: int = 0, retried: bool = False
    ) -> None:
        end = math.inf if answer == "maybe" else called.end
        told = Operation(kind, answer, called.begin, end, value, retried, self._name)  # type: ignore[arg-type]
        self._operations.append((key, told))


_PUT: dict[PutState, Answer | None] = {
    PutState.STORED: "stored",
    PutState.EXISTS: "exists",
    PutState.FAILED: "maybe",
    PutState.DECLINED: None,
}

Step = Callable[[Teller, random.Random, float], None]
"""What a client of the load does next; the time is that since the load began."""


def anything(teller: Teller, source: random.Random, since_s: float) -> None:
    """All kinds of calls, on keys that the others use at the same time."""
    present = int(since_s / ROUND_S)
    if source.random() < 0.2 and present:
        teller.get(some_keys(source, teller.run, source.randrange(present)))
        return
    # Mostly of this round; and of the last ones, whose slots may have changed hands since.
    present -= min(present, source.choice((0, 0, 0, 1, 2, 4)))
    keys = some_keys(source, teller.run, present)
    choice = source.uniform(0.2, 1.0)
    if choice < 0.5:
        teller.put(keys)
    elif choice < 0.8:
        teller.get(keys)
    elif choice < 0.9:
        teller.lookup(keys)
    else:
        teller.delete(keys[:2])


def some_keys(source: random.Random, run: str, number: int) -> list[bytes]:
    """Of a round of a run."""
    chosen = source.sample(range(ROUND_KEYS), source.randint(1, KEYS_MAX))
    return [f"{run}-{number}-{each}".encode() for each in chosen]


class Load:
    """Client threads. `start`, then `stop`."""

    def __init__(self, history: History, seed: int) -> None:
        self._history = history
        self._seed = seed
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._began = time.monotonic()

    def start(
        self, name: str, make: Callable[[], Client], step: Step = anything, *, erasable: bool = False
    ) -> None:
        """One client more, which does nothing but this."""

        def work() -> None:
            source = random.Random(f"{self._seed} {name}")
            try:
                with make() as client:
                    teller = Teller(client, name, self._history, erasable=erasable)
                    while not self._stopping.is_set():
                        step(teller, source, time.monotonic() - self._began)
                        self._stopping.wait(PAUSE_S * source.random() * 2)
            except (MezzoError, AssertionError, Exception) as error:
                self._history.faults.append(f"{name}: {error!r}\n{traceback.format_exc()}")

        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Have every client end its call and go."""
        self._stopping.set()
        until = time.monotonic() + 30
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self._history.faults.append(f"{thread.name} hangs")
