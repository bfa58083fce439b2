"""A front-end's hold on the metadata: the catalog that it follows, and the names that it registers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress

import structlog

from mezzo.errors import Busy, Conflict, MezzoError, Unavailable
from mezzo.identity import Identity, conflict_message
from mezzo_server.access.principal import Principal, Scopes
from mezzo_server.config import NodeConfig
from mezzo_server.metadata.opening import make_engine
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.credentials import Credentials
from mezzo_server.tenancy.registry import Registry
from mezzo_server.tenancy.watching import CatalogWatcher

log = structlog.get_logger("mezzo.frontend")

FIRST_S = 5.0
"""How long a start waits for the metadata; without them it goes on, and serves when they are there."""
RETRY_S = 1.0


class FrontendMetadata:
    """Owner of a watcher, and of an engine for what is written. Within a running loop: `start`, then `stop`."""

    def __init__(self, config: NodeConfig) -> None:
        url = config.metadata.engine
        self._anonymous = config.access.anonymous
        self._engine = make_engine(url)
        self.registry = Registry(self._engine, time.time, os.urandom)
        self._watcher = CatalogWatcher(lambda: make_engine(url), lambda catalog: None)
        self._first_tenant: asyncio.Task[None] | None = None

    @property
    def credentials(self) -> Credentials:
        """Where ticket keys are published."""
        return self.registry.credentials

    def catalog(self) -> Catalog | None:
        """In force; None: none was loaded yet."""
        return self._watcher.catalog

    def refresh(self) -> None:
        """Have the catalog follow now what was written here."""
        self._watcher.refresh(lambda error: None)

    def numbers(self) -> Mapping[str, int | float]:
        """How the metadata are followed."""
        return self._watcher.numbers()

    async def start(self) -> None:
        """Follow from now on.

        Raises:
            FormatError, Unsupported: what is stored cannot be used.
        """
        self._watcher.start()
        try:
            await asyncio.to_thread(self._watcher.wait_first, FIRST_S)
        except Unavailable as error:
            log.warning("started without the metadata", reason=str(error))
        if self._anonymous and not await self._made_first_tenant():
            self._first_tenant = asyncio.get_running_loop().create_task(self._make_first_tenant())

    async def stop(self) -> None:
        """Let go of everything."""
        if self._first_tenant is not None:
            self._first_tenant.cancel()
            await asyncio.wait((self._first_tenant,))
        await asyncio.to_thread(self._watcher.stop)
        await self._engine.close()

    async def open_namespace(self, principal: Principal, name: str, identity: Identity | None = None) -> None:
        """See to it that the caller's tenant has a namespace of this name, of this identity if one is given.

        Who may only read makes none.

        Raises:
            Conflict: it has another identity.
            InvalidArgument: there is none, and the caller may not write.
            OverQuota: the tenant has too many.
            Unavailable: it is new, and the metadata are away.
        """
        if principal.is_operator:
            return
        catalog = self.catalog()
        known = None if catalog is None else catalog.namespace(principal.tenant, name)
        if known is not None and (identity is None or identity == known.identity):
            return
        if Scopes.WRITE in principal.scopes:
            await self.registry.open_namespace(principal.tenant, name, identity)
        else:
            there = await self.registry.namespace(principal.tenant, name)
            if identity is not None and identity != there.identity:
                raise Conflict(conflict_message(name, there.identity, identity))
        self.refresh()

    async def _make_first_tenant(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            if await self._made_first_tenant():
                return

    async def _made_first_tenant(self) -> bool:
        """The tenant of callers without a credential, unless there ever was one of that name; False: try again."""
        try:
            known = await self.registry.tenants(deleted=True)
            if all(tenant.name != self._anonymous for tenant in known):
                await self.registry.ensure_tenant(self._anonymous)
                await self.look()
                log.info("a tenant was made for callers without a credential", tenant=self._anonymous)
        except (Unavailable, Busy):
            return False
        except MezzoError as error:
            log.error("no tenant could be made", tenant=self._anonymous, reason=str(error))
        return True

    async def look(self) -> None:
        """Look at once, and return when the catalog has what was written before; or when that failed."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def looked(error: MezzoError | None) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done.set)

        self._watcher.refresh(looked)
        await done.wait()
