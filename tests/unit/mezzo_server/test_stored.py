"""Records of a later release: what it added survives a change by this one, what must not be ignored is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from mezzo.errors import FormatError, InternalError, Unsupported
from mezzo_server.metadata.engine import Change, Entry, Scan, Write
from mezzo_server.pod import records as pod_records
from mezzo_server.pod.records import Drain, MemberRecord, Settings, drain_key, member_key
from mezzo_server.pod.view import PodView
from mezzo_server.stored import READS, Stored, decode_stored, encode_stored
from mezzo_server.tenancy import entries
from mezzo_server.tenancy.loading import CatalogLoader
from mezzo_server.tenancy.model import (
    Credential,
    Identity,
    Lifetime,
    Limit,
    Namespace,
    Quota,
    Tenant,
    TenantKey,
    TicketKey,
)
from tests.unit.mezzo_server.tenancy.rig import Tenancy

A, B = b"a" * 16, b"b" * 16
IDENTITY = Identity(model="m", kv_dtype="bf16", layout="l", chunk_tokens=16, chunk_bytes=4096)
RECORDS: list[Stored] = [
    Tenant(id=A, name="acme", weight=3, quota=Quota(capacity_bytes=Limit(soft=1, hard=2))),
    Namespace(id=B, tenant_id=A, name="n", identity=IDENTITY),
    Namespace(id=B, tenant_id=A, name="n"),
    Credential(id="0" * 16, tenant_id=A, hash=bytes(32), scopes=["read"], note="n"),
    TicketKey(id=bytes(8), public=bytes(32), expires_s=5),
    TenantKey(tenant_id=A, master_id=bytes(8), wrapped=bytes(60)),
    Settings(A, 12, 1.0, 2.0, 3.0),
    MemberRecord("n", "r", ("tcp://n:1",), 1 << 40, A, 7),
    Drain(1.0),
]

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
additions = st.dictionaries(
    st.text("abcxyz_", min_size=1, max_size=6).map("later_".__add__), values, max_size=4
)


def added(document: dict[str, Any], draw: Any) -> None:
    """What a later release adds to a record, and to what is within it (but for an identity)."""
    for name, value in tuple(document.items()):
        if isinstance(value, dict) and name != "identity":
            added(value, draw)
    document.update(draw(additions))


def later_parts(document: dict[str, Any]) -> dict[str, Any]:
    """What this release has no fields for."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        if name.startswith("later_"):
            found[name] = value
        elif isinstance(value, dict) and (inner := later_parts(value)):
            found[name] = inner
    return found


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_stored_as_ever_where_no_later_release_was(record: Stored) -> None:
    document = json.loads(encode_stored(record))
    assert set(document) == {field.encode_name for field in fields(record)} - {"reader_min", "__rest__"}
    assert decode_stored(type(record), encode_stored(record)) == record


@given(st.sampled_from(RECORDS), st.data())
def test_what_a_later_release_added_is_ignored_and_survives_a_change(
    record: Stored, data: st.DataObject
) -> None:
    document = json.loads(encode_stored(record))
    added(document, data.draw)
    read = decode_stored(type(record), json.dumps(document).encode())
    assert replace(read, rest=b"") == record
    changed: Stored = read
    if isinstance(read, Tenant):
        changed = replace(read, weight=7, quota=Quota(hot_bytes=Limit(hard=9)), generation=1)
    elif isinstance(read, Namespace):
        changed = replace(read, lifetime=Lifetime(ttl_s_max=5))
    elif isinstance(read, Credential):
        changed = replace(read, revoked=True)
    elif isinstance(read, MemberRecord):
        changed = replace(read, epoch=9)
    stored = encode_stored(changed)
    assert later_parts(json.loads(stored)) == later_parts(document)
    again = decode_stored(type(record), stored)
    assert replace(again, rest=b"") == replace(changed, rest=b"")
    assert encode_stored(again) == stored


@given(st.sampled_from(RECORDS), additions)
def test_what_must_not_be_ignored_is_refused_whatever_else_it_says(
    record: Stored, more: dict[str, Any]
) -> None:
    assert READS == 1, "or raise the number below"
    with pytest.raises(Unsupported, match="format 2"):
        decode_stored(type(record), json.dumps({"reader_min": 2, **more}).encode())
    written = encode_stored(replace(record, reader_min=2))
    assert json.loads(written)["reader_min"] == 2


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"{", b'{"reader_min": "x"}', b'{"reader_min": 0}', b"\xff", b"[" * 9999]
)
def test_what_is_malformed_is_said_to_be_so(value: bytes) -> None:
    with pytest.raises(InternalError, match="malformed"):
        entries.decode(Tenant, "catalog/tenants/x", value)
    with pytest.raises(FormatError, match="malformed"):
        pod_records.decode(Settings, "pod/settings", value)


def newer(record: Stored, **more: Any) -> bytes:
    return msgspec.json.encode({**json.loads(encode_stored(record)), **more})


def test_one_tenant_of_a_later_release_takes_no_other_away() -> None:
    told: list[tuple[str, str]] = []
    loader = CatalogLoader(lambda key, why: told.append((key, why)))
    mine, theirs, mixed = (Tenant(id=bytes([n] * 16), name=f"t{n}") for n in (1, 2, 3))
    listed = [
        Entry(entries.key_of(mine), encode_stored(mine), 1),
        Entry(entries.key_of(theirs), newer(theirs, reader_min=2), 1),
        Entry(entries.key_of(mixed), newer(mixed, colour="blue", quota={"ops_per_s": {"hard": 5}}), 1),
    ]
    loader.load(Scan(listed, 1))
    assert sorted(tenant.name for tenant in loader.catalog().tenants.values()) == ["t1", "t3"]
    assert [key for key, _ in told] == [entries.key_of(theirs)]
    assert "later release's" in told[0][1]
    loader.apply([Change(entries.key_of(theirs), newer(theirs, colour="red"), 2)])
    assert len(loader.catalog().tenants) == 3


def test_operators_of_an_older_release_change_what_they_know_and_keep_the_rest() -> None:
    tenancy = Tenancy()
    do, registry = tenancy.do, tenancy.registry
    tenant = do(registry.create_tenant("acme"))
    key = entries.key_of(tenant)
    written = newer(tenant, colour="blue", quota={"ops_per_s": {"hard": 5}})
    do(tenancy.engine.transact([], [Write(key, written)]))
    do(registry.set_tenant("acme", lambda was: replace(was, weight=9)))
    document = json.loads(do(tenancy.engine.get(key)).value)
    assert (document["weight"], document["colour"], document["quota"]["ops_per_s"]) == (
        9,
        "blue",
        {"hard": 5},
    )
    assert do(registry.delete_tenant("acme")).deleted
    assert json.loads(do(tenancy.engine.get(key)).value)["colour"] == "blue"
    other = do(registry.create_tenant("other"))
    do(tenancy.engine.transact([], [Write(entries.key_of(other), newer(other, reader_min=2))]))
    for refused in (
        registry.set_tenant("other", lambda was: replace(was, weight=2)),
        registry.delete_tenant("other"),
        registry.open_namespace(other.id, "x"),
    ):
        with pytest.raises(Unsupported, match="later release's"):
            do(refused)
    assert [each.name for each in do(registry.tenants())] == []


def test_nothing_is_planned_by_who_does_not_know_what_a_member_needs() -> None:
    told: list[str] = []
    view = PodView(lambda key, why: told.append(f"{key}: {why}"))
    member = MemberRecord("n", "r", (), 1 << 40, A)
    listed = [
        Entry(member_key(A), newer(member, colour="blue"), 1),
        Entry(member_key(B), newer(member, reader_min=2), 1),
        Entry(drain_key(A), newer(Drain(1.0), reason="disk"), 1),
    ]
    view.load(Scan(listed, 1))
    assert view.unreadable == {member_key(B)}
    assert (list(view.records), list(view.drains)) == ([A], [A])
    assert len(told) == 1
    assert "later release's" in told[0]
    with pytest.raises(FormatError):
        view.load(Scan([Entry(pod_records.SETTINGS, newer(Settings(A), reader_min=2), 1)], 1))
