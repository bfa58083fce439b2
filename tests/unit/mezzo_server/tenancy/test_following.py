"""How a catalog follows the metadata, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies

from mezzo_server.metadata.engine import Change, Entry, Scan
from mezzo_server.tenancy.entries import CATALOG, encode, key_of
from mezzo_server.tenancy.following import Following, Load, Wait, Watch
from mezzo_server.tenancy.model import Tenant
from tests.unit.mezzo_server.tenancy.rig import Tenancy

A, B = b"a" * 16, b"b" * 16


def new(random: float = 1.0) -> Following:
    return Following(lambda key, why: None, lambda: random)


def change(tenant: Tenant, revision: int) -> Change:
    return Change(key_of(tenant), encode(tenant), revision)


def test_it_loads_and_then_watches():
    following = new()
    assert following.next_step(0.0) == Load()
    catalog = following.loaded(Scan([], 7), 1.0)
    assert catalog is following.catalog is not None
    assert following.next_step(1.0) == Watch(7)
    later = following.changed([change(Tenant(id=A, name="a"), 9)], 2.0)
    assert later.tenant_named("a").id == A
    assert catalog.tenant_named("a") is None, "a catalog never changes"
    assert following.next_step(2.0) == Watch(9)


def test_what_changed_nothing_makes_no_catalog():
    following = new()
    following.loaded(Scan([], 7), 1.0)
    assert following.loaded(Scan([], 8), 2.0) is None
    assert following.numbers(2.0)["catalog_age_s"] == 0


def test_scan_and_watch_may_come_in_any_order():
    """A look that somebody asked for runs beside the watch: neither takes back what the other told."""
    tenancy = Tenancy()
    tenancy.do(tenancy.registry.create_tenant("a"))
    early = tenancy.do(tenancy.engine.scan(CATALOG))
    following = new()
    following.loaded(early, 0.0)
    tenant = tenancy.do(tenancy.registry.create_tenant("b"))
    late = tenancy.do(tenancy.engine.scan(CATALOG))
    changes = [Change(e.key, e.value, e.revision) for e in late.entries if e.revision > early.revision]
    assert following.changed(changes, 1.0).tenant_named("b") == tenant
    assert following.loaded(early, 1.0) is None
    assert following.catalog.tenant_named("b") == tenant
    following = new()
    following.loaded(late, 0.0)
    assert following.changed(changes, 1.0) is None


def test_after_compaction_an_older_revision_counts():
    following = new()
    following.loaded(Scan([], 7), 1.0)
    following.compacted()
    assert following.next_step(1.0) == Load()
    following.loaded(Scan([], 3), 1.0)
    assert following.next_step(1.0) == Watch(3)


@pytest.mark.parametrize("random", [0.0, 0.5, 1.0])
def test_an_outage_of_a_minute(random):
    """Known tenants stay known; it heals within 5 s of the engine's return; attempts are few."""
    following = new(random)
    following.loaded(Scan([], 1), 0.0)
    catalog = following.changed([change(Tenant(id=A, name="a"), 2)], 0.0)
    now, attempts, first = 1.0, 0, []
    while now < 61.0:
        step = following.next_step(now)
        if isinstance(step, Wait):
            now += step.seconds
            continue
        first.append(following.failed(now))
        attempts += 1
        assert following.catalog is catalog
    assert following.numbers(now)["catalog_age_s"] == now
    assert first == [True] + [False] * (attempts - 1)
    assert attempts < 100
    back = now
    while not isinstance(step := following.next_step(now), Load):
        now += step.seconds
    assert now - back < 5
    following.loaded(Scan([], 2), now)
    assert following.numbers(now)["catalog_age_s"] == 0
    assert following.failed(now), "the next outage is told anew"


def test_who_asks_need_not_wait_for_the_next_attempt():
    following = new()
    following.failed(0.0)
    assert isinstance(following.next_step(0.0), Wait)
    following.hurry()
    assert following.next_step(0.0) == Load()


def test_nothing_is_known_before_the_first_load():
    following = new()
    following.failed(5.0)
    assert following.catalog is None
    assert following.numbers(6.0)["catalog_age_s"] == -1
    assert following.numbers(6.0)["catalog_failures"] == 1


@settings(max_examples=60)
@given(
    steps=strategies.lists(
        strategies.sampled_from(["write", "remove", "tell", "tell", "scan", "slow scan", "fail", "compact"]),
        max_size=40,
    ),
    seed=strategies.randoms(use_true_random=False),
)
def test_it_ends_with_what_the_engine_has(steps, seed):
    """Whatever came in between: after a last look or a last word of the watch it is current."""
    state: dict[str, tuple[bytes, int]] = {}
    log: list[Change] = []
    following = new()
    now, revision, told, slow = 0.0, 0, None, None

    def scan() -> Scan:
        return Scan([Entry(key, *state[key]) for key in sorted(state)], revision)

    for step in [*steps, "fail", "scan"]:
        now += 10
        planned = following.next_step(now)
        if isinstance(planned, Watch) and told is None:
            told = planned.after
        if step in ("write", "remove"):
            tenant = Tenant(id=seed.choice([A, B]), name="n", generation=seed.randrange(5))
            key = key_of(tenant)
            if step == "write" or key in state:
                revision += 1
                value = encode(tenant) if step == "write" else None
                log.append(Change(key, value, revision))
                state.pop(key, None)
                if value is not None:
                    state[key] = (value, revision)
        elif step == "tell" and told is not None:
            batch = [c for c in log if c.revision > told]
            if batch:
                following.changed(batch, now)
                told = revision
        elif step == "scan":
            following.loaded(scan(), now)
        elif step == "slow scan":
            if slow is not None:
                following.loaded(slow, now) if told is not None else None
            slow = scan()
        elif step == "fail":
            following.failed(now)
            told, slow = None, None
        elif step == "compact":
            following.compacted()
            told, slow = None, None
    fresh = new()
    # A revision that changed nothing makes no catalog.
    assert replace(following.catalog, revision=0) == replace(fresh.loaded(scan(), now), revision=0)
