"""The admin service of a front-end: whom it lets in, and what it tells of everybody."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from mezzo.errors import Unavailable
from mezzo.v1 import admin_pb2 as pb
from mezzo_server.access.authentication import Authentication
from mezzo_server.admin.audit import make_audit
from mezzo_server.admin.service import HANDLERS
from mezzo_server.frontend.administration import CALLS_MAX, STRANGERS_MAX, STRANGERS_S, Administration
from mezzo_server.frontend.gate import Gate
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Credential, Tenant
from mezzo_server.tenancy.registry import Registry
from mezzo_server.tenancy.tokens import new_token

NOW = 1_800_000_000.0
A = b"a" * 16


def token(number: int, scopes: list[str], tenant: bytes) -> tuple[str, Credential]:
    text, token_id, kept = new_token(lambda count: bytes([number]) * count)
    return text, Credential(id=token_id, tenant_id=tenant, hash=kept, scopes=scopes)


OPERATOR, OPERATES = token(1, ["admin"], b"")
ADMIN_OF_A, ADMINISTERS = token(2, ["read", "write", "admin"], A)
READER, READS = token(3, ["read"], b"")
CATALOG = Catalog(
    tenants={A: Tenant(id=A, name="a")},
    tenant_ids={"a": A},
    credentials={held.id: held for held in (OPERATES, ADMINISTERS, READS)},
)


class Aborted(Exception):
    pass


class FakeContext:
    def __init__(self, bearer: str) -> None:
        self.headers = [("authorization", f"Bearer {bearer}")] if bearer else []
        self.status = "OK"
        self.message = b""

    async def read(self) -> bytes:
        return self.message

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self.headers

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def peer(self) -> str:
        return "ipv4:10.0.0.9:5"

    async def abort(self, status: Any, details: str, metadata: Any) -> None:
        self.status, self.details = status.name, details
        raise Aborted


class Rig:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "audit"
        self.now = 0.0
        self.changed = 0
        registry = Registry(MemoryEngine(lambda: NOW), lambda: NOW, lambda count: bytes(count))
        self.administration = Administration(
            Gate(Authentication(lambda: CATALOG, now_s=lambda: NOW)),
            registry,
            make_audit(str(self.path), None, bytes_max=1 << 20, files=1),
            now=lambda: self.now,
            now_s=lambda: NOW,
            changed=self._change,
        )

    def _change(self) -> None:
        self.changed += 1

    def call(self, method: str, request: Any, bearer: str) -> str:
        context = FakeContext(bearer)

        async def play() -> str:
            context.message = request if isinstance(request, bytes) else request.SerializeToString()
            try:
                await self.administration.handler(method)(None, context)  # type: ignore[arg-type]
            except Aborted:
                pass
            return context.status

        return asyncio.run(play())

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_an_operator_is_let_in_and_named_in_the_log(rig: Rig) -> None:
    assert rig.call("CreateTenant", pb.CreateTenantRequest(name="b"), OPERATOR) == "OK"
    assert rig.call("ListTenants", pb.ListTenantsRequest(), OPERATOR) == "OK"
    (line,) = rig.told()
    assert (line["event"], line["who"], line["source"]) == ("tenant.create", OPERATES.id, "ipv4:10.0.0.9:5")


@pytest.mark.parametrize("method", HANDLERS)
@pytest.mark.parametrize(
    ("bearer", "status", "who"),
    [
        ("", "UNAUTHENTICATED", ""),
        (OPERATOR[:-1] + "x", "UNAUTHENTICATED", ""),
        (ADMIN_OF_A, "PERMISSION_DENIED", ADMINISTERS.id),
        (READER, "PERMISSION_DENIED", READS.id),
    ],
)
def test_nobody_else_is_and_that_is_told(rig: Rig, method: str, bearer: str, status: str, who: str) -> None:
    # Not a byte of the request is looked at.
    assert rig.call(method, b"\xff\xff", bearer) == status
    (line,) = rig.told()
    assert (line["event"], line["outcome"], line["who"]) == (method, "refused", who)
    assert not bearer or bearer.rpartition("_")[2] not in json.dumps(line)


def test_strangers_cannot_fill_the_log(rig: Rig) -> None:
    for _ in range(STRANGERS_MAX + 20):
        rig.call("ListTenants", b"", "garbage")
    assert len(rig.told()) == STRANGERS_MAX
    rig.call("ListTenants", b"", ADMIN_OF_A)
    assert len(rig.told()) == STRANGERS_MAX + 1, "a tenant's attempts are counted apart"
    rig.now += STRANGERS_S
    rig.call("ListTenants", b"", "garbage")
    assert len(rig.told()) == STRANGERS_MAX + 2
    assert [line.get("left_out") for line in rig.told()[-2:]] == [None, 20]


def test_neither_can_a_tenant(rig: Rig) -> None:
    for _ in range(STRANGERS_MAX + 20):
        rig.call("ListTenants", b"", ADMIN_OF_A)
    assert len(rig.told()) == STRANGERS_MAX
    rig.call("CreateTenant", pb.CreateTenantRequest(name="b"), OPERATOR)
    assert rig.told()[-1]["event"] == "tenant.create"


async def begun(rig: Rig, method: str, bearer: str) -> asyncio.Task[str]:
    """A call that is under way."""

    async def one() -> str:
        context = FakeContext(bearer)
        try:
            await rig.administration.handler(method)(None, context)  # type: ignore[arg-type]
        except Aborted:
            pass
        return context.status

    task = asyncio.create_task(one())
    await asyncio.sleep(0)
    return task


def test_strangers_do_not_keep_operators_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> str:
        release = threading.Event()
        record = rig.administration.audit.record
        monkeypatch.setattr(
            rig.administration.audit,
            "record",
            lambda *given, **more: (release.wait(), record(*given, **more)),
        )
        # Each waits for its line in the log, on a slow disk.
        strangers = [await begun(rig, "ListTenants", ADMIN_OF_A) for _ in range(CALLS_MAX)]
        operator = await (await begun(rig, "ListTenants", OPERATOR))
        release.set()
        assert set(await asyncio.gather(*strangers)) == {"PERMISSION_DENIED"}
        return operator

    assert asyncio.run(play()) == "OK"


def test_what_was_begun_goes_on_without_its_caller(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> list[str]:
        release, done = asyncio.Event(), []

        async def slow(*arguments: object) -> pb.ListTenantsResponse:
            await release.wait()
            done.append("done")
            return pb.ListTenantsResponse()

        monkeypatch.setitem(HANDLERS, "ListTenants", (pb.ListTenantsRequest, slow))
        callers = [await begun(rig, "ListTenants", OPERATOR) for _ in range(CALLS_MAX)]
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        # It counts as long as it goes on,
        assert await (await begun(rig, "ListTenants", OPERATOR)) == "RESOURCE_EXHAUSTED"
        assert rig.changed == 0
        stop = asyncio.create_task(rig.administration.stop())
        await asyncio.sleep(0)
        release.set()
        # and a front-end that stops waits for it.
        await stop
        assert rig.changed == CALLS_MAX
        return done

    assert asyncio.run(play()) == ["done"] * CALLS_MAX


def test_no_message_and_faults_of_ours(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rig.call("CreateTenant", b"\xff\xff", OPERATOR) == "INVALID_ARGUMENT"
    assert rig.call("DeleteTenant", pb.DeleteTenantRequest(name="absent"), OPERATOR) == "INVALID_ARGUMENT"

    async def broken(*arguments: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setitem(HANDLERS, "ListTenants", (pb.ListTenantsRequest, broken))
    assert rig.call("ListTenants", b"", OPERATOR) == "INTERNAL"


def test_few_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> list[str]:
        release = asyncio.Event()

        async def slow(*arguments: object) -> pb.ListTenantsResponse:
            await release.wait()
            return pb.ListTenantsResponse()

        monkeypatch.setitem(HANDLERS, "ListTenants", (pb.ListTenantsRequest, slow))

        async def one() -> str:
            context = FakeContext(OPERATOR)
            try:
                await rig.administration.handler("ListTenants")(None, context)  # type: ignore[arg-type]
            except Aborted:
                pass
            return context.status

        held = [asyncio.create_task(one()) for _ in range(CALLS_MAX)]
        await asyncio.sleep(0)
        over = await one()
        release.set()
        return [over, *await asyncio.gather(*held)]

    statuses = asyncio.run(play())
    assert statuses == ["RESOURCE_EXHAUSTED", *["OK"] * CALLS_MAX]


def test_nothing_is_done_where_it_is_not_known_who_calls(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*arguments: object) -> None:
        raise Unavailable("the metadata could not be read")

    monkeypatch.setattr(rig.administration._gate, "admit", away)
    assert rig.call("CreateTenant", pb.CreateTenantRequest(name="b"), OPERATOR) == "UNAVAILABLE"
