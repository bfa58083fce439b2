"""Who pretends to be a shard of the pod, or is one and wants more than is its (S1, S3)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from mezzo.errors import ErrorCode, Gone, ProtocolError, Unavailable
from mezzo.protocol.frame import FROM_CLIENT, FROM_SERVER, FrameReader, encode
from mezzo.protocol.messages import (
    BODIES,
    Delete,
    ErrorReply,
    Get,
    Kind,
    Lookup,
    Offer,
    Ping,
    Pong,
    Pull,
    Pulled,
    PulledChunk,
    Put,
    ShardStat,
    TenantStat,
    TicketRenew,
)
from mezzo_server.access.peers import CONNECTION_S, GOOD_S, NONCES_MAX, PeerDoor, PeerKey
from mezzo_server.access.principal import Reason, Refused
from mezzo_server.access.tickets import SKEW_S
from mezzo_server.shard.admission import EXPIRED_S_MAX, NEEDS, PEERS, TicketAdmission
from mezzo_server.tenancy.model import Tenant
from tests.unit.mezzo_server.moving_rig import (
    NAMESPACE,
    OTHER_NAMESPACE,
    OTHER_TENANT,
    POD,
    TENANT,
    UNIX_S,
    Pair,
    a_pair,
    catalog,
    refusal_of,
)

KEYS = [b"chunk-%d" % number for number in range(3)]
ASKED = Pull(TENANT, NAMESPACE, 0, 0, KEYS)
ROOM = replace(ASKED, capacities=[10_000] * 3)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with a_pair() as pair:
        pair.put(*KEYS)
        pair.moves()
        yield pair


def reason_of(pair: Pair, credential: bytes) -> Reason | None:
    refused = refusal_of(pair.old, credential)
    if refused is None:
        return None
    assert isinstance(refused, Refused)
    assert str(refused) == str(Refused(Reason.MISSING))
    return refused.reason


def test_a_shard_that_is_registered_may_pull_and_nothing_else(pair):
    link = pair.new.peers.link(pair.old)
    assert None not in link.ask(Kind.PULL, ASKED, Pulled).chunks
    link.ask(Kind.PING, Ping(), Pong)
    assert set(NEEDS) <= set(BODIES)
    for kind, body in (
        (Kind.LOOKUP, Lookup(KEYS)),
        (Kind.GET, Get(KEYS)),
        (Kind.PUT, Put(KEYS, [1, 2, 3])),
        (Kind.DELETE, Delete(KEYS)),
        (Kind.SHARD_STAT, ShardStat()),
        (Kind.TENANT_STAT, TenantStat(TENANT)),
        (Kind.TICKET_RENEW, TicketRenew(TENANT)),
    ):
        assert link.fails(kind, body).code == ErrorCode.DENIED, kind
    assert pair.has(pair.old, *KEYS) == 3


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"pod": bytes(16)}, Reason.POD),
        ({"target": b"x" * 16}, Reason.AUDIENCE),
        ({"target_incarnation": b"x" * 16}, Reason.AUDIENCE),
        ({"issued_s": UNIX_S - 100, "expires_s": UNIX_S - SKEW_S}, Reason.EXPIRED),
        ({"issued_s": UNIX_S + SKEW_S + 1, "expires_s": UNIX_S + GOOD_S}, Reason.NOT_YET),
        # Nobody gives himself more time than there is.
        ({"issued_s": UNIX_S, "expires_s": UNIX_S + GOOD_S + 1}, Reason.EXPIRED),
    ],
)
def test_a_credential_for_another_time_or_place(pair, changed, reason):
    assert reason_of(pair, pair.new.credential(pair.old, **changed)) is reason
    assert pair.old.shard.service.admission.numbers() is not None


def test_a_credential_opens_one_connection(pair):
    credential = pair.new.credential(pair.old)
    assert reason_of(pair, credential) is None
    assert reason_of(pair, credential) is Reason.USED


def test_forged_ones(pair):
    good = pair.new.credential(pair.old)
    stranger = PeerKey(b"s" * 32)
    pair.new.key, own = stranger, pair.new.key
    assert reason_of(pair, pair.new.credential(pair.old)) is Reason.SIGNATURE
    pair.new.key = own
    # Each byte of it.
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1
        assert refusal_of(pair.old, bytes(bad)) is not None, place
    for cut in (1, 17, 80, len(good) - 1):
        assert refusal_of(pair.old, good[:cut]) is not None
    assert refusal_of(pair.old, b"\2" + bytes(4095)) is not None
    # It was never used up by those.
    assert reason_of(pair, good) is None


def test_another_shards_key_does_not_open(pair):
    """A shard signs in the name of another."""
    credential = bytearray(pair.old.credential(pair.old))
    credential[1:17] = pair.new.id
    assert reason_of(pair, bytes(credential)) is Reason.SIGNATURE
    # Nor is a shard its own peer.
    assert reason_of(pair, pair.old.credential(pair.old)) is Reason.UNKNOWN


@pytest.mark.parametrize("who", ["not in the map", "not registered", "of an older release"])
def test_who_is_not_registered_is_not_let_in(pair, who):
    records = pair.registered.records
    if who == "not in the map":
        pair.new.id = b"x" * 16
        pair.new.registers()
    elif who == "not registered":
        records[pair.new.id] = None
    else:
        records[pair.new.id] = replace(records[pair.new.id], public=b"")
    pair.registered.looks.clear()
    expected = Reason.UNKNOWN if who == "not in the map" else Reason.UNKNOWN_KEY
    assert reason_of(pair, pair.new.credential(pair.old)) is expected
    if who == "not in the map":
        assert pair.registered.looks == []  # strangers do not make us ask the metadata


def test_a_shard_that_started_again_is_looked_up_again(pair):
    class Behind:
        """A record that was read a moment ago is told as it was."""

        def __init__(self, old, new) -> None:
            self.records = [old, new]

        def look(self, shard, fresh_s, told, *, unproven=False):
            told(self.records[0] if fresh_s > 5 else self.records[1])

    before = pair.registered.records[pair.new.id]
    pair.new.key = PeerKey(b"2" * 32)
    pair.new.registers()
    after = pair.registered.records[pair.new.id]
    pair.old.shard.service.door._members = Behind(before, after)
    assert reason_of(pair, pair.new.credential(pair.old)) is None
    pair.old.shard.service.door._members = Behind(before, before)
    assert reason_of(pair, pair.new.credential(pair.old)) is Reason.SIGNATURE


def test_metadata_that_are_away_let_nobody_in(pair):
    pair.registered.records[pair.new.id] = Unavailable("the engine is away")
    assert isinstance(refusal_of(pair.old, pair.new.credential(pair.old)), Unavailable)


def test_a_shard_without_membership_lets_nobody_in_and_gives_nothing(pair):
    link = pair.new.peers.link(pair.old)
    pair.old.standing.end()
    assert link.fails(Kind.PULL, ASKED).code == ErrorCode.UNAVAILABLE
    assert isinstance(refusal_of(pair.old, pair.new.credential(pair.old)), Unavailable)


def test_what_is_not_its_own_it_does_not_get(pair):
    link = pair.new.peers.link(pair.old)
    # By the map of who is asked, whatever the other follows.
    pair.follow(5, 0, None, pair.old)
    for body in (ASKED, ROOM):
        told = link.fails(Kind.PULL, body)
        assert (told.code, told.epoch) == (ErrorCode.WRONG_EPOCH, 5)
    # And nothing that who is asked has nothing to do with.
    pair.follow(6, 1, None)
    assert link.fails(Kind.PULL, ASKED).code == ErrorCode.WRONG_EPOCH


@pytest.mark.parametrize("room", [[], [10_000] * 3])
def test_a_wrong_name_is_a_miss(pair, room):
    link = pair.new.peers.link(pair.old)
    for tenant, namespace, generations in (
        (OTHER_TENANT, NAMESPACE, (0, 0)),
        (TENANT, OTHER_NAMESPACE, (0, 0)),
        (TENANT, NAMESPACE, (1, 0)),
        (TENANT, NAMESPACE, (0, 1)),
        (bytes(16), bytes(16), (0, 0)),
    ):
        body = Pull(tenant, namespace, *generations, KEYS, room)
        assert link.ask(Kind.PULL, body, Pulled).chunks == [None] * 3
    assert link.payloads == {}


def test_room_that_does_not_fit(pair):
    link = pair.new.peers.link(pair.old)
    assert link.fails(Kind.PULL, replace(ASKED, capacities=[1])).code == ErrorCode.INVALID
    assert link.ask(Kind.PULL, replace(ASKED, capacities=[4999, 0, 1]), Pulled).chunks == [None] * 3
    assert link.payloads == {}


def test_a_connection_ends_with_its_time(pair):
    link = pair.new.peers.link(pair.old)
    pair.clock.now += CONNECTION_S + 1
    assert link.fails(Kind.PULL, ASKED).code == ErrorCode.UNAUTHENTICATED


def test_a_shard_has_few_connections_and_the_newest(pair):
    first = pair.new.peers.link(pair.old)
    for number in range(4):
        pair.clock.now += 1
        assert refusal_of(pair.old, pair.new.credential(pair.old)) is None, number
    assert isinstance(first.refused, Gone)


def test_so_many_credentials_that_they_cannot_be_remembered(pair):
    door = PeerDoor(pair.old.id, pair.old.shard.service.incarnation)
    for number in range(NONCES_MAX):
        door._used[number.to_bytes(16, "big")] = UNIX_S + 1
    credential = pair.new.credential(pair.old, nonce=b"n" * 16)
    with pytest.raises(Refused):
        door.admit(credential, pair.new.key.public, POD, UNIX_S)
    assert door.admit(credential, pair.new.key.public, POD, UNIX_S + 2) == pair.new.id


def test_what_is_sent_has_its_bandwidth(pair):
    link = pair.new.peers.link(pair.old)
    assert None not in link.ask(Kind.PULL, ROOM, Pulled).chunks
    pair.clock.now += 1
    assert pair.old.puller.give_out(1 << 30) == 0
    told = link.fails(Kind.PULL, ROOM)
    assert told.code == ErrorCode.BUSY
    assert told.retry_after_ms > 0
    # What there is may be asked always.
    assert None not in link.ask(Kind.PULL, ASKED, Pulled).chunks


def test_where_nothing_moves_nobody_is_let_in(pair):
    pair.old.shard.service.door = pair.old.shard.service.puller = None
    assert refusal_of(pair.old, pair.new.credential(pair.old)) is not None
    link = pair.old.client()
    assert isinstance(link.ask(Kind.PULL, ASKED, ErrorReply), ErrorReply)
    assert {Kind.PULL, Kind.OFFER} == PEERS


def test_shards_stay_whatever_becomes_of_tenants_and_refusals_are_counted(pair):
    service = pair.old.shard.service
    service.admission = TicketAdmission(
        lambda: service.catalog, pod="pod", anonymous=None, now=pair.clock, now_s=lambda: UNIX_S
    )
    link = pair.new.peers.link(pair.old)
    service.catalog_is(catalog(Tenant(id=TENANT, name="t", weight=3)))
    assert None not in link.ask(Kind.PULL, ASKED, Pulled).chunks
    service.catalog_is(catalog(Tenant(id=TENANT, name="t", deleted=True)))
    assert link.ask(Kind.PULL, ASKED, Pulled).chunks == [None] * 3
    assert reason_of(pair, pair.new.credential(pair.old, pod=bytes(16))) is Reason.POD
    assert service.numbers()["tickets_refused_pod"] == 1
    # Long after its time was over the connection ends, as a client's whose ticket nobody renews.
    pair.clock.now += CONNECTION_S + EXPIRED_S_MAX + 1
    service.admission.sweep(service.sessions)
    assert isinstance(link.refused, Refused)


@pytest.mark.parametrize("life_ms", [2**63, 2**64 - 1])
def test_a_life_that_no_device_can_store_is_no_frame(life_ms):
    """A deadline that is no number of 64 bits once ended in the middle of the store's write of it."""
    said = (
        (FROM_SERVER, Kind.PULLED, Pulled([PulledChunk([1], life_ms)])),
        (FROM_CLIENT, Kind.OFFER, Offer(TENANT, NAMESPACE, KEYS, life_ms, [1] * 3)),
    )
    for kinds, kind, body in said:
        frame = encode(kind, 1, body)
        reader = FrameReader(kinds, body_bytes_max=len(frame), payload_bytes_max=0)
        reader.buffer()[: len(frame)] = frame
        reader.received(len(frame))
        with pytest.raises(ProtocolError):
            reader.next_event()
