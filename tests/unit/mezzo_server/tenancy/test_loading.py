"""Catalogs from entries of the metadata."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings, strategies

from mezzo_server.metadata.engine import Change, Entry, Scan
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.entries import encode, key_of, tenant_key
from mezzo_server.tenancy.loading import CatalogLoader
from mezzo_server.tenancy.model import Credential, Namespace, Tenant, TicketKey
from tests.unit.mezzo_server.tenancy.rig import Tenancy, identity

A, B = b"a" * 16, b"b" * 16


def loaded(scan: Scan) -> tuple[Catalog, list[str]]:
    complaints: list[str] = []
    loader = CatalogLoader(lambda key, why: complaints.append(key))
    loader.load(scan)
    return loader.catalog(), complaints


def entries(*records: object) -> list[Entry]:
    return [Entry(key_of(record), encode(record), n + 1) for n, record in enumerate(records)]


def test_everything_is_found():
    tenancy = Tenancy()
    do, reg = tenancy.do, tenancy.registry
    tenant = do(reg.create_tenant("acme"))
    namespace = do(reg.open_namespace(tenant.id, "n", identity()))
    credential = do(reg.credentials.issue(tenant.id, ["read"])).credential
    key = TicketKey(id=bytes(8), public=bytes(32), expires_s=1)
    do(reg.credentials.publish_ticket_key(key, 10))
    catalog = tenancy.catalog()
    assert catalog.namespace(tenant.id, "n") == namespace
    assert catalog.credentials == {credential.id: credential}
    assert catalog.ticket_keys == {key.id: key}
    assert catalog.revision == do(tenancy.engine.scan("")).revision
    assert tenancy.complaints == []


def test_what_is_malformed_is_left_out_and_named():
    good = Tenant(id=A, name="good")
    bad = Tenant(id=B, name="bad")
    listed = [
        *entries(good),
        Entry(key_of(bad), b"{", 5),
        Entry(tenant_key(b"c" * 16), encode(bad), 5),
        Entry("catalog/tenants/x", b'{"id": "eHg=", "name": "x"}', 5),
        Entry("catalog/namespaces/x", b"\xff", 5),
        Entry("catalog/credentials/0", b"[]", 5),
        Entry("catalog/policies/0", b"[]", 5),
    ]
    catalog, complaints = loaded(Scan(listed, 5))
    assert list(catalog.tenants.values()) == [good]
    assert complaints == [entry.key for entry in listed[1:]]


def test_a_record_that_becomes_malformed_is_known_no_more():
    complaints: list[str] = []
    loader = CatalogLoader(lambda key, why: complaints.append(key))
    credential = Credential(id="0" * 16, hash=bytes(32))
    loader.load(Scan(entries(credential), 1))
    loader.apply([Change(key_of(credential), b"?", 2)])
    assert loader.catalog().credentials == {}
    assert complaints == [key_of(credential)]


def test_of_two_with_one_name_the_older_has_it():
    older, newer = Tenant(id=B, name="n", created_s=1), Tenant(id=A, name="n", created_s=2)
    ours = Namespace(id=A, tenant_id=B, name="x", created_s=1)
    again = Namespace(id=B, tenant_id=B, name="x", created_s=1)
    catalog, complaints = loaded(Scan(entries(newer, older, ours, again), 4))
    assert catalog.tenant_named("n") == older
    assert catalog.namespace(B, "x") == ours
    assert complaints == [key_of(newer), key_of(again)]


def test_namespaces_of_nobody_have_no_name():
    stray = Namespace(id=A, tenant_id=A, name="x")
    of_deleted = Namespace(id=B, tenant_id=B, name="x")
    catalog, _ = loaded(Scan(entries(stray, of_deleted, Tenant(id=B, name="n", deleted=True)), 3))
    assert catalog.namespace(A, "x") is None
    assert catalog.namespace(B, "x") is None
    assert set(catalog.namespaces) == {A, B}


def test_what_is_known_is_not_decoded_again():
    complaints: list[str] = []
    loader = CatalogLoader(lambda key, why: complaints.append(key))
    listed = [*entries(Tenant(id=A, name="a")), Entry("catalog/tenants/x", b"", 2)]
    assert loader.load(Scan(listed, 2))
    loader.catalog()
    assert not loader.load(Scan(listed, 3))
    assert complaints == ["catalog/tenants/x"]
    assert loader.revision == 3
    # A backup was restored: the same revisions, but not the same records.
    assert loader.load(Scan(entries(Tenant(id=B, name="b")), 1))
    assert set(loader.catalog().tenants) == {B}
    assert loader.catalog().revision == 1


def test_another_past_with_the_same_numbers_is_seen():
    """A backup was restored, and written to until its revisions had caught up."""
    loader = CatalogLoader(lambda key, why: None)
    loader.load(Scan(entries(Tenant(id=A, name="a")), 5))
    loader.catalog()
    loader.distrust()
    assert loader.load(Scan(entries(Tenant(id=A, name="a", generation=1)), 5))
    assert loader.catalog().tenants[A].generation == 1


def test_what_is_as_before_is_the_same_object():
    loader = CatalogLoader(lambda key, why: None)
    records = [Tenant(id=A, name="a"), Namespace(id=A, tenant_id=A, name="n")]
    loader.load(Scan(entries(*records), 2))
    first = loader.catalog()
    loader.apply([Change(key_of(records[0]), encode(records[0]), 3)])
    loader.distrust()
    assert not loader.load(Scan(entries(*records), 3))
    loader.apply(
        [Change("catalog/credentials/" + "0" * 16, encode(Credential(id="0" * 16, hash=bytes(32))), 4)]
    )
    second = loader.catalog()
    assert second.tenants is first.tenants
    assert second.namespaces is first.namespaces
    assert second.namespace_ids is first.namespace_ids
    assert second.credentials is not first.credentials


RECORDS = strategies.sampled_from(
    [
        Tenant(id=A, name="a"),
        Tenant(id=A, name="a", generation=1, deleted=True),
        Tenant(id=B, name="b"),
        Namespace(id=A, tenant_id=A, name="n"),
        Namespace(id=B, tenant_id=B, name="n"),
        Namespace(id=B, tenant_id=B, name="n", generation=1),
        Credential(id="0" * 16, hash=bytes(32)),
        Credential(id="0" * 16, hash=bytes(32), revoked=True),
        TicketKey(id=bytes(8), public=bytes(32), expires_s=5),
    ]
)


@settings(max_examples=60)
@given(
    steps=strategies.lists(strategies.tuples(RECORDS, strategies.booleans()), max_size=30),
    cut=strategies.integers(0, 30),
)
def test_changes_lead_to_what_a_scan_gives(steps, cut):
    state: dict[str, Entry] = {}
    changes = []
    loader = CatalogLoader(lambda key, why: None)
    for number, (record, there) in enumerate(steps):
        if number == cut:
            loader.load(Scan(list(state.values()), number))
            changes.clear()
        key, value = key_of(record), encode(record) if there else None
        changes.append(Change(key, value, number + 1))
        state.pop(key, None)
        if value is not None:
            state[key] = Entry(key, value, number + 1)
    loader.apply(changes)
    assert loader.catalog() == loaded(Scan(list(state.values()), len(steps)))[0]


KINDS = strategies.sampled_from(
    ["tenants", "namespaces", "credentials", "ticket-keys", "tenant-keys", "x", ""]
)
JSON = strategies.recursive(
    strategies.one_of(
        strategies.none(), strategies.booleans(), strategies.integers(), strategies.text(max_size=40)
    ),
    lambda inner: strategies.one_of(
        strategies.lists(inner, max_size=4),
        strategies.dictionaries(
            strategies.sampled_from(
                ["id", "name", "tenant_id", "identity", "generation", "quota", "deleted", "hash"]
            ),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(
    stored=strategies.lists(
        strategies.tuples(
            KINDS,
            strategies.text(max_size=20),
            strategies.one_of(strategies.binary(max_size=60), JSON.map(msgspec.json.encode)),
        ),
        max_size=5,
    )
)
def test_no_bytes_take_the_catalog_away(stored):
    good = Tenant(id=A, name="good")
    listed = [Entry(f"catalog/{kind}/{name}", value, 1) for kind, name, value in stored]
    catalog, _ = loaded(Scan([*entries(good), *listed], 1))
    assert catalog.tenant_named("good") == good


def test_what_is_nested_without_end_is_malformed():
    value = b'{"id":' + b"[" * 200_000
    catalog, complaints = loaded(
        Scan([*entries(Tenant(id=A, name="a")), Entry("catalog/tenants/x", value, 1)], 1)
    )
    assert complaints == ["catalog/tenants/x"]
    assert catalog.tenant_named("a")
    value = b'{"scopes":' + b"[" * 200_000
    assert loaded(Scan([Entry("catalog/credentials/x", value, 1)], 1))[1] == ["catalog/credentials/x"]
