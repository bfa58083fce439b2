"""Second copies between two shards of a pod: what comes to the second, for how long, and what never comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from mezzo.errors import ErrorCode, Unavailable
from mezzo.placement.rendezvous import NOBODY
from mezzo.protocol.bitmap import unpack
from mezzo.protocol.frame import Frame
from mezzo.protocol.messages import (
    Delete,
    Deleted,
    Epoch,
    ErrorReply,
    Get,
    Got,
    Hello,
    Kind,
    Offer,
    Offered,
    Put,
    PutDone,
)
from mezzo_server.pod.heat import WINDOW_S
from mezzo_server.shard.copies import POPULAR_LIVES_S
from mezzo_server.tenancy.model import Limit, Namespace, Quota, Tenant
from tests.unit.mezzo_server.copies_rig import KEYS, RATE, Copies, two
from tests.unit.mezzo_server.moving_rig import (
    NAMESPACE,
    SCOPE,
    TENANT,
    catalog,
)
from tests.unit.mezzo_server.shard_harness import FakeClient, data_of, get_tcp, put_tcp

OFTEN = int(2 * RATE * WINDOW_S)


@pytest.fixture
def both() -> Iterator[Copies]:
    with two() as both:
        yield both


def test_what_is_put_has_a_second_copy_soon(both):
    both.put(*KEYS, ttl_ms=60_000, priority=6)
    both.settle()
    client = both.second.client()
    assert get_tcp(client, KEYS) == [data_of(key, 5000) for key in KEYS]
    info = both.second.shard.store.info(SCOPE, KEYS[0])
    assert (info.priority, info.position) == (6, 0)
    assert 0 < info.expiry_ms <= both.owner.shard.store.info(SCOPE, KEYS[0]).expiry_ms
    assert both.numbers(both.owner) == {"pod_offers": 6}
    assert both.second.numbers()["pod_moved_chunks_copy"] == 6
    assert both.peers.told == [KEYS], "together"


def test_a_client_is_told_at_its_hello_how_many_copies_there_are(both):
    def told(copies: int) -> tuple[int, bool]:
        both.catalog(copies)
        client = FakeClient(both.owner.shard, shm=False)
        both.owner.shard.clients.append(client)
        welcome = client.hello("default", TENANT)
        return welcome.copies, welcome.popular

    assert told(2) == (2, True)
    assert told(1) == (1, True)


def test_without_two_copies_nothing_is_told_or_pulled():
    with two(copies=1) as both:
        both.put(*KEYS)
        both.settle()
        assert both.peers.told == []
        client = both.second.client()
        assert get_tcp(client, KEYS) == [None] * 6
        both.settle()
        assert both.has(*KEYS) == 0


def test_a_namespace_may_say_otherwise_than_its_tenant(both):
    namespace = Namespace(id=NAMESPACE, tenant_id=TENANT, name="default", copies=1)
    for member in (both.owner, both.second):
        member.shard.service.catalog_is(catalog(Tenant(id=TENANT, name="t", copies=2), namespace))
    both.put(*KEYS)
    both.settle()
    assert both.has(*KEYS) == 0


def test_a_setting_counts_for_sessions_that_there_are(both):
    both.catalog(1)
    client = both.owner.client()
    both.put(KEYS[0], client=client)
    both.settle()
    assert both.has(KEYS[0]) == 0
    both.catalog(2)
    both.settle()
    both.put(*KEYS[:2], client=client)
    both.settle()
    assert both.has(*KEYS[:2]) == 2, "what was there already, too"


def test_a_session_is_told_of_another_number_before_its_next_answer(both):
    client = FakeClient(both.owner.shard, shm=False)
    both.owner.shard.clients.append(client)
    client.session.receive(Frame(Kind.HELLO, 0, Hello(1, 2, "test", "default", TENANT)))
    client.turn()
    both.put(KEYS[0], client=client)
    client.frames.clear()
    both.catalog(1)
    client.ask(Kind.GET, Get(KEYS[:1]), Got)
    client.ask(Kind.GET, Get(KEYS[:1]), Got)
    assert [frame.body for frame in client.frames if frame.kind is Kind.EPOCH] == [Epoch(4, 1)]
    old = both.owner.shard.client(ticket=TENANT)
    both.catalog(2)
    old.ask(Kind.GET, Get(KEYS[:1]), Got)
    assert not any(frame.kind is Kind.EPOCH for frame in old.frames), "an earlier release does not know it"


def test_what_was_not_told_of_comes_when_it_is_read_there(both):
    both.peers.error = Unavailable("gone")
    both.put(*KEYS)
    both.settle()
    assert both.has(*KEYS) == 0
    client = both.second.client()
    assert get_tcp(client, KEYS[:2]) == [None] * 2
    both.settle()
    assert both.has(*KEYS) == 2


def test_who_did_not_answer_is_told_again(both):
    both.peers.error = Unavailable("gone")
    both.put(*KEYS)
    both.settle()
    both.peers.error = None
    for _ in range(20):
        both.pair.clock.now += 1
        both.settle()
    assert both.has(*KEYS) == 6
    assert both.numbers(both.owner)["pod_offers_failed"] >= 1


def test_what_was_asked_for_before_it_was_put_is_pulled_when_it_is_told_of(both):
    client = both.second.client()
    assert get_tcp(client, KEYS) == [None] * 6
    both.settle()
    assert both.second.numbers()["pod_moves_dropped_absent"] == 6
    both.put(*KEYS)
    both.settle()
    assert both.has(*KEYS) == 6


def test_a_second_takes_no_puts(both):
    client = both.second.client()
    body = Put(KEYS[:1], [5000])
    assert client.fails(Kind.PUT, body).code == ErrorCode.WRONG_EPOCH
    both.put(*KEYS)
    both.settle()
    assert client.fails(Kind.PUT, body).code == ErrorCode.WRONG_EPOCH


def test_what_is_deleted_at_the_second_and_then_at_the_owner_does_not_come_back(both):
    both.put(*KEYS)
    both.settle()
    owner, second = both.owner.client(), both.second.client()
    assert second.ask(Kind.DELETE, Delete(KEYS), Deleted).count == 6
    # In between: it is read there, and told of once more, since the owner has it still.
    assert get_tcp(second, KEYS) == [None] * 6
    both.put(*KEYS)
    both.settle()
    assert both.has(*KEYS) == 0
    assert owner.ask(Kind.DELETE, Delete(KEYS), Deleted).count == 6
    both.settle()
    assert both.has(*KEYS) == 0
    assert both.pair.has(both.owner, *KEYS) == 0


def test_a_delete_ends_what_is_on_its_way(both):
    holding = [True]
    both.second.peers.hold = lambda with_bytes: with_bytes and holding[0]
    both.put(*KEYS)
    both.pair.step(20)
    second, owner = both.second.client(), both.owner.client()
    assert second.ask(Kind.DELETE, Delete(KEYS), Deleted).count == 0
    assert owner.ask(Kind.DELETE, Delete(KEYS), Deleted).count == 6
    holding[0] = False
    both.settle()
    assert both.has(*KEYS) == 0


def test_what_is_deleted_before_it_was_told_of_is_not(both):
    both.peers.error = Unavailable("gone")
    both.put(*KEYS)
    both.settle()
    owner = both.owner.client()
    owner.ask(Kind.DELETE, Delete(KEYS), Deleted)
    both.peers.error = None
    both.pair.clock.now += 30
    both.settle()
    assert both.peers.told == []


def test_an_owners_share_passes_to_its_second_which_has_it_at_once(both):
    both.put(*KEYS)
    both.settle()
    both.follow(5, owner=1, second=NOBODY)
    client = both.second.client()
    assert get_tcp(client, KEYS) == [data_of(key, 5000) for key in KEYS]
    done = put_tcp(client, {key: data_of(key, 5000) for key in KEYS})
    assert (done.exists_count, done.stored_count) == (6, 0)


def test_a_copy_is_its_tenants_bytes_and_no_more_than_it_may_have(both):
    quota = Quota(capacity_bytes=Limit(hard=4 * 8192))
    service = both.second.shard.service
    service.catalog_is(catalog(Tenant(id=TENANT, name="t", copies=2, quota=quota)))
    both.put(*KEYS[:2], length=8000)
    both.settle()
    assert service.store.space.live_bytes(TENANT) == 2 * 8192
    for key in KEYS[2:]:
        both.put(key, length=8000)
        both.settle()
    assert 0 < service.store.space.live_bytes(TENANT) <= 4 * 8192
    assert both.pair.has(both.owner, *KEYS) == 6


def test_only_the_owner_tells_a_second_and_only_of_its_own(both):
    link = both.owner.peers.link(both.second)
    body = Offer(TENANT, NAMESPACE, KEYS)
    both.follow(5, owner=0, second=NOBODY)
    assert link.ask(Kind.OFFER, body, ErrorReply).code == ErrorCode.WRONG_EPOCH
    both.follow(6, owner=1, second=0)
    assert link.ask(Kind.OFFER, body, ErrorReply).code == ErrorCode.WRONG_EPOCH
    client = both.second.client()
    assert client.ask(Kind.OFFER, body, ErrorReply).code == ErrorCode.DENIED
    both.follow(7)
    assert link.ask(Kind.OFFER, replace(body, lives_ms=5), ErrorReply).code == ErrorCode.INVALID
    unknown = link.ask(Kind.OFFER, replace(body, tenant=b"?" * 16), Offered)
    assert (unknown.count, unpack(unknown.there, 6)) == (0, (False,) * 6)


# What is popular.


@pytest.fixture
def popular() -> Iterator[Copies]:
    with two(copies=1) as both:
        both.put(*KEYS)
        yield both


def test_what_is_got_often_has_a_second_copy_for_a_while(popular):
    client = popular.owner.client()
    popular.read(client, KEYS[0], OFTEN)
    assert popular.has(*KEYS) == popular.has(KEYS[0]) == 1
    info = popular.second.shard.store.info(SCOPE, KEYS[0])
    assert info.priority == 0, "the first to go"
    ends_ms = popular.second.shard.store.now_ms + POPULAR_LIVES_S * 1000
    assert ends_ms - 1000 <= info.expiry_ms <= ends_ms
    assert popular.second.numbers()["pod_moved_chunks_popular"] == 1
    assert popular.numbers(popular.second) == {"pod_popular_bytes": 5000}
    popular.pair.clock.now += POPULAR_LIVES_S + 1
    popular.tick()
    assert popular.has(KEYS[0]) == 0
    assert popular.numbers(popular.second) == {}


def test_readers_are_told_once_the_second_has_it_and_as_long_as_it_is_popular(popular):
    client = popular.owner.client()
    popular.read(client, KEYS[0], OFTEN)
    assert not popular.hint(client, KEYS[0]), "the second did not say so yet"
    popular.pair.clock.now += 2.5
    popular.tick()
    assert popular.hint(client, KEYS[0])
    assert not popular.hint(client, KEYS[1])
    popular.read(client, KEYS[0], OFTEN // 2)
    assert popular.hint(client, KEYS[0]), "although half of them ask the other"
    for _ in range(3):
        popular.read(client, KEYS[1], 1)
    assert not popular.hint(client, KEYS[0])


def test_what_is_popular_stays_so_beyond_the_life_of_its_copy(popular):
    client = popular.owner.client()
    for _ in range(int(POPULAR_LIVES_S / WINDOW_S) + 2):
        popular.read(client, KEYS[0], OFTEN)
    popular.pair.clock.now += 2.5
    popular.tick()
    assert popular.has(KEYS[0]) == 1
    assert popular.second.numbers()["pod_moved_chunks_popular"] == 2


def test_a_delete_reaches_what_was_popular(popular):
    owner, second = popular.owner.client(), popular.second.client()
    popular.read(owner, KEYS[0], OFTEN)
    popular.pair.clock.now += 2.5
    popular.tick()
    assert second.ask(Kind.DELETE, Delete(KEYS[:1]), Deleted).count == 1
    assert owner.ask(Kind.DELETE, Delete(KEYS[:1]), Deleted).count == 1
    popular.read(owner, KEYS[0], OFTEN)
    assert popular.has(KEYS[0]) == 0
    assert not popular.hint(owner, KEYS[0])
    assert popular.numbers(popular.second) == {}


def test_copies_of_what_is_popular_have_their_room_and_no_more():
    with two(copies=1, popular_bytes=9999) as both:
        both.put(*KEYS)
        client = both.owner.client()
        for key in KEYS[:3]:
            for _ in range(OFTEN):
                client.ask(Kind.GET, Get([key]), Got)
        both.pair.clock.now += WINDOW_S
        both.tick()
        assert both.has(*KEYS) == 1
        numbers = both.numbers(both.second)
        assert numbers["pod_popular_bytes"] == 5000
        assert numbers["pod_popular_refused"] >= 2


def test_a_second_on_the_same_node_has_none_of_what_is_popular_and_all_that_is_asked_for(popular):
    popular.follow(5, one_node=True)
    client = popular.owner.client()
    popular.read(client, KEYS[0], OFTEN)
    assert popular.has(KEYS[0]) == 0
    popular.catalog(2)
    popular.put(*KEYS)
    popular.settle()
    assert popular.has(*KEYS) == 6


def test_where_nothing_is_to_be_popular_nothing_is_counted():
    with two(copies=1, gets_per_s=0.0) as both:
        both.put(*KEYS)
        client = FakeClient(both.owner.shard, shm=False)
        both.owner.shard.clients.append(client)
        assert client.hello("default", TENANT).popular is False
        both.read(client, KEYS[0], OFTEN)
        assert both.has(KEYS[0]) == 0


def test_a_put_that_is_told_exists_may_want_a_second_copy_still(both):
    both.peers.error = Unavailable("gone")
    both.put(*KEYS)
    both.settle()
    both.pair.clock.now += 100
    both.settle()
    both.peers.error = None
    done = put_tcp(both.owner.client(), {key: data_of(key, 5000) for key in KEYS})
    assert isinstance(done, PutDone)
    assert done.exists_count == 6
    both.settle()
    assert both.has(*KEYS) == 6


def test_nor_is_what_others_call_popular_kept_where_deletes_do_not_reach_it(popular):
    """A client that has heard last of a shard where nothing may be popular tells no second of its deletes."""
    popular._popular = 0.0, 0
    popular.begin(popular.second)
    client = popular.owner.client()
    popular.read(client, KEYS[0], OFTEN)
    assert popular.has(KEYS[0]) == 0
    assert "pod_popular_bytes" not in popular.numbers(popular.second)
