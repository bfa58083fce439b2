"""A node with metadata, and the tenants, credentials and callers of the attack tests."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mezzo import Client
from mezzo.errors import MezzoError, Unauthenticated
from mezzo_server.metadata.opening import make_engine
from mezzo_server.tenancy.registry import Registry
from mezzo_server.testing import RunningNode, running_node

T = TypeVar("T")
ISSUER = "https://id.example"
WAYS = ("unix", "tcp", "proxy")
"""how a client comes to chunks"""


def do(file: Path, work: Callable[[Registry], Awaitable[T]]) -> T:
    """Work on a node's metadata, as an operator's command would."""

    async def main() -> T:
        engine = make_engine(f"sqlite://{file}", create=False)
        try:
            return await work(Registry(engine, time.time, secrets.token_bytes))
        finally:
            await engine.close()

    return asyncio.run(main())


def refused(client: Client) -> bool:
    """Whether its credential counts no more."""
    try:
        client.lookup([b"key"])
    except Unauthenticated:
        return True
    except MezzoError:
        return False
    return False


class Tenants:
    """A node that refuses callers without a credential, tenants ``a`` and ``b``, and an operator."""

    def __init__(self, node: RunningNode, file: Path, signing: Ed25519PrivateKey) -> None:
        self.node = node
        self.file = file
        self._signing = signing
        self.ids: dict[str, bytes] = {}
        self.tokens: dict[str, str] = {}
        self.credentials: dict[str, str] = {}
        """ids of the tokens"""
        self.do(self._fill)

    def do(self, work: Callable[[Registry], Awaitable[T]]) -> T:
        """See `do`."""
        return do(self.file, work)

    async def _fill(self, registry: Registry) -> None:
        for name in ("a", "b"):
            self.ids[name] = (await registry.create_tenant(name)).id
            await self._issue(registry, name, self.ids[name], ["read", "write"])
        await self._issue(registry, "b-reads", self.ids["b"], ["read"])
        await self._issue(registry, "b-writes", self.ids["b"], ["write"])
        await self._issue(registry, "operator", b"", ["admin"])
        await self._issue(
            registry, "expired", self.ids["b"], ["read", "write"], expires_s=int(time.time()) - 60
        )
        await self._issue(registry, "revoked", self.ids["b"], ["read", "write"])
        await registry.credentials.revoke(self.credentials["revoked"])

    async def _issue(
        self, registry: Registry, name: str, tenant: bytes, scopes: list[str], expires_s: int = 0
    ) -> None:
        issued = await registry.credentials.issue(tenant, scopes, expires_s=expires_s)
        self.tokens[name], self.credentials[name] = issued.token, issued.credential.id

    def issue(self, name: str, tenant: str, scopes: list[str]) -> str:
        """One more token."""
        self.do(lambda registry: self._issue(registry, name, self.ids[tenant], scopes))
        return self.tokens[name]

    def jwt(self, signing: Ed25519PrivateKey | None = None, **changed: Any) -> str:
        """A JSON Web Token of tenant ``b``."""
        claims = {
            "iss": ISSUER,
            "aud": "mezzo",
            "exp": int(time.time()) + 600,
            "tenant": "b",
            "scope": "read write",
        }
        return jwt.encode(
            {**claims, **changed}, signing or self._signing, algorithm="EdDSA", headers={"kid": "one"}
        )

    def client(self, token: str, way: str = "unix", **options: Any) -> Client:
        """A client by one of `WAYS`; ``token`` is a name of ours, or a token."""
        options.setdefault("timeout_s", 10.0)
        return Client(
            self.node.grpc,
            token=self.tokens.get(token, token),
            via="proxy" if way == "proxy" else "direct",
            shm=way == "unix",
            **options,
        )


@contextmanager
def tenants(folder: Path, *, config: str = "", session_s: float = 300.0) -> Iterator[Tenants]:
    """A node of its own, stopped at the end."""
    file = folder / "metadata.db"
    signing = Ed25519PrivateKey.generate()
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [jwk(signing, "one")]}))
    settings = f"""
        [metadata]
        engine = "sqlite://{file}"
        [frontend]
        session_s = {session_s}
        [access]
        anonymous = ""
        [access.jwt]
        keys = "{keys}"
        issuer = "{ISSUER}"
        {config}
    """
    # Whatever the surroundings of the test say of tokens and settings.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MEZZO_")}
    with running_node(config=settings, environ=environ) as node:
        yield Tenants(node, file, signing)


def jwk(private: Ed25519PrivateKey, kid: str) -> Mapping[str, str]:
    """Its public half, as a JSON Web Key."""
    raw = private.public_key().public_bytes_raw()
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "kid": kid,
        "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode(),
    }
