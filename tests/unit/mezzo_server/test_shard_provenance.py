"""Second copies of which it is not sure that they are what the owner has: never given, and compared or pulled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from mezzo.errors import Unavailable, Unsupported
from mezzo.placement.rendezvous import NOBODY
from mezzo.protocol.frame import Frame
from mezzo.protocol.messages import (
    EPOCH_VERSION,
    Acquire,
    Acquired,
    Delete,
    Deleted,
    Get,
    Got,
    Hello,
    Kind,
    LookedUp,
    Lookup,
    Offer,
    Offered,
    Stat,
    Stated,
)
from mezzo_server.pod.moving import FORGET_S, Why
from mezzo_server.pod.refusals import Refusals
from tests.unit.mezzo_server.copies_rig import KEYS, Copies, two
from tests.unit.mezzo_server.moving_rig import SCOPE, TENANT, Member
from tests.unit.mezzo_server.shard_harness import FakeClient, data_of, get_tcp, put_tcp

KEY = KEYS[0]
FIRST, OTHER = data_of(KEY, 5000), data_of(b"other", 6000)


@pytest.fixture
def both() -> Iterator[Copies]:
    with two(gets_per_s=0.0) as both:
        yield both


def stored(member: Member, data: bytes, key: bytes = KEY) -> bool:
    client = member.client()
    done = put_tcp(client, {key: data})
    client.close()
    return done.stored_count == 1


def read(member: Member, key: bytes = KEY) -> bytes | None:
    client = member.client()
    got = get_tcp(client, [key])[0]
    client.close()
    return got


def had_once(both: Copies, data: bytes) -> None:
    """The second has these bytes from when it was the owner."""
    both.follow(5, owner=1, second=NOBODY)
    assert stored(both.second, data)
    both.follow(6)


def landing(both: Copies) -> Callable[[], None]:
    """What the owner has is at the second, whose store has not said so yet; what makes it say so."""
    service = both.second.shard.service
    put, ended = service.put, []

    def held(scope, chunks, done, **more):
        return put(scope, chunks, lambda outcome: ended.append(lambda: done(outcome)), **more)

    service.put = held
    assert stored(both.owner, FIRST)
    both.pair.step(20)
    service.put = put
    (end,) = ended
    return end


def evict(both: Copies, key: bytes = KEY) -> None:
    gone: list[bool] = []
    both.owner.shard.store.dismiss(SCOPE, [key], lambda: gone.append(True))
    assert gone


def test_what_a_second_has_from_when_it_was_owner_is_not_given_but_replaced(both):
    had_once(both, OTHER)
    assert stored(both.owner, FIRST)
    assert read(both.second) is None
    both.settle()
    assert read(both.second) == FIRST


def test_what_is_to_be_replaced_goes_when_the_other_has_come(both):
    had_once(both, OTHER)
    both.second.peers.spoil = True
    assert stored(both.owner, FIRST)
    both.settle()
    assert both.has(KEY) == 1
    assert read(both.second) is None
    both.follow(7, owner=1, second=NOBODY)
    assert read(both.second) == OTHER


def test_nothing_tells_that_it_is_there(both):
    had_once(both, OTHER)
    client = both.second.client()
    assert client.ask(Kind.LOOKUP, Lookup([KEY]), LookedUp).prefix == 0
    assert client.ask(Kind.ACQUIRE, Acquire([KEY], 1000), Acquired).prefix == 0
    assert client.ask(Kind.STAT, Stat([KEY]), Stated).chunks == [None]


def test_of_chunks_that_have_one_copy_nothing_is_given_at_a_second_for_a_client_with_an_older_map():
    with two(copies=1, gets_per_s=0.0) as both:
        had_once(both, OTHER)
        assert stored(both.owner, FIRST)
        assert read(both.second) is None
        client = both.second.client()
        assert client.ask(Kind.LOOKUP, Lookup([KEY]), LookedUp).prefix == 0
        both.follow(7, owner=0, second=1, before=1)
        assert read(both.second) == OTHER, "asked for as former owner"


def test_what_arrives_as_a_second_becomes_the_owner_stays(both):
    """A put of it was told meanwhile that it exists."""
    end = landing(both)
    both.follow(5, owner=1, second=NOBODY, before=0)
    assert not stored(both.second, FIRST)
    end()
    both.settle()
    assert read(both.second) == FIRST


def test_what_arrives_as_a_second_is_no_second_any_more_goes(both):
    end = landing(both)
    both.follow(5, second=2)
    end()
    both.settle()
    assert both.has(KEY) == 0


def test_a_region_gets_none_of_it(both):
    had_once(both, OTHER)
    client = both.second.shard.client(ticket=TENANT, version=EPOCH_VERSION)
    region = client.region(1, 16384)
    assert client.ask(Kind.GET, Get([KEY], region=1, targets=[[0, 8192]]), Got).count == 0
    assert region.read(0, 8192) == bytes(8192)
    region.close()


def test_what_is_the_same_is_given_once_it_was_compared_and_not_moved(both):
    had_once(both, FIRST)
    assert stored(both.owner, FIRST)
    both.settle()
    assert read(both.second) == FIRST
    numbers = both.second.numbers()
    assert numbers["pod_moves_dropped_same"] == 1
    assert "pod_moved_chunks_copy" not in numbers
    assert all(not with_bytes for with_bytes, _ in both.second.peers.asked)


def test_what_lives_longer_at_the_second_is_not_the_same(both):
    had_once(both, FIRST)
    client = both.owner.client()
    put_tcp(client, {KEY: FIRST}, ttl_ms=60_000)
    both.settle()
    assert both.second.numbers()["pod_moved_chunks_copy"] == 1
    assert both.second.shard.store.info(SCOPE, KEY).expiry_ms > 0


def test_what_its_owner_does_not_have_stays_for_when_the_second_is_owner_again(both):
    had_once(both, OTHER)
    assert read(both.second) is None
    both.settle()
    assert read(both.second) is None
    both.follow(7, owner=1, second=NOBODY)
    assert read(both.second) == OTHER


def test_a_former_owner_gives_what_it_had_though_it_is_second_now(both):
    both.follow(5, owner=1, second=NOBODY)
    assert stored(both.second, OTHER)
    both.follow(6, owner=0, second=1, before=1)
    assert read(both.second) == OTHER, "asked for as former owner"
    both.follow(7)
    assert read(both.second) is None


def test_a_tenure_lasts_over_maps_that_change_something_else(both):
    assert stored(both.owner, FIRST)
    both.settle()
    for epoch in (5, 6, 7):
        both.follow(epoch)
        assert read(both.second) == FIRST
    both.follow(9)
    assert read(both.second) is None, "it may have been another's in between"
    both.settle()
    assert read(both.second) == FIRST


def test_what_was_on_its_way_as_the_tenure_ended_does_not_come(both):
    holding = [True]
    both.second.peers.hold = lambda with_bytes: with_bytes and holding[0]
    assert stored(both.owner, FIRST)
    both.pair.step(20)
    both.follow(6)
    holding[0] = False
    both.settle()
    assert both.has(KEY) == 0
    assert both.second.numbers()["pod_moves_dropped_lost"] == 1


def test_what_was_wanted_from_a_former_owner_is_not_the_owners(both):
    both.peers.error = Unavailable("gone")
    assert stored(both.owner, FIRST)
    assert both.second.puller.want(*SCOPE[:2], [KEY], both.owner.id, Why.COPY) == 1
    both.follow(5, owner=2, second=1, before=0)
    both.settle()
    assert both.second.numbers()["pod_moves_dropped_lost"] == 1
    assert both.has(KEY) == 0


def test_what_was_being_stored_as_the_tenure_ended_is_not_given(both):
    assert stored(both.owner, FIRST)
    for _ in range(60):  # the second's device does nothing
        both.pair.loop.run_until_complete(asyncio.sleep(0))
        both.owner.shard.settle()
    assert both.second.shard.store.busy
    both.second.puller.begins(both.owner.id)
    both.second.shard.settle()
    assert read(both.second) is None, "nobody has looked at it yet"
    both.settle()
    assert both.second.numbers()["pod_moves_dropped_lost"] == 1
    assert both.has(KEY) == 0 or read(both.second) == FIRST, "pulled again, since it was read"


def test_what_the_owner_evicted_is_not_put_anew_before_the_second_has_let_go_of_it(both):
    assert stored(both.owner, FIRST)
    both.settle()
    both.peers.error = Unavailable("gone")
    evict(both)
    both.settle()
    assert read(both.second) == FIRST, "nothing else was put"
    assert not stored(both.owner, OTHER)
    assert stored(both.owner, data_of(KEYS[1], 5000), KEYS[1]), "others are"
    assert both.numbers(both.owner)["pod_puts_barred"] == 1
    both.peers.error = None
    both.pair.clock.now += 1
    both.pair.step(10)
    assert both.has(KEY) == 0
    assert stored(both.owner, OTHER)
    both.settle()
    assert read(both.second) == OTHER


def test_a_pull_under_way_of_what_is_evicted_does_not_come(both):
    holding = [True]
    both.second.peers.hold = lambda with_bytes: with_bytes and holding[0]
    assert stored(both.owner, FIRST)
    both.pair.step(20)
    evict(both)
    both.pair.step(20)
    holding[0] = False
    assert stored(both.owner, OTHER)
    both.settle()
    assert read(both.second) in (None, OTHER)


def test_an_owner_that_starts_puts_nothing_before_its_seconds_know(both):
    assert stored(both.owner, FIRST)
    both.settle()
    evict(both)  # and is killed before it told
    both.peers.error = Unavailable("gone")
    both.begin(both.owner)
    both.follow(5)
    both.settle()
    assert read(both.second) == FIRST
    assert not stored(both.owner, OTHER)
    both.peers.error = None
    both.pair.clock.now += 1
    both.settle()
    assert read(both.second) is None
    assert stored(both.owner, OTHER)
    both.settle()
    assert read(both.second) == OTHER


def test_a_second_that_keeps_no_copies_is_waited_for_by_nobody(both):
    both.peers.error = Unsupported("an older release, or it moves nothing")
    both.begin(both.owner)
    both.follow(5)
    assert not stored(both.owner, FIRST)
    both.settle()
    assert stored(both.owner, FIRST)


def test_a_second_that_moves_nothing_gives_nothing_of_others_slots(both):
    had_once(both, OTHER)
    service = both.second.shard.service
    copies, service.copies = service.copies, None
    assert read(both.second) is None
    service.copies = copies


def test_copies_from_before_an_owner_started_are_compared(both):
    assert stored(both.owner, FIRST)
    both.settle()
    both.begin(both.owner)
    both.follow(5)
    both.settle()
    assert read(both.second) is None
    both.settle()
    assert read(both.second) == FIRST
    assert both.second.numbers()["pod_moves_dropped_same"] == 1


def client_of_map(member: Member, epoch: int) -> FakeClient:
    client = FakeClient(member.shard, shm=False)
    member.shard.clients.append(client)
    hello = Hello(EPOCH_VERSION, EPOCH_VERSION, "test", "default", TENANT, epoch)
    client.session.receive(Frame(Kind.HELLO, 0, hello))
    client.turn()
    return client


def test_a_delete_by_an_older_map_may_not_have_been_at_the_second(both):
    assert stored(both.owner, FIRST)
    both.settle()
    both.peers.error = Unavailable("gone")
    late = client_of_map(both.owner, 3)
    assert late.ask(Kind.DELETE, Delete([KEY]), Deleted).count == 1
    assert not stored(both.owner, OTHER)
    both.peers.error = None
    both.pair.clock.now += 1
    both.settle()
    assert stored(both.owner, OTHER)
    both.settle()
    assert read(both.second) == OTHER


def test_a_delete_by_the_map_that_is_followed_keeps_no_put_waiting(both):
    assert stored(both.owner, FIRST)
    both.settle()
    both.peers.error = Unavailable("gone")
    client, second = client_of_map(both.owner, 4), client_of_map(both.second, 4)
    assert second.ask(Kind.DELETE, Delete([KEY]), Deleted).count == 1
    assert client.ask(Kind.DELETE, Delete([KEY]), Deleted).count == 1
    assert stored(both.owner, OTHER)
    assert read(both.second) is None


def test_a_second_that_was_killed_within_a_delete_does_not_keep_what_it_copied_since(both):
    assert stored(both.owner, FIRST)
    both.settle()
    client, second = client_of_map(both.owner, 4), client_of_map(both.second, 4)
    assert second.ask(Kind.DELETE, Delete([KEY]), Deleted).count == 1
    both.second.moves._forgotten = Refusals(FORGET_S, 8)  # of its former life
    assert read(both.second) is None
    both.settle()
    assert read(both.second) == FIRST
    assert client.ask(Kind.DELETE, Delete([KEY]), Deleted).count == 1
    both.settle()
    assert read(both.second) is None


def test_copies_from_before_two_were_asked_for_again_do_not_count(both):
    assert stored(both.owner, FIRST)
    both.settle()
    both.catalog(1)
    both.settle()
    evict(both)
    assert stored(both.owner, OTHER)
    both.catalog(2)
    both.settle()
    assert read(both.second) is None
    both.settle()
    assert read(both.second) == OTHER


def test_a_pod_of_one_copy_tells_nobody_and_bars_nothing():
    with two(copies=1, gets_per_s=0.0) as both:
        assert stored(both.owner, FIRST)
        evict(both)
        assert stored(both.owner, OTHER)
        both.settle()
        assert both.peers.told == []
        assert both.numbers(both.owner) == {}


def test_what_is_popular_is_given_by_its_second_only_as_long_as_its_owner_has_it():
    with two(copies=1) as both:
        assert stored(both.owner, FIRST)
        link = both.owner.peers.link(both.second)
        link.ask(Kind.OFFER, Offer(*SCOPE[:2], [KEY], 60_000, [5000]), Offered)
        both.settle()
        assert both.numbers(both.second) == {"pod_popular_bytes": 5000}
        assert read(both.second) == FIRST
        evict(both)
        both.settle()
        assert read(both.second) is None
        assert both.numbers(both.second) == {}
