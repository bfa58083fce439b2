"""Names, generations and catalogs at a shard: what a session reaches, and what becomes of it when metadata change."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from mezzo.errors import (
    Busy,
    Conflict,
    ErrorCode,
    Gone,
    InvalidArgument,
    ProtocolError,
    Unauthenticated,
    Unavailable,
)
from mezzo.identity import Identity, encode_identity
from mezzo.protocol.frame import Frame
from mezzo.protocol.messages import (
    Acquire,
    Acquired,
    ErrorReply,
    Get,
    Got,
    Hello,
    Kind,
    LeaseRenew,
    LookedUp,
    Lookup,
    NamespaceUse,
    Put,
    PutDone,
    PutGrant,
    RegionAdd,
    TenantStat,
    TenantStated,
    Welcome,
)
from mezzo_server.access.principal import ALL_SCOPES, NO_TENANT, Principal, Reason, Refused
from mezzo_server.shard.admission import NEEDS, Guest, OpenAdmission, mask_of
from mezzo_server.shard.directory import Looked
from mezzo_server.tenancy.keys import MasterKey, MasterKeys
from mezzo_server.tenancy.model import Limit, Quota, Tenant
from tests.unit.mezzo_server.shard_harness import FakeClient, Shard
from tests.unit.mezzo_server.tenancy.rig import Tenancy, identity

KEYS = [b"k1", b"k2"]


class Door(OpenAdmission):
    """Takes a ticket for the id of a tenant."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def admit(self, ticket: bytes) -> Guest:
        catalog = self._node.shard.service.catalog
        if ticket != NO_TENANT and (catalog is None or catalog.tenant(ticket) is None):
            raise Refused(Reason.TENANT)
        return Guest(Principal(ticket, "", ALL_SCOPES, ""), math.inf, mask_of(NEEDS))

    def sweep(self, sessions) -> None:
        for session in tuple(sessions):
            guest = session.guest
            if guest is not None and self._node.shard.service.catalog.tenant(guest.principal.tenant) is None:
                session.link.refuse(Refused(Reason.TENANT))


class Node:
    """A shard that is told of the metadata when the test says so."""

    def __init__(self, shard: Shard | None = None) -> None:
        self.tenancy = Tenancy()
        self.shard = shard or Shard()
        self.looks: list[Looked] = []
        self.shard.service.admission = Door(self)
        self.shard.service.directory.look = self.looks.append
        self.tenant = self.do(self.registry.create_tenant("acme"))
        self.other = self.do(self.registry.create_tenant("other"))
        self.tell()

    @property
    def registry(self):
        return self.tenancy.registry

    def do(self, work):
        return self.tenancy.do(work)

    def tell(self) -> None:
        self.shard.service.catalog_is(self.tenancy.catalog())
        self.shard.settle()

    def looked(self, error=None) -> None:
        if error is None:
            self.tell()
        looks, self.looks[:] = tuple(self.looks), []
        for done in looks:
            done(error)
        self.shard.settle()

    def client(self, tenant: Tenant | None = None, name: str = "default") -> FakeClient:
        return self.shard.client(namespace=name, ticket=(tenant or self.tenant).id)

    def hello(self, name: str, tenant: bytes | None = None, of: Identity | None = None) -> FakeClient:
        client = FakeClient(self.shard, shm=True)
        self.shard.clients.append(client)
        encoded = b"" if of is None else encode_identity(of)
        ticket = self.tenant.id if tenant is None else tenant
        client.session.receive(Frame(Kind.HELLO, 0, Hello(1, 1, "test", name, ticket, identity=encoded)))
        client.turn()
        return client


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.shard.close()


def put(client: FakeClient, keys: list[bytes] = KEYS, data: bytes = b"d" * 5000) -> None:
    body = Put(keys, lengths=[len(data)] * len(keys))
    request = client.start(Kind.PUT, body)
    client.shard.settle()
    client.answer(request, PutGrant)
    for index in range(len(keys)):
        client.put_payload(request, body, index, data)
    client.session.turn_ended()
    client.shard.settle()
    client.answer(request, PutDone)


def there(client: FakeClient, keys: list[bytes] = KEYS) -> int:
    return client.ask(Kind.LOOKUP, Lookup(keys), LookedUp).prefix


# -- names


def test_a_name_is_one_of_the_tenants_own(node: Node) -> None:
    ours = node.do(node.registry.open_namespace(node.tenant.id, "n"))
    node.tell()
    welcome = node.hello("n").answer(0, Welcome)
    assert (welcome.tenant_id, welcome.namespace_id) == (node.tenant.id, ours.id)
    with pytest.raises(AssertionError):
        node.hello("n", node.other.id).answer(0, Welcome)


def test_anothers_name_is_as_absent_as_none(node: Node) -> None:
    node.do(node.registry.open_namespace(node.tenant.id, "theirs"))
    node.tell()
    refusals = []
    for name in ("theirs", "nobody"):
        client = node.hello(name, node.other.id)
        node.looked()
        assert type(client.refused).__mro__[1] is InvalidArgument
        assert client.refused.code is ErrorCode.INVALID
        refusals.append(str(client.refused).replace(name, ""))
    assert refusals[0] == refusals[1]


def test_the_same_name_in_two_tenants_is_two_namespaces(node: Node) -> None:
    a, b = node.client(), node.client(node.other)
    put(a)
    assert (there(a), there(b)) == (2, 0)
    assert sum(b.ask(Kind.GET, Get(KEYS), Got).lengths) == 0


def test_a_name_that_may_be_new_is_looked_for_once(node: Node) -> None:
    made = node.do(node.registry.open_namespace(node.tenant.id, "new"))
    client = node.hello("new")
    assert client.frames == []
    assert client.refused is None
    assert not client.is_in, "its frames must be small still"
    assert len(node.looks) == 1
    node.looked()
    assert client.answer(0, Welcome).namespace_id == made.id
    assert client.is_in
    assert not node.looks
    client = node.hello("absent")
    node.looked()
    assert isinstance(client.refused, InvalidArgument)
    assert not node.looks


def test_a_tenant_that_may_be_new_is_looked_for_once(node: Node) -> None:
    made = node.do(node.registry.create_tenant("new"))
    client = node.hello("default", made.id)
    node.looked()
    assert client.answer(0, Welcome).tenant_id == made.id
    client = node.hello("default", b"?" * 16)
    node.looked()
    assert isinstance(client.refused, Unauthenticated)
    assert not node.looks


def test_a_new_name_while_the_metadata_are_away(node: Node) -> None:
    client = node.hello("new")
    node.looked(Unavailable("away"))
    assert isinstance(client.refused, Unavailable)
    assert there(node.client()) == 0, "who is known goes on"


def test_who_leaves_while_his_name_is_looked_for(node: Node) -> None:
    client = node.hello("new")
    client.close()
    node.looked()
    assert client.refused is None


def test_a_frame_before_the_welcome_is_against_the_rules(node: Node) -> None:

    client = node.hello("new")
    with pytest.raises(ProtocolError, match="before HELLO"):
        client.start(Kind.LOOKUP, Lookup(KEYS))


def test_an_identity_must_be_that_of_the_namespace(node: Node) -> None:
    node.do(node.registry.open_namespace(node.tenant.id, "llama", identity(chunk_bytes=4096)))
    node.tell()
    node.hello("llama", of=identity(chunk_bytes=4096)).answer(0, Welcome)
    assert node.hello("llama").answer(0, Welcome).chunk_bytes_max == 4096, "whoever asks by name alone"
    with pytest.raises(Conflict, match="model is 'llama', asked for was 'gpt'"):
        node.hello("llama", of=identity(model="gpt"))
    with pytest.raises(Conflict, match="without an identity"):
        node.hello("default", of=identity())


def test_no_tenant_has_more_than_half_of_the_connections(node: Node) -> None:
    node.shard.service.limits = replace(node.shard.service.limits, connections_max=5)
    first, second = node.client(), node.client()
    with pytest.raises(Busy, match="connections_max"):
        node.client()
    assert there(node.client(node.other)) == 0
    node.hello("default", NO_TENANT).answer(0, Welcome)
    first.close()
    assert there(node.client()) == there(second) == 0


def test_no_tenant_has_more_than_half_of_the_bytes_in_regions(node: Node) -> None:
    node.shard.service.limits = replace(node.shard.service.limits, region_bytes_total_max=4 * 4096)
    regions = [node.client().region(1, 4096) for _ in range(2)]
    third = node.client()
    third.descriptors.append(os.dup(regions[0].fd))
    refused = third.fails(Kind.REGION_ADD, RegionAdd(1, 0, 4096))
    assert (refused.code, "region_bytes_total_max" in refused.message) == (ErrorCode.BUSY, True)
    regions.append(node.client(node.other).region(1, 2 * 4096))
    for region in regions:
        region.close()


def test_an_operator_is_nowhere(node: Node) -> None:
    client = node.hello("default", NO_TENANT)
    assert client.answer(0, Welcome).tenant_id == bytes(16)
    assert client.session.place.namespace is None


# -- generations


def test_a_purged_namespace_is_empty_for_all_at_once(node: Node) -> None:
    client, same = node.client(), node.client()
    put(client)
    assert there(same) == 2
    node.do(node.registry.purge_namespace(node.tenant.id, "default"))
    node.shard.service.catalog_is(node.tenancy.catalog())
    assert client.session.scope.namespace_generation == 1
    assert (there(client), there(same), there(node.client())) == (0, 0, 0)
    put(client, data=b"e" * 6000)
    assert there(same) == 2
    assert client.refused is None
    assert node.shard.service.numbers()["chunks_erased"] == 2


def test_a_deleted_tenant_is_out_at_once(node: Node) -> None:
    client, other = node.client(), node.client(node.other)
    put(client)
    put(other)
    node.do(node.registry.delete_tenant("acme"))
    node.shard.service.catalog_is(node.tenancy.catalog())
    assert isinstance(client.refused, Unauthenticated)
    assert client.closed
    assert there(other) == 2
    node.shard.settle()
    assert node.shard.store.report().chunks == 2
    again = node.do(node.registry.create_tenant("acme"))
    node.tell()
    assert there(node.client(again)) == 0


def test_a_deleted_namespace_ends_its_sessions(node: Node) -> None:
    node.do(node.registry.open_namespace(node.tenant.id, "n"))
    node.tell()
    gone, stays = node.client(name="n"), node.client()
    node.do(node.registry.delete_namespace(node.tenant.id, "n"))
    node.tell()
    assert isinstance(gone.refused, Gone)
    assert stays.refused is None
    # The same name anew is another namespace.
    node.do(node.registry.open_namespace(node.tenant.id, "n"))
    node.tell()
    assert there(node.client(name="n")) == 0


def test_a_lease_ends_with_what_it_holds(node: Node) -> None:
    client, other = node.client(), node.client(node.other)
    put(client)
    put(other)
    leases = [c.ask(Kind.ACQUIRE, Acquire(KEYS, 60_000), Acquired).lease for c in (client, other)]
    node.do(node.registry.purge_namespace(node.tenant.id, "default"))
    node.tell()
    assert client.fails(Kind.LEASE_RENEW, LeaseRenew(leases[0], 60_000)).code == ErrorCode.GONE
    other.start(Kind.LEASE_RENEW, LeaseRenew(leases[1], 60_000))
    assert len(node.shard.service.leases) == 1
    assert list(node.shard.service.leases.bytes_by_tenant) == [node.other.id]


def test_a_put_under_way_is_not_visible_after_a_purge(node: Node) -> None:
    client = node.client()
    body = Put(KEYS, lengths=[5000, 5000])
    request = client.start(Kind.PUT, body)
    node.shard.settle()
    client.put_payload(request, body, 0, b"d" * 5000)
    client.session.turn_ended()
    node.do(node.registry.purge_namespace(node.tenant.id, "default"))
    node.shard.service.catalog_is(node.tenancy.catalog())
    node.shard.settle()
    assert there(client, KEYS[:1]) == 0


def test_what_changes_nothing_here_is_no_work(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    heeded: list[object] = []
    monkeypatch.setattr(node.shard.store, "heed", heeded.append)
    place = node.client().session.place
    node.do(node.registry.credentials.issue(node.tenant.id, ["read"]))
    node.tell()
    assert heeded == []
    assert next(iter(node.shard.service.sessions)).place is place
    node.do(node.registry.create_tenant("third"))
    node.tell()
    assert len(heeded) == 1


def test_quotas_follow_the_catalog(node: Node) -> None:

    client = node.client()
    put(client)
    node.do(
        node.registry.set_tenant(
            "acme", lambda t: replace(t, quota=Quota(leased_bytes=Limit(hard=1000)), weight=7)
        )
    )
    node.tell()
    assert client.session.meter.account.weight == 7
    assert client.fails(Kind.ACQUIRE, Acquire(KEYS, 60_000)).code == ErrorCode.TOO_LARGE


def test_without_metadata_every_name_is_a_namespace() -> None:
    shard = Shard()
    a, b = shard.client(namespace="a"), shard.client(namespace="b")
    put(a)
    assert (there(a), there(b), there(shard.client(namespace="a"))) == (2, 0, 2)
    assert shard.service.catalog is None
    shard.close()


# -- encryption at rest


def test_an_encrypted_tenants_chunks_are_encrypted(node: Node) -> None:
    master = MasterKey(b"m" * 32)
    node.shard.service.master_keys = MasterKeys([master])
    secret = node.do(
        node.registry.create_tenant(
            "secret", key=lambda tenant: master.wrap(tenant, b"k" * 32, lambda size: bytes(size))
        )
    )
    node.tell()
    data = b"nobody may read this " * 300
    put(node.client(secret), [b"hidden"], data)
    device = bytes(node.shard.device.memory.view)
    assert data[:42] not in device
    put(node.client(), [b"plain"], data)
    assert data[:42] in bytes(node.shard.device.memory.view), "it would be found"
    scope = node.client(secret).session.scope
    stream = node.shard.service.store.stream(scope, b"hidden")
    assert stream is not None
    assert stream.length == len(data)
    stream.finish()


def test_without_the_master_key_nothing_is_stored_in_the_clear(node: Node) -> None:
    master = MasterKey(b"m" * 32)
    secret = node.do(
        node.registry.create_tenant(
            "secret", key=lambda tenant: master.wrap(tenant, b"k" * 32, lambda size: bytes(size))
        )
    )
    node.tell()
    assert node.shard.service.tenants_without_key == 1
    client = node.client(secret)
    body = Put([b"k"], lengths=[100])
    request = client.start(Kind.PUT, body)
    node.shard.settle()
    client.answer(request, PutGrant)
    client.put_payload(request, body, 0, b"d" * 100)
    client.session.turn_ended()
    node.shard.settle()
    assert client.answer(request, ErrorReply).code == ErrorCode.UNAVAILABLE
    assert b"d" * 100 not in bytes(node.shard.device.memory.view)
    put(node.client(), [b"plain"])
    node.do(node.registry.delete_tenant("secret"))
    node.tell()
    assert node.shard.service.tenants_without_key == 0


def test_operators_are_told_what_a_tenant_uses(node: Node) -> None:
    other = node.do(node.registry.open_namespace(node.tenant.id, "other"))
    first = node.do(node.registry.namespace(node.tenant.id, "default"))
    node.tell()
    client = node.hello("default")
    put(client, [b"a"], bytes(100))
    put(client, [b"b"], bytes(5000))
    ids = [other.id, first.id, bytes(16)]
    operator = node.hello("default", NO_TENANT)
    told = operator.ask(Kind.TENANT_STAT, TenantStat(node.tenant.id, ids), TenantStated)
    assert (told.bytes, told.hot_bytes, told.leased_bytes) == (3 * 4096, 0, 0)
    assert told.namespaces == [NamespaceUse(other.id, 0, 0), NamespaceUse(first.id, 2, 3 * 4096)]
    # Nothing of what was purged can be read any more, and its bytes are on their way out.
    node.do(node.registry.purge_namespace(node.tenant.id, "default"))
    node.tell()
    operator = node.hello("default", NO_TENANT)
    told = operator.ask(Kind.TENANT_STAT, TenantStat(node.tenant.id, ids), TenantStated)
    assert told.namespaces == [NamespaceUse(other.id, 0, 0), NamespaceUse(first.id, 0, 0)]
    stranger = operator.ask(Kind.TENANT_STAT, TenantStat(bytes(16), ids), TenantStated)
    assert stranger == TenantStated(0, 0, 0)
