"""Operators of a node: the first token in place, all else over TLS through the admin port, and what tenants see of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mezzo import Client
from mezzo.cli.app import make_app, run
from mezzo.errors import Conflict, Denied, InvalidArgument, TooLarge
from mezzo_server.testing import running_node
from tests.contract.certificates import Authority
from tests.integration.tenants import refused
from tests.patience import eventually

KEYS = [b"k1", b"k2"]
CHUNKS = [b"x" * 5000, b"y" * 5000]
IDENTITY = {"model": "org/m", "kv_dtype": "bf16", "layout": "NHD", "chunk_tokens": 16, "chunk_bytes": 8192}


class Node:
    """A node, and an operator's shell."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = folder / "mezzo.toml"
        self.audit = folder / "audit.jsonl"
        self.grpc = self.admin = self.ca = ""
        self.token = ""
        self.capsys = capsys

    def mezzo(self, *arguments: str, token: str | None = None, status: int = 0) -> tuple[str, str]:
        self.capsys.readouterr()
        way = ["--admin", self.admin, "--token", self.token if token is None else token]
        if not self.admin:
            way = ["--config", str(self.config)]
        assert run(make_app, [*arguments, *way]) == status
        said = self.capsys.readouterr()
        return said.out, said.err

    def json(self, *arguments: str) -> Any:
        return json.loads(self.mezzo(*arguments, "--json")[0])

    def client(self, token: str, via: Any = "direct") -> Client:
        return Client(self.grpc, token=token, via=via)


@pytest.fixture
def node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Node]:
    for name in ("MEZZO_CONFIG", "MEZZO_ADMIN", "MEZZO_TOKEN"):
        # Set first, so that what commands in this process set is taken back, too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    node = Node(tmp_path, capsys)
    authority = Authority(tmp_path)
    certificate, key = authority.issue("node")
    config = (
        f'[metadata]\nengine = "sqlite://{tmp_path}/metadata.db"\n[access]\nanonymous = ""\n'
        f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    )
    monkeypatch.setenv("MEZZO_TLS_CA", authority.ca)
    node.config.write_text(config)
    node.token = node.json("credential", "issue", "--operator")["token"]
    with running_node(config=config) as running:
        frontend: Any = running.readiness["frontend"]
        node.grpc, node.admin, node.ca = running.grpc, f"grpcs://{frontend['admin']}", authority.ca
        yield node


def test_a_day_of_an_operator(node: Node) -> None:
    a = node.json("tenant", "create", "a", "--weight", "2")["credential"]
    b = node.json("tenant", "create", "b")["credential"]

    # A typed namespace; who has another identity, or is another tenant, sees nothing of it.
    with node.client(a["token"]) as client, client.namespace(**IDENTITY, name="prod") as prod:
        assert prod.put(KEYS, CHUNKS).stored == 2
        with pytest.raises(TooLarge, match="16 tokens"):
            prod.put([b"long"], [bytes(8193)])
        with (
            pytest.raises(Conflict, match="kv_dtype is 'bf16', asked for was 'fp8'"),
            client.namespace(**{**IDENTITY, "kv_dtype": "fp8"}, name="prod") as other,
        ):
            other.lookup(KEYS)
        with node.client(b["token"]) as stranger, stranger.namespace(**IDENTITY, name="prod") as theirs:
            assert theirs.lookup(KEYS).prefix == 0
        # Whoever comes by the name alone may put no longer ones either: the shard knows.
        with (
            Client(node.grpc, token=a["token"], via="proxy", namespace="prod") as untyped,
            pytest.raises(TooLarge),
        ):
            untyped.put([b"long"], [bytes(8193)])

        # What is used is told through the front-end.
        shown = node.json("namespace", "show", "a", "prod")
        assert shown["usage"] == {"chunks": 2, "bytes": 2 * 8192}
        assert shown["identity"]["chunk_bytes"] == 8192
        assert node.json("tenant", "show", "a")["usage"]["bytes"] == 2 * 8192
        assert node.json("tenant", "show", "b")["usage"]["chunks"] == 0
        assert "on devices" in node.mezzo("tenant", "show", "a")[0]

        node.mezzo("namespace", "purge", "a", "prod", "--yes")
        eventually(lambda: prod.lookup(KEYS).prefix == 0, "it is purged")
        assert node.json("namespace", "show", "a", "prod")["usage"]["chunks"] == 0

    # Who may only read sees what is there, and makes nothing.
    reader = node.json("credential", "issue", "a", "--scopes", "read")
    for via in ("proxy", "direct"):
        with (
            node.client(reader["token"], via=via) as client,
            client.namespace(**IDENTITY, name="prod") as prod,
        ):
            assert prod.lookup(KEYS).prefix == 0
            with pytest.raises(Denied):
                prod.put(KEYS, CHUNKS)
        with (
            node.client(reader["token"], via=via) as client,
            client.namespace(**IDENTITY, name="new") as new_one,
            pytest.raises(InvalidArgument, match="no namespace 'new'"),
        ):
            new_one.lookup(KEYS)
    assert {one["name"] for one in node.json("namespace", "list", "a")} == {"default", "prod"}
    node.mezzo("credential", "revoke", reader["id"], "--yes")

    # Tokens: a new one beside, the old one revoked, and the tenant deleted.
    (new,) = node.json("tenant", "rotate", "a", "--yes", "--overlap", "1h")
    with node.client(new["token"], via="proxy") as client:
        assert client.lookup(KEYS).prefix == 0
    node.mezzo("credential", "revoke", a["id"], "--yes")
    with node.client(a["token"], via="proxy") as client:
        eventually(lambda: refused(client), "the token counts no more")
    node.mezzo("tenant", "delete", "b", "--yes")
    with node.client(b["token"], via="proxy") as client:
        eventually(lambda: refused(client), "the token counts no more")
    assert [one["name"] for one in node.json("tenant", "list")] == ["a"]

    # An operator has no namespaces, and nothing of a tenant's is read with his token.
    with node.client(node.token) as client, client.namespace(**IDENTITY) as nowhere, pytest.raises(Denied):
        nowhere.lookup(KEYS)
    # Nobody else does any of this, and every attempt is told.
    for token, status in ((new["token"], "operators"), ("", "no credential"), (a["token"], "no credential")):
        assert status in node.mezzo("tenant", "list", token=token, status=2)[1]
    # Whoever comes by a wrong way is told the right one.
    admin = node.admin
    for wrong, why in (
        (node.grpc, "frontend.admin_listen"),
        (admin.removeprefix("grpcs://"), f"its address is {admin}"),
    ):
        node.admin = wrong
        assert why in node.mezzo("tenant", "list", status=2)[1]
    node.admin = admin
    credentials = grpc.ssl_channel_credentials(Path(node.ca).read_bytes())
    with grpc.secure_channel(node.admin.removeprefix("grpcs://"), credentials) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        metadata = [("authorization", f"Bearer {node.token}")]
        (answer,) = stub.ServerReflectionInfo(iter(asked), metadata=metadata)
        assert "mezzo.v1.AdminService" in {one.name for one in answer.list_services_response.service}
    lines = [json.loads(line) for line in node.audit.read_text().splitlines()]
    assert [(line["event"], line["outcome"]) for line in lines] == [
        ("credential.issue", "done"),
        ("tenant.create", "done"), ("credential.issue", "done"),
        ("tenant.create", "done"), ("credential.issue", "done"),
        ("namespace.purge", "done"), ("credential.issue", "done"), ("credential.revoke", "done"), ("tenant.rotate", "done"), ("credential.revoke", "done"), ("tenant.delete", "done"),
        ("ListTenants", "refused"), ("ListTenants", "refused"), ("ListTenants", "refused"),
    ]  # fmt: skip
    assert [line["who"] for line in lines[-3:]] == [new["id"], "", ""]
    operator = node.token.split("_")[1]
    assert {line["who"] for line in lines[1:-3]} == {operator}
    assert lines[1]["source"].startswith("ipv4:127.0.0.1:")
    for token in (a["token"], b["token"], new["token"], node.token):
        assert token.partition("_")[2].partition("_")[2] not in node.audit.read_text()
