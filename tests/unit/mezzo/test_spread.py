"""Calls over the shards of a pod, against what one store that has all their chunks would answer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.calls import (
    CatchUp,
    Connect,
    Context,
    Follow,
    Pause,
    Run,
    Stale,
    Together,
    acquire,
    delete,
    lookup,
    release,
    renew,
    stat,
)
from mezzo.copies import Copies
from mezzo.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidArgument,
    MezzoError,
    RegionError,
    Unauthenticated,
    Unavailable,
    WrongEpoch,
)
from mezzo.moves import get, put
from mezzo.operations import Acquire, Delete, Lookup, Release, Renew, Stat
from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo.placement.rendezvous import NOBODY
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


@settings(max_examples=50)
@given(pods(), prefixes)
def test_a_get_finds_what_is_at_an_owner_or_at_who_was_it_before(pod, keys):
    targets = [bytearray(len(KEYS)) for _ in keys]
    call = get(pod.context, keys, targets, None)
    if nobody_answers(pod, keys):
        with pytest.raises((Unavailable, DeadlineExceeded)):
            pod.perform(call)
        return
    got = pod.perform(call)
    assert got.found == tuple(present(pod, key) for key in keys)
    sizes = [KEYS.index(key) + 1 for key in keys]
    assert got.lengths == tuple(size * there for size, there in zip(sizes, got.found, strict=True))
    assert [bytes(target).rstrip(b"\0") for target in targets] == [b"x" * length for length in got.lengths]
    silent = [key for key in keys if not answering(pod, pod.owner(key)) and not present(pod, key)]
    assert got.unanswered == len(silent)


@settings(max_examples=50)
@given(pods(), prefixes)
def test_a_prefix_ends_at_the_first_key_that_nobody_has(pod, keys):
    there = [present(pod, key) for key in keys]
    prefix = (*there, False).index(False)
    size = sum(KEYS.index(key) + 1 for key in keys[:prefix])
    try:
        found = pod.perform(lookup(pod.context, keys))
    except (Unavailable, DeadlineExceeded):
        assert not all(answering(pod, pod.owner(key)) for key in keys)
        return
    assert (found.prefix, found.bytes) == (prefix, size)
    assert found.hot_prefix <= prefix
    assert 0 <= found.load_wait_s <= found.load_s <= found.load_high_s
    assert not found.unanswered or not all(answering(pod, pod.owner(key)) for key in keys)


@settings(max_examples=50)
@given(pods(), prefixes)
def test_what_is_leased_is_the_prefix_and_nothing_behind_it(pod, keys):
    there = [present(pod, key) for key in keys]
    prefix = (*there, False).index(False)
    try:
        grant = pod.perform(acquire(pod.context, keys, 5.0))
    except (Unavailable, DeadlineExceeded):
        assert pod.leased() == []
        return
    assert grant.found.prefix == prefix
    assert pod.leased() == sorted(keys[:prefix])
    if prefix:
        assert pod.perform(renew(pod.context, grant.leases, 9.0, grant.over)) == 9.0
    assert pod.perform(release(grant.leases, grant.over)) == bool(prefix)
    assert pod.leased() == []


@settings(max_examples=40)
@given(pods(), prefixes)
def test_a_chunk_goes_to_its_owner(pod, keys):
    call = put(pod.context, keys, [b"new"] * len(keys), None, 0, None, 3)
    had = {key: [holder.number for holder in pod.shards if key in holder.chunks] for key in keys}
    if nobody_answers(pod, keys):
        with pytest.raises((Unavailable, DeadlineExceeded)):
            pod.perform(call)
        return
    done = pod.perform(call)
    for key, state in zip(keys, done.states, strict=True):
        owner = pod.owner(key)
        assert (state is PutState.FAILED) == (not answering(pod, owner))
        assert (state is PutState.EXISTS) == (answering(pod, owner) and owner in had[key])
        if state is PutState.STORED:
            assert pod.shards[owner].chunks[key] == b"new"
    assert done.unanswered == done.failed


@settings(max_examples=40)
@given(pods(), prefixes)
def test_what_is_deleted_is_nowhere_any_more(pod, keys):
    stats = None
    if not nobody_answers(pod, keys):
        stats = pod.perform(stat(pod.context, keys))
        assert [chunk is not None for chunk in stats] == [present(pod, key) for key in keys]
    call = delete(pod.context, keys)
    if not all(answering(pod, pod.owner(key)) for key in keys):
        with pytest.raises((Unavailable, DeadlineExceeded)):
            pod.perform(call)
        return
    done = pod.perform(call)
    assert stats is not None
    assert done.deleted == tuple(chunk is not None for chunk in stats)
    assert not any(present(pod, key) for key in keys)


@st.composite
def overtaken(draw):
    """A pod that went on to a later map, which its shards follow, and the client heard nothing of that yet."""
    pod = draw(pods())
    slots, count = 1 << SLOTS_LOG2, len(pod.shards)
    table = draw(st.lists(st.integers(0, count - 1), min_size=slots, max_size=slots))
    previous = {slot: was for slot, was in enumerate(pod.pod_map.table) if was != table[slot]}
    pod.later = PodMap(bytes(16), 2, SLOTS_LOG2, pod.pod_map.shards, table, previous)
    pod.tells = True
    later = Router(pod.later, TENANT, NAMESPACE)
    for shard in pod.shards:
        shard.error = None
    for key in draw(st.sets(st.sampled_from(KEYS))):
        pod.shards[later.owners([key])[0]].chunks[key] = b"x" * (KEYS.index(key) + 1)
    return pod


def there_by_now(pod, key):
    """Whether a chunk is where the later map has it, or where that was before."""
    later = Router(pod.later, TENANT, NAMESPACE)
    holders = [*later.owners([key]), *later.split_before([key], [0])]
    return any(key in pod.shards[holder].chunks for holder in holders)


@settings(max_examples=50)
@given(overtaken(), prefixes)
def test_who_has_an_older_map_misses_nothing_that_came_by_the_later_one(pod, keys):
    targets = [bytearray(len(KEYS)) for _ in keys]
    got = pod.perform(get(pod.context, keys, targets, None))
    assert all(found for key, found in zip(keys, got.found, strict=True) if there_by_now(pod, key))
    assert (got.unanswered, pod.followed) == (0, int(not all(got.found) or pod.followed == 1))
    pod.router, pod.heard_epoch = Router(pod.pod_map, TENANT, NAMESPACE), 0
    stats = pod.perform(stat(pod.context, keys))
    assert all(chunk for key, chunk in zip(keys, stats, strict=True) if there_by_now(pod, key))


@settings(max_examples=50)
@given(overtaken(), prefixes)
def test_nor_does_its_prefix_end_too_early_or_its_lease_hold_what_is_not_counted(pod, keys):
    there = [there_by_now(pod, key) for key in keys]
    least = (*there, False).index(False)
    assert pod.perform(lookup(pod.context, keys)).prefix >= least
    pod.router, pod.heard_epoch = Router(pod.pod_map, TENANT, NAMESPACE), 0
    grant = pod.perform(acquire(pod.context, keys, 5.0))
    assert grant.found.prefix >= least
    assert pod.leased() == sorted(keys[: grant.found.prefix])
    pod.perform(release(grant.leases, grant.over))
    assert pod.leased() == []


@settings(max_examples=40)
@given(overtaken(), prefixes)
def test_what_it_deletes_is_gone_by_the_later_map(pod, keys):
    pod.perform(delete(pod.context, keys))
    assert not any(there_by_now(pod, key) for key in keys)


def test_a_delete_by_a_map_that_has_passed_is_not_acknowledged_where_nobody_gives_the_later_one():
    pod = evenly()
    pod.heard_epoch = 2
    with pytest.raises(WrongEpoch, match="later map of the pod than epoch 1"):
        pod.perform(delete(pod.context, KEYS))


def test_nobody_is_asked_for_a_map_while_nothing_is_heard_of_a_later_one():
    pod = evenly()
    pod.perform(get(pod.context, KEYS, [bytearray(1) for _ in KEYS], None))
    pod.perform(lookup(pod.context, KEYS))
    assert pod.followed == 0


def evenly(count=4, previous=None, later=None):
    """Each shard has every ``count``-th slot."""
    slots = range(1 << SLOTS_LOG2)
    return FakePod([slot % count for slot in slots], previous or {}, count, later)


def test_all_shards_are_asked_at_once_and_each_for_its_own():
    pod = evenly()
    pod.perform(put(pod.context, KEYS, [b"x"] * len(KEYS), None, 0, None, 3))
    assert len(pod.sent) == 1
    for shard in pod.shards:
        assert shard.asked
        assert all(pod.owner(key) == shard.number for key in shard.asked)
    assert pod.perform(lookup(pod.context, KEYS)).prefix == len(KEYS)
    assert len(pod.sent) == 2, "what all count to the same end is asked once"


def test_who_had_a_slot_before_is_asked_once_and_only_for_what_is_missing():
    previous = {slot: (slot + 1) % 4 for slot in range(1 << SLOTS_LOG2)}
    pod = evenly(previous=previous)
    here, there, nowhere = KEYS[0], KEYS[1], KEYS[2]
    pod.shards[pod.owner(here)].chunks[here] = b"1"
    pod.shards[pod.before(there)].chunks[there] = b"2"
    got = pod.perform(get(pod.context, [here, there, nowhere], [bytearray(1) for _ in range(3)], None))
    assert got.found == (True, True, False)
    for key, times in ((here, 1), (there, 2), (nowhere, 2)):
        assert sum(shard.asked.count(key) for shard in pod.shards) == times


def test_who_knows_a_later_map_is_asked_again_by_that_one_and_once():
    later = [(slot + 1) % 4 for slot in range(1 << SLOTS_LOG2)]
    pod = evenly(later=later)
    pod.shards[0].error = WrongEpoch("another's", 2)
    keys = [key for key in KEYS if pod.owner(key) == 0] + [key for key in KEYS if pod.owner(key) == 2]
    done = pod.perform(put(pod.context, keys, [b"x"] * len(keys), None, 0, None, 3))
    assert done.stored == len(keys)
    assert pod.followed == 1
    assert all(pod.shards[1].chunks.get(key) for key in keys if pod.owner(key) == 1)


def test_a_map_with_fewer_shards_that_comes_while_holders_are_asked_for():
    """Places of shards are those of one map: by another, the same numbers are others."""
    pod = FakePod([2] * 16, dict.fromkeys(range(16), 0), 3)
    places = pod.pod_map.shards[1:]
    pod.later = PodMap(bytes(16), 2, SLOTS_LOG2, places, [1] * 16, dict.fromkeys(range(8), 0))
    pod.shards[2].chunks = dict.fromkeys(KEYS, b"x")
    refuses = pod.shards[2].error = WrongEpoch("by a later map")
    refuses.epoch = 2
    take = pod.take

    def taken(step, shard):
        if isinstance(step, Follow):
            pod.shards[2].error = None
        return take(step, shard)

    pod.take = taken
    assert pod.perform(lookup(pod.context, KEYS)).prefix == len(KEYS)
    assert pod.followed == 1


def test_who_says_so_twice_is_not_asked_for_ever():
    pod = evenly()
    for shard in pod.shards:
        shard.error = WrongEpoch("another's", 2)
    with pytest.raises(WrongEpoch):
        pod.perform(get(pod.context, KEYS, [bytearray(1) for _ in KEYS], None))
    assert pod.followed == 1
    pod.shards[1].error = None
    got = pod.perform(get(pod.context, KEYS, [bytearray(1) for _ in KEYS], None))
    assert got.unanswered == sum(pod.owner(key) != 1 for key in KEYS)


def test_slots_of_nobody_are_misses():
    table = [NOBODY if slot % 2 else 0 for slot in range(1 << SLOTS_LOG2)]
    pod = FakePod(table, {}, 1)
    pod.perform(put(pod.context, KEYS, [b"x"] * len(KEYS), None, 0, None, 3))
    got = pod.perform(get(pod.context, KEYS, [bytearray(1) for _ in KEYS], None))
    owned = [key for key in KEYS if pod.owner(key) == 0]
    assert got.count == len(owned)
    assert got.unanswered == len(KEYS) - len(owned)


def test_an_error_of_one_shard_that_says_that_the_call_is_wrong_is_the_calls():
    pod = evenly()
    pod.shards[2].error = InvalidArgument("no")
    with pytest.raises(InvalidArgument):
        pod.perform(get(pod.context, KEYS, [bytearray(1) for _ in KEYS], None))


def test_memory_that_a_lost_shard_may_write_to_is_no_error_of_the_call():
    """Who is asked instead cannot use it: the chunks are misses, as all that a lost shard has."""
    pod = FakePod([0] * 8 + [1] * 8, {}, 2, later=[1] * 16)
    pod.tells = True
    pod.shards[0].error = ConnectionLost("gone")
    pod.shards[1].chunks = {key: b"x" for key in KEYS if pod.owner(key) == 1}
    lost = [key for key in KEYS if pod.owner(key) == 0]
    take = pod.take

    def taken(step, shard):
        if isinstance(step, Run) and any(key in lost for each in step.operations for key in each.keys):
            raise pod.shards[0].error if shard is pod.shards[0] else RegionError("may still be written to")
        return take(step, shard)

    pod.take = taken
    got = pod.perform(get(pod.context, KEYS, [bytearray(1) for _ in KEYS], None))
    assert (got.count, got.unanswered) == (len(KEYS) - len(lost), len(lost))
    assert pod.followed == 1
    with pytest.raises(RegionError):
        pod.perform(get(pod.context, KEYS, [bytearray(1) for _ in KEYS], None))


def test_a_lost_connection_is_tried_once_more_by_the_shards_own_call():
    pod = evenly()
    failures = iter([ConnectionLost("first")])
    shard = pod.shards[1]
    run = shard.run

    def once(operations):
        for failure in failures:
            raise failure
        run(operations)

    shard.run = once
    done = pod.perform(put(pod.context, KEYS, [b"x"] * len(KEYS), None, 0, None, 3))
    assert (done.stored, done.unanswered) == (len(KEYS), 0)


def lagging(pauses):
    """All slots of the first shard are the second's by now, which has not heard of it yet."""
    slots = range(1 << SLOTS_LOG2)
    pod = FakePod([1] * len(slots), dict.fromkeys(slots, 0), 2)
    pod.pod_map = PodMap(
        bytes(16), 7, SLOTS_LOG2, pod.pod_map.shards, [1] * len(slots), dict.fromkeys(slots, 0)
    )
    pod.router = Router(pod.pod_map, TENANT, NAMESPACE)
    pod.shards[1].error = WrongEpoch("the other's", 6)
    pod.lags = pauses
    return pod


def test_a_put_waits_a_moment_for_an_owner_that_has_not_heard_of_it():
    pod = lagging(3)
    done = pod.perform(put(pod.context, KEYS, [b"x"] * len(KEYS), None, 0, None, 3))
    assert done.stored == len(KEYS)
    assert (len(pod.paused), pod.followed) == (3, 0), "nobody has a later map"
    assert not pod.shards[0].chunks


def test_and_not_for_ever():
    pod = lagging(99)
    done = pod.perform(put(pod.context, KEYS, [b"x"] * len(KEYS), None, 0, None, 3))
    assert (done.failed, done.unanswered) == (len(KEYS), len(KEYS))
    assert sum(pod.paused) < 2


class LateNews(FakePod):
    """All slots pass from the first shard to the second, and front-ends hear of it after so many questions."""

    def __init__(self, questions):
        slots = 1 << SLOTS_LOG2
        super().__init__([0] * slots, {}, 2, later=[1] * slots)
        self.questions = questions
        self.heard_epoch = self.later.epoch

    def take(self, step, shard):
        if isinstance(step, Follow | CatchUp):
            self.questions -= 1
            if self.questions >= 0:
                return None
        return super().take(step, shard)


@pytest.mark.parametrize(
    "error",
    [WrongEpoch("the other's", 2), Unavailable("cannot be reached"), ConnectionLost("the shard stops")],
)
def test_a_put_waits_for_a_map_that_shards_follow_and_front_ends_do_not_yet(error):
    pod = LateNews(5)
    pod.shards[0].error = error
    done = pod.perform(put(pod.context, KEYS, [b"x"] * len(KEYS), None, 0, None, 3))
    assert (done.stored, done.unanswered) == (len(KEYS), 0)
    assert pod.shards[1].chunks.keys() == set(KEYS)
    pod = LateNews(99)
    pod.shards[0].error = error
    with pytest.raises(type(error)):
        pod.perform(put(pod.context, KEYS, [b"x"] * len(KEYS), None, 0, None, 3))
    assert sum(pod.paused) < 4


def test_it_does_not_wait_where_a_shard_has_gone_and_nothing_is_heard_of_another_map():
    pod = evenly()
    pod.shards[0].error = Unavailable("cannot be reached")
    done = pod.perform(put(pod.context, KEYS, [b"x"] * len(KEYS), None, 0, None, 3))
    assert done.unanswered == sum(pod.owner(key) == 0 for key in KEYS) > 0
    assert (pod.paused, pod.followed) == ([], 0)


def test_what_such_an_owner_cannot_have_yet_is_got_from_who_had_it_before():
    pod = lagging(99)
    pod.shards[0].chunks = dict.fromkeys(KEYS, b"x")
    got = pod.perform(get(pod.context, KEYS, [bytearray(1) for _ in KEYS], None))
    assert (got.count, got.unanswered, len(pod.paused)) == (len(KEYS), 0, 1)
    assert pod.perform(lookup(pod.context, KEYS)).prefix == len(KEYS)


def test_a_map_that_comes_in_force_meanwhile_does_not_mix_up_who_is_asked():
    """Another call may follow a later map while this one waits for answers: shards have other numbers then."""

    class Overtaken(FakePod):
        def take(self, step, shard):
            if isinstance(step, Together) and not self.sent:
                few = PodMap(bytes(16), 2, SLOTS_LOG2, self.pod_map.shards[:1], [0] * (1 << SLOTS_LOG2), {})
                self.router = Router(few, TENANT, NAMESPACE)
            return super().take(step, shard)

    pod = Overtaken([3] * (1 << SLOTS_LOG2), dict.fromkeys(range(1 << SLOTS_LOG2), 2), 4)
    for number in (2, 3):
        pod.shards[number].chunks.update(dict.fromkeys(KEYS[number : number + 1], b"x"))
    pod.shards[0].chunks[KEYS[3]] = b"x"
    found = pod.perform(lookup(pod.context, KEYS[2:4][::-1]))
    assert found.prefix == 1, "as the later map has it, by which all was asked again"


def test_a_delete_that_is_refused_in_part_is_not_begun_anew():
    """It would say of what it has deleted that it was not there."""
    pod = evenly()
    keys = [next(key for key in KEYS if pod.owner(key) == number) for number in (0, 1)]
    for number, key in enumerate(keys):
        pod.shards[number].chunks[key] = b"x"

    def refuse(operations):
        for operation in operations:
            operation.error = Stale("its ticket has expired, says its clock")
        raise operations[0].error

    pod.shards[1].run = refuse
    with pytest.raises(Unauthenticated) as raised:
        pod.perform(delete(pod.context, keys))
    assert not isinstance(raised.value, Stale)
    assert pod.shards[0].asked == keys[:1], "once"
    pod.shards[0].run = refuse
    with pytest.raises(Stale):
        pod.perform(delete(pod.context, keys))
