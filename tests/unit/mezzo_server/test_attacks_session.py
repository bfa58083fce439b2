"""A tenant's frames about another's chunks: every kind, byte for byte as about what does not exist (S1, S2).

Two tenants with tickets of their own on one shard, in injected time.  The answers to the attacker are
compared as they go over the wire.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from mezzo.protocol.frame import encode
from mezzo.protocol.messages import (
    Acquire,
    Acquired,
    ArenaOpen,
    Body,
    Delete,
    Events,
    Get,
    InPlace,
    Kind,
    LeaseRenew,
    LookedUp,
    Lookup,
    Offer,
    Pull,
    Put,
    RegionRemove,
    Release,
    ShardStat,
    Stat,
)
from mezzo_server.access.principal import Scopes
from mezzo_server.access.tickets import SigningKey, Ticket
from mezzo_server.shard.admission import NEEDS, OPERATORS, TicketAdmission
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Namespace, Tenant, TicketKey
from tests.unit.mezzo_server.shard_harness import MIB, FakeClient, Shard

A, B = b"a" * 16, b"b" * 16
KEY = SigningKey(b"key-0001", bytes(range(32)))
UNIX_S = 1_700_000_000
SECRET = b"what tenant a said " * 400
KEYS = [b"chunk-%d" % number for number in range(4)]
NO_ARENA = 9
ABSENT = [b"other-%d" % number for number in range(4)]


def names(tenant: bytes, *own: str) -> dict[bytes, Namespace]:
    found = {}
    for number, name in enumerate(own):
        namespace_id = tenant[:15] + bytes([number])
        found[namespace_id] = Namespace(id=namespace_id, tenant_id=tenant, name=name)
    return found


SPACES = {**names(A, "default", "private"), **names(B, "default")}
CATALOG = Catalog(
    revision=1,
    tenants={A: Tenant(id=A, name="a"), B: Tenant(id=B, name="b")},
    namespaces=SPACES,
    tenant_ids={"a": A, "b": B},
    namespace_ids={(space.tenant_id, space.name): space.id for space in SPACES.values()},
    ticket_keys={KEY.id: TicketKey(id=KEY.id, public=KEY.public, expires_s=UNIX_S + 86400)},
)


class Pod:
    """A shard with two tenants, chunks of ``a``, a lease on them, and a hot tier that has them."""

    def __init__(self) -> None:
        self.shard = Shard(hot_bytes=8 * MIB)
        service = self.shard.service
        service.admission = TicketAdmission(
            lambda: service.catalog,
            pod="pod",
            anonymous=None,
            now=self.shard.clock,
            now_s=lambda: UNIX_S,
        )
        service.catalog_is(CATALOG)
        self.owner = self.enter(A)
        put(self.owner, KEYS)
        acquired = self.owner.ask(Kind.ACQUIRE, Acquire(KEYS, 60_000, InPlace.HOT), Acquired)
        self.lease, self.arena = acquired.lease, acquired.places[0]
        assert acquired.prefix == 4

    def enter(self, tenant: bytes, namespace: str = "default") -> FakeClient:
        scopes = int(Scopes.READ | Scopes.WRITE)
        ticket = KEY.sign(Ticket("pod", tenant, "jwt", scopes, UNIX_S, UNIX_S + 3600))
        return self.shard.client(ticket=ticket, namespace=namespace)


@pytest.fixture
def pod() -> Iterator[Pod]:
    pod = Pod()
    yield pod
    pod.shard.close()


def put(client: FakeClient, keys: list[bytes]) -> None:
    body = Put(keys, [len(SECRET)] * len(keys))
    request_id = client.start(Kind.PUT, body)
    client.shard.settle()
    for index in range(len(keys)):
        client.put_payload(request_id, body, index, SECRET)
    client.session.turn_ended()
    client.shard.settle()


def answers(
    client: FakeClient, kind: Kind, body: Body, payload: Callable[[int], None] | None = None
) -> bytes:
    """Everything that comes back for a request, as it goes over the wire, but for the request's number."""
    request_id = client.start(kind, body)
    client.shard.settle()
    if payload is not None:
        payload(request_id)
        client.session.turn_ended()
        client.shard.settle()
    came = [frame for frame in client.frames if frame.request_id == request_id]
    assert came
    return b"".join(encode(frame.kind, 0, frame.body, frame.payload_bytes) for frame in came)


Make = Callable[[Pod, list[bytes]], Body]
QUESTIONS: dict[str, tuple[Kind, Make]] = {
    "lookup": (Kind.LOOKUP, lambda pod, keys: Lookup(keys)),
    "stat": (Kind.STAT, lambda pod, keys: Stat(keys)),
    "get": (Kind.GET, lambda pod, keys: Get(keys)),
    "get with room": (Kind.GET, lambda pod, keys: Get(keys, capacities=[1] * len(keys))),
    "get of a part": (Kind.GET, lambda pod, keys: Get(keys, first_part=0, part_count=1)),
    "get in no time": (Kind.GET, lambda pod, keys: Get(keys, deadline_ms=1)),
    "acquire": (Kind.ACQUIRE, lambda pod, keys: Acquire(keys, 1000)),
    "acquire in place": (Kind.ACQUIRE, lambda pod, keys: Acquire(keys, 1000, InPlace.HOT)),
    "acquire and load": (Kind.ACQUIRE, lambda pod, keys: Acquire(keys, 1000, InPlace.LOAD)),
    "delete": (Kind.DELETE, lambda pod, keys: Delete(keys)),
    "pull": (
        Kind.PULL,
        lambda pod, keys: Pull(A, pod.owner.session.scope.namespace, 0, 0, keys, [1 << 20] * 4),
    ),
    "offer": (Kind.OFFER, lambda pod, keys: Offer(A, pod.owner.session.scope.namespace, keys)),
    "release": (Kind.RELEASE, lambda pod, keys: Release(pod.lease if keys is KEYS else pod.lease + 77)),
    "renew": (
        Kind.LEASE_RENEW,
        lambda pod, keys: LeaseRenew(pod.lease if keys is KEYS else pod.lease + 77, 1000),
    ),
    "arena": (Kind.ARENA_OPEN, lambda pod, keys: ArenaOpen(pod.arena if keys is KEYS else NO_ARENA)),
    "events": (Kind.EVENTS, lambda pod, keys: Events(parts=1)),
    "numbers": (Kind.SHARD_STAT, lambda pod, keys: ShardStat()),
}
NAMES_NO_CHUNK = {Kind.PING, Kind.CANCEL, Kind.TICKET_RENEW, Kind.REGION_ADD, Kind.REGION_REMOVE} | OPERATORS
"""Requests that say nothing of a chunk, a lease or an arena; and those that no tenant may make."""


def test_every_kind_is_tried() -> None:
    """A kind that is added is tried here, or it is said why it need not be."""
    assert {kind for kind, _ in QUESTIONS.values()} | NAMES_NO_CHUNK | {Kind.PUT} == set(NEEDS)


@pytest.mark.parametrize("question", QUESTIONS)
def test_anothers_chunks_are_answered_like_absent_ones(pod: Pod, question: str) -> None:
    kind, make = QUESTIONS[question]
    attacker = pod.enter(B)
    if kind is Kind.ARENA_OPEN:
        descriptors = iter(range(2))
        attacker.take_descriptor = lambda: _null(next(descriptors))  # type: ignore[method-assign]
    theirs = answers(attacker, kind, make(pod, KEYS))
    absent = answers(attacker, kind, make(pod, ABSENT))
    if kind is Kind.ARENA_OPEN:  # which tells back the number, with one digit in both
        assert pod.arena < NO_ARENA
        theirs, absent = theirs.replace(b"%d" % pod.arena, b""), absent.replace(b"%d" % NO_ARENA, b"")
    assert theirs == absent
    assert SECRET[:16] not in theirs
    # Nothing that the attacker asked has reached what it asked about.
    assert pod.owner.ask(Kind.LOOKUP, Lookup(KEYS), LookedUp).prefix == 4
    assert pod.shard.service.leases.bytes_by_tenant[A] == 4 * len(SECRET)


def _null(_: int) -> int:
    return os.open("/dev/null", os.O_RDONLY)


def test_a_put_tells_nothing_of_anothers_chunks(pod: Pod) -> None:
    attacker = pod.enter(B)

    def put_of(keys: list[bytes]) -> bytes:
        body = Put(keys, [len(SECRET)] * len(keys))

        def send(request_id: int) -> None:
            for index in range(len(keys)):
                attacker.put_payload(request_id, body, index, b"x" * len(SECRET))

        return answers(attacker, Kind.PUT, body, send)

    assert put_of(KEYS) == put_of(ABSENT)
    assert pod.owner.ask(Kind.LOOKUP, Lookup(KEYS), LookedUp).bytes == 4 * len(SECRET)


def test_a_namespace_of_another_tenant_is_as_absent_as_none(pod: Pod) -> None:
    said = []
    for name in ("private", "nowhere"):
        with pytest.raises(Exception, match=name) as refused:
            pod.enter(B, name)
        pod.shard.clients.pop().close()
        said.append((type(refused.value), str(refused.value).replace(name, "")))
    assert said[0] == said[1]
    assert pod.enter(A, "private").session.scope.tenant == A


class Tripwire:
    """Stands where a tenant's index was: whoever reaches for it is caught, whatever he reaches for."""

    def _caught(self, *arguments: object) -> NoReturn:
        raise AssertionError("somebody reached for another tenant's index")

    __getattr__ = __getitem__ = __setitem__ = __delitem__ = __contains__ = __iter__ = __len__ = _caught  # type: ignore[assignment]
    __bool__ = _caught


def test_what_an_attacker_asks_never_comes_near_anothers_index(pod: Pod) -> None:
    """The argument for S2: no time can tell of what is not looked at (benchmarks/timing_attack.py measures)."""
    attacker = pod.enter(B)
    index = pod.shard.store._context.index.peek(pod.owner.session.scope)
    assert index.count == 4
    kept: dict[str, Any] = {
        name: getattr(index, name) for name in ("shards", "pins", "hot", "busy", "shadows")
    }
    for name in kept:
        setattr(index, name, Tripwire())
    for own in ([], [b"own"]):  # an index that is there is found by another way than one that is not
        if own:
            put(attacker, own)
        for kind, make in QUESTIONS.values():
            if kind in (Kind.RELEASE, Kind.LEASE_RENEW, Kind.ARENA_OPEN):
                continue  # tables of their own, by number
            answers(attacker, kind, make(pod, KEYS))
    with pytest.raises(AssertionError, match="another tenant's index"):
        pod.owner.start(Kind.LOOKUP, Lookup(KEYS))
    for name, value in kept.items():
        setattr(index, name, value)


def test_regions_are_each_connections_own(pod: Pod) -> None:
    """A region's number of another connection names nothing here."""
    region = pod.owner.region(1, 4096)
    attacker = pod.enter(B)
    theirs = attacker.fails(Kind.REGION_REMOVE, RegionRemove(1))
    absent = attacker.fails(Kind.REGION_REMOVE, RegionRemove(2))
    assert theirs.code == absent.code
    assert theirs.message.replace("1", "") == absent.message.replace("2", "")
    region.close()
