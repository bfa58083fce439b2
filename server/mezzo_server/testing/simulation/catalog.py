"""Tenants of a simulated pod, each with a namespace, and how a shard comes to know of them.

Real: the registry, which makes and purges them, the records, and `tenancy.following`, which says what to do next.
Simulated: the thread of `tenancy.watching`, step by step.  How often a tenant's chunks were erased, and by when all
have heard of it, is what only the simulator knows (`Spaces`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mezzo.errors import MezzoError
from mezzo.placement.slots import namespace_seed
from mezzo_server.access.principal import Scopes
from mezzo_server.access.tickets import KEY_ID_BYTES, SEED_BYTES, SigningKey, Ticket
from mezzo_server.blockstore.api import Scope
from mezzo_server.metadata.engine import Compacted, Write
from mezzo_server.shard.directory import Looked
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.entries import CATALOG, encode, key_of
from mezzo_server.tenancy.following import Following, Load, Wait
from mezzo_server.tenancy.model import DEFAULT_NAMESPACE, TicketKey
from mezzo_server.tenancy.registry import Registry
from mezzo_server.testing.simulation.clockwork import Process
from mezzo_server.testing.simulation.metadata import FarEngine, Metadata, NearEngine, at_once
from mezzo_server.testing.simulation.violation import Violation

POD = "simulated"
WALL_S = 1_700_000_000
GOOD_S = 10**9
"""Tickets end long after every run: they are not renewed here."""


@dataclass(slots=True)
class Erasure:
    """The chunks of a namespace were erased."""

    generation: int
    """of what is put from now on"""
    at: float
    """true time"""
    known: float = float("inf")
    """since when every shard that runs goes by it"""


@dataclass(slots=True)
class Space:
    """A tenant's namespace, in which some of the clients have their chunks."""

    tenant: str
    tenant_id: bytes
    namespace_id: bytes
    seed: int
    """of the hash of its keys"""
    ticket: bytes
    """what opens shards to its clients"""
    copies: int
    erasures: list[Erasure] = field(default_factory=list)

    def erased(self, stored: float, asked: float) -> Erasure | None:
        """The erasure by which nobody who asked then may see any more what was stored then."""
        found = (one for one in self.erasures if stored < one.at and one.known < asked)
        return next(found, None)

    def heard(self, since: float, until: float) -> bool:
        """Whether no erasure was under way between two times: some shards had heard of it, and others not."""
        return not any(since < one.known and one.at < until for one in self.erasures)


class Spaces:
    """All tenants of a run. Owner of what is truly so of them."""

    def __init__(self, metadata: Metadata, randomness: random.Random, copies: Iterable[int]) -> None:
        """One tenant for each of ``copies``."""
        self._metadata = metadata
        engine = NearEngine(metadata)
        self._registry = Registry(engine, lambda: WALL_S, randomness.randbytes)
        key = SigningKey(randomness.randbytes(KEY_ID_BYTES), randomness.randbytes(SEED_BYTES))
        public = TicketKey(id=key.id, public=key.public, expires_s=WALL_S + 2 * GOOD_S)
        metadata.write([Write(key_of(public), encode(public))])
        self.all = [self._made(f"t{number}", count, key) for number, count in enumerate(copies)]
        self._by_id = {(space.tenant_id, space.namespace_id): space for space in self.all}

    def of(self, scope: Scope) -> Space:
        """Whose chunks these are. Raises Violation: a tenant's, in a namespace that is none of its own."""
        space = self._by_id.get((scope.tenant, scope.namespace))
        if space is None:
            raise Violation("a session of one tenant is in the namespace of another")
        return space

    def erase(self, space: Space) -> None:
        """An operator has the chunks of a namespace erased, as `mezzo namespace purge` does."""
        made = at_once(self._registry.purge_namespace(space.tenant_id, DEFAULT_NAMESPACE))
        space.erasures.append(Erasure(made.generation, self._metadata.clockwork.now))

    def followed_by(self, catalogs: Iterable[Catalog | None]) -> None:
        """The catalogs of all shards that run."""
        known = list(catalogs)
        for space in self.all:
            for erasure in space.erasures:
                if erasure.known == float("inf") and all(
                    _generation(catalog, space) >= erasure.generation for catalog in known
                ):
                    erasure.known = self._metadata.clockwork.now

    @property
    def settled(self) -> bool:
        """Whether every shard that runs goes by every erasure."""
        return all(erasure.known < float("inf") for space in self.all for erasure in space.erasures)

    def _made(self, name: str, copies: int, key: SigningKey) -> Space:
        tenant = at_once(self._registry.create_tenant(name, copies=copies))
        namespace = at_once(self._registry.namespace(tenant.id, DEFAULT_NAMESPACE))
        scopes = int(Scopes.READ | Scopes.WRITE)
        ticket = Ticket(POD, tenant.id, "simulated", scopes, WALL_S - GOOD_S, WALL_S + GOOD_S)
        seed = namespace_seed(tenant.id, namespace.id)
        return Space(name, tenant.id, namespace.id, seed, key.sign(ticket), copies)


def _generation(catalog: Catalog | None, space: Space) -> int:
    namespace = None if catalog is None else catalog.namespaces.get(space.namespace_id)
    return -1 if namespace is None else namespace.generation


class Follower:
    """Keeps a shard's catalog current, in its second thread. Owner of that thread's coroutines."""

    def __init__(
        self,
        process: Process,
        engine: FarEngine,
        following: Following,
        took: Callable[[Catalog], None],
    ) -> None:
        """``following`` has loaded a first catalog; ``took`` is called in the thread with each other one."""
        self._process = process
        self._engine = engine
        self._following = following
        self._took = took
        process.run(self._run())

    def look(self, done: Looked) -> None:
        """See `CatalogWatcher.refresh`."""
        self._process.soon(self._begin, done)

    def _begin(self, done: Looked) -> None:
        self._process.run(self._refresh(done))

    async def _refresh(self, done: Looked) -> None:
        try:
            self._take(self._following.loaded(await self._engine.scan(CATALOG), self._process.now()))
        except MezzoError as error:
            done(error)
        else:
            done(None)

    async def _run(self) -> None:
        process, following = self._process, self._following
        while True:
            step = following.next_step(process.now())
            try:
                if isinstance(step, Wait):
                    await process.sleep(step.seconds)
                elif isinstance(step, Load):
                    self._take(following.loaded(await self._engine.scan(CATALOG), process.now()))
                else:
                    async for changes in self._engine.watch(CATALOG, step.after):
                        self._take(following.changed(changes, process.now()))
            except Compacted:
                following.compacted()
            except MezzoError:
                following.failed(process.now())

    def _take(self, catalog: Catalog | None) -> None:
        if catalog is not None:
            self._took(catalog)


def first_catalog(metadata: Metadata, following: Following, now: float) -> Catalog | None:
    """What a shard reads before it serves; None: nothing is there to be read."""
    return following.loaded(at_once(metadata.engine.scan(CATALOG)), now)
