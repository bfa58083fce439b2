"""The thread that keeps a catalog current. Nothing here waits for time: it waits for what it told."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from mezzo.errors import FormatError, MezzoError, Unavailable
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.watching import CatalogWatcher
from tests.patience import PATIENCE_S
from tests.unit.mezzo_server.tenancy.rig import AwayEngine, Tenancy


class Watched:
    """A watcher of an engine in memory that can be away."""

    def __init__(self, *, away: bool = False) -> None:
        self.tenancy = Tenancy()
        self.engine = AwayEngine(self.tenancy.engine)
        self.engine.away = away
        self.catalogs: queue.Queue[Catalog] = queue.Queue()
        self.watcher = CatalogWatcher(lambda: self.engine, self.catalogs.put, draw=lambda: 0.0)

    def next(self) -> Catalog:
        return self.catalogs.get(timeout=PATIENCE_S)

    def refresh(self) -> MezzoError | None:
        told: queue.Queue[MezzoError | None] = queue.Queue()
        self.watcher.refresh(told.put)
        return told.get(timeout=PATIENCE_S)


@pytest.fixture
def watched():
    made = Watched()
    yield made
    made.watcher.stop()


def test_catalogs_come_as_metadata_change(watched):
    tenant = watched.tenancy.do(watched.tenancy.registry.create_tenant("acme"))
    watched.watcher.start()
    assert watched.watcher.wait_first(PATIENCE_S).tenant_named("acme") == tenant
    assert watched.next().tenant_named("acme") == tenant
    watched.tenancy.do(watched.tenancy.registry.purge_namespace(tenant.id, "default"))
    assert watched.next().namespace(tenant.id, "default").generation == 1
    watched.tenancy.do(watched.tenancy.registry.delete_tenant("acme"))
    assert watched.next().tenant(tenant.id) is None
    assert watched.watcher.numbers()["catalog_tenants"] == 0


def test_a_look_at_once(watched):
    watched.watcher.start()
    watched.watcher.wait_first(PATIENCE_S)
    tenant = watched.tenancy.do(watched.tenancy.registry.create_tenant("acme"))
    assert watched.refresh() is None
    assert watched.watcher.catalog.tenant_named("acme") == tenant


def test_many_who_ask_get_one_look(watched):
    watched.watcher.start()
    watched.watcher.wait_first(PATIENCE_S)
    watched.refresh()
    before = watched.engine.calls
    told: queue.Queue[object] = queue.Queue()
    for _ in range(200):
        watched.watcher.refresh(told.put)
    for _ in range(200):
        assert told.get(timeout=PATIENCE_S) is None
    assert watched.engine.calls - before <= 4


def test_a_look_that_finds_nothing_new_reads_nothing(watched):
    """Whoever names what is not there must not make everything be read again and again."""
    watched.tenancy.do(watched.tenancy.registry.create_tenant("acme"))
    watched.watcher.start()
    watched.watcher.wait_first(PATIENCE_S)
    loads = watched.watcher.numbers()["catalog_loads"]
    for _ in range(3):
        assert watched.refresh() is None
    assert watched.watcher.numbers()["catalog_loads"] == loads
    tenant = watched.tenancy.do(watched.tenancy.registry.create_tenant("new"))
    assert watched.refresh() is None
    assert watched.watcher.catalog.tenant(tenant.id) == tenant


def test_an_engine_that_is_away(watched):
    tenant = watched.tenancy.do(watched.tenancy.registry.create_tenant("acme"))
    watched.watcher.start()
    catalog = watched.watcher.wait_first(PATIENCE_S)
    watched.engine.away = True
    assert isinstance(watched.refresh(), Unavailable)
    assert watched.watcher.catalog is catalog, "the last one stays in force"
    assert watched.watcher.numbers()["catalog_failures"] >= 1
    watched.tenancy.do(watched.tenancy.registry.purge_namespace(tenant.id, "default"))
    watched.engine.away = False
    watched.next()
    assert watched.next().namespace(tenant.id, "default").generation == 1, "it heals by itself"


def test_nothing_is_there_before_the_first_load():
    watched = Watched(away=True)
    watched.watcher.start()
    with pytest.raises(Unavailable, match="could not be loaded"):
        watched.watcher.wait_first(0.05)
    watched.engine.away = False
    assert watched.watcher.wait_first(PATIENCE_S).tenants == {}
    watched.watcher.stop()


def test_what_no_waiting_helps_is_told_at_once():
    def broken() -> AwayEngine:
        raise FormatError("damaged")

    watcher = CatalogWatcher(broken, lambda catalog: None)
    watcher.start()
    with pytest.raises(FormatError, match="damaged"):
        watcher.wait_first(PATIENCE_S)
    watcher.stop()


def test_after_the_end_nobody_looks(watched):
    watched.watcher.start()
    watched.watcher.wait_first(PATIENCE_S)
    watched.watcher.stop()
    assert isinstance(watched.refresh(), Unavailable)
    assert not any(thread.name == "mezzo-catalog" for thread in threading.enumerate())


def test_a_fault_of_ours_does_not_end_the_watch(watched):
    """Who is not followed any more can revoke nothing."""
    watched.watcher.start()
    catalog = watched.watcher.wait_first(PATIENCE_S)
    watched.engine.fault = ZeroDivisionError("a fault")
    error = watched.refresh()
    assert isinstance(error, Unavailable)
    assert "a fault" in str(error)
    assert watched.watcher.catalog is catalog
    watched.engine.fault = None
    tenant = watched.tenancy.do(watched.tenancy.registry.create_tenant("acme"))
    watched.next()
    assert watched.next().tenant(tenant.id) == tenant


def test_a_fault_of_one_who_asked_is_not_that_of_the_others(watched):
    def fault(error: MezzoError | None) -> None:
        raise ZeroDivisionError("a fault")

    told: queue.Queue[MezzoError | None] = queue.Queue()
    watched.watcher.refresh(fault)
    watched.watcher.refresh(told.put)
    watched.watcher.start()
    assert told.get(timeout=PATIENCE_S) is None


def test_what_could_not_be_used_can_be_after_all():
    """Somebody restored the file while a start was waiting."""
    watched = Watched()
    broken = [FormatError("damaged")]

    def make() -> AwayEngine:
        if broken:
            raise broken.pop()
        return watched.engine

    watcher = CatalogWatcher(make, watched.catalogs.put, draw=lambda: 0.0)
    watcher.start()
    watched.next()
    assert watcher.wait_first(PATIENCE_S).tenants == {}
    watcher.stop()


def test_a_fault_of_who_takes_it_does_not_end_the_watch():
    taken: list[Catalog] = []

    def fault(catalog: Catalog) -> None:
        taken.append(catalog)
        raise ValueError("a fault")

    tenancy = Tenancy()
    watcher = CatalogWatcher(lambda: tenancy.engine, fault, now=time.monotonic)
    told: queue.Queue[object] = queue.Queue()
    watcher.refresh(told.put)
    watcher.start()
    assert told.get(timeout=PATIENCE_S) is None
    tenancy.do(tenancy.registry.create_tenant("acme"))
    watcher.refresh(told.put)
    assert told.get(timeout=PATIENCE_S) is None
    assert taken[-1].tenant_named("acme")
    watcher.stop()
