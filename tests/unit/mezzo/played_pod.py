"""A pod of shards that answer from dictionaries, and who performs the steps of calls over them: no connections."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from mezzo.calls import (
    CatchUp,
    Connect,
    Context,
    Follow,
    Pause,
    Run,
    Together,
)
from mezzo.copies import Copies
from mezzo.errors import (
    DeadlineExceeded,
    MezzoError,
    Unavailable,
)
from mezzo.operations import Acquire, Delete, Lookup, Release, Renew, Stat
from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo.protocol.bitmap import pack
from mezzo.protocol.messages import ChunkStat, Deleted, LookedUp, Welcome
from mezzo.results import PutState
from mezzo.routing import Router
from mezzo.spread import Spread
from mezzo.statistics import Counters
from mezzo.transfers import Get

TENANT, NAMESPACE = bytes(range(16)), bytes(range(16, 32))
SLOTS_LOG2 = 4
KEYS = [b"key %d" % number for number in range(24)]
LIMITS = Welcome(
    1, "test", bytes(16), 0, TENANT, NAMESPACE, keys_max=5, key_bytes_max=64, chunk_bytes_max=1 << 20,
    body_bytes_max=1 << 20, requests_max=8, regions_max=8, region_bytes_max=1 << 30, lease_ms_max=60_000,
    block_bytes=4096, shm=False,
)  # fmt: skip


def shard_id(number: int) -> bytes:
    return bytes([number + 1] * 16)


class FakeSession:
    """Of a connection over which nothing is shared."""

    limits = LIMITS
    shm = False
    scope = bytes(32)
    stripes = 1
    failure = None


@dataclass
class Shard:
    """A shard that answers operations from a dictionary. Also the connection to it."""

    number: int
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    error: Exception | None = None
    leases: dict[int, list[bytes]] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    popular: set[bytes] = field(default_factory=set)
    """what it says that another has as well"""
    before_run: Any = None
    session = FakeSession()
    spread = None

    def run(self, operations):
        if self.error is not None:
            raise self.error
        if self.before_run is not None:
            self.before_run()
        for operation in operations:
            keys = getattr(operation, "keys", [])
            self.asked += keys
            present = [key in self.chunks for key in keys]
            prefix = (*present, False).index(False) if keys else 0
            size = sum(len(self.chunks[key]) for key in keys[:prefix])
            if isinstance(operation, Lookup):
                operation.answer(LookedUp(prefix, size, 10 * prefix + self.number, prefix // 2, size // 2))
            elif isinstance(operation, Acquire):
                number = next(self.numbers) if prefix else 0
                if prefix:
                    self.leases[number] = keys[:prefix]
                operation.take(number, operation.lease_ms, LookedUp(prefix, size, 10 * prefix))
            elif isinstance(operation, Stat):
                operation.chunks = tuple(
                    ChunkStat(len(self.chunks[key]), 1, 0, False) if there else None
                    for key, there in zip(keys, present, strict=True)
                )
            elif isinstance(operation, Delete):
                operation.answer(Deleted(sum(present), pack(present)))
                for key in keys:
                    self.chunks.pop(key, None)
            elif isinstance(operation, Release):
                operation.held = self.leases.pop(operation.lease, None) is not None
            elif isinstance(operation, Renew):
                assert operation.lease in self.leases
            elif isinstance(operation, Get):
                for key, place in zip(keys, operation.places, strict=True):
                    if key in self.chunks:
                        place.views[0][: len(self.chunks[key])] = self.chunks[key]
                operation.found = tuple(present)
                if self.popular:
                    operation.popular = tuple(key in self.popular for key in keys)
                operation.lengths = tuple(len(self.chunks.get(key, b"")) for key in keys)
            else:
                states = []
                for key, place in zip(keys, operation.places, strict=True):
                    states.append(PutState.EXISTS if key in self.chunks else PutState.STORED)
                    self.chunks.setdefault(key, bytes(place.views[0]))
                operation.states = tuple(states)


class FakePod:
    """A map, its shards, and who performs the steps of calls."""

    session = FakeSession()

    def __init__(self, table, previous, count, later=None):
        self.shards = [Shard(number) for number in range(count)]
        places = [ShardPlace(shard_id(number), "node", "", ("tcp://h:1",), 1) for number in range(count)]
        self.pod_map = PodMap(bytes(16), 1, SLOTS_LOG2, places, table, previous)
        self.later = later and PodMap(bytes(16), 2, SLOTS_LOG2, places, later, {})
        self.router = Router(self.pod_map, TENANT, NAMESPACE)
        self.chunk_bytes_max = 1 << 20
        self.copies = Copies()
        self.spread = Spread(self, self)
        self.context = Context(lambda: 0.0, Counters(), None, False, None)
        self.followed = 0
        self.sent = []
        self.tells = False
        """whether shards say that they follow the later map"""
        self.heard_epoch = 0
        self.paused = []
        self.lags = 0
        """after so many pauses all shards follow the map"""

    @property
    def behind(self):
        return self.heard_epoch > self.router.epoch

    def perform(self, call, shard=None):
        value, error = None, None
        while True:
            try:
                step = call.send(value) if error is None else call.throw(error)
            except StopIteration as stop:
                return stop.value
            value, error = None, None
            try:
                value = self.take(step, shard)
            except Exception as raised:
                error = raised

    def take(self, step, shard):
        if isinstance(step, Connect):
            return self if shard is None else shard
        if isinstance(step, Run):
            if self.tells:
                self.heard_epoch = self.later.epoch
            return step.link.run(step.operations)
        if isinstance(step, Together):
            self.sent.append([shard_id for shard_id, _ in step.parts])
            return [self.outcome(call, shard_id) for shard_id, call in step.parts]
        if isinstance(step, Pause):
            self.paused.append(step.seconds)
            if len(self.paused) == self.lags:
                for shard in self.shards:
                    shard.error = None
            return None
        assert isinstance(step, Follow | CatchUp)
        self.followed += 1
        if self.later is not None and self.router.epoch < self.later.epoch:
            self.router = Router(self.later, TENANT, NAMESPACE)
        return None

    def outcome(self, call, name):
        shard = next((each for each in self.shards if shard_id(each.number) == name), None)
        try:
            return self.perform(call, shard)
        except MezzoError as error:
            return error

    def owner(self, key):
        return self.router.owners([key])[0]

    def before(self, key):
        return next(iter(self.router.split_before([key], [0])), None)

    def leased(self):
        return sorted(key for shard in self.shards for keys in shard.leases.values() for key in keys)


@st.composite
def pods(draw):
    """A pod whose slots have moved about, with chunks where they may be, and shards that do not answer."""
    count = draw(st.integers(2, 5))
    slots = 1 << SLOTS_LOG2
    table = draw(st.lists(st.integers(0, count - 1), min_size=slots, max_size=slots))
    previous = draw(st.dictionaries(st.integers(0, slots - 1), st.integers(0, count - 1)))
    pod = FakePod(table, previous, count)
    for number, key in enumerate(KEYS):
        holders = {pod.owner(key)} | ({pod.before(key)} - {None})
        for holder in draw(st.sets(st.sampled_from(sorted(holders)))):
            pod.shards[holder].chunks[key] = b"x" * (number + 1)
    for dead in draw(st.sets(st.integers(0, count - 1), max_size=1)):
        pod.shards[dead].error = draw(st.sampled_from([Unavailable("gone"), DeadlineExceeded("slow")]))
    return pod


def answering(pod, holder):
    return holder is not None and pod.shards[holder].error is None


def present(pod, key):
    """Whether who is asked for a chunk has it, and answers."""
    return any(
        answering(pod, holder) and key in pod.shards[holder].chunks
        for holder in (pod.owner(key), pod.before(key))
    )


def nobody_answers(pod, keys):
    return not any(answering(pod, pod.owner(key)) for key in keys)


prefixes = st.lists(st.sampled_from(KEYS), min_size=1, max_size=16, unique=True)


def evenly(count=4, previous=None, later=None):
    """Each shard has every ``count``-th slot."""
    slots = range(1 << SLOTS_LOG2)
    return FakePod([slot % count for slot in slots], previous or {}, count, later)
