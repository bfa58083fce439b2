"""The front-end over TLS: what is negotiated, who is refused and what they are told, certificates that change."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import pytest

import mezzo
from mezzo import TLS, Client, Unavailable
from mezzo_server.config import TlsConfig
from mezzo_server.testing import running_frontend, running_node, running_shard
from mezzo_server.tls.certificates import Certificates
from tests.contract.certificates import Authority, Files
from tests.integration.nursery import real_commands
from tests.integration.tls_wire import table


def settings(files: Files, *more: str) -> str:
    return table(files, "reload_s = 0.05", *more)


@pytest.fixture(scope="module")
def shard():
    with running_shard() as shard:
        yield shard


@pytest.fixture(scope="module")
def frontend(shard, authority):
    # What it accepts is settled while it imports: so the very command.
    with (
        real_commands(),
        running_frontend(shard.unix, config=settings(authority.issue("frontend"))) as frontend,
    ):
        yield frontend


def test_it_is_tls_1_3_and_nothing_older(frontend, authority):
    def negotiated(version: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cafile=authority.ca)
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        host, _, port = frontend.target.partition(":")
        with (
            socket.create_connection((host, int(port)), 20) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as wrapped,
        ):
            return wrapped.version()

    assert negotiated(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        negotiated(ssl.TLSVersion.TLSv1_2)


def test_calls_are_made_over_it(frontend, authority):
    assert frontend.grpc.startswith("grpcs://")
    with Client(frontend.grpc, via="proxy", tls=TLS(ca=authority.ca)) as client:
        assert client.put([b"over tls"], [b"x" * 100_000]).stored == 1
        target = bytearray(100_000)
        assert client.get([b"over tls"], [target]).count == 1
        assert target == b"x" * 100_000


def test_the_environment_says_whom_to_trust(frontend, authority, monkeypatch):
    monkeypatch.setenv("MEZZO_TLS_CA", authority.ca)
    with Client(frontend.grpc, via="proxy") as client:
        assert client.ping() > 0


def refused(address: str, tls: TLS) -> str:
    with Client(address, via="proxy", tls=tls) as client, pytest.raises(Unavailable) as caught:
        client.ping()
    return str(caught.value)


def test_who_cannot_be_trusted_is_not_talked_to(shard, frontend, authority, tmp_path):
    assert "MEZZO_TLS_CA" in refused(frontend.grpc, TLS(ca=Authority(tmp_path, "other").ca))
    named = authority.issue("named", ("mezzo.example",))
    with running_frontend(shard.unix, config=settings(named)) as other:
        assert "MEZZO_TLS_SERVER_NAME" in refused(other.grpc, TLS(ca=authority.ca))
        with Client(other.grpc, via="proxy", tls=TLS(ca=authority.ca, server_name="mezzo.example")) as client:
            assert client.ping() > 0


def test_with_and_without_tls_do_not_understand_each_other_and_say_so(shard, frontend, authority):
    assert "grpcs://" in refused(f"grpc://{frontend.target}", TLS())
    with running_frontend(shard.unix) as plain:
        told = refused(f"grpcs://{plain.target}", TLS(ca=authority.ca))
        assert f"grpc://{plain.target}?" in told


def test_clients_must_show_a_certificate_if_it_is_required(shard, authority):
    files = authority.issue("asking")
    config = settings(files, 'client_certificates = "required"', f"client_ca = {authority.ca!r}")
    with running_frontend(shard.unix, config=config) as asking:
        assert "certificate" in refused(asking.grpc, TLS(ca=authority.ca)).lower()
        mine = authority.issue("client", ("spiffe://pod/tenant/alpha",), client=True)
        trust = TLS(ca=authority.ca, certificate=mine.certificate, key=mine.key)
        with Client(asking.grpc, via="proxy", tls=trust) as client:
            assert client.ping() > 0


def test_a_new_certificate_counts_without_a_failed_call(shard, tmp_path):
    authority = Authority(tmp_path, "rotating")
    files = authority.issue("rotated")
    with (
        running_frontend(shard.unix, config=settings(files)) as frontend,
        Client(frontend.grpc, via="proxy", tls=TLS(ca=authority.ca)) as old,
    ):
        host, _, port = frontend.target.partition(":")

        def serial() -> int:
            context = ssl.create_default_context(cafile=authority.ca)
            with (
                socket.create_connection((host, int(port)), 20) as sock,
                context.wrap_socket(sock, server_hostname="localhost") as wrapped,
            ):
                return int(wrapped.getpeercert()["serialNumber"], 16)

        first = serial()
        authority.issue("rotated")
        for _ in range(2000):
            assert old.lookup([b"key"]).prefix == 0
            with Client(frontend.grpc, via="proxy", tls=TLS(ca=authority.ca)) as new:
                assert new.ping() > 0
            if serial() != first:
                break
        else:
            pytest.fail("the new certificate was never served")
        assert old.ping() > 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda authority, files: Path(files.key).unlink(), "tls.key: cannot read"),
        (lambda authority, files: authority.issue("spoilt", days=-1), "expired on"),
        (lambda authority, files: authority.issue("spoilt", passphrase=b"secret"), "passphrase"),
        (lambda authority, files: Path(files.certificate).write_text("nothing"), "no certificate in PEM"),
        (
            lambda authority, files: Path(files.key).write_bytes(
                Path(authority.issue("another").key).read_bytes()
            ),
            "is not the key of",
        ),
    ],
)
def test_a_certificate_that_cannot_be_used_keeps_a_server_from_starting(tmp_path, spoil, told):
    authority = Authority(tmp_path)
    files = authority.issue("spoilt")
    config = TlsConfig(certificate=files.certificate, key=files.key)
    certificates = Certificates(config, time.time)
    spoil(authority, files)
    with pytest.raises(mezzo.InvalidArgument, match=told):
        Certificates(config, time.time)
    # One that runs goes on with what it has.
    before = certificates.identity
    assert certificates.look() is False
    assert certificates.identity is before
    assert certificates.reload_failures == 1


def test_a_whole_node_is_served_over_tls(authority):
    """All by way of the supervisor: its front-end reaches its shard over TLS, and so do clients that it leads there."""
    files = authority.issue("node")
    config = settings(files, f"ca = {authority.ca!r}")
    trust = TLS(ca=authority.ca)
    with running_node(listen=["tcps://127.0.0.1:0"], config=config) as node:
        assert node.grpc.startswith("grpcs://")
        with (
            Client(node.grpc, via="direct", tls=trust) as direct,
            Client(node.grpc, via="proxy", tls=trust) as proxied,
        ):
            direct.put([b"node"], [b"y" * 50_000])
            target = bytearray(50_000)
            assert proxied.get([b"node"], [target]).count == 1
            assert target == b"y" * 50_000
            assert direct.shard_stat()["tls_connections"] >= 2
        node.kill_frontend()
        node.wait_until_ready()
        with Client(node.grpc, via="direct", tls=trust) as again:
            assert again.lookup([b"node"]).prefix == 1
