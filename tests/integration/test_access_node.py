"""Access over real processes: tickets that are renewed, sockets with a mode, keys from an address."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mezzo import AsyncClient, Client
from mezzo.errors import Denied
from mezzo_server.access.keysets import KEY_SET_BYTES_MAX
from mezzo_server.frontend.key_source import KeySource
from mezzo_server.testing import running_shard
from tests.integration.tenants import WAYS, jwk, tenants

KEYS = [b"k"]


def test_clients_renew_their_tickets_while_they_are_used(tmp_path: Path) -> None:
    """With tickets that are good for half a second, on connections that stay what they are."""
    with tenants(tmp_path, session_s=0.5) as pod, pod.client("operator") as operator:

        def accepted() -> float:
            return operator.shard_stat()["tickets_accepted"]

        clients = [pod.client("b", way) for way in WAYS]
        for client in clients:
            client.lookup(KEYS)
        before = accepted()

        async def beside() -> int:
            async with AsyncClient(pod.node.grpc, token=pod.tokens["b"], via="direct") as client:
                # Three direct clients and the front-end's own, each at least twice.
                while accepted() - before < 8:
                    await client.lookup(KEYS)
                    await asyncio.sleep(0.05)
                    for other in clients:
                        other.lookup(KEYS)
                return client.statistics().connections

        assert asyncio.run(beside()) == 1
        assert [client.statistics().connections for client in clients] == [1, 1, 1]
        assert operator.shard_stat()["sessions_ended_unwelcome"] == 0
        for client in clients:
            client.close()


def test_the_mode_and_the_users_of_a_socket() -> None:
    mine, other = os.geteuid(), os.geteuid() + 1
    both = f'[access]\nunix_mode = "0640"\nunix_users = ["{other}", "{mine}"]\n'
    with running_shard(config=both) as shard, Client(shard.unix) as client:
        assert _mode(shard.unix) == 0o640
        client.ping()
    with running_shard(config=f'[access]\nunix_users = ["{other}"]\n') as shard:
        assert _mode(shard.unix) == 0o600
        with Client(shard.unix) as client, pytest.raises(Denied, match="unix_users"):
            client.ping()
        with Client(shard.tcp) as client:
            client.ping()


def _mode(address: str) -> int:
    return stat.S_IMODE(Path(address.removeprefix("unix://")).stat().st_mode)


# -- keys of JSON Web Tokens over HTTP


@contextmanager
def answering(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """An HTTP server on loopback; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[self.path]
            self.send_response(status)
            if status == 302:
                self.send_header("Location", body.decode())
                body = b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_keys_come_from_the_address_and_no_other() -> None:
    good = json.dumps({"keys": [jwk(Ed25519PrivateKey.generate(), "one")]}).encode()
    answers = {
        "/good": (200, good),
        "/gone": (404, good),
        "/large": (200, good + b" " * KEY_SET_BYTES_MAX),
        "/elsewhere": (302, b"/good"),
    }

    async def known(address: str) -> tuple[list[str], int]:
        source = KeySource(address, refresh_s=300)
        assert await source.look()
        return [key.id for key in source.keys], source.failures

    with answering(answers) as address:
        assert asyncio.run(known(f"{address}/good")) == (["one"], 0)
        for path in ("/gone", "/large", "/elsewhere"):
            assert asyncio.run(known(address + path)) == ([], 1), path
    assert asyncio.run(known(f"{address}/good")) == ([], 1)  # nobody is there any more
