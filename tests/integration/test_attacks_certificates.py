"""Tenants by client certificate: whose it is, and that no other authority, rule or token gets anybody in."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezzo import TLS
from mezzo.errors import Denied, Unauthenticated, Unavailable
from tests.contract.certificates import Authority
from tests.integration.tenants import WAYS, Tenants, tenants

RULE = "spiffe://pod.example/tenant/{tenant}"
SERVER = ("localhost", "127.0.0.1")


class Certified:
    """A node that asks for certificates, and an authority whose it takes."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.stranger = Authority(folder, "stranger")
        self.server = self.authority.issue("server", SERVER)
        self.pod: Tenants
        self._count = 0

    @property
    def config(self) -> str:
        return f"""
            [access.mtls]
            tenant = "{RULE}"
            scopes = ["read"]
            [tls]
            certificate = "{self.server.certificate}"
            key = "{self.server.key}"
            ca = "{self.authority.ca}"
            client_ca = "{self.authority.ca}"
            client_certificates = "required"
        """

    def trust(self, *names: str, authority: Authority | None = None) -> TLS:
        """A certificate with these names, for a client that trusts the server."""
        self._count += 1
        files = (authority or self.authority).issue(f"client-{self._count}", names, client=True)
        return TLS(ca=self.authority.ca, certificate=files.certificate, key=files.key)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    certified = Certified(tmp_path_factory.mktemp("certificates"))
    folder = tmp_path_factory.mktemp("metadata")
    with tenants(folder, config=certified.config) as pod:
        certified.pod = pod
        yield certified


@pytest.mark.parametrize("way", WAYS)
def test_a_certificate_is_its_tenants(certified: Certified, way: str) -> None:
    pod = certified.pod
    mine = certified.trust("spiffe://pod.example/tenant/a", "host.example")
    with pod.client("", way, tls=mine) as client:
        assert client.lookup([way.encode()]).prefix == 0
        with pytest.raises(Denied, match="write"):  # access.mtls.scopes
            client.put([way.encode()], [b"x" * 100])
    # A token says more, if it is the same tenant's.
    with pod.client("a", way, tls=mine) as client:
        client.put([way.encode()], [b"x" * 100])
    with pod.client("b", way, tls=mine) as client, pytest.raises(Unauthenticated):
        client.lookup([b"k"])


@pytest.mark.parametrize(
    "names",
    [
        ("host.example",),
        ("spiffe://pod.example/tenant/nobody",),
        ("spiffe://pod.example/tenant/a/b",),
        ("spiffe://pod.example.evil/tenant/a",),
        ("spiffe://pod.example/tenant/a", "spiffe://pod.example/tenant/b"),
    ],
)
def test_certificates_of_nobody(certified: Certified, names: tuple[str, ...]) -> None:
    with (
        certified.pod.client("", "proxy", tls=certified.trust(*names)) as client,
        pytest.raises(Unauthenticated),
    ):
        client.lookup([b"k"])


def test_another_authority_gets_nobody_in_whatever_he_asks(certified: Certified) -> None:
    """The handshake fails, so no call of any service is heard, nor any part of one."""
    pod = certified.pod
    forged = certified.trust("spiffe://pod.example/tenant/a", authority=certified.stranger)
    for token in ("", "a"):
        with pod.client(token, "proxy", tls=forged) as client, pytest.raises(Unavailable):
            client.lookup([b"k"])
    for target in (pod.node.grpc.removeprefix("grpcs://"), pod.node.admin):
        for shown in (forged, None):
            assert not _is_answered(target, certified.authority.ca, shown)
        assert _is_answered(target, certified.authority.ca, certified.trust("host.example"))


def _is_answered(target: str, ca: str, shown: TLS | None) -> bool:
    """Whether a server sends its HTTP/2 settings, which come before it hears any call."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    host, _, port = target.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), 20) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as wrapped,
        ):
            wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            return bool(wrapped.recv(9))
    except (ssl.SSLError, ConnectionError):
        return False
