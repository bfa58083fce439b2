"""A shard that follows the metadata: it waits for the first catalog, and takes in every other one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from mezzo.errors import MezzoError, Unavailable
from mezzo_server.access.authentication import Anonymous
from mezzo_server.access.principal import scopes_of
from mezzo_server.config import AccessConfig, MetadataConfig
from mezzo_server.metadata.opening import make_engine
from mezzo_server.shard.admission import TicketAdmission
from mezzo_server.shard.directory import Looked
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.watching import CatalogWatcher

if TYPE_CHECKING:
    from mezzo_server.shard.service import Service

log = structlog.get_logger("mezzo.shard")

SAY_S = 10.0
"""Between two lines of the log that say that a shard still waits."""

FromThread = Callable[[Callable[[], None]], None]


class MetadataFollower:
    """Owner of a shard's watcher. `wait_first`, then `follow`, and `close` at any time."""

    def __init__(self, metadata: MetadataConfig, access: AccessConfig) -> None:
        self._access = access
        self._start_s = metadata.start_s
        self._service: Service | None = None
        self._from_thread: FromThread | None = None
        self._watcher = CatalogWatcher(lambda: make_engine(metadata.engine), self._on_catalog)
        self._watcher.start()

    def wait_first(self) -> Catalog:
        """The first catalog. Blocks, and says so in the log.

        Raises:
            Unavailable: there was none within ``metadata.start_s``.
            FormatError, Unsupported: what is stored cannot be used.
        """
        began = time.monotonic()
        while True:
            left_s = self._start_s - (time.monotonic() - began)
            try:
                return self._watcher.wait_first(min(SAY_S, max(0.0, left_s)))
            except Unavailable as error:
                if left_s <= SAY_S:
                    raise Unavailable(f"{error} (waited {self._start_s:g} s, metadata.start_s)") from None
                log.warning(
                    "waiting for the metadata; nothing is served before they are read", reason=str(error)
                )

    def follow(self, service: Service, from_thread: FromThread) -> None:
        """Let the service have every catalog from now on, in the thread that ``from_thread`` leads to."""
        access = self._access
        self._service, self._from_thread = service, from_thread
        service.directory.look = self._look
        service.followed = self._watcher.numbers
        anonymous = None
        if access.anonymous:
            anonymous = Anonymous(access.anonymous, scopes_of(access.anonymous_scopes))
        service.admission = TicketAdmission(
            lambda: service.catalog,
            pod=access.pod,
            anonymous=anonymous,
            now=service.now,
            now_s=time.time,
        )
        self._take()

    def close(self) -> None:
        """End the watcher."""
        self._watcher.stop()

    def _take(self) -> None:
        """In the service's thread: the newest catalog, which may have come several times since."""
        service, catalog = self._service, self._watcher.catalog
        if service is not None and catalog is not None and catalog is not service.catalog:
            service.catalog_is(catalog)

    def _on_catalog(self, catalog: Catalog) -> None:
        if self._from_thread is not None:
            self._from_thread(self._take)

    def _look(self, done: Looked) -> None:
        def looked(error: MezzoError | None) -> None:
            def tell() -> None:
                self._take()
                done(error)

            if self._from_thread is not None:
                with suppress(RuntimeError):  # the loop has ended: nobody waits for it any more
                    self._from_thread(tell)

        self._watcher.refresh(looked)
