"""A thread that keeps a catalog current, so that no event loop that serves waits for the metadata."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from mezzo.errors import FormatError, InternalError, MezzoError, Unavailable, Unsupported
from mezzo_server.metadata.engine import Compacted, Engine
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.entries import CATALOG
from mezzo_server.tenancy.following import CONFIRM_S, Following, Load, Wait, Watch

log = structlog.get_logger("mezzo.catalog")

REFRESH_GAP_S = 0.05
"""between two looks that others asked for: many who ask at a time get one"""
REFRESHES_MAX = 4096
"""who waits for a look at a time"""
STOP_S = 10.0
PROBE = CATALOG + "probe"
"""what is looked up to see whether the engine answers, and at which revision; nothing is there"""

Done = Callable[[MezzoError | None], None]


class CatalogWatcher:
    """Owner of a thread, its event loop, an engine and the catalog. `start`, then `stop`."""

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        on_catalog: Callable[[Catalog], None],
        *,
        now: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """``on_catalog`` is called in the watcher's thread with every new catalog, the first included."""
        self._make_engine = make_engine
        self._on_catalog = on_catalog
        self._now = now
        self._following = Following(self._complain, draw)
        self._lock = threading.Lock()
        self._asked: list[Done] = []
        self._stopping = False
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wanted = asyncio.Event()
        self._first = threading.Event()
        self._fatal: MezzoError | None = None
        self._reason: MezzoError | None = None
        self._thread = threading.Thread(target=self._main, name="mezzo-catalog", daemon=True)

    @property
    def catalog(self) -> Catalog | None:
        """In force; None: none was loaded yet."""
        return self._following.catalog

    def start(self) -> None:
        """Begin to load, and then to watch."""
        self._thread.start()

    def wait_first(self, timeout_s: float) -> Catalog:
        """The first catalog, as soon as there is one. Blocks.

        Raises:
            Unavailable: there was none in time; the message says why.
            FormatError, Unsupported: what is stored cannot be used, and waiting would not help.
        """
        self._first.wait(timeout_s)
        if self.catalog is not None:
            return self.catalog
        if self._fatal is not None:
            raise self._fatal
        raise Unavailable(f"tenants and namespaces could not be loaded: {self._reason or 'no answer yet'}")

    def refresh(self, done: Done) -> None:
        """Look at once; from any thread. ``done`` is called in the watcher's, after the new catalog if any.

        It gets what went wrong if the engine did not answer, or too many ask.
        """
        with self._lock:
            if self._stopping or self._ended or len(self._asked) >= REFRESHES_MAX:
                error = Unavailable("the catalog cannot be looked at now")
            else:
                self._asked.append(done)
                self._wake()
                return
        done(error)

    def numbers(self) -> Mapping[str, int | float]:
        """How it fares; from any thread."""
        return self._following.numbers(self._now())

    def stop(self) -> None:
        """End the thread. The catalog stays in force."""
        with self._lock:
            self._stopping = True
            self._wake()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def _wake(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._wanted.set)

    # -- in the thread

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        finally:
            with self._lock:
                self._ended = True
            self._answer(Unavailable("the catalog is not followed any more"))

    async def _run(self) -> None:
        with self._lock:
            self._loop = asyncio.get_running_loop()
        engine: Engine | None = None
        while not self._stopping:
            step = self._following.next_step(self._now())
            try:
                if isinstance(step, Wait):
                    if await self._wait(step.seconds):
                        self._following.hurry()
                    continue
                engine = engine or self._make_engine()
                if isinstance(step, Load):
                    await self._load(engine)
                else:
                    await self._watch(engine, step)
            except Compacted:
                self._following.compacted()
            except MezzoError as error:
                self._failed(error)
            except Exception as error:
                # A fault of ours. It must be seen, but who stopped following would never hear of a revocation.
                log.exception("the metadata could not be followed")
                if engine is not None:
                    await _closed(engine)
                    engine = None
                self._failed(Unavailable(f"a fault in following the metadata: {error!r}"))
        if engine is not None:
            await _closed(engine)

    async def _wait(self, seconds: float) -> bool:
        """Whether somebody asked meanwhile. The gap holds for those too: an engine that is away stays so."""
        began = self._now()
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            return False
        if not self._stopping:
            await asyncio.sleep(min(REFRESH_GAP_S, max(0.0, seconds - (self._now() - began))))
        return True

    async def _load(self, engine: Engine, *, known: bool = False) -> None:
        """Read everything; if so much is ``known`` by a watch, only if there is anything new at all."""
        asked = self._take()
        try:
            scan = await engine.scan(PROBE) if known else None
            if scan is None or scan.revision > self._following.revision:
                scan = await engine.scan(CATALOG)
                self._took(self._following.loaded(scan, self._now()))
            else:
                self._following.confirmed(self._now())
        except BaseException:
            with self._lock:
                self._asked = asked + self._asked  # whoever handles it answers them
            raise
        if self._reason is not None:
            log.info("the metadata are reached again", revision=scan.revision)
        self._reason = None
        _tell(asked, None)

    async def _watch(self, engine: Engine, step: Watch) -> None:
        watching = asyncio.ensure_future(self._take_changes(engine, step.after))
        try:
            while not self._stopping and not watching.done():
                wanted = asyncio.ensure_future(self._wanted.wait())
                await asyncio.wait((watching, wanted), timeout=CONFIRM_S, return_when=asyncio.FIRST_COMPLETED)
                wanted.cancel()
                if watching.done() or self._stopping:
                    break
                if self._wanted.is_set():
                    await self._load(engine, known=True)
                    await asyncio.sleep(REFRESH_GAP_S)
                else:
                    await engine.get(PROBE)
                    self._following.confirmed(self._now())
        finally:
            watching.cancel()
            await asyncio.wait((watching,))
            ended = None if watching.cancelled() else watching.exception()
        if ended is not None:
            raise ended

    async def _take_changes(self, engine: Engine, after: int) -> None:
        async for changes in engine.watch(CATALOG, after):
            self._took(self._following.changed(changes, self._now()))
        raise Unavailable("the metadata engine was closed")

    def _took(self, catalog: Catalog | None) -> None:
        if catalog is not None:
            try:
                self._on_catalog(catalog)
            except RuntimeError as error:
                # The loop that it is for has ended, and so will we.
                log.debug("nobody takes the catalog", reason=str(error))
            except Exception:  # a fault of ours must not end the watch, and must be seen
                log.exception("a catalog could not be handed over")
        if self._following.catalog is not None:
            self._first.set()

    def _take(self) -> list[Done]:
        with self._lock:
            self._wanted.clear()
            asked, self._asked = self._asked, []
        return asked

    def _failed(self, error: MezzoError) -> None:
        first = self._following.failed(self._now())
        self._reason = error
        if self.catalog is None and isinstance(error, FormatError | Unsupported | InternalError):
            self._fatal = error
            self._first.set()
        if first:
            log.warning(
                "the metadata cannot be reached; the last catalog stays in force"
                if self.catalog is not None
                else "the metadata cannot be reached; nothing is served before they are",
                reason=str(error),
            )
        self._answer(error)

    def _answer(self, error: MezzoError) -> None:
        _tell(self._take(), error)

    def _complain(self, key: str, why: str) -> None:
        log.error("a metadata record is left out of the catalog", key=key, reason=why)


def _tell(asked: list[Done], error: MezzoError | None) -> None:
    for done in asked:
        try:
            done(error)
        except Exception:  # a fault of one who asked is not that of the others
            log.exception("who asked for a look could not be answered")


async def _closed(engine: Engine) -> None:
    try:
        await engine.close()
    except Exception:  # it is of no more use anyway
        log.exception("a metadata engine could not be closed")
