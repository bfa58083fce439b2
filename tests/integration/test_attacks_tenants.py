"""Attacks of one tenant on another, and of nobody on all: over real processes, by every way and every call.

S1: what is another tenant's looks like what does not exist.  S3: nobody is heard.  Revocation within 5 s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mezzo import Client, Ticket
from mezzo.errors import Denied, Gone, MezzoError, Unauthenticated
from mezzo.v1 import store_pb2
from tests.integration.grpc_client import stock
from tests.integration.tenants import WAYS, Tenants, tenants
from tests.patience import eventually

KEYS = [b"chunk-%d" % number for number in range(4)]
ABSENT = [b"other-%d" % number for number in range(4)]
"""as long as `KEYS`, and nowhere"""
CHUNK = b"secret of tenant a, " * 500
VIAS: tuple[Literal["direct", "proxy"], ...] = ("direct", "proxy")
ATTEMPTS = 3
GARBAGE = b"\xff\xff\xff\xff no message of any kind"


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    with tenants(tmp_path_factory.mktemp("tenants")) as pod:
        with pod.client("a") as client:
            assert client.put(KEYS, [CHUNK] * 4).stored == 4
        yield pod


# -- S1


def told(client: Client, keys: list[bytes]) -> list[Any]:
    """Everything that a tenant can find out about keys, but for the time that it takes."""
    targets = [bytearray(2 * len(CHUNK)) for _ in keys]
    found = client.lookup(keys)
    got = client.get(keys, targets)
    lease = client.acquire(keys, 5.0)
    renewal = None
    try:
        renewal = lease.renew(5.0)
    except MezzoError as error:
        renewal = (type(error), str(error))
    return [
        (found.prefix, found.bytes, found.load_s),
        (got.found, got.lengths, got.bytes),
        all(not any(target) for target in targets),
        (lease.prefix, lease.bytes, lease.load_s),
        renewal,
        lease.release(),
        client.stat(keys),
        client.delete(keys),
    ]


@pytest.mark.parametrize("way", WAYS)
def test_anothers_chunks_look_as_if_they_did_not_exist(pod: Tenants, way: str) -> None:
    with pod.client("b", way) as attacker, pod.client("a") as owner:
        assert told(attacker, KEYS) == told(attacker, ABSENT)
        # A key of one's own, after one of theirs: neither helps to reach the other.
        assert attacker.lookup([KEYS[0], ABSENT[0]]).prefix == 0
        # The deletes above have reached nothing.
        assert owner.lookup(KEYS).prefix == 4
        targets = [bytearray(len(CHUNK)) for _ in KEYS]
        assert owner.get(KEYS, targets).count == 4
        assert all(target == CHUNK for target in targets)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_key_of_two_tenants_is_two_chunks(pod: Tenants, way: str) -> None:
    """A put tells by EXISTS what is there: of one's own only. And nobody poisons what another reads."""
    key, forged = f"shared-{way}".encode(), b"poison" * 1000
    with pod.client("a", way) as owner, pod.client("b", way) as attacker:
        assert owner.put([key], [CHUNK]).stored == 1
        assert attacker.put([key], [forged]).stored == 1
        assert attacker.put([key], [CHUNK]).exists == 1
        target = bytearray(len(CHUNK))
        assert owner.get([key], [target]).count == 1
        assert target == CHUNK
        attacker.delete([key])
        assert owner.lookup([key]).prefix == 1


@pytest.mark.parametrize("way", WAYS)
def test_namespaces_of_one_name_are_each_tenants_own(pod: Tenants, way: str) -> None:
    with (
        pod.client("a", way, namespace="private") as owner,
        pod.client("b", way, namespace="private") as attacker,
        pod.client("b", way, namespace="nowhere") as nowhere,
    ):
        owner.put(KEYS, [CHUNK] * 4)
        assert told(attacker, KEYS) == told(nowhere, KEYS)
        assert owner.lookup(KEYS).prefix == 4


def test_leases_of_the_front_end_are_their_tenants(pod: Tenants) -> None:
    """A name that was overheard is as good as one that was made up."""
    with stock(pod.node.grpc.removeprefix("grpc://")) as client:
        owner = (("authorization", f"Bearer {pod.tokens['a']}"),)
        attacker = (("authorization", f"Bearer {pod.tokens['b']}"),)
        request = store_pb2.AcquireRequest(namespace="default", keys=KEYS, lease_ms=30_000)
        lease = client.acquire(request, metadata=owner).lease
        for name in (lease, bytes(16)):
            assert not client.release(store_pb2.ReleaseRequest(lease=name), metadata=attacker).held
            with pytest.raises(grpc.RpcError) as error:
                client.renew(store_pb2.RenewRequest(lease=name, lease_ms=1000), metadata=attacker)
            assert dict(error.value.trailing_metadata())["mezzo-code"] == Gone.code.name
        assert client.release(store_pb2.ReleaseRequest(lease=lease), metadata=owner).held


@pytest.mark.parametrize("way", WAYS)
def test_scopes_and_numbers(pod: Tenants, way: str) -> None:
    with pod.client("b-reads", way) as reader, pod.client("b-writes", way) as writer:
        assert reader.lookup(KEYS).prefix == 0
        with pytest.raises(Denied, match="write"):
            reader.put([b"k"], [CHUNK])
        with pytest.raises(Denied, match="write"):
            reader.delete([b"k"])
        assert writer.put([f"w-{way}".encode()], [CHUNK]).stored == 1
        for call in (writer.lookup, writer.stat):
            with pytest.raises(Denied, match="read"):
                call([b"k"])
        numbers = reader.shard_stat()
        assert "bytes_live" not in numbers
        # Its own, and what a has in the namespace of the same name is not among them.
        assert numbers["capacity_bytes"] == numbers["namespace_bytes"] == 12288 * numbers["namespace_chunks"]
    with pod.client("operator", way) as operator:
        assert operator.shard_stat()["bytes_live"] > 0
        with pytest.raises(Denied):
            operator.lookup(KEYS)
        if way == "unix":
            # Whoever he is on this host, a tenant does not look after the server; an operator who is its user does.
            assert operator.devices()
            with pod.client("a", way) as tenant, pytest.raises(Denied, match="operators"):
                tenant.devices()


# -- S3


def callers(pod: Tenants) -> dict[str, str]:
    """Nobody, in every way that there is."""
    good = pod.tokens["a"]
    return {
        "none": "",
        "garbage": "Bearer garbage",
        "another scheme": f"Basic {good}",
        "a changed token": f"Bearer {good[:-2]}{'AA' if good[-2:] != 'AA' else 'BB'}",
        "expired": f"Bearer {pod.tokens['expired']}",
        "revoked": f"Bearer {pod.tokens['revoked']}",
        "JWT: wrong audience": f"Bearer {pod.jwt(aud='others')}",
        "JWT: wrong issuer": f"Bearer {pod.jwt(iss='https://evil.example')}",
        "JWT: expired": f"Bearer {pod.jwt(exp=int(time.time()) - 60)}",
        "JWT: no such tenant": f"Bearer {pod.jwt(tenant='nobody')}",
        "JWT: of a stranger": f"Bearer {pod.jwt(Ed25519PrivateKey.generate())}",
    }


def methods(pod: Tenants) -> list[str]:
    """Paths of all methods of all services, as reflection tells an operator."""
    metadata = (("authorization", f"Bearer {pod.tokens['operator']}"),)
    found = []
    with grpc.insecure_channel(pod.node.admin) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)

        def ask(**request: str) -> Any:
            asked = iter([reflection_pb2.ServerReflectionRequest(**request)])
            return next(stub.ServerReflectionInfo(asked, metadata=metadata, timeout=20))

        for service in ask(list_services="").list_services_response.service:
            answer = ask(file_containing_symbol=service.name)
            for data in answer.file_descriptor_response.file_descriptor_proto:
                proto = FileDescriptorProto.FromString(data)
                for described in proto.service:
                    if f"{proto.package}.{described.name}" == service.name:
                        found += [f"/{service.name}/{method.name}" for method in described.method]
    return found


def status_of(channel: grpc.Channel, path: str, authorization: str) -> str:
    """What a call with garbage in it is answered; over the wire all kinds of calls are alike."""
    metadata = [("authorization", authorization)] if authorization else []
    call = channel.stream_stream(path)(iter([GARBAGE]), metadata=metadata, timeout=20)
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_nobody_is_heard_by_any_call_before_its_body_is_decoded(pod: Tenants) -> None:
    known = methods(pod)
    ours = [path for path in known if path.startswith("/mezzo.v1.")]
    assert {"/mezzo.v1.StoreService/Put", "/mezzo.v1.StoreService/Get"} < set(ours)
    assert any("channelz" in path for path in known)
    for target in (pod.node.grpc.removeprefix("grpc://"), pod.node.admin):
        with grpc.insecure_channel(target) as channel:
            for path in known:
                if path.startswith("/grpc.health.v1.Health/"):
                    continue  # open to everybody: docs/access.md
                for name, authorization in callers(pod).items():
                    status = status_of(channel, path, authorization)
                    if status == "UNIMPLEMENTED":
                        break  # a service of the other port
                    assert status == "UNAUTHENTICATED", (target, path, name)
    # The garbage does reach a decoder, if somebody sends it who is known.
    with grpc.insecure_channel(pod.node.grpc.removeprefix("grpc://")) as channel:
        known_caller = f"Bearer {pod.tokens['a']}"
        assert status_of(channel, "/mezzo.v1.StoreService/Lookup", known_caller) == "INVALID_ARGUMENT"
        assert (
            status_of(channel, "/mezzo.v1.StoreService/Lookup", f"Bearer {pod.jwt()}") == "INVALID_ARGUMENT"
        )


@pytest.mark.parametrize("address", ["unix", "tcp"])
def test_nobody_is_let_in_by_a_shard(pod: Tenants, address: str) -> None:
    shard = pod.node.unix if address == "unix" else pod.node.tcp
    texts = set()
    for ticket in (b"", b"garbage", pod.tokens["a"].encode(), bytes(4096)):
        with (
            Client(shard, ticket=Ticket(ticket), token="") as client,
            pytest.raises(Unauthenticated) as error,
        ):
            client.lookup(KEYS)
        texts.add(str(error.value))
    assert len(texts) == 1


# -- revocation, rotation


def ended(client: Client) -> bool:
    """Whether calls of a client are refused."""
    try:
        client.lookup(KEYS)
    except Unauthenticated:
        return True
    return False


def test_a_revocation_ends_open_connections_within_five_seconds(pod: Tenants) -> None:
    for number in range(ATTEMPTS):  # the machine may stand still, too
        if revoked_within(pod, f"short-lived-{number}", 5.0):
            return
    raise AssertionError("still heard after five seconds")


def revoked_within(pod: Tenants, name: str, seconds: float) -> bool:
    """Whether clients by every way are refused so soon; nobody else is."""
    token = pod.issue(name, "b", ["read"])
    clients = [pod.client(token, way) for way in WAYS]
    with pod.client("b") as bystander:
        for client in (*clients, bystander):
            client.lookup(KEYS)
        pod.do(lambda registry: registry.credentials.revoke(pod.credentials[name]))
        began = time.monotonic()
        for client in clients:
            eventually(lambda client=client: ended(client), "it is heard no more")
        took_s = time.monotonic() - began
        assert bystander.lookup(KEYS).prefix == 0
        assert bystander.statistics().connections == 1
    for client in clients:
        client.close()
    return took_s < seconds


def test_a_new_front_end_has_new_keys_and_nobody_notices(pod: Tenants) -> None:
    with pod.client("a") as before:
        assert before.lookup(KEYS).prefix == 4
        pod.node.kill_frontend()
        pod.node.wait_until_ready()
        assert before.lookup(KEYS).prefix == 4
        with pod.client("a") as after:
            assert after.lookup(KEYS).prefix == 4
        assert before.statistics().connections == 1


def test_a_token_from_a_function_is_asked_for(pod: Tenants) -> None:
    """Also when what it gave before has expired in the meantime."""

    left_s = -60

    def token() -> str:
        return pod.jwt(exp=int(time.time()) + left_s)

    clients = [Client(pod.node.grpc, token=token, via=via) for via in VIAS]
    for client in clients:
        with pytest.raises(Unauthenticated):
            client.lookup(KEYS)
    left_s = 600
    time.sleep(1.05)  # what was given within the last second is not asked for again
    for client, via in zip(clients, VIAS, strict=True):
        assert client.put([f"jwt-{via}".encode()], [b"x" * 100]).stored == 1
        client.close()
