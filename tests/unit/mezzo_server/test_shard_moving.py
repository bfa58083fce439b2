"""Chunks that move from a slot's former owner: what comes, what it is then, and what never comes back."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from mezzo.errors import Busy, Unavailable
from mezzo.protocol.messages import Acquire, Acquired, Get, Got, Kind, Pull, Stat, Stated
from mezzo_server.pod.moving import PULLS_MAX, Why
from mezzo_server.pod.standing import Situation
from mezzo_server.shard.admission import PEERS
from mezzo_server.shard.puller import GROUP_BYTES
from mezzo_server.tenancy.keys import MasterKey, MasterKeys
from mezzo_server.tenancy.model import Limit, Namespace, Quota, Tenant
from tests.unit.mezzo_server.moving_rig import (
    NAMESPACE,
    OTHER_NAMESPACE,
    OTHER_TENANT,
    RATE,
    SCOPE,
    TENANT,
    Pair,
    a_pair,
    catalog,
)
from tests.unit.mezzo_server.shard_harness import MIB, data_of, get_tcp, put_tcp

KEYS = [b"chunk-%d" % number for number in range(6)]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with a_pair() as pair:
        yield pair


@pytest.mark.parametrize("kind", [Kind.LOOKUP, Kind.GET, Kind.ACQUIRE, Kind.STAT])
def test_what_a_read_missed_moves(pair, kind):
    pair.put(*KEYS)
    pair.moves()
    client = pair.new.client()
    # A miss at once; nobody waits for what moves.
    if kind is Kind.LOOKUP:
        assert pair.look(client, *KEYS) == 0
    elif kind is Kind.GET:
        assert client.ask(kind, Get(KEYS), Got).count == 0
    elif kind is Kind.ACQUIRE:
        assert client.ask(kind, Acquire(KEYS, 1000), Acquired).prefix == 0
    else:
        assert client.ask(kind, Stat(KEYS), Stated).chunks == [None] * 6
    pair.settle()
    assert pair.look(client, *KEYS) == 6
    assert get_tcp(client, KEYS) == [data_of(key, 5000) for key in KEYS]
    assert pair.new.numbers()["pod_moved_chunks_read"] == 6
    assert pair.new.numbers()["pod_moved_bytes_read"] == 6 * 5000
    assert pair.old.numbers()["pod_pulled_chunks"] == 6


def test_nothing_moves_for_what_was_not_read_or_did_not_change_hands(pair):
    pair.put(*KEYS)
    pair.moves()
    client = pair.new.client()
    put_tcp(client, {b"another": b"x" * 100})
    assert pair.look(client, b"another") == 1
    pair.settle()
    assert pair.new.peers.asked == []
    pair.follow(5, 1)
    assert pair.look(client, *KEYS) == 0
    pair.settle()
    assert pair.new.peers.asked == []


def test_it_stays_what_it_was(pair):
    client = pair.old.client()
    body = {KEYS[0]: data_of(KEYS[0], 9000), KEYS[1]: data_of(KEYS[1], 9000)}
    put_tcp(client, body, parts=[[4000, 5000]], position=7, ttl_ms=60_000, priority=6)
    was = pair.old.shard.store.info(SCOPE, KEYS[1])
    pair.clock.now += 20
    pair.moves()
    new = pair.new.client()
    pair.look(new, *KEYS[:2])
    pair.settle()
    now = pair.new.shard.store.info(SCOPE, KEYS[1])
    assert (now.parts, now.position, now.priority) == ((4000, 5000), 8, 6) == (was.parts, 8, was.priority)
    # Its life ends no later, and not much earlier.
    assert was.expiry_ms - 1000 <= now.expiry_ms <= was.expiry_ms
    assert get_tcp(new, KEYS[:2]) == list(body.values())
    pair.clock.now += 40.1
    assert pair.look(new, *KEYS[:2]) == 0


def test_what_the_source_does_not_have_is_asked_for_once(pair):
    pair.moves()
    client = pair.new.client()
    for _ in range(3):
        pair.look(client, *KEYS)
        pair.settle()
    assert pair.new.peers.asked == [(False, KEYS)]
    assert pair.new.numbers()["pod_moves_dropped_absent"] == 6


def test_bytes_that_do_not_check_are_not_stored(pair):
    pair.put(*KEYS)
    pair.moves()
    pair.new.peers.spoil = True
    client = pair.new.client()
    pair.look(client, *KEYS)
    pair.settle()
    assert pair.has(pair.new, *KEYS) == 0
    assert pair.new.numbers().get("pod_moved_chunks_read") is None


@pytest.mark.parametrize("at", ["before", "while it is looked for", "while it comes", "after"])
def test_what_was_deleted_does_not_come_back(pair, at):
    pair.put(KEYS[0])
    pair.moves()
    client = pair.new.client()
    held = {"while it is looked for": False, "while it comes": True}.get(at)
    pair.new.peers.hold = lambda with_bytes: with_bytes is held
    if at == "before":
        pair.delete(client, KEYS[0])
    pair.look(client, KEYS[0])
    if at == "after":
        pair.settle()
        assert pair.look(client, KEYS[0]) == 1
    elif at != "before":
        pair.step(20, 0.01)
        assert pair.new.numbers()["pod_moves_in_flight"] == 1
    if at != "before":
        assert pair.delete(client, KEYS[0]) == (at == "after")
    pair.new.peers.hold = lambda with_bytes: False
    pair.settle()
    assert pair.look(client, KEYS[0]) == 0
    pair.settle()
    # It is at the former owner still, which its client asks last, and may be put again at once.
    assert pair.has(pair.old, KEYS[0]) == 1
    assert pair.look(client, KEYS[0]) == 0
    assert put_tcp(client, {KEYS[0]: b"anew"}).stored_count == 1


def test_a_delete_in_the_turn_before_the_commit_wins(pair):
    """The bytes are here and checked; the delete comes before the store has them."""
    pair.put(KEYS[0])
    pair.moves()
    client = pair.new.client()
    pair.look(client, KEYS[0])
    pair.new.peers.hold = lambda with_bytes: with_bytes
    pair.step(20, 0.01)
    pair.new.peers.hold = lambda with_bytes: False
    pair.delete(client, KEYS[0])
    pair.settle()
    assert pair.has(pair.new, KEYS[0]) == 0
    assert pair.new.numbers()["pod_moves_dropped_deleted"] == 1


def test_so_many_deletes_that_they_cannot_be_told_apart_stop_all_movement_of_the_tenant(pair):
    pair.put(*KEYS)
    pair.moves()
    client = pair.new.client()
    many = [b"gone-%d" % number for number in range(4096)]
    for number in range(9):
        pair.new.puller.forget(SCOPE, [b"%d" % number + key for key in many])
    pair.look(client, *KEYS)
    pair.settle()
    assert pair.has(pair.new, *KEYS) == 0
    assert pair.new.numbers()["pod_moves_forgotten"] == 16384
    pair.clock.now += 301
    pair.look(client, *KEYS)
    pair.settle()
    assert pair.has(pair.new, *KEYS) == 6


@pytest.mark.parametrize("put", ["while it is looked for", "while it comes"])
def test_a_client_that_puts_it_meanwhile_wins(pair, put):
    pair.put(KEYS[0])
    pair.moves()
    client = pair.new.client()
    held = put == "while it comes"
    pair.new.peers.hold = lambda with_bytes: with_bytes is held
    pair.look(client, KEYS[0])
    pair.step(20, 0.01)
    assert put_tcp(client, {KEYS[0]: b"the client's"}).stored_count == 1
    pair.new.peers.hold = lambda with_bytes: False
    pair.settle()
    assert get_tcp(client, [KEYS[0]]) == [b"the client's"]
    assert pair.new.numbers()["pod_moves_dropped_there"] == 1


@pytest.mark.parametrize(
    ("what", "with_bytes"),
    [
        ("namespace purged", True),
        ("namespace deleted", False),
        ("tenant purged", False),
        ("tenant deleted", True),
    ],
)
def test_what_is_erased_does_not_come(pair, what, with_bytes):
    pair.put(*KEYS)
    pair.moves()
    client = pair.new.client()
    pair.new.peers.hold = lambda wanted: wanted is with_bytes
    pair.look(client, *KEYS)
    pair.step(20, 0.01)
    tenant, namespace = Tenant(id=TENANT, name="t"), Namespace(id=NAMESPACE, tenant_id=TENANT, name="default")
    if what == "namespace purged":
        namespace = replace(namespace, generation=1)
    elif what == "namespace deleted":
        namespace = replace(namespace, deleted=True)
    elif what == "tenant purged":
        tenant = replace(tenant, generation=1)
    else:
        tenant = replace(tenant, deleted=True)
    pair.new.shard.service.catalog_is(catalog(tenant, namespace))
    pair.new.peers.hold = lambda wanted: False
    pair.settle()
    assert pair.new.shard.store.report().chunks == 0
    assert pair.new.numbers()["pod_moves_dropped_erased"] == 6
    # Nor does a source that has not heard of it yet give it under another generation.
    if what.endswith("purged"):
        again = pair.new.client()
        pair.look(again, *KEYS)
        pair.settle()
        assert pair.new.shard.store.report().chunks == 0


@pytest.mark.parametrize(
    ("lost", "with_bytes"), [("slot", True), ("slot", False), ("membership", True), ("it stops", False)]
)
def test_who_is_not_to_have_it_any_more_does_not_take_it(pair, lost, with_bytes):
    pair.put(*KEYS)
    pair.moves()
    client = pair.new.client()
    pair.new.peers.hold = lambda wanted: wanted is with_bytes
    pair.look(client, *KEYS)
    pair.step(20, 0.01)
    if lost == "slot":
        pair.follow(5, 0, 1)
    elif lost == "membership":
        pair.new.standing.take(Situation(reason="it had ended"))
    else:
        pair.new.standing.end()
    pair.new.peers.hold = lambda wanted: False
    pair.settle()
    assert pair.new.shard.store.report().chunks == 0
    assert pair.new.numbers()["pod_moves_dropped_lost"] == 6


def test_a_tenant_without_room_gets_nothing_more(pair):
    quota = Quota(capacity_bytes=Limit(0, 16 * 4096))
    for member in (pair.old, pair.new):
        member.shard.service.catalog_is(catalog(Tenant(id=TENANT, name="t", quota=quota)))
    pair.put(*KEYS)
    pair.moves()
    client = pair.new.client()
    held = {b"held-%d" % number: b"x" * 4096 for number in range(14)}
    assert put_tcp(client, held).stored_count == 14
    client.ask(Kind.ACQUIRE, Acquire(list(held), 60_000), Acquired)
    pair.look(client, *KEYS)
    pair.settle()
    assert pair.has(pair.new, *KEYS) <= 1
    assert pair.has(pair.new, *held) == 14
    assert pair.new.numbers()["pod_moves_dropped_quota"] >= 5


def test_a_tenants_rate_counts_what_moves(pair):
    quota = Quota(bytes_per_s=Limit(0, 10_000))
    for member in (pair.old, pair.new):
        member.shard.service.catalog_is(catalog(Tenant(id=TENANT, name="t", quota=quota)))
    pair.put(*KEYS[:2])
    pair.moves()
    client = pair.new.client()
    pair.look(client, KEYS[0])
    pair.settle(0)
    account = pair.new.shard.service.accounts.of(TENANT)
    assert account.bytes_total == 5000
    assert put_tcp(client, {b"more": b"x" * 4500}).stored_count == 1
    pair.look(client, KEYS[1])
    pair.settle(0)
    assert pair.new.numbers()["pod_moves_dropped_quota"] == 1


@pytest.mark.parametrize("where", ["the source is away", "no memory"])
def test_nobody_pays_for_what_does_not_come(pair, where):
    quota = Quota(bytes_per_s=Limit(0, 10_000))
    for member in (pair.old, pair.new):
        member.shard.service.catalog_is(catalog(Tenant(id=TENANT, name="t", quota=quota)))
    pair.put(KEYS[0])
    pair.moves()
    client = pair.new.client()
    ask = pair.new.peers.pull

    async def pull(shard, operation):
        if operation.places:
            raise Unavailable("it went away")
        await ask(shard, operation)

    pair.new.peers.pull = pull
    if where == "no memory":
        pair.new.puller._share.request = lambda length, ready: ready(None)
    pair.look(client, KEYS[0])
    pair.settle(0)
    dropped = "late" if where == "no memory" else "failed"
    assert pair.new.numbers()[f"pod_moves_dropped_{dropped}"] == 1
    assert put_tcp(client, {b"more": b"x" * 9900}).stored_count == 1


def test_what_waits_for_our_own_bandwidth_is_no_fault_of_the_source(pair):
    keys = [b"large-%d" % number for number in range(40)]
    pair.put(*keys, length=MIB)
    pair.moves()
    pair.new.moves._bucket.change(MIB, MIB / 2, pair.clock.now)
    client = pair.new.client()
    for _ in range(3):
        pair.look(client, *keys)
        for key in keys:
            pair.look(client, key)
        pair.settle(0.5)
    assert pair.new.numbers().get("pod_moves_dropped_failed") is None
    assert pair.new.numbers()["pod_moves_dropped_late"] > 0
    assert pair.has(pair.new, *keys) > 20


def test_a_chunk_that_is_another_and_shorter_one_by_then_moves_as_what_it_is(pair):
    pair.put(*KEYS)
    pair.moves()
    client = pair.new.client()
    ask = pair.new.peers.pull

    async def pull(shard, operation):
        if operation.places:
            pair.follow(5, 0, None, pair.old)
            old = pair.old.client()
            pair.delete(old, KEYS[0])
            put_tcp(old, {KEYS[0]: b"short"})
            pair.follow(6, 1, 0, pair.old)
        await ask(shard, operation)

    pair.new.peers.pull = pull
    pair.look(client, *KEYS)
    pair.settle()
    assert get_tcp(client, KEYS) == [b"short", *[data_of(key, 5000) for key in KEYS[1:]]]


def test_who_is_asked_no_more_by_a_later_map_is_not_asked_for_what_waited(pair):
    pair.put(*KEYS)
    pair.moves()
    client = pair.new.client()
    pair.look(client, *KEYS)
    pair.follow(5, 1)
    pair.settle()
    assert pair.new.peers.asked == []
    assert pair.new.numbers() == {"pod_moves_wanted": 6, "pod_moves_dropped_lost": 6}
    # It has not failed: what is wanted by the next map comes at once.
    pair.follow(6, 1, 0)
    pair.look(client, *KEYS)
    pair.settle(0)
    assert pair.has(pair.new, *KEYS) == 6


def test_it_goes_no_faster_than_is_allowed(pair):
    keys = [b"large-%d" % number for number in range(12)]
    pair.put(*keys, length=MIB)
    pair.moves()
    client = pair.new.client()
    began = pair.clock.now
    for _ in range(100):
        pair.look(client, *keys)
        pair.settle(0.01)
        if pair.has(pair.new, *keys) == 12:
            break
    # Half a second's worth comes at once, and what is fetched together is.
    assert (12 * MIB - GROUP_BYTES) / RATE - 0.5 <= pair.clock.now - began < 2 * 12 * MIB / RATE
    assert pair.new.numbers()["pod_moves_wait_us"] > 0


def test_clients_come_first_when_memory_is_short(pair):
    pair.put(*KEYS)
    pair.moves()
    staging = pair.new.shard.staging
    piece = staging.take(staging.total_bytes // 2 + 1)
    client = pair.new.client()
    pair.look(client, *KEYS)
    pair.step(40, 0.05)
    assert pair.has(pair.new, *KEYS) == 0
    staging.give(piece)
    pair.settle()
    assert pair.has(pair.new, *KEYS) == 6


def test_a_source_that_is_away_is_left_alone_for_a_while(pair):
    pair.put(*KEYS)
    pair.moves()
    pair.new.peers.error = Unavailable("it is away")
    client = pair.new.client()
    for _ in range(20):
        pair.look(client, *KEYS)
        pair.step(3, 0.01)
    assert len(pair.new.peers.asked) < 8
    pair.new.peers.error = None
    pair.clock.now += 20
    pair.look(client, *KEYS)
    pair.settle()
    assert pair.has(pair.new, *KEYS) == 6


def test_a_source_that_is_busy_is_asked_again(pair):
    pair.put(*KEYS)
    pair.moves()
    pair.new.peers.error = Busy("others first", 0.5)
    client = pair.new.client()
    pair.look(client, *KEYS)
    pair.step(10, 0.01)
    assert pair.new.numbers()["pod_moves_in_flight"] == 6
    pair.new.peers.error = None
    pair.settle()
    assert pair.has(pair.new, *KEYS) == 6


def test_an_owner_that_is_a_map_ahead_waits_for_its_source(pair):
    pair.put(*KEYS)
    pair.follow(4, 1, 0, pair.new)
    client = pair.new.client()
    pair.look(client, *KEYS)
    pair.step(20, 0.01)
    assert pair.has(pair.new, *KEYS) == 0
    pair.follow(4, 1, 0, pair.old)
    pair.settle()
    assert pair.has(pair.new, *KEYS) == 6


def test_encrypted_chunks_are_encrypted_again_with_what_is_kept_here(pair):
    tenant = Tenant(id=TENANT, name="t", encrypted=True)
    master = MasterKey(bytes(range(32)))
    key = master.wrap(TENANT, bytes(range(32, 64)), bytes)
    for member in (pair.old, pair.new):
        member.shard.service.master_keys = MasterKeys([master])
        member.shard.service.catalog_is(dataclasses.replace(catalog(tenant), tenant_keys={TENANT: key}))
    pair.put(*KEYS)
    pair.moves()
    client = pair.new.client()
    pair.look(client, *KEYS)
    pair.settle()
    assert get_tcp(client, KEYS) == [data_of(key, 5000) for key in KEYS]
    assert data_of(KEYS[0], 5000)[:64] not in bytes(pair.new.shard.device.memory.view)


def test_large_chunks_of_several_tenants_take_turns(pair):
    others = pair.old.client(OTHER_TENANT)
    put_tcp(others, {key: data_of(key, 5000) for key in KEYS})
    pair.put(*KEYS)
    pair.moves()
    one, two = pair.new.client(), pair.new.client(OTHER_TENANT)
    pair.look(one, *KEYS)
    pair.look(two, *KEYS)
    pair.settle()
    assert pair.look(one, *KEYS) == pair.look(two, *KEYS) == 6


def test_what_is_wanted_by_others_of_us(pair):
    """The way of second copies: `want`, by ids."""
    pair.put(*KEYS)
    pair.moves()
    puller = pair.new.puller
    assert puller.want(TENANT, NAMESPACE, KEYS, pair.old.id, Why.COPY) == 6
    assert puller.want(TENANT, NAMESPACE, KEYS, pair.old.id, Why.COPY) == 0
    assert puller.want(TENANT, OTHER_NAMESPACE, KEYS, pair.old.id, Why.COPY) == 0
    pair.settle()
    assert pair.new.numbers()["pod_moved_chunks_copy"] == 6
    pair.new.standing.end()
    assert puller.want(TENANT, NAMESPACE, [b"more"], pair.old.id, Why.COPY) == 0


def test_a_clients_put_waits_for_what_is_being_committed(pair):
    """`exists`, as behind any other put."""
    pair.put(KEYS[0])
    pair.moves()
    client = pair.new.client()
    pair.look(client, KEYS[0])
    for _ in range(60):
        pair.clock.now += 0.01
        pair.loop.run_until_complete(asyncio.sleep(0))
        pair.old.shard.settle()
        if pair.new.shard.store.busy:
            break
    assert pair.new.shard.store.busy
    assert put_tcp(client, {KEYS[0]: b"too late"}).exists_count == 1
    pair.settle()
    assert get_tcp(client, [KEYS[0]]) == [data_of(KEYS[0], 5000)]


def test_no_more_is_under_way_than_is_allowed(pair):
    keys = [b"many-%d" % number for number in range(400)]
    pair.put(*keys, length=100)
    pair.moves()
    pair.new.peers.hold = lambda with_bytes: True
    client = pair.new.client()
    pair.look(client, *keys)
    pair.step(20, 0.01)
    assert pair.new.numbers()["pod_moves_in_flight"] <= 32 * PULLS_MAX
    pair.new.peers.hold = lambda with_bytes: False
    pair.settle()
    assert pair.has(pair.new, *keys) == 400


def test_clients_may_not_pull(pair):
    pair.put(*KEYS)
    pair.moves()
    body = Pull(TENANT, NAMESPACE, 0, 0, KEYS)
    for kind in PEERS:
        told = pair.old.client().fails(kind, body)
        assert told.message == f"{kind.name} is not for clients"


def test_a_device_that_hangs_does_not_hold_the_end_of_moving(pair):
    pair.put(b"chunk")
    pair.moves()
    pair.look(pair.new.client(), b"chunk")
    for _ in range(50):  # the new shard's device does nothing
        pair.loop.run_until_complete(asyncio.sleep(0))
        pair.old.shard.settle()
    assert pair.new.shard.store.busy
    began = pair.clock.now
    stopping = pair.loop.create_task(pair.new.puller.stop())
    while not stopping.done():
        pair.clock.now += 0.1
        pair.loop.run_until_complete(asyncio.sleep(0))
        assert pair.clock.now < began + 10
    assert pair.clock.now > began + 1, "what is nearly there is waited for"
