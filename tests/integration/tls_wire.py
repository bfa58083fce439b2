"""Connections over TLS by hand, and the settings of a shard that takes them."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

from mezzo_server.testing import RunningShard
from tests.contract.certificates import Authority, Files
from tests.integration.shard_wire import Wire, numbers
from tests.patience import PATIENCE_S, eventually


def table(files: Files, *more: str) -> str:
    """Settings of who shows this certificate."""
    lines = [f"certificate = {files.certificate!r}", f"key = {files.key!r}", *more]
    return "[tls]\n" + "\n".join(lines) + "\n"


def at_rest(shard: RunningShard) -> None:
    """Wait until it holds nothing of clients but of the one that asks."""

    def rests() -> bool:
        now = numbers(shard.unix)
        return (
            now["connections"] == 1
            and now["tls_connections"] == now["tls_handshakes_in_progress"] == 0
            and now["staging_free_bytes"] == now["staging_bytes"]
            and now["tls_faults"] == now["faults"] == 0
        )

    eventually(rests, "connections over TLS and what they held are given back")


def connected(shard: RunningShard) -> socket.socket:
    """A connection before the handshake."""
    parts = urlsplit(shard.tcps)
    sock = socket.create_connection((parts.hostname, parts.port), PATIENCE_S)
    sock.settimeout(PATIENCE_S)
    return sock


def context_of(authority: Authority, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    """For one who trusts the authority, and wants these versions."""
    context = ssl.create_default_context(cafile=authority.ca)
    for name, version in versions.items():
        setattr(context, name, version)
    return context


class TlsWire(Wire):
    """A connection over TLS of which every byte is the test's."""

    def __init__(self, shard: RunningShard, authority: Authority, *, hello: bool = True) -> None:
        self._made = context_of(authority).wrap_socket(connected(shard), server_hostname="localhost")
        super().__init__(shard.tcps, hello=hello)

    def connect(self, address: str) -> socket.socket:
        return self._made
