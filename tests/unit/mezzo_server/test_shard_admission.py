"""Tickets at a shard: who is let in, what he may ask, until when, and how it ends. In injected time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest

from mezzo.errors import ErrorCode, MezzoError, Unauthenticated, Unavailable
from mezzo.protocol.connection import REQUEST_KINDS
from mezzo.protocol.messages import (
    Acquire,
    Acquired,
    Cancel,
    Cancelled,
    Delete,
    DeviceChange,
    Devices,
    ErrorReply,
    Get,
    Kind,
    LookedUp,
    Lookup,
    Ping,
    Pong,
    Pull,
    Put,
    Release,
    Released,
    ShardStat,
    ShardStated,
    Stat,
    TicketRenew,
    TicketRenewed,
)
from mezzo_server.access.authentication import Anonymous
from mezzo_server.access.principal import NO_TENANT, Reason, Refused, Scopes
from mezzo_server.access.tickets import SKEW_S, SigningKey, Ticket
from mezzo_server.shard.admission import EXPIRED_S_MAX, NEEDS, SWEEP_S, TicketAdmission
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Credential, Tenant, TicketKey
from tests.unit.mezzo_server.shard_harness import FakeClient, Shard

A, B = b"a" * 16, b"b" * 16
TOKEN_A, OPERATOR = "a" * 16, "0" * 16
KEY = SigningKey(b"key-0001", bytes(range(32)))
UNIX_S = 1_700_000_000.0
ALL = int(Scopes.READ | Scopes.WRITE | Scopes.ADMIN)


def credential(name: str, tenant: bytes, **fields: object) -> Credential:
    fields.setdefault("scopes", ["read", "write", "admin"])
    return Credential(id=name, tenant_id=tenant, hash=bytes(32), **fields)  # type: ignore[arg-type]


def catalog(**changed: object) -> Catalog:
    known = Catalog(
        revision=1,
        tenants={A: Tenant(id=A, name="a"), B: Tenant(id=B, name="b")},
        tenant_ids={"a": A, "b": B},
        credentials={TOKEN_A: credential(TOKEN_A, A), OPERATOR: credential(OPERATOR, NO_TENANT)},
        ticket_keys={KEY.id: TicketKey(id=KEY.id, public=KEY.public, expires_s=int(UNIX_S) + 86400)},
    )
    return replace(known, **changed)  # type: ignore[arg-type]


class Door:
    """A shard, its door, and the catalog that hangs beside it."""

    def __init__(self, anonymous: str = "") -> None:
        self.shard = Shard()
        self.catalog: Catalog | None = catalog()
        self.began = self.shard.clock.now
        self.admission = TicketAdmission(
            lambda: self.catalog,
            pod="pod",
            anonymous=Anonymous(anonymous, Scopes.READ) if anonymous else None,
            now=self.shard.clock,
            now_s=self.now_s,
        )
        self.shard.service.admission = self.admission

    def now_s(self) -> float:
        return UNIX_S + self.shard.clock.now - self.began

    def ticket(
        self,
        tenant: bytes = A,
        credential: str = TOKEN_A,
        scopes: int = ALL,
        seconds: float = 300,
        key: SigningKey = KEY,
        pod: str = "pod",
    ) -> bytes:
        now = int(self.now_s())
        return key.sign(Ticket(pod, tenant, credential, scopes, now, now + int(seconds)))

    def enter(self, ticket: bytes | None = None) -> FakeClient:
        return self.shard.client(ticket=self.ticket() if ticket is None else ticket)

    def refusal(self, ticket: bytes) -> Reason:
        with pytest.raises(Refused) as refused:
            self.enter(ticket)
        self.shard.clients.pop().close()
        assert str(refused.value) == str(Refused(Reason.MISSING))
        return refused.value.reason


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.shard.close()


def code_of(client: FakeClient, kind: Kind, body: object) -> ErrorCode | None:
    """The code of the error that answers a request; None: it was answered otherwise."""
    request_id = client.start(kind, body)  # type: ignore[arg-type]
    client.shard.settle()
    [answer] = client.answers(request_id)
    return ErrorCode(answer.code) if isinstance(answer, ErrorReply) else None


KEYS = [b"k"]
READS = ((Kind.LOOKUP, Lookup(KEYS)), (Kind.STAT, Stat(KEYS)), (Kind.GET, Get(KEYS, capacities=[9])))
WRITES = ((Kind.DELETE, Delete(KEYS)), (Kind.PUT, Put(KEYS, [9])))


def test_the_table_knows_every_kind() -> None:
    assert set(NEEDS) == REQUEST_KINDS | {Kind.CANCEL}


def test_why_one_is_not_let_in(door: Door) -> None:
    stranger = SigningKey(b"key-0002", bytes(32))
    imposter = SigningKey(KEY.id, bytes(32))
    assert door.refusal(b"") is Reason.MISSING
    assert door.refusal(b"garbage") is Reason.MALFORMED
    assert door.refusal(door.ticket(key=stranger)) is Reason.UNKNOWN_KEY
    assert door.refusal(door.ticket(key=imposter)) is Reason.SIGNATURE
    assert door.refusal(door.ticket(pod="another")) is Reason.POD
    assert door.refusal(door.ticket(seconds=-SKEW_S)) is Reason.EXPIRED
    assert door.refusal(door.ticket(tenant=b"x" * 16)) is Reason.TENANT
    assert door.refusal(door.ticket(credential="f" * 16)) is Reason.UNKNOWN
    assert door.refusal(door.ticket(tenant=B)) is Reason.REVOKED
    assert door.shard.service.numbers()["tickets_refused_unknown_key"] == 1
    assert door.enter().session.guest is not None
    assert door.shard.service.numbers()["tickets_accepted"] == 1


def test_a_key_ends_with_its_time(door: Door) -> None:
    door.catalog = catalog(
        ticket_keys={KEY.id: TicketKey(id=KEY.id, public=KEY.public, expires_s=int(UNIX_S))}
    )
    door.enter()
    door.shard.clock.now += SKEW_S
    assert door.refusal(door.ticket()) is Reason.UNKNOWN_KEY


def test_a_shard_that_knows_nothing_lets_nobody_in(door: Door) -> None:
    door.catalog = None
    with pytest.raises(Unavailable):
        door.enter()


def test_without_a_ticket_one_is_the_anonymous_tenant() -> None:
    door = Door(anonymous="b")
    client = door.enter(b"")
    assert client.session.guest is not None
    assert client.session.guest.principal.tenant == B
    assert code_of(client, *READS[0]) is None
    assert code_of(client, *WRITES[0]) is ErrorCode.DENIED
    # A bad ticket does not make one anonymous.
    assert door.refusal(b"garbage") is Reason.MALFORMED
    door.shard.close()


@pytest.mark.parametrize(
    ("scopes", "reads", "writes"), [(1, True, False), (2, False, True), (3, True, True), (0, False, False)]
)
def test_scopes(door: Door, scopes: int, reads: bool, writes: bool) -> None:
    client = door.enter(door.ticket(scopes=scopes))
    for kind, body in READS:
        assert (code_of(client, kind, body) is None) is reads
    assert code_of(client, *WRITES[0]) is (None if writes else ErrorCode.DENIED)
    assert client.ask(Kind.PING, Ping(), Pong)


def test_devices_are_for_operators(door: Door) -> None:
    """Whatever user of the host it is: a tenant's credential does not look after the server."""
    admin = door.enter(door.ticket())
    for kind, body in ((Kind.DEVICES, Devices()), (Kind.DEVICE_CHANGE, DeviceChange(2, "memory"))):
        assert "operators" in admin.fails(kind, body).message
    operator = door.enter(door.ticket(NO_TENANT, OPERATOR))
    assert (
        code_of(operator, Kind.DEVICES, Devices()) is ErrorCode.UNSUPPORTED
    )  # allowed; the harness has none
    assert code_of(operator, *READS[0]) is ErrorCode.DENIED
    assert code_of(operator, *WRITES[0]) is ErrorCode.DENIED
    weak = door.enter(door.ticket(NO_TENANT, OPERATOR, scopes=1))
    assert code_of(weak, Kind.DEVICES, Devices()) is ErrorCode.DENIED


def test_numbers_of_others_are_not_told(door: Door) -> None:
    mine = door.enter().ask(Kind.SHARD_STAT, ShardStat(), ShardStated).numbers
    others = [door.enter(door.ticket(B, "jwt:b")) for _ in range(3)]
    assert door.enter().ask(Kind.SHARD_STAT, ShardStat(), ShardStated).numbers == {**mine, "connections": 2}
    assert "bytes_live" not in mine
    assert len(others) == 3
    all_of_it = door.enter(door.ticket(NO_TENANT, OPERATOR)).ask(Kind.SHARD_STAT, ShardStat(), ShardStated)
    assert all_of_it.numbers["connections"] == 6
    assert "bytes_live" in all_of_it.numbers


def test_an_expired_ticket_stops_what_is_new_until_it_is_renewed(door: Door) -> None:
    client = door.enter(door.ticket(seconds=300))
    put = client.start(Kind.PUT, Put([b"k"], [4096]))
    door.shard.settle()
    door.shard.clock.now += 300 + SKEW_S - 1
    assert code_of(client, *READS[0]) is None
    door.shard.clock.now += 1
    # What had begun goes on.
    client.put_payload(put, Put([b"k"], [4096]), 0, b"x" * 4096)
    client.session.turn_ended()
    door.shard.settle()
    assert [type(answer).__name__ for answer in client.answers(put)][-1] == "PutDone"
    for kind, body in (*READS, *WRITES, (Kind.ACQUIRE, Acquire(KEYS, 1000)), (Kind.SHARD_STAT, ShardStat())):
        error = client.fails(kind, body)
        assert (error.code, error.message) == (ErrorCode.UNAUTHENTICATED, str(Refused(Reason.EXPIRED)))
    assert client.ask(Kind.PING, Ping(), Pong)
    assert client.ask(Kind.RELEASE, Release(7), Released).held is False
    client.session.receive(_cancel(99))
    client.turn()
    assert client.answer(99, Cancelled)
    renewed = client.ask(Kind.TICKET_RENEW, TicketRenew(door.ticket(seconds=60)), TicketRenewed)
    assert 60_000 <= renewed.ticket_ms <= (60 + SKEW_S) * 1000
    assert client.ask(Kind.LOOKUP, Lookup([b"k"]), LookedUp).prefix == 1


def _cancel(request_id: int) -> object:
    from mezzo.protocol.frame import Frame

    return Frame(Kind.CANCEL, request_id, Cancel())


def test_a_renewal_is_for_the_same_tenant(door: Door) -> None:
    client = door.enter()
    for ticket in (door.ticket(B, "jwt:b"), door.ticket(NO_TENANT, OPERATOR), b"", b"garbage"):
        assert client.fails(Kind.TICKET_RENEW, TicketRenew(ticket)).code == ErrorCode.UNAUTHENTICATED
    assert code_of(client, *READS[0]) is None  # the old one is still good
    client.ask(Kind.TICKET_RENEW, TicketRenew(door.ticket(scopes=2)), TicketRenewed)
    assert code_of(client, *READS[0]) is ErrorCode.DENIED
    assert door.shard.service.numbers()["tickets_refused_other_tenant"] == 2


def test_a_renewal_waits_for_a_look_if_its_key_may_be_new(door: Door) -> None:
    """A front-end that was restarted signs with a key that the shard has not heard of yet."""
    new = SigningKey(b"key-0003", bytes(range(2, 34)))
    asked: list[Callable[[MezzoError | None], None]] = []
    door.shard.service.directory.look = asked.append
    client = door.enter(door.ticket(seconds=10))
    door.shard.clock.now += 100
    request = client.start(Kind.TICKET_RENEW, TicketRenew(door.ticket(key=new)))
    door.shard.settle()
    assert client.answers(request) == []
    known = TicketKey(id=new.id, public=new.public, expires_s=int(UNIX_S) + 86400)
    door.catalog = catalog(ticket_keys={new.id: known})
    asked.pop()(None)
    door.shard.settle()
    assert client.answer(request, TicketRenewed).ticket_ms > 0
    assert code_of(client, *READS[0]) is None
    # Of a stranger it is refused all the same; and an outage of the metadata is told as one.
    for error, code in ((None, ErrorCode.UNAUTHENTICATED), (Unavailable("away"), ErrorCode.UNAVAILABLE)):
        stranger = SigningKey(b"key-0009", bytes(32))
        request = client.start(Kind.TICKET_RENEW, TicketRenew(door.ticket(key=stranger)))
        asked.pop()(error)
        door.shard.settle()
        assert client.answer(request, ErrorReply).code == code
    # What is wrong and cannot be new asks nobody.
    assert client.fails(Kind.TICKET_RENEW, TicketRenew(b"garbage")).code == ErrorCode.UNAUTHENTICATED
    assert asked == []


def test_a_lease_taken_before_expiry_can_be_given_back(door: Door) -> None:
    client = door.enter(door.ticket(seconds=100))
    put = client.start(Kind.PUT, Put([b"k"], [4096]))
    door.shard.settle()
    client.put_payload(put, Put([b"k"], [4096]), 0, b"x" * 4096)
    client.session.turn_ended()
    door.shard.settle()
    lease = client.ask(Kind.ACQUIRE, Acquire([b"k"], 500_000), Acquired).lease
    door.shard.clock.now += 200
    assert client.ask(Kind.RELEASE, Release(lease), Released).held


@pytest.mark.parametrize(
    "change",
    [
        {"credentials": {TOKEN_A: credential(TOKEN_A, A, revoked=True)}},
        {"credentials": {TOKEN_A: credential(TOKEN_A, A, expires_s=int(UNIX_S) - SKEW_S)}},
        {"credentials": {}},
        {"tenants": {A: Tenant(id=A, name="a", deleted=True), B: Tenant(id=B, name="b")}},
        {"tenants": {B: Tenant(id=B, name="b")}},
    ],
)
def test_who_is_not_welcome_any_more_is_shown_out_with_the_catalog(
    door: Door, change: dict[str, object]
) -> None:
    """Within one tick of the shard's timer after the catalog came: 0.2 s at most."""
    gone, stays = door.enter(), door.enter(door.ticket(B, "jwt:b"))
    door.shard.service.tick()
    assert gone.refused is None
    door.catalog = catalog(**change)
    door.shard.service.tick()
    assert isinstance(gone.refused, Unauthenticated)
    assert str(gone.refused) == str(Refused(Reason.MISSING))
    assert stays.refused is None
    assert door.shard.service.numbers()["sessions_ended_unwelcome"] == 1
    with pytest.raises(Refused):
        door.enter()


def test_a_credential_that_lost_a_scope_has_lost_it_at_once(door: Door) -> None:
    client = door.enter()
    door.catalog = catalog(credentials={TOKEN_A: credential(TOKEN_A, A, scopes=["read"])})
    door.shard.service.tick()
    assert code_of(client, *READS[0]) is None
    assert code_of(client, *WRITES[0]) is ErrorCode.DENIED
    # A ticket that was signed before says more than the credential now allows.
    again = door.enter()
    assert code_of(again, *WRITES[0]) is ErrorCode.DENIED
    door.catalog = catalog()
    door.shard.service.tick()
    assert code_of(client, *WRITES[0]) is ErrorCode.DENIED
    client.ask(Kind.TICKET_RENEW, TicketRenew(door.ticket()), TicketRenewed)
    assert code_of(client, *WRITES[0]) is None


def test_a_credential_that_is_to_end_soon_ends_what_it_opened_before(door: Door) -> None:
    """A token that was replaced is good for the overlap, whatever a ticket of before says."""
    signed_before = door.ticket(seconds=300)
    client = door.enter(signed_before)
    door.catalog = catalog(credentials={TOKEN_A: credential(TOKEN_A, A, expires_s=int(UNIX_S) + 60)})
    door.shard.service.tick()
    again = door.enter(signed_before)
    door.shard.clock.now += 60 + SKEW_S - 1
    for one in (client, again):
        assert code_of(one, *READS[0]) is None
    door.shard.clock.now += 1
    for one in (client, again):
        assert code_of(one, *READS[0]) is ErrorCode.UNAUTHENTICATED


def test_a_session_that_never_renews_is_ended(door: Door) -> None:
    client = door.enter(door.ticket(seconds=100))
    door.shard.clock.now += 100 + SKEW_S + EXPIRED_S_MAX
    door.shard.service.tick()
    assert client.refused is None
    door.shard.clock.now += SWEEP_S
    door.shard.service.tick()
    assert isinstance(client.refused, Unauthenticated)


def test_a_shard_without_tenants_checks_nothing() -> None:
    shard = Shard()
    client = shard.client(ticket=b"whatever")
    assert client.ask(Kind.TICKET_RENEW, TicketRenew(b""), TicketRenewed).ticket_ms == 0
    assert "bytes_live" in client.ask(Kind.SHARD_STAT, ShardStat(), ShardStated).numbers
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(TicketRenewed())) == [0]
    shard.close()


def test_what_shards_ask_of_each_other_no_ticket_is_good_for(door: Door) -> None:
    body = Pull(A, b"n" * 16, 0, 0, KEYS)
    for ticket in (door.ticket(), door.ticket(NO_TENANT, OPERATOR)):
        told = door.enter(ticket).fails(Kind.PULL, body)
        assert (told.code, told.message) == (ErrorCode.DENIED, "PULL is not for clients")
