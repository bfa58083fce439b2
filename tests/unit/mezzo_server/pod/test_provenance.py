"""Since when a shard is second for whom, and what follows for what it has."""

from __future__ import annotations

import pytest

from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo.placement.rendezvous import NOBODY
from mezzo_server.blockstore.api import Scope
from mezzo_server.pod import provenance
from mezzo_server.pod.provenance import Provenance
from mezzo_server.pod.standing import NOTHING, Share

POD = bytes(range(16))
SCOPE = Scope(b"t" * 16, b"n" * 16)
US, A, B = (bytes([number]) * 16 for number in (1, 2, 3))
LOG2 = 4
KEY = b"key"
SLOT = Share(1, LOG2, bytes(1 << LOG2)).slot(SCOPE, KEY)


def pod_map(
    epoch: int,
    owner: bytes,
    second: bytes | None,
    *,
    shards: tuple[bytes, ...] = (US, A, B),
    pod: bytes = POD,
) -> PodMap:
    places = [ShardPlace(each, f"n{each[0]}", "", (), 1) for each in shards]
    numbers = {each: number for number, each in enumerate(shards)}
    table, seconds = [numbers[owner]] * (1 << LOG2), [NOBODY] * (1 << LOG2)
    if second is not None:
        seconds[SLOT] = numbers[second]
    return PodMap(pod, epoch, LOG2, places, table, {}, seconds)


def parts_of(one: PodMap, previous: dict[int, int]):
    return one.shards, one.table, previous, one.seconds


class Second:
    def __init__(self, sequence: int = 100) -> None:
        self.of = Provenance(sequence)
        self.share = NOTHING

    def follow(self, epoch: int, owner: bytes, second: bytes | None, sequence: int, **more: object) -> None:
        self.share = Share.of(pod_map(epoch, owner, second, **more), US, self.share)  # type: ignore[arg-type]
        self.of.follow(self.share, sequence)

    def proves(self, sequence: int) -> bool:
        tenure = self.of.tenure(SCOPE, KEY)
        assert tenure is not None
        return self.of.is_proven(SCOPE, KEY, sequence, tenure)


@pytest.fixture
def second() -> Second:
    second = Second()
    second.follow(3, A, US, 200)
    return second


def test_what_was_put_since_the_shard_is_second_was_pulled_from_the_owner(second):
    assert [second.proves(sequence) for sequence in (99, 150, 199, 200, 1000)] == [False] * 3 + [True] * 2


def test_a_tenure_goes_on_as_long_as_every_map_says_so_whatever_numbers_shards_have(second):
    tenure = second.of.tenure(SCOPE, KEY)
    second.follow(4, A, US, 300, shards=(B, A, US))
    second.follow(5, A, US, 400, shards=(A, US))
    assert second.of.tenure(SCOPE, KEY) == tenure
    assert second.proves(200)


@pytest.mark.parametrize("between", [(B, US), (A, B), (US, A), (A, None)])
def test_another_owner_or_second_in_between_ends_it(second, between):
    second.follow(4, *between, 300)
    second.follow(5, A, US, 400)
    assert not second.proves(399)
    assert second.proves(400)


def test_a_map_that_was_not_followed_may_have_said_otherwise(second):
    second.follow(5, A, US, 300)
    assert not second.proves(299)


def test_a_membership_that_was_lost_ends_nothing_by_itself(second):
    second.of.follow(NOTHING, 300)
    assert second.proves(200)


def test_another_pod_ends_all(second):
    second.follow(1, A, US, 300, pod=bytes(16))
    assert not second.proves(299)


def test_an_owner_that_begins_anew_ends_its_own(second):
    second.of.begin(B, 300)
    assert second.proves(200)
    before = second.of.tenure(SCOPE, KEY)
    second.of.begin(A, 300)
    assert not second.proves(299)
    assert second.proves(300)
    second.of.begin(A, 300)
    assert second.of.tenure(SCOPE, KEY) != before, "though nothing was put in between"
    second.of.begin(None, 400)
    assert not second.proves(399)


def test_owners_beyond_those_that_are_told_apart_end_all(second, monkeypatch):
    monkeypatch.setattr(provenance, "OWNERS_MAX", 2)
    for number in range(4, 7):
        second.of.begin(bytes([number]) * 16, 300)
    assert not second.proves(299)


def test_what_was_compared_is_proven_for_as_long_as_it_is_the_same_and_the_tenure_lasts(second):
    tenure = second.of.tenure(SCOPE, KEY)
    second.of.compared(SCOPE, KEY, 150, tenure)
    assert second.proves(150)
    assert not second.proves(151)
    second.of.begin(A, 300)
    assert not second.proves(150)


def test_what_was_compared_is_kept_in_bounds(second, monkeypatch):
    monkeypatch.setattr(provenance, "COMPARED_MAX", 3)
    tenure = second.of.tenure(SCOPE, KEY)
    for key in (KEY, b"1", b"2", b"3"):
        second.of.compared(SCOPE, key, 150, tenure)
    assert not second.proves(150)
    assert second.of.is_proven(SCOPE, b"3", 150, tenure)


def test_what_is_being_stored_is_given_only_when_it_is_known_to_count(second):
    second.of.arrives(SCOPE, KEY)
    assert not second.proves(500)
    second.of.arrived(SCOPE, KEY)
    assert second.proves(500)


def test_of_maps_long_ago_it_is_not_kept_when_they_were_followed(second, monkeypatch):
    monkeypatch.setattr(provenance, "EPOCHS_MAX", 3)
    for epoch in range(4, 8):
        second.follow(epoch, A, US, 100 * epoch)
    assert not second.proves(499)
    assert second.proves(500), "when the oldest map that is known was"


def test_only_what_the_shard_is_nothing_but_second_for_is_doubted(second):
    assert second.of.held(SCOPE, [KEY, b"of another slot"]) == [(second.of.tenure(SCOPE, KEY), True), None]
    second.share = Share.of(PodMap(POD, 4, LOG2, *parts_of(pod_map(4, A, US), {SLOT: 0})), US, second.share)
    second.of.follow(second.share, 250)
    assert second.of.held(SCOPE, [KEY]) == [(second.of.tenure(SCOPE, KEY), False)], "it had the slot before"
    second.follow(5, US, A, 300)
    assert second.of.tenure(SCOPE, KEY) is None
    assert second.of.held(SCOPE, [KEY]) is None
