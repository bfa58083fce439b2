"""A node with metadata: tenants reach a shard that runs, names are registered, and an outage of the engine."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from mezzo import Client
from mezzo.errors import Conflict, InvalidArgument, Unavailable
from mezzo_server.tenancy.registry import Registry
from mezzo_server.testing import RunningNode, running_node
from tests.integration.nursery import run_mezzo
from tests.integration.tenants import do, refused
from tests.patience import eventually

T = TypeVar("T")
KEYS = [b"k1", b"k2"]
CHUNKS = [b"x" * 5000, b"y" * 5000]


class Node:
    """A node, and its metadata in the test's hands."""

    def __init__(self, running: RunningNode, file: Path) -> None:
        self.running = running
        self.file = file

    def do(self, work: Callable[[Registry], Awaitable[T]]) -> T:
        return do(self.file, work)

    def tenant_id(self, name: str = "default") -> bytes:
        return self.do(lambda registry: registry.tenant(name)).id

    def clients(self, namespace: str = "default") -> list[Client]:
        return [
            Client(address, namespace=namespace, via=via)
            for address, via in ((self.running.grpc, "direct"), (self.running.grpc, "proxy"))
        ]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    file = tmp_path_factory.mktemp("metadata") / "metadata.db"
    with running_node(arguments=["--metadata", f"sqlite://{file}"]) as running:
        yield Node(running, file)


def test_the_tenant_of_anonymous_callers_is_there(node: Node) -> None:
    assert node.file.stat().st_mode & 0o777 == 0o600
    assert [tenant.name for tenant in node.do(lambda registry: registry.tenants())] == ["default"]
    direct, proxied = node.clients()
    with direct, proxied:
        direct.put(KEYS, CHUNKS)
        assert proxied.lookup(KEYS).prefix == 2


def test_names_are_registered_at_their_first_use(node: Node) -> None:
    for namespace, which in (("first", 0), ("second", 1)):
        client = node.clients(namespace)[which]
        with client:
            client.put(KEYS, CHUNKS)
        others = node.clients(namespace)
        with others[0], others[1]:
            assert [client.lookup(KEYS).prefix for client in others] == [2, 2]
    with Client(node.running.unix) as shard:
        assert shard.lookup(KEYS).prefix in (0, 2)
    with (
        pytest.raises(InvalidArgument, match="no namespace 'third'"),
        Client(node.running.unix, namespace="third") as shard,
    ):
        shard.lookup(KEYS)
    tenant = node.tenant_id()
    names = [n.name for n in node.do(lambda registry: registry.namespaces(tenant))]
    assert {"default", "first", "second"} <= set(names)
    assert "third" not in names


def test_identities_are_kept(node: Node) -> None:
    def typed(client: Client, dtype: str) -> Client:
        return client.namespace(
            model="m", kv_dtype=dtype, layout="NHD", chunk_tokens=16, chunk_bytes=8192, name="typed"
        )

    direct, proxied = node.clients()
    with direct, proxied:
        with typed(direct, "bf16") as namespace:
            namespace.put(KEYS, CHUNKS)
        with typed(proxied, "bf16") as namespace:
            assert namespace.lookup(KEYS).prefix == 2
        for client in (direct, proxied):
            with (
                pytest.raises(Conflict, match="kv_dtype is 'bf16', asked for was 'fp8'"),
                typed(client, "fp8") as namespace,
            ):
                namespace.lookup(KEYS)


def test_a_purge_reaches_a_shard_that_runs(node: Node) -> None:
    direct, proxied = node.clients("purged")
    with direct, proxied:
        direct.put(KEYS, CHUNKS)
        assert proxied.lookup(KEYS).prefix == 2
        tenant = node.tenant_id()
        node.do(lambda registry: registry.purge_namespace(tenant, "purged"))
        eventually(lambda: direct.lookup(KEYS).prefix == 0, "the shard hears of the purge")
        assert proxied.lookup(KEYS).prefix == 0
        direct.put(KEYS, CHUNKS)
        assert proxied.lookup(KEYS).prefix == 2


def test_an_outage_of_the_engine(node: Node) -> None:
    """R7: known tenants go on, changes fail fast, and it heals by itself."""
    away = node.file.with_suffix(".away")
    direct, proxied = node.clients("known")
    with direct, proxied:
        direct.put(KEYS[:1], CHUNKS[:1])
        proxied.lookup(KEYS)
        node.file.rename(away)
        try:
            direct.put(KEYS[1:], CHUNKS[1:])
            assert (direct.lookup(KEYS).prefix, proxied.lookup(KEYS).prefix) == (2, 2)
            for client in node.clients("unknown"):
                began = time.monotonic()
                with pytest.raises(Unavailable), client:
                    client.lookup(KEYS)
                assert time.monotonic() - began < client.timeout_s / 2, "it was not waited for"
            with pytest.raises(Unavailable):
                node.do(lambda registry: registry.create_tenant("other"))
            assert not node.file.exists(), "nobody makes another one"
        finally:
            away.rename(node.file)
        tenant = node.tenant_id()
        node.do(lambda registry: registry.purge_namespace(tenant, "known"))
        eventually(lambda: direct.lookup(KEYS).prefix == 0, "the shard hears of the purge")
        eventually(lambda: proxied.lookup(KEYS).prefix == 0, "the front-end does")
        for client in node.clients("unknown"):
            with client:
                assert client.lookup(KEYS).prefix == 0


def test_a_deleted_tenant_is_out(node: Node) -> None:
    direct, proxied = node.clients()
    with direct, proxied:
        direct.put(KEYS, CHUNKS)
        node.do(lambda registry: registry.delete_tenant("default"))
        eventually(lambda: refused(direct), "a direct client is out")
        eventually(lambda: refused(proxied), "a proxied client is out")


def test_a_shard_without_its_metadata_serves_nothing(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").write_bytes(b"no database at all, but long enough to be one" * 99)
    command = ["shard", "--device", "memory:64MiB", "--listen", f"unix://{tmp_path}/s", "--metadata"]
    for url, words in (
        (f"sqlite://{tmp_path}/metadata.db", "is damaged"),
        (f"sqlite://{tmp_path}/none/metadata.db", "could not be loaded: "),
    ):
        said = run_mezzo(*command, url, environ={"MEZZO_METADATA_START_S": "0.2"})
        assert said.returncode == 2, said
        assert words in said.stderr.splitlines()[-1]
        assert not (tmp_path / "s").exists()
