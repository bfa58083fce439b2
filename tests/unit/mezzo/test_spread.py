"""Calls over the shards of a pod, against what one store that has all their chunks would answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from mezzo.calls import (
    Run,
    acquire,
    delete,
    lookup,
    release,
    renew,
    stat,
)
from mezzo.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidArgument,
    RegionError,
    Unavailable,
)
from mezzo.moves import get, put
from mezzo.placement.rendezvous import NOBODY
from mezzo.results import PutState
from tests.unit.mezzo.played_pod import (
    KEYS,
    SLOTS_LOG2,
    FakePod,
    answering,
    evenly,
    nobody_answers,
    pods,
    prefixes,
    present,
)


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


@pytest.mark.parametrize("odd", [None, "missing", "shorter", "mute"])
def test_what_was_got_is_told_in_the_order_of_the_call(odd):
    """Whether all is there and equally long, for which nothing has to be put in order, or one chunk is another case."""
    pod = evenly()
    contents = {key: b"%04d" % number for number, key in enumerate(KEYS)}
    if odd == "shorter":
        contents[KEYS[5]] = b"5"
    for key, content in contents.items():
        pod.shards[pod.owner(key)].chunks[key] = content
    if odd == "missing":
        del contents[KEYS[5]], pod.shards[pod.owner(KEYS[5])].chunks[KEYS[5]]
    if odd == "mute":
        pod.shards[pod.owner(KEYS[5])].error = Unavailable("gone")
    mute = [key for key in KEYS if not answering(pod, pod.owner(key))]
    contents = {key: content for key, content in contents.items() if key not in mute}
    targets = [bytearray(4) for _ in KEYS]
    got = pod.perform(get(pod.context, KEYS, targets, None))
    assert got.found == tuple(key in contents for key in KEYS)
    assert got.lengths == tuple(len(contents.get(key, b"")) for key in KEYS)
    assert (got.count, got.unanswered) == (len(contents), len(mute))
    assert got.bytes == sum(map(len, contents.values()))
    for key, target in zip(KEYS, targets, strict=True):
        content = contents.get(key, b"")
        assert target == content.ljust(4, b"\0")
