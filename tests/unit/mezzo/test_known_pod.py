"""What a client knows of its pod: the map as it is told, and what it heard of later ones."""

import itertools

import pytest

from mezzo.errors import FormatError
from mezzo.placement.pod_map import PodMap, ShardPlace, difference, encode_difference, encode_map
from mezzo.pod import BEHIND_S_MAX, BEHIND_S_MIN, NO_MAP, KnownPod, MapHad, MapTold

POD = bytes(range(16))
SHARDS = [ShardPlace(bytes([number] * 16), f"node {number}", "", ("tcp://h:1",), 1) for number in (1, 2, 3)]


def pod_map(epoch, count=2, previous=None):
    return PodMap(POD, epoch, 4, SHARDS[:count], [slot % count for slot in range(16)], previous or {})


def step(base, later):
    return MapTold(difference=encode_difference(difference(base, later)))


FIRST, SECOND, THIRD = pod_map(1), pod_map(2, 3, {1: 0}), pod_map(3, 3)


@pytest.fixture
def known():
    return KnownPod(FIRST, encode_map(FIRST))


def test_it_says_which_map_it_has_and_takes_the_difference(known):
    assert known.had == MapHad(POD, 1)
    known.take(step(FIRST, SECOND))
    assert known.pod_map == SECOND
    known.take(step(SECOND, THIRD))
    assert known.pod_map == THIRD
    known.take(MapTold(as_had=True))
    assert (known.pod_map, known.had) == (THIRD, MapHad(POD, 3))
    known.take(MapTold(encode_map(FIRST)))
    assert known.pod_map == THIRD, "an earlier one, that was longer under way"


@pytest.mark.parametrize(
    "told", [step(SECOND, THIRD), MapTold(difference=b"none"), MapTold(difference=b"\x97\x02")]
)
def test_what_does_not_follow_from_its_map_makes_it_ask_for_all(known, told):
    with pytest.raises(FormatError):
        known.take(told)
    assert (known.pod_map, known.had) == (FIRST, NO_MAP)
    known.take(MapTold(encode_map(SECOND)))
    assert (known.pod_map, known.had) == (SECOND, MapHad(POD, 2))


def test_a_difference_that_somebody_else_took_already(known):
    told = step(FIRST, SECOND)
    known.take(told)
    known.take(told)
    assert (known.pod_map, known.had) == (SECOND, MapHad(POD, 2))


def test_who_hears_of_a_later_map_asks_and_one_does_at_a_time(known):
    assert not known.begin_asking(0.0)
    known.hear(1)
    assert not known.behind
    known.hear(2)
    assert known.behind
    assert known.begin_asking(0.0)
    assert not known.begin_asking(5.0), "somebody asks already"
    known.follow(SECOND)
    known.end_asking()
    assert not known.behind
    assert not known.begin_asking(5.0)


def test_what_nobody_can_give_is_asked_for_ever_less_often(known):
    known.hear(2)
    asked = []
    for tick in range(20_000):
        if known.begin_asking(tick / 100):
            asked.append(tick / 100)
            known.end_asking()
    gaps = [later - before for before, later in itertools.pairwise(asked)]
    assert gaps[:3] == pytest.approx([BEHIND_S_MIN, 2 * BEHIND_S_MIN, 4 * BEHIND_S_MIN], abs=0.011)
    assert max(gaps) == pytest.approx(BEHIND_S_MAX)
    known.hear(3)
    assert known.begin_asking(200.0), "that is news"


def test_a_pod_that_was_made_anew_counts_its_maps_from_the_beginning(known):
    """A node whose shards are others now, or metadata that were lost: nobody follows the former pod's maps any more."""
    known.take(step(FIRST, SECOND))
    known.hear(7)
    anew = PodMap(bytes(reversed(POD)), 1, 4, SHARDS[:1], [0] * 16, {})
    known.take(MapTold(encode_map(anew)))
    assert (known.pod_map, known.had) == (anew, MapHad(anew.pod, 1))
    assert not known.behind
    known.hear(2)
    assert known.behind


def test_what_came_back_is_remembered_of_shards_of_the_map_alone(known):
    known.follow(pod_map(2, 3))
    assert known.came(SHARDS[2].id) == 2
    known.follow(pod_map(3, 2))
    known.follow(pod_map(4, 2))
    assert known.came(SHARDS[2].id) == 0


def test_who_was_gone_over_a_map_that_was_not_seen_came_back(known):
    """Its slots are the same as before, and another had them last."""
    there, without = pod_map(5, 3), pod_map(6, 2)
    again = PodMap(POD, 7, there.slots_log2, there.shards, there.table, {
        slot: without.table[slot] for slot, owner in enumerate(there.table) if owner == 2
    })  # fmt: skip
    known.follow(there)
    joined = known.came(SHARDS[2].id)
    known.follow(again)
    assert (joined, known.came(SHARDS[2].id)) == (5, 7)
    assert known.came(SHARDS[0].id) == 0
    known.follow(PodMap(POD, 9, 4, again.shards, again.table, again.previous))
    assert known.came(SHARDS[2].id) == 7, "nothing is new in what it was given"
