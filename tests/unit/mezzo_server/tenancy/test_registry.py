"""Tenants, namespaces and credentials in a metadata engine."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from msgspec.structs import replace

from mezzo.errors import Busy, Conflict, InternalError, InvalidArgument, OverQuota, Unavailable
from mezzo_server.metadata.engine import Outcome, Write
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.tenancy import credentials, registry
from mezzo_server.tenancy.entries import tenant_key
from mezzo_server.tenancy.model import Lifetime, Limit, Quota, TenantKey, TicketKey, copies_of
from mezzo_server.tenancy.tokens import proves, split_token
from tests.unit.mezzo_server.tenancy.rig import Tenancy, identity


@pytest.fixture
def tenancy():
    return Tenancy()


def test_a_tenant_has_a_namespace_from_its_creation(tenancy):
    tenant = tenancy.do(tenancy.registry.create_tenant("acme", weight=3))
    assert (tenant.name, tenant.weight, tenant.generation, len(tenant.id)) == ("acme", 3, 0, 16)
    assert tenant.created_s == int(tenancy.now)
    catalog = tenancy.catalog()
    assert catalog.tenant_named("acme") == tenant
    assert catalog.namespace(tenant.id, "default").tenant_id == tenant.id
    assert tenancy.do(tenancy.registry.tenant("acme")) == tenant


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 129, "ü", "a\n", "\udcff", "a\udcff"])
def test_names_of_tenants_are_plain(tenancy, name):
    with pytest.raises(InvalidArgument):
        tenancy.do(tenancy.registry.create_tenant(name))
    assert tenancy.do(tenancy.engine.scan("")).entries == []


def test_a_name_is_taken_once(tenancy):
    first = tenancy.do(tenancy.registry.create_tenant("acme"))
    with pytest.raises(Conflict, match="acme"):
        tenancy.do(tenancy.registry.create_tenant("acme"))
    assert tenancy.do(tenancy.registry.ensure_tenant("acme")) == first
    assert tenancy.do(tenancy.registry.ensure_tenant("other")).name == "other"
    assert [t.name for t in tenancy.do(tenancy.registry.tenants())] == ["acme", "other"]


def test_those_who_race_for_a_name(tenancy):
    async def race() -> list[object]:
        return await asyncio.gather(
            *(tenancy.registry.create_tenant("acme") for _ in range(5)), return_exceptions=True
        )

    outcomes = tenancy.do(race())
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 4
    assert len(tenancy.catalog().tenants) == 1


def test_a_tenant_is_changed(tenancy):
    tenancy.do(tenancy.registry.create_tenant("acme"))
    quota = Quota(capacity_bytes=Limit(10, 20))
    changed = tenancy.do(
        tenancy.registry.set_tenant(
            "acme", lambda t: replace(t, weight=9, quota=quota, lifetime=Lifetime(ttl_s_max=60))
        )
    )
    assert (changed.weight, changed.quota) == (9, quota)
    assert tenancy.catalog().tenant_named("acme") == changed
    for wrong in (
        lambda t: replace(t, weight=0),
        lambda t: replace(t, name="b"),
        lambda t: replace(t, generation=7),
        lambda t: replace(t, deleted=True),
        lambda t: replace(t, quota=Quota(hot_bytes=Limit(2, 1))),
        lambda t: replace(t, quota=Quota(hot_bytes=Limit(-2, 1))),
        lambda t: replace(t, quota=Quota(hot_bytes=Limit(0, 1 << 80))),
    ):
        with pytest.raises(InvalidArgument):
            tenancy.do(tenancy.registry.set_tenant("acme", wrong))
    with pytest.raises(InvalidArgument, match="no tenant 'b'"):
        tenancy.do(tenancy.registry.set_tenant("b", lambda t: t))


def test_a_deleted_tenant_takes_all_with_it(tenancy):
    do, reg = tenancy.do, tenancy.registry
    tenant = do(reg.create_tenant("acme"))
    other = do(reg.create_tenant("other"))
    do(reg.open_namespace(tenant.id, "n"))
    do(reg.credentials.issue(tenant.id, ["read"]))
    kept = do(reg.credentials.issue(other.id, ["read"])).credential
    gone = do(reg.delete_tenant("acme"))
    assert (gone.deleted, gone.generation, gone.id) == (True, 1, tenant.id)
    catalog = tenancy.catalog()
    assert catalog.tenant(tenant.id) is None
    assert catalog.tenant_named("acme") is None
    assert catalog.namespace(tenant.id, "default") is None
    assert catalog.tenants[tenant.id].deleted, "shards that were away learn of it"
    assert list(catalog.credentials) == [kept.id]
    assert {n.tenant_id for n in catalog.namespaces.values()} == {other.id}
    with pytest.raises(InvalidArgument):
        do(reg.open_namespace(tenant.id, "n2"))
    with pytest.raises(InvalidArgument):
        do(reg.credentials.issue(tenant.id, ["read"]))
    again = do(reg.create_tenant("acme"))
    assert again.id != tenant.id
    assert len(do(reg.tenants(deleted=True))) == 3
    assert len(do(tenancy.engine.scan("names/")).entries) == 4


def test_the_key_of_a_tenant_goes_with_it(tenancy):
    do, reg = tenancy.do, tenancy.registry

    def wrapped(tenant_id: bytes, byte: bytes = b"k") -> TenantKey:
        return TenantKey(tenant_id=tenant_id, master_id=bytes(8), wrapped=byte * 60)

    tenant = do(reg.create_tenant("acme", key=wrapped))
    assert tenant.encrypted
    assert tenancy.catalog().tenant_keys == {tenant.id: wrapped(tenant.id)}
    do(reg.set_tenant_key(wrapped(tenant.id, b"n")))
    assert tenancy.catalog().tenant_keys[tenant.id].wrapped == b"n" * 60
    do(reg.delete_tenant("acme"))
    assert tenancy.catalog().tenant_keys == {}
    plain = do(reg.create_tenant("plain"))
    assert not plain.encrypted
    with pytest.raises(InvalidArgument):
        do(reg.set_tenant_key(wrapped(plain.id)))


def test_records_of_the_deleted_are_bounded(tenancy, monkeypatch):
    monkeypatch.setattr(registry, "DELETED_TENANTS_MAX", 3)
    monkeypatch.setattr(registry, "DELETED_NAMESPACES_MAX", 2)
    do, reg = tenancy.do, tenancy.registry
    for n in range(6):
        do(reg.create_tenant(f"t{n}"))
        do(reg.delete_tenant(f"t{n}"))
    assert [t.name for t in do(reg.tenants(deleted=True))] == ["t3", "t4", "t5"]
    tenant = do(reg.create_tenant("live"))
    for n in range(5):
        do(reg.open_namespace(tenant.id, f"n{n}"))
        do(reg.delete_namespace(tenant.id, f"n{n}"))
    names = [n.name for n in do(reg.namespaces(tenant.id, deleted=True))]
    assert names == ["default", "n3", "n4"]


def test_tenants_and_namespaces_are_counted(tenancy, monkeypatch):
    monkeypatch.setattr(registry, "TENANTS_MAX", 1)
    monkeypatch.setattr(registry, "NAMESPACES_MAX", 2)
    tenant = tenancy.do(tenancy.registry.create_tenant("a"))
    with pytest.raises(OverQuota):
        tenancy.do(tenancy.registry.create_tenant("b"))
    tenancy.do(tenancy.registry.open_namespace(tenant.id, "n"))
    with pytest.raises(OverQuota):
        tenancy.do(tenancy.registry.open_namespace(tenant.id, "m"))
    tenancy.do(tenancy.registry.open_namespace(tenant.id, "n"))


def test_a_namespace_is_of_one_identity(tenancy):
    do, reg = tenancy.do, tenancy.registry
    tenant = do(reg.create_tenant("acme"))
    made = do(reg.open_namespace(tenant.id, "llama", identity()))
    assert do(reg.open_namespace(tenant.id, "llama", identity())) == made
    assert do(reg.open_namespace(tenant.id, "llama")) == made, "who says nothing means what is there"
    with pytest.raises(Conflict) as caught:
        do(reg.open_namespace(tenant.id, "llama", identity(kv_dtype="fp8", salt="x")))
    assert "kv_dtype is 'bf16', asked for was 'fp8'; salt is '', asked for was 'x'" in str(caught.value)
    with pytest.raises(Conflict, match="without an identity"):
        do(reg.open_namespace(tenant.id, "default", identity()))
    with pytest.raises(InvalidArgument):
        do(reg.open_namespace(tenant.id, "zero", identity(chunk_tokens=0)))


def test_names_of_tenants_do_not_meet(tenancy):
    do, reg = tenancy.do, tenancy.registry
    a, b = do(reg.create_tenant("a")), do(reg.create_tenant("b"))
    ours = do(reg.open_namespace(a.id, "n", identity()))
    theirs = do(reg.open_namespace(b.id, "n", identity(model="other")))
    assert ours.id != theirs.id
    with pytest.raises(InvalidArgument, match="no such tenant"):
        do(reg.open_namespace(bytes(16), "n"))
    catalog = tenancy.catalog()
    assert catalog.namespace(a.id, "n") == ours
    assert catalog.namespace(b.id, "n") == theirs


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\0", "\udcff"])
def test_names_of_namespaces_are_checked(tenancy, name):
    tenant = tenancy.do(tenancy.registry.create_tenant("a"))
    with pytest.raises(InvalidArgument):
        tenancy.do(tenancy.registry.open_namespace(tenant.id, name))


def test_purge_and_deletion_raise_the_generation(tenancy):
    do, reg = tenancy.do, tenancy.registry
    tenant = do(reg.create_tenant("acme"))
    made = do(reg.open_namespace(tenant.id, "n/ü x", identity()))
    purged = do(reg.purge_namespace(tenant.id, "n/ü x"))
    assert purged == replace(made, generation=1)
    assert do(reg.open_namespace(tenant.id, "n/ü x", identity())) == purged
    gone = do(reg.delete_namespace(tenant.id, "n/ü x"))
    assert (gone.deleted, gone.generation) == (True, 2)
    assert tenancy.catalog().namespace(tenant.id, "n/ü x") is None
    with pytest.raises(InvalidArgument):
        do(reg.purge_namespace(tenant.id, "n/ü x"))
    again = do(reg.open_namespace(tenant.id, "n/ü x", identity(model="other")))
    assert again.id != made.id
    with pytest.raises(InvalidArgument, match="purged"):
        do(reg.delete_namespace(tenant.id, "default"))


def test_a_namespace_has_a_lifetime(tenancy):
    do, reg = tenancy.do, tenancy.registry
    tenant = do(reg.create_tenant("acme"))
    do(reg.set_namespace(tenant.id, "default", lambda was: replace(was, lifetime=Lifetime(ttl_s_default=5))))
    assert do(reg.namespace(tenant.id, "default")).lifetime.ttl_s_default == 5


def test_a_tenant_and_a_namespace_may_ask_for_two_copies(tenancy):
    do, reg = tenancy.do, tenancy.registry
    tenant = do(reg.create_tenant("acme"))
    default = do(reg.namespace(tenant.id, "default"))
    assert copies_of(tenant, default) == 1
    tenant = do(reg.set_tenant("acme", lambda was: replace(was, copies=2)))
    assert copies_of(tenant, default) == 2
    default = do(reg.set_namespace(tenant.id, "default", lambda was: replace(was, copies=1)))
    assert copies_of(tenant, default) == 1
    assert do(reg.create_tenant("other", copies=2)).copies == 2
    for copies in (0, 3):
        with pytest.raises(InvalidArgument, match="copies"):
            do(reg.set_tenant("acme", lambda was, copies=copies: replace(was, copies=copies)))
    with pytest.raises(InvalidArgument, match="copies"):
        do(reg.set_namespace(tenant.id, "default", lambda was: replace(was, copies=3)))
    with pytest.raises(InvalidArgument, match="only lifetime and copies"):
        do(reg.set_namespace(tenant.id, "default", lambda was: replace(was, generation=7)))


@pytest.mark.parametrize("field", ["ttl_s_default", "ttl_s_max"])
def test_no_lifetime_is_longer_than_what_can_be_stored(tenancy, field):
    do, reg = tenancy.do, tenancy.registry
    tenant, endless = do(reg.create_tenant("acme")), Lifetime(**{field: 2**63 - 1})
    for change in (
        lambda: reg.create_tenant("other", lifetime=endless),
        lambda: reg.set_tenant("acme", lambda was: replace(was, lifetime=endless)),
        lambda: reg.set_namespace(tenant.id, "default", lambda was: replace(was, lifetime=endless)),
    ):
        with pytest.raises(InvalidArgument, match=field):
            do(change())


# -- credentials


def test_a_token_is_told_once(tenancy):
    do, reg = tenancy.do, tenancy.registry
    tenant = do(reg.create_tenant("acme"))
    issued = do(reg.credentials.issue(tenant.id, ["write", "read"], expires_s=5_000_000_000, note="ci"))
    token_id, secret = split_token(issued.token)
    assert token_id == issued.credential.id
    assert len(secret) == 32
    kept = tenancy.catalog().credentials[token_id]
    assert kept == issued.credential
    assert kept.hash == hashlib.sha256(secret).digest()
    assert proves(secret, kept.hash)
    assert not proves(secret[:-1] + b"?", kept.hash)
    assert (kept.scopes, kept.note, kept.expires_s) == (["read", "write"], "ci", 5_000_000_000)
    for entry in do(tenancy.engine.scan("")).entries:
        assert issued.token.rpartition("_")[2].encode() not in entry.value
        assert secret not in entry.value


@pytest.mark.parametrize("note", ["x" * 257, "\udcff"])
def test_notes_are_texts(tenancy, note):
    with pytest.raises(InvalidArgument):
        tenancy.do(tenancy.registry.credentials.issue(b"", ["admin"], note=note))


@pytest.mark.parametrize("text", ["", "mz", "mz_0123456789abcdef_", "mz_0123456789abcdef_" + "x" * 42, "xx_" + "0" * 16 + "_" + "x" * 43, "mz_0123456789ABCDEF_" + "x" * 43, "mz_0123456789abcdef_" + "x" * 43 + "\n"])  # fmt: skip
def test_what_is_no_token(text):
    assert split_token(text) is None


def test_scopes_are_known_ones(tenancy):
    for scopes in ([], ["root"], ["read", "everything"]):
        with pytest.raises(InvalidArgument, match="read, write, admin"):
            tenancy.do(tenancy.registry.credentials.issue(b"", scopes))


def test_a_rotated_token_overlaps(tenancy):
    do, reg = tenancy.do, tenancy.registry
    old = do(reg.credentials.issue(b"", ["admin"], note="ops"))
    [new] = do(reg.credentials.rotate([old.credential.id], 60))
    assert new.token != old.token
    assert (new.credential.scopes, new.credential.note) == (["admin"], "ops")
    kept = tenancy.catalog().credentials
    assert kept[old.credential.id].expires_s == int(tenancy.now) + 60
    assert kept[new.credential.id].expires_s == 0
    [last] = do(reg.credentials.rotate([new.credential.id], 0))
    assert tenancy.catalog().credentials[new.credential.id].revoked
    with pytest.raises(InvalidArgument):
        do(reg.credentials.rotate([new.credential.id], 0))
    assert len(do(reg.credentials.all(b""))) == 3
    assert do(reg.credentials.revoke(last.credential.id)).revoked
    with pytest.raises(InvalidArgument, match="no credential"):
        do(reg.credentials.revoke("0" * 16))
    with pytest.raises(InvalidArgument):
        do(reg.credentials.revoke("../x"))


def test_tokens_are_rotated_together_or_not_at_all(tenancy):
    """A new token that nobody was told of would be lost, and the old one is on its way out."""
    do, reg = tenancy.do, tenancy.registry
    ids = [do(reg.credentials.issue(b"", ["admin"])).credential.id for _ in range(3)]
    before = tenancy.catalog().credentials
    with pytest.raises(InvalidArgument):
        do(reg.credentials.rotate([*ids, "0" * 16], 60))
    assert tenancy.catalog().credentials == before
    issued = do(reg.credentials.rotate(ids, 60))
    assert len({one.token for one in issued}) == 3
    kept = tenancy.catalog().credentials
    assert {one.credential.id for one in issued} == kept.keys() - set(ids)
    assert {kept[one].expires_s for one in ids} == {int(tenancy.now) + 60}


def test_rotation_does_not_make_more_and_more(tenancy, monkeypatch):
    monkeypatch.setattr(credentials, "CREDENTIALS_MAX", 2)
    do, reg = tenancy.do, tenancy.registry
    ids = [do(reg.credentials.issue(b"", ["read"])).credential.id for _ in range(2)]
    successors = [one.credential.id for one in do(reg.credentials.rotate(ids, 60))]
    with pytest.raises(OverQuota):
        do(reg.credentials.rotate(successors[:1], 30))
    assert do(reg.credentials.rotate(successors[:1], 0)), "which leaves no more than before"


def test_a_change_that_was_made_is_told_as_made(tenancy):
    """Whatever comes of clearing up behind it: a token would be lost, a deletion done twice."""

    class Failing(MemoryEngine):
        scans = 1000

        async def scan(self, prefix):
            self.scans -= 1
            if self.scans < 0:
                raise Unavailable("away")
            return await super().scan(prefix)

    engine = Failing(lambda: 0.0)
    tenancy = Tenancy(engine)
    do, reg = tenancy.do, tenancy.registry
    do(reg.create_tenant("acme"))
    old = do(reg.credentials.issue(b"", ["admin"])).credential.id
    engine.scans = 1  # to count what is in force
    [issued] = do(reg.credentials.rotate([old], 60))
    engine.scans = 0
    assert do(reg.credentials.revoke(old)).revoked
    assert do(reg.delete_tenant("acme")).deleted
    engine.scans = 1000
    assert set(tenancy.catalog().credentials) == {old, issued.credential.id}
    do(reg.create_tenant("other"))
    do(reg.delete_tenant("other"))
    assert tenancy.catalog().namespaces == {}, "the next one clears up behind both"


def test_expired_credentials_are_forgotten_too(tenancy, monkeypatch):
    monkeypatch.setattr(credentials, "VOID_MAX", 2)
    do, reg = tenancy.do, tenancy.registry
    for _ in range(6):
        do(reg.credentials.issue(b"", ["read"], expires_s=int(tenancy.now) + 1))
        tenancy.now += 1
    assert len(do(reg.credentials.all())) == 3


def test_credentials_are_counted(tenancy, monkeypatch):
    monkeypatch.setattr(credentials, "CREDENTIALS_MAX", 2)
    monkeypatch.setattr(credentials, "VOID_MAX", 1)
    do, reg = tenancy.do, tenancy.registry
    ids = [do(reg.credentials.issue(b"", ["read"])).credential.id for _ in range(2)]
    with pytest.raises(OverQuota):
        do(reg.credentials.issue(b"", ["read"]))
    do(reg.credentials.revoke(ids[0]))
    ids.append(do(reg.credentials.issue(b"", ["read"])).credential.id)
    do(reg.credentials.revoke(ids[1]))
    assert sorted(c.id for c in do(reg.credentials.all())) == sorted(ids[1:]), (
        "the oldest void one is forgotten"
    )


def test_ticket_keys_live_with_their_lease(tenancy):
    do, creds = tenancy.do, tenancy.registry.credentials
    key = TicketKey(id=bytes(8), public=bytes(32), expires_s=2_000_000_000)
    lease = do(creds.publish_ticket_key(key, 60))
    assert tenancy.catalog().ticket_keys == {key.id: key}
    tenancy.now += 50
    assert do(creds.keep_ticket_key(lease))
    tenancy.now += 50
    assert tenancy.catalog().ticket_keys
    tenancy.now += 11
    assert not tenancy.catalog().ticket_keys
    assert not do(creds.keep_ticket_key(lease))


# -- records


def test_others_may_be_quicker_but_not_for_ever(tenancy):
    class Contended(MemoryEngine):
        losses = 3

        async def transact(self, checks, writes):
            self.losses -= 1
            if self.losses >= 0:
                return Outcome(False, 0)
            return await super().transact(checks, writes)

    engine = Contended(lambda: 0.0)
    tenancy = Tenancy(engine)
    assert tenancy.do(tenancy.registry.create_tenant("acme")).name == "acme"
    engine.losses = 1000
    with pytest.raises(Busy):
        tenancy.do(tenancy.registry.create_tenant("other"))


def test_a_malformed_record_is_named(tenancy):
    do, reg = tenancy.do, tenancy.registry
    tenant = do(reg.create_tenant("acme"))
    do(reg.create_tenant("other"))
    do(tenancy.engine.transact([], [Write(tenant_key(tenant.id), b"{}")]))
    with pytest.raises(InternalError, match=f"catalog/tenants/{tenant.id.hex()}"):
        do(reg.tenant("acme"))
    assert [t.name for t in do(reg.tenants())] == ["other"]
    do(reg.tidy())
    assert len(do(tenancy.engine.scan("catalog/namespaces/")).entries) == 2, "its namespaces stay"
