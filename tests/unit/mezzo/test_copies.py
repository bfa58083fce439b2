"""Calls over shards of which two may have a chunk: whom they ask, in which order, and what a lost shard costs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.calls import acquire, delete, lookup, release, stat
from mezzo.copies import AVOIDED_S, POPULAR_MAX, POPULAR_S, Copies
from mezzo.errors import DeadlineExceeded, Unavailable, WrongEpoch
from mezzo.moves import get, put
from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo.placement.rendezvous import NOBODY
from mezzo.protocol.messages import Welcome
from mezzo.results import PutState
from mezzo.routing import Router
from mezzo.spread import FORGOTTEN_S
from tests.unit.mezzo.played_pod import (
    KEYS,
    LIMITS,
    NAMESPACE,
    SLOTS_LOG2,
    TENANT,
    FakePod,
    prefixes,
    shard_id,
)

SLOTS = 1 << SLOTS_LOG2


def limits(copies: int = 2, *, popular: bool = False) -> Welcome:
    names = Welcome.__struct_fields__
    return Welcome(
        **{**{name: getattr(LIMITS, name) for name in names}, "copies": copies, "popular": popular}
    )


class Pod(FakePod):
    """One whose chunks may have second copies; time passes as tests want."""

    def __init__(self, table, seconds, previous=None, *, count=4, kept=2, popular=False, later=None):
        super().__init__(table, previous or {}, count)
        places = [ShardPlace(shard_id(number), "node", "", ("tcp://h:1",), 1) for number in range(count)]
        self.pod_map = PodMap(bytes(16), 1, SLOTS_LOG2, places, table, previous or {}, seconds)
        self.later = later and PodMap(bytes(16), 2, SLOTS_LOG2, places, table, previous or {}, later)
        self.router = Router(self.pod_map, TENANT, NAMESPACE)
        self.copies.met(limits(kept, popular=popular))
        self.now = 1000.0
        self.context = self.context._replace(now=lambda: self.now)

    def second(self, key):
        second = self.router.seconds([key])[0]
        return None if second == NOBODY else second

    def holders(self, key):
        return [each for each in (self.second(key), self.owner(key), self.before(key)) if each is not None]

    def has(self, number, *keys):
        for key in keys:
            self.shards[number].chunks[key] = b"x" * (KEYS.index(key) + 1)

    def there(self, key):
        """Whether one of those that may have a chunk has it and answers."""
        return any(
            self.shards[holder].error is None and key in self.shards[holder].chunks
            for holder in self.holders(key)
        )

    def asked(self, key):
        """The shards that were asked for a chunk so far."""
        return sorted({shard.number for shard in self.shards if key in shard.asked})


def evenly(**more):
    """Each shard owns every fourth slot, and the next one is its second."""
    table = [slot % 4 for slot in range(SLOTS)]
    return Pod(table, [(slot + 1) % 4 for slot in range(SLOTS)], **more)


@st.composite
def pods(draw):
    """Slots have moved about, second copies are there or not, and one shard at most does not answer."""
    numbers = st.integers(0, 3)
    table = draw(st.lists(numbers, min_size=SLOTS, max_size=SLOTS))
    steps = draw(st.lists(st.integers(0, 3), min_size=SLOTS, max_size=SLOTS))
    seconds = [(owner + step) % 4 if step else NOBODY for owner, step in zip(table, steps, strict=True)]
    previous = draw(st.dictionaries(st.integers(0, SLOTS - 1), numbers, max_size=6))
    pod = Pod(table, seconds, previous)
    for key in KEYS:
        for holder in draw(st.sets(st.sampled_from(sorted(set(pod.holders(key)))))):
            pod.has(holder, key)
    for dead in draw(st.sets(numbers, max_size=1)):
        pod.shards[dead].error = draw(st.sampled_from([Unavailable("gone"), DeadlineExceeded("slow")]))
    for slow in draw(st.sets(numbers, max_size=2)):
        pod.copies.begin(shard_id(slow), 5)
    for silent in draw(st.sets(numbers, max_size=2)):
        pod.copies.silent(shard_id(silent), pod.now)
    return pod


def nobody_answers(pod, keys):
    return all(
        pod.shards[holder].error is not None
        for key in keys
        for holder in (pod.owner(key), pod.second(key))
        if holder is not None
    )


@settings(max_examples=40)
@given(pods(), prefixes)
def test_a_get_finds_what_one_of_two_has_whichever_was_asked_first(pod, keys):
    call = get(pod.context, keys, [bytearray(len(KEYS)) for _ in keys], None)
    if nobody_answers(pod, keys):
        with pytest.raises((Unavailable, DeadlineExceeded)):
            pod.perform(call)
        return
    got = pod.perform(call)
    assert got.found == tuple(pod.there(key) for key in keys)
    unsure = [
        key
        for key in keys
        if not pod.there(key)
        and any(
            pod.shards[each].error is not None
            for each in (pod.owner(key), pod.second(key))
            if each is not None
        )
    ]
    assert got.unanswered == len(unsure)
    for key in keys:
        assert max(shard.asked.count(key) for shard in pod.shards) <= 2, "nobody is asked for the same again"


@settings(max_examples=40)
@given(pods(), prefixes)
def test_a_prefix_goes_on_over_what_only_the_other_has(pod, keys):
    prefix = (*[pod.there(key) for key in keys], False).index(False)
    try:
        found = pod.perform(lookup(pod.context, keys))
    except (Unavailable, DeadlineExceeded):
        assert prefix == 0 or nobody_answers(pod, keys)
        return
    assert found.prefix == prefix
    assert found.bytes == sum(KEYS.index(key) + 1 for key in keys[:prefix])


@settings(max_examples=40)
@given(pods(), prefixes)
def test_leases_are_on_the_prefix_alone_and_each_at_who_granted_it(pod, keys):
    prefix = (*[pod.there(key) for key in keys], False).index(False)
    try:
        grant = pod.perform(acquire(pod.context, keys, 5.0))
    except (Unavailable, DeadlineExceeded):
        assert prefix == 0
        assert pod.leased() == []
        return
    assert grant.found.prefix == prefix
    assert pod.leased() == sorted(keys[:prefix])
    assert pod.perform(release(grant.leases, grant.over)) == bool(prefix)
    assert pod.leased() == []


@settings(max_examples=40)
@given(pods(), prefixes)
def test_what_is_deleted_is_nowhere_any_more_or_the_call_fails(pod, keys):
    told = None
    try:
        told = pod.perform(stat(pod.context, keys))
        assert [chunk is not None for chunk in told] == [pod.there(key) for key in keys]
    except (Unavailable, DeadlineExceeded):
        assert nobody_answers(pod, keys)
    needed = {each for key in keys for each in (pod.owner(key), pod.second(key)) if each is not None}
    call = delete(pod.context, keys)
    if any(pod.shards[each].error is not None for each in needed):
        with pytest.raises((Unavailable, DeadlineExceeded)):
            pod.perform(call)
        return
    had = []
    for key in keys:
        both = [holder for holder in (pod.owner(key), pod.before(key)) if holder is not None]
        had.append(any(pod.shards[each].error is None and key in pod.shards[each].chunks for each in both))
    done = pod.perform(call)
    assert told is not None
    assert done.deleted == tuple(had), "as the owner says"
    assert not any(pod.there(key) for key in keys)


def of(pod, owner):
    """Keys that a shard owns."""
    return [key for key in KEYS if pod.owner(key) == owner]


def read(pod, keys):
    return pod.perform(get(pod.context, keys, [bytearray(len(KEYS)) for _ in keys], None))


def test_a_lost_shard_costs_nothing_where_another_has_copies():
    pod = evenly()
    keys = of(pod, 0)
    for number in (0, 1):
        pod.has(number, *keys)
    pod.shards[0].error = Unavailable("gone")
    assert pod.perform(lookup(pod.context, keys)).prefix == len(keys)
    pod.copies.follow(())  # forget that it did not answer
    assert pod.perform(acquire(pod.context, keys, 5.0)).found.prefix == len(keys)
    pod.copies.follow(())
    assert all(pod.perform(stat(pod.context, keys)))
    pod.copies.follow(())
    assert read(pod, keys).found == (True,) * len(keys)
    pod.sent.clear()
    assert read(pod, keys).unanswered == 0
    assert pod.sent == [[shard_id(1)]], "who did not answer a moment ago is not waited for again"
    pod.now += AVOIDED_S
    pod.shards[0].error = None
    pod.shards[0].asked.clear()
    assert read(pod, keys).found == (True,) * len(keys)
    assert pod.shards[0].asked, "and after that it is tried"


def test_a_put_is_its_owners_alone():
    pod = evenly()
    done = pod.perform(put(pod.context, KEYS, [b"x"] * len(KEYS), None, 0, None, 3))
    assert set(done.states) == {PutState.STORED}
    assert all(pod.asked(key) == [pod.owner(key)] for key in KEYS)


def test_the_less_loaded_of_two_is_asked():
    pod = evenly()
    keys = of(pod, 0)
    for number in (0, 1):
        pod.has(number, *keys)
    for _ in range(3):
        assert read(pod, keys[:1]).count == 1
    assert pod.asked(keys[0]) == [0], "the owner, where both have as much to do"
    under_way = pod.copies.begin(shard_id(0), 8)
    read(pod, [keys[1]])
    assert pod.asked(keys[1]) == [1], "the other, where the owner has more under way"
    pod.copies.end(under_way, 8, 8 * 0.001)
    for _ in range(20):  # and where chunks took longer there
        pod.copies.end(pod.copies.begin(shard_id(0), 1), 1, 0.01)
    read(pod, [keys[2]])
    assert pod.asked(keys[2]) == [1]


def test_a_second_that_owned_the_slot_before_comes_after_the_owner():
    """It may have been put there what the owner has not, and has other bytes in the place of."""
    table, seconds = [slot % 4 for slot in range(SLOTS)], [(slot + 1) % 4 for slot in range(SLOTS)]
    pod = Pod(table, seconds, dict(enumerate(seconds)))
    keys = of(pod, 0)
    for number in (0, 1):
        pod.has(number, *keys)
    pod.copies.begin(shard_id(0), 8)
    assert read(pod, keys[:1]).count == 1
    assert pod.asked(keys[0]) == [0], "however much it has to do"
    pod.shards[0].chunks.clear()
    assert read(pod, [keys[1]]).count == 1
    assert pod.asked(keys[1]) == [0, 1]
    pod.copies.silent(shard_id(0), pod.now)
    assert read(pod, [keys[2]]).count == 1
    assert pod.asked(keys[2]) == [1]


def test_a_call_of_many_chunks_is_shared_out_between_two():
    pod = evenly()
    keys = of(pod, 0)
    for number in (0, 1):
        pod.has(number, *keys)
    read(pod, keys)
    shares = [len(pod.shards[number].asked) for number in (0, 1)]
    assert max(shares) - min(shares) <= 2


def test_where_no_chunk_has_two_copies_nobody_else_is_asked():
    pod = evenly(kept=1)
    pod.shards[0].error = Unavailable("gone")
    got = read(pod, KEYS)
    assert got.unanswered == len(of(pod, 0))
    assert all(pod.asked(key) in ([], [pod.owner(key)]) for key in KEYS)
    pod.shards[0].error = None
    pod.perform(delete(pod.context, KEYS))
    assert all(pod.asked(key) == [pod.owner(key)] for key in KEYS)


def test_what_the_owner_calls_popular_is_read_from_both_in_turn_for_a_while():
    pod = evenly(kept=1, popular=True)
    key, plain = of(pod, 0)[:2]
    for number in (0, 1):
        pod.has(number, key, plain)
    pod.shards[0].popular = {key}
    for _ in range(6):
        read(pod, [key])
        read(pod, [plain])
    counts = [shard.asked.count(key) for shard in pod.shards]
    assert counts[0] + counts[1] == 6
    assert min(counts[:2]) >= 2
    assert pod.asked(plain) == [0]
    pod.shards[0].popular = set()
    pod.now += POPULAR_S
    for shard in pod.shards:
        shard.asked.clear()
    for _ in range(4):
        read(pod, [key])
    assert pod.asked(key) == [0], "it is not popular any more: the owner has to say so"


def test_who_may_have_a_popular_chunk_is_told_of_its_end_whether_we_know_of_it_or_not():
    pod = evenly(kept=1, popular=True)
    key = of(pod, 0)[0]
    for number in (0, 1):
        pod.has(number, key)
    assert pod.perform(delete(pod.context, [key])).count == 1
    assert not any(key in shard.chunks for shard in pod.shards)


def test_deletes_go_against_the_way_that_chunks_go():
    pod = evenly(previous={slot: (slot + 2) % 4 for slot in range(SLOTS)})
    key = of(pod, 0)[0]
    for number in (0, 1, 2):
        pod.has(number, key)
    pod.perform(delete(pod.context, [key]))
    assert pod.sent == [[shard_id(1)], [shard_id(0)], [shard_id(2)]]


def test_the_owner_is_not_told_where_the_second_did_not_answer():
    pod = evenly()
    key = of(pod, 0)[0]
    pod.has(0, key)
    pod.shards[1].error = Unavailable("gone")
    with pytest.raises(Unavailable):
        pod.perform(delete(pod.context, [key]))
    assert pod.shards[0].asked == []


def test_a_delete_by_an_older_map_begins_anew_by_the_later_one():
    later = [(slot + 2) % 4 for slot in range(SLOTS)]
    pod = evenly(later=later)
    key = of(pod, 0)[0]
    pod.has(0, key)
    pod.has(2, key)
    pod.tells = True
    assert pod.perform(delete(pod.context, [key])).count == 1
    assert pod.followed == 1
    assert pod.sent == [[shard_id(1)], [shard_id(0)], [shard_id(2)]]
    assert not any(key in shard.chunks for shard in pod.shards)


def test_what_is_put_while_a_delete_hears_of_a_later_map_stays():
    pod = evenly(later=[(slot + 2) % 4 for slot in range(SLOTS)])
    key = of(pod, 0)[0]
    pod.has(0, key)
    pod.tells = True
    pod.shards[2].before_run = lambda: pod.has(0, key)
    assert pod.perform(delete(pod.context, [key])).count == 1
    assert key in pod.shards[0].chunks, "the owner was told once"


def test_of_two_that_delete_a_chunk_at_a_time_one_has_done_it():
    pod = evenly()
    key = of(pod, 0)[0]
    for number in (0, 1):
        pod.has(number, key)
    others = []

    def meanwhile():
        pod.shards[0].before_run = None
        others.append(pod.perform(delete(pod.context, [key])).count)

    pod.shards[0].before_run = meanwhile
    mine = pod.perform(delete(pod.context, [key])).count
    assert [mine, *others] == [0, 1]


def test_a_second_that_has_not_heard_of_the_map_yet_is_waited_for():
    pod = evenly()
    pod.router = Router(
        PodMap(bytes(16), 2, SLOTS_LOG2, pod.pod_map.shards, pod.pod_map.table, {}, pod.pod_map.seconds),
        TENANT,
        NAMESPACE,
    )
    key = of(pod, 0)[0]
    pod.has(0, key)
    pod.shards[1].error = WrongEpoch("not mine", 1)
    pod.lags = 1
    assert pod.perform(delete(pod.context, [key])).count == 1
    assert pod.sent == [[shard_id(1)], [shard_id(1)], [shard_id(0)]]


def test_a_second_that_was_told_long_before_the_owner_is_told_again():
    pod = evenly()
    key = of(pod, 0)[0]
    pod.has(0, key)

    def later():
        pod.now += FORGOTTEN_S + 1

    pod.shards[0].before_run = later
    pod.perform(delete(pod.context, [key]))
    assert pod.sent == [[shard_id(1)], [shard_id(0)], [shard_id(1)]]


def test_what_is_kept_of_popular_chunks_is_bounded():
    copies = Copies()
    keys = [b"%d" % number for number in range(POPULAR_MAX + 10)]
    copies.are_popular(keys, 0.0)
    assert f"{POPULAR_MAX} popular" in repr(copies)
    router = evenly().router
    assert copies.seconds(router, keys[:10], 1.0) is None, "the first were forgotten"
    assert copies.seconds(router, keys[-1:], 1.0) == router.seconds(keys[-1:])
    assert copies.seconds(router, keys[-1:], POPULAR_S) is None
    assert "0 popular" in repr(copies)


def test_who_knows_nothing_of_seconds_asks_owners():
    pod = evenly()
    pod.router = Router(
        PodMap(bytes(16), 1, SLOTS_LOG2, pod.pod_map.shards, pod.pod_map.table, {}), TENANT, NAMESPACE
    )
    pod.has(1, of(pod, 0)[0])
    assert read(pod, of(pod, 0)).count == 0
    pod.shards[1].error = WrongEpoch("it is not asked", 1)
    assert pod.perform(delete(pod.context, of(pod, 0))).count == 0


def test_a_map_that_comes_while_copies_are_looked_for_does_not_mix_up_who_has_them():
    """Another call may follow it meanwhile: shards have other numbers then, and there may be more of them."""
    pod = evenly()
    keys = KEYS[:6]
    for key in keys:
        pod.has(pod.second(key), key)
    places = [ShardPlace(shard_id(number), "node", "", ("tcp://h:1",), 1) for number in (8, 0, 1, 2, 3)]
    old = pod.pod_map
    later = PodMap(
        bytes(16),
        2,
        SLOTS_LOG2,
        places,
        [owner + 1 for owner in old.table],
        {},
        [second + 1 for second in old.seconds],
    )
    asked = 0

    def run():
        nonlocal asked
        asked += 1
        if asked == when:
            pod.router = Router(later, TENANT, NAMESPACE)

    for when in range(1, 20):
        pod.router, asked = Router(old, TENANT, NAMESPACE), 0
        for shard in pod.shards:
            shard.before_run = run
        assert pod.perform(lookup(pod.context, keys)).prefix == len(keys), when


def test_what_was_under_way_at_a_shard_that_left_and_came_back_counts_for_nothing():
    copies, shard = Copies(), shard_id(0)
    under_way = copies.begin(shard, 5)
    copies.follow([shard_id(1)])
    copies.follow([shard, shard_id(1)])
    copies.end(under_way, 5, 0.1)
    pod = evenly()
    pod.copies = copies
    owners, seconds = [0] * 4, [1] * 4
    assert copies.choose(pod.router, KEYS[:4], owners, seconds, 0.0)[0] == 0
