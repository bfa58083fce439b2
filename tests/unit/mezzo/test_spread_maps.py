"""Calls over the shards of a pod whose map changes: what some have heard of and others have not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.calls import (
    CatchUp,
    Follow,
    Stale,
    Together,
    acquire,
    delete,
    lookup,
    release,
    stat,
)
from mezzo.errors import (
    ConnectionLost,
    Unauthenticated,
    Unavailable,
    WrongEpoch,
)
from mezzo.moves import get, put
from mezzo.placement.pod_map import PodMap
from mezzo.routing import Router
from tests.unit.mezzo.played_pod import (
    KEYS,
    NAMESPACE,
    SLOTS_LOG2,
    TENANT,
    FakePod,
    evenly,
    pods,
    prefixes,
)


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
