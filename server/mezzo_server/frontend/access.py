"""What a front-end knows of its callers: the gate, the tickets that it gives out, and what keeps both current."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mezzo import Ticket
from mezzo_server.access.authentication import Anonymous, Authentication, Certificates
from mezzo_server.access.keyring import KeyRing
from mezzo_server.access.mtls import CertificateRule
from mezzo_server.access.principal import NO_TENANT, Principal, Reason, Scopes, scopes_of
from mezzo_server.access.tokens import unwelcome
from mezzo_server.config import NodeConfig
from mezzo_server.frontend.gate import Gate
from mezzo_server.frontend.ticket_office import Keys, TicketOffice
from mezzo_server.tenancy.catalog import Catalog

if TYPE_CHECKING:
    from mezzo_server.access.jwt import JwtRules
    from mezzo_server.frontend.key_source import KeySource

OURSELVES = "frontend"
"""the credential in tickets for our own connections to the shard"""
OPERATOR = Principal(NO_TENANT, "", Scopes.ADMIN, OURSELVES)
"""Us, where we ask the shard how it is."""


class Access:
    """Owner of the gate, the ticket office and the source of JSON Web Keys; `start`, then `stop`.

    Without metadata (``catalog`` and ``keys`` are None) there are no tenants and no credentials: everybody
    passes, and shards check no tickets.
    """

    def __init__(
        self,
        config: NodeConfig,
        catalog: Callable[[], Catalog | None] | None = None,
        keys: Keys | None = None,
        look: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``catalog``: the one in force; ``keys``: where public keys of ours are published; ``look`` returns
        when the catalog is as the metadata are.
        """
        access = config.access
        self._catalog = catalog
        self._tasks: list[asyncio.Task[Any]] = []
        self._key_source: KeySource | None = None
        self.office: TicketOffice | None = None
        """None: there are no tickets"""
        self.authentication: Authentication | None = None
        if catalog is not None and keys is not None:
            session_s = config.frontend.session_s
            ring = KeyRing(pod=access.pod, key_s=access.key_s, ticket_s=session_s, random_bytes=os.urandom)
            self.office = TicketOffice(ring, keys, ticket_s=session_s, now=time.monotonic, now_s=time.time)
            if access.jwt.keys:
                from mezzo_server.frontend.key_source import KeySource

                self._key_source = KeySource(access.jwt.keys, refresh_s=access.jwt.refresh_s)
            self.authentication = Authentication(
                catalog,
                look=look,
                now_s=time.time,
                anonymous=Anonymous(access.anonymous, scopes_of(access.anonymous_scopes))
                if access.anonymous
                else None,
                jwt_rules=_jwt_rules(config),
                key_sets=self._key_source,
                certificates=Certificates(CertificateRule(access.mtls.tenant), scopes_of(access.mtls.scopes))
                if access.mtls.tenant
                else None,
            )
        self.gate = Gate(self.authentication)

    async def start(self) -> None:
        """Publish a key, and look at those of others, from now on."""
        loop = asyncio.get_running_loop()
        if self.office is not None:
            await self.office.step()
            self._tasks.append(loop.create_task(self.office.run()))
        if self._key_source is not None:
            self._tasks.append(loop.create_task(self._key_source.run()))

    async def stop(self) -> None:
        """Let go of everything; tickets that were given out stay good for as long as they say."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()

    def source_for(self, principal: Principal) -> Callable[[], Ticket] | None:
        """Tickets for a connection of ours that speaks for the tenant of ``principal``; None: none are needed.

        The connection serves all callers of the tenant, and each call is checked before it comes to it.
        """
        office = self.office
        if office is None:
            return None
        speaks = Principal(principal.tenant, principal.tenant_name, Scopes.READ | Scopes.WRITE, OURSELVES)
        who = OPERATOR if principal.is_operator else speaks
        return lambda: office.sign(who)

    def unwelcome(self, principal: Principal) -> Reason | None:
        """Why somebody who was let in is not welcome any more; None: he is."""
        now_s = time.time()
        # Of what is not ours to revoke (a JSON Web Token) its own end is all that there is.
        if now_s >= principal.expires_s:
            return Reason.EXPIRED
        catalog = None if self._catalog is None else self._catalog()
        if catalog is None:
            return None
        return unwelcome(principal.tenant, principal.credential, catalog, now_s)


def _jwt_rules(config: NodeConfig) -> JwtRules | None:
    jwt = config.access.jwt
    if not jwt.keys:
        return None
    from mezzo_server.access.jwt import JwtRules

    return JwtRules(
        algorithms=tuple(jwt.algorithms),
        audience=jwt.audience,
        issuer=jwt.issuer,
        tenant_claim=jwt.tenant_claim,
        scopes_claim=jwt.scopes_claim,
        scopes_prefix=jwt.scopes_prefix,
    )
