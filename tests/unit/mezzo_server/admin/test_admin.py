"""What operators do to the metadata, and what the audit log says of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mezzo.errors import Conflict, InvalidArgument, MezzoError, Unavailable
from mezzo.identity import derived_name, make_identity
from mezzo_server.admin.api import (
    OPERATORS,
    Admin,
    LifetimeChange,
    NamespaceChange,
    NamespaceUsage,
    TenantChange,
    TenantUsage,
    Usage,
)
from mezzo_server.admin.audit import Actor, make_audit
from mezzo_server.admin.local import LocalAdmin
from mezzo_server.admin.remote import RemoteAdmin
from mezzo_server.admin.service import HANDLERS
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.tenancy.model import Lifetime, Limit, Quota, TenantKey
from mezzo_server.tenancy.registry import Registry

NOW = 1_800_000_000
IDENTITY = make_identity(model="m", kv_dtype="bf16", layout="NHD", chunk_tokens=16, chunk_bytes=4096)


class Served:
    """A front-end without a network: each call is answered by the handler of its method."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    async def call(self, method: str, request: bytes) -> bytes:
        kind, handler = HANDLERS[method]
        answer = await handler(self._admin, kind.FromString(request))
        return answer.SerializeToString()

    async def close(self) -> None:
        pass


class Rig:
    """An operator over metadata in memory, in their place or through a front-end."""

    def __init__(self, folder: Path, remote: bool) -> None:
        self.remote = remote
        self.now = float(NOW)
        self.path = folder / "audit.jsonl"
        self.drawn = 0
        self.engine = MemoryEngine(lambda: self.now)
        self.registry = Registry(self.engine, lambda: self.now, self._random)
        self.usage: Callable[[bytes], Awaitable[TenantUsage | None]] | None = None
        self.new_key: Callable[[bytes], TenantKey] | None = None

    def _random(self, count: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(count, "big")

    def do(self, call: Callable[[Admin], Awaitable[Any]], path: Path | None = None) -> Any:
        audit = make_audit(str(path or self.path), None, bytes_max=1 << 20, files=1)
        admin: Admin = LocalAdmin(
            self.registry,
            audit,
            Actor("user:test", "local"),
            now=lambda: self.now,
            usage=self.usage,
            new_key=self.new_key,
        )
        if self.remote:
            admin = RemoteAdmin(Served(admin))
        return asyncio.run(call(admin))  # type: ignore[arg-type]

    def create(self, name: str = "acme", **options: Any) -> Any:
        given = {"weight": 1, "quota": Quota(), "lifetime": Lifetime(), "encrypted": False, **options}
        return self.do(lambda admin: admin.create_tenant(name, **given))

    def told(self) -> list[dict[str, Any]]:
        """What the log says since it was last asked."""
        if not self.path.exists():
            return []
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        self.path.unlink()
        return lines


@pytest.fixture(params=["in place", "through a front-end"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    return Rig(tmp_path, remote=request.param != "in place")


def test_the_life_of_a_tenant(rig: Rig) -> None:
    quota = Quota(capacity_bytes=Limit(1, 2))
    made = rig.create(weight=3, quota=quota, lifetime=Lifetime(ttl_s_max=9))
    assert (made.name, made.weight, made.quota, made.lifetime.ttl_s_max) == ("acme", 3, quota, 9)
    change = TenantChange(
        weight=5, quota={"hot_bytes": Limit(0, 7)}, lifetime=LifetimeChange(ttl_s_default=4), copies=2
    )
    changed = rig.do(lambda admin: admin.set_tenant("acme", change))
    assert (made.copies, changed.copies) == (1, 2)
    assert rig.do(lambda admin: admin.set_tenant("acme", TenantChange(weight=5))) == changed
    assert changed.quota == Quota(capacity_bytes=Limit(1, 2), hot_bytes=Limit(0, 7))
    assert changed.lifetime == Lifetime(ttl_s_default=4, ttl_s_max=9)
    assert rig.do(lambda admin: admin.tenant("acme")) == (changed, None)
    gone = rig.do(lambda admin: admin.delete_tenant("acme"))
    assert (gone.deleted, gone.generation) == (True, 1)
    assert rig.do(lambda admin: admin.tenants()) == []
    assert rig.do(lambda admin: admin.tenants(deleted=True)) == [gone]
    told = rig.told()
    assert [(line["event"], line["outcome"]) for line in told] == [
        ("tenant.create", "done"), ("tenant.set", "done"), ("tenant.set", "done"), ("tenant.delete", "done"),
    ]  # fmt: skip
    assert all(line["tenant"] == "acme" and line["who"] == "user:test" for line in told)
    assert told[0]["quota"] == {"capacity_bytes": {"soft": 1, "hard": 2}}
    assert told[1]["quota"] == {"hot_bytes": {"soft": 0, "hard": 7}}
    assert told[2]["tenant_id"] == made.id.hex()


def test_tokens_are_told_once_and_never_to_the_log(rig: Rig) -> None:
    rig.create()
    issued = rig.do(lambda admin: admin.issue_credential("acme", ["write", "read"], note="gpu-1"))
    assert issued.credential.scopes == ["read", "write"]
    assert issued.token.startswith(f"mz_{issued.credential.id}_")
    assert issued.token not in repr(issued)
    operator = rig.do(lambda admin: admin.issue_credential(OPERATORS, ["admin"], expires_s=NOW + 60))
    rotated = rig.do(lambda admin: admin.rotate_tenant("acme", 3600))
    revoked = rig.do(lambda admin: admin.revoke_credential(issued.credential.id))
    assert revoked.revoked
    listed = rig.do(lambda admin: admin.credentials("acme"))
    assert [(one.id, one.revoked) for one in listed] == [
        (issued.credential.id, True), (rotated[0].credential.id, False),
    ]  # fmt: skip
    assert [one.id for one in rig.do(lambda admin: admin.credentials(OPERATORS))] == [operator.credential.id]
    assert len(rig.do(lambda admin: admin.credentials())) == 3
    text = rig.path.read_text()
    for token in (issued.token, operator.token, rotated[0].token):
        assert token.rpartition("_")[2] not in text
    assert [line["event"] for line in rig.told()] == [
        "tenant.create", "credential.issue", "credential.issue", "tenant.rotate", "credential.revoke",
    ]  # fmt: skip


def test_rotation_replaces_what_is_in_force_and_leaves_the_rest(rig: Rig) -> None:
    rig.create()
    first = rig.do(lambda admin: admin.issue_credential("acme", ["read"]))
    second = rig.do(lambda admin: admin.issue_credential("acme", ["read"], expires_s=NOW + 10))
    rig.do(lambda admin: admin.revoke_credential(second.credential.id))
    (new,) = rig.do(lambda admin: admin.rotate_tenant("acme", 60))
    states = {one.id: one for one in rig.do(lambda admin: admin.credentials("acme"))}
    assert states[first.credential.id].expires_s == NOW + 60
    assert states[new.credential.id].expires_s == 0
    # Once more while the old one still is good: only the newest is replaced.
    (newer,) = rig.do(lambda admin: admin.rotate_tenant("acme", 60))
    states = {one.id: one for one in rig.do(lambda admin: admin.credentials("acme"))}
    assert [one.id for one in states.values() if not one.revoked and not one.expires_s] == [
        newer.credential.id
    ]
    rig.now += 61
    for held in rig.do(lambda admin: admin.credentials("acme")):
        rig.do(lambda admin, held=held: admin.revoke_credential(held.id))
    with pytest.raises(InvalidArgument, match="no credential to replace"):
        rig.do(lambda admin: admin.rotate_tenant("acme", 0))


def test_the_life_of_a_namespace(rig: Rig) -> None:
    rig.create()
    named = rig.do(lambda admin: admin.add_namespace("acme", "prod", IDENTITY))
    assert rig.do(lambda admin: admin.add_namespace("acme", "prod", IDENTITY)) == named
    derived = rig.do(lambda admin: admin.add_namespace("acme", "", IDENTITY))
    assert derived.name == derived_name(IDENTITY)
    changed = rig.do(
        lambda admin: admin.set_namespace("acme", "prod", NamespaceChange(LifetimeChange(ttl_s_max=5)))
    )
    assert changed.lifetime == Lifetime(ttl_s_max=5)
    changed = rig.do(
        lambda admin: admin.set_namespace("acme", "prod", NamespaceChange(LifetimeChange(ttl_s_default=3)))
    )
    assert changed.lifetime == Lifetime(ttl_s_default=3, ttl_s_max=5)
    for copies in (2, 0):
        changed = rig.do(
            lambda admin, copies=copies: admin.set_namespace("acme", "prod", NamespaceChange(copies=copies))
        )
        assert (changed.copies, changed.lifetime.ttl_s_max) == (copies, 5)
    assert rig.do(lambda admin: admin.purge_namespace("acme", "prod")).generation == 1
    assert rig.do(lambda admin: admin.delete_namespace("acme", "prod")).deleted
    assert [one.name for one in rig.do(lambda admin: admin.namespaces("acme"))] == ["default", derived.name]
    assert len(rig.do(lambda admin: admin.namespaces("acme", deleted=True))) == 3
    told = rig.told()
    assert [line["event"] for line in told[1:]] == [
        "namespace.open", "namespace.open", "namespace.open", "namespace.set", "namespace.set", "namespace.set", "namespace.set",
        "namespace.purge", "namespace.delete",
    ]  # fmt: skip
    assert told[1]["identity"]["chunk_bytes"] == 4096


def test_another_identity_is_refused_with_both_shown(rig: Rig) -> None:
    rig.create()
    rig.do(lambda admin: admin.add_namespace("acme", "prod", IDENTITY))
    other = make_identity(model="m", kv_dtype="fp8", layout="NHD", chunk_tokens=16, chunk_bytes=4096)
    with pytest.raises(Conflict, match=r"kv_dtype is 'bf16', asked for was 'fp8'.*same in both: model 'm'"):
        rig.do(lambda admin: admin.add_namespace("acme", "prod", other))
    assert rig.told()[-1]["outcome"] == "refused"


REFUSED: list[tuple[str, Callable[[Admin], Awaitable[Any]]]] = [
    ("tenant.create", lambda admin: admin.create_tenant("acme", weight=1, quota=Quota(), lifetime=Lifetime(), encrypted=False)),
    ("tenant.create", lambda admin: admin.create_tenant("b", weight=1, quota=Quota(), lifetime=Lifetime(), encrypted=True)),
    ("tenant.set", lambda admin: admin.set_tenant("absent", TenantChange(weight=2))),
    ("tenant.set", lambda admin: admin.set_tenant("acme", TenantChange(quota={"hot_bytes": Limit(3, 2)}))),
    ("tenant.delete", lambda admin: admin.delete_tenant("absent")),
    ("tenant.rotate", lambda admin: admin.rotate_tenant("acme", 5)),
    ("credential.issue", lambda admin: admin.issue_credential("absent", ["read"])),
    ("credential.issue", lambda admin: admin.issue_credential("acme", ["everything"])),
    ("credential.issue", lambda admin: admin.issue_credential("acme", ["read"], expires_s=1)),
    ("credential.issue", lambda admin: admin.issue_credential(OPERATORS, ["read"])),
    ("credential.revoke", lambda admin: admin.revoke_credential("0" * 16)),
    ("namespace.open", lambda admin: admin.add_namespace("absent", "x", None)),
    ("namespace.open", lambda admin: admin.add_namespace("acme", "", None)),
    ("namespace.set", lambda admin: admin.set_namespace("acme", "absent", NamespaceChange(LifetimeChange(1)))),
    ("namespace.purge", lambda admin: admin.purge_namespace("acme", "absent")),
    ("namespace.delete", lambda admin: admin.delete_namespace("acme", "default")),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_is_refused_is_told_too(rig: Rig, case: int) -> None:
    rig.create()
    rig.told()
    action, call = REFUSED[case]
    with pytest.raises(MezzoError) as raised:
        rig.do(call)
    (line,) = rig.told()
    assert (line["event"], line["outcome"], line["error"]) == (action, "refused", raised.value.code.name)
    assert line["why"] == str(raised.value)


def test_what_failed_in_the_middle_is_told_as_that(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.create()
    rig.told()

    async def gone(*arguments: object) -> None:
        raise Unavailable("the engine went away")

    monkeypatch.setattr(rig.engine, "transact", gone)
    with pytest.raises(Unavailable):
        rig.do(lambda admin: admin.delete_tenant("acme"))
    (line,) = rig.told()
    assert (line["outcome"], line["why"]) == ("failed", "the engine went away")


def test_nothing_is_done_that_could_not_be_told(rig: Rig, tmp_path: Path) -> None:
    rig.create()
    with pytest.raises(Unavailable, match="audit log"):
        rig.do(lambda admin: admin.delete_tenant("acme"), tmp_path / "absent" / "audit")
    assert rig.do(lambda admin: admin.tenant("acme"))[0].deleted is False


def test_usage_is_told_where_somebody_can_tell(rig: Rig) -> None:
    tenant = rig.create()
    default = rig.do(lambda admin: admin.namespaces("acme"))[0]

    async def usage(tenant_id: bytes) -> TenantUsage | None:
        assert tenant_id == tenant.id
        return TenantUsage(Usage(3, 30, 20, 10), {default.id: NamespaceUsage(1, 2)})

    rig.usage = usage
    assert rig.do(lambda admin: admin.tenant("acme"))[1] == Usage(3, 30, 20, 10)
    assert rig.do(lambda admin: admin.namespace("acme", "default"))[1] == NamespaceUsage(1, 2)
    rig.do(lambda admin: admin.add_namespace("acme", "empty", None))
    assert rig.do(lambda admin: admin.namespace("acme", "empty"))[1] == NamespaceUsage(0, 0)


def test_a_tenant_with_a_key(rig: Rig) -> None:
    rig.new_key = lambda tenant_id: TenantKey(tenant_id=tenant_id, master_id=bytes(8), wrapped=bytes(60))
    assert rig.create(encrypted=True).encrypted


def test_two_operators_change_the_same_namespace(tmp_path: Path) -> None:
    rig = Rig(tmp_path, remote=False)
    rig.create()
    default = rig.registry.set_namespace

    async def quicker(tenant_id: bytes, name: str, change: Any) -> Any:
        # Another operator's change comes between what this one read and what it writes.
        await default(tenant_id, name, NamespaceChange(LifetimeChange(ttl_s_default=3)).of)
        return await default(tenant_id, name, change)

    rig.registry.set_namespace = quicker  # type: ignore[method-assign]
    changed = rig.do(
        lambda admin: admin.set_namespace("acme", "default", NamespaceChange(LifetimeChange(ttl_s_max=5)))
    )
    assert changed.lifetime == Lifetime(ttl_s_default=3, ttl_s_max=5)


def test_two_operators_rotate_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, remote=False)
    rig.create()
    old = rig.do(lambda admin: admin.issue_credential("acme", ["read"]))
    rig.do(lambda admin: admin.issue_credential("acme", ["write"]))
    rotate = rig.registry.credentials.rotate

    async def slower(credential_ids: list[str], overlap_s: float) -> Any:
        await rotate([old.credential.id], overlap_s)
        return await rotate(credential_ids, overlap_s)

    rig.registry.credentials.rotate = slower  # type: ignore[method-assign]
    issued = rig.do(lambda admin: admin.rotate_tenant("acme", 3600))
    assert [one.credential.scopes for one in issued] == [["write"]], "the other one has the successor"
    assert [one.credential.expires_s for one in issued] == [0]


def test_what_is_out_of_range_is_an_attempt_too(rig: Rig) -> None:
    rig.create()
    rig.told()
    with pytest.raises(InvalidArgument, match="overlap"):
        rig.do(lambda admin: admin.rotate_tenant("acme", 1 << 31))
    (line,) = rig.told()
    assert (line["event"], line["outcome"]) == ("tenant.rotate", "refused")
