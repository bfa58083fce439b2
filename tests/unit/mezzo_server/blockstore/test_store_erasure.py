"""Erasure by generation: out of reach at once, also for what is under way; never back; space follows."""

from __future__ import annotations

import pytest

from mezzo.errors import Gone
from mezzo_server.blockstore.api import PutStatus, Scope, Standing
from mezzo_server.blockstore.erasure import STEP_CHUNKS
from mezzo_server.memory import Memory
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Namespace, Tenant
from mezzo_server.tenancy.standing import standing_of
from tests.simulation import audit
from tests.simulation.rig import SCOPE, GetChunk, Rig, chunk, content

SISTER = Scope(SCOPE.tenant, b"m" * 16)
STRANGER = Scope(b"u" * 16, b"o" * 16)
HOT = {"bytes_max": 1 << 20}


def everywhere(rig: Rig) -> dict[Scope, list[bytes]]:
    """Chunks in two namespaces of a tenant and in one of another."""
    return {scope: rig.fill("k", 4, 20_000, scope) for scope in (SCOPE, SISTER, STRANGER)}


@pytest.mark.parametrize("hot", [None, HOT])
def test_what_is_erased_is_out_of_reach_at_once_and_nothing_else(hot: dict[str, object] | None) -> None:
    rig = Rig(hot=hot)
    keys = everywhere(rig)
    new = rig.erase(SCOPE)
    assert new == Scope(SCOPE.tenant, SCOPE.namespace, 0, 1)
    assert rig.store.prefix(SCOPE, keys[SCOPE]) == (0, 0)
    assert rig.get(keys[SCOPE][0]) is None
    assert rig.get(keys[SCOPE][0], new) is None
    assert rig.get(keys[SISTER][0], SISTER) is not None
    assert rig.get(keys[STRANGER][0], STRANGER) is not None
    rig.drain()
    rig.erase(SISTER, tenant=True)
    assert rig.get(keys[SISTER][0], SISTER) is None
    assert rig.get(keys[STRANGER][0], STRANGER) is not None
    rig.drain()
    assert rig.counters["chunks_erased"] == 8


def test_an_erased_scope_takes_nothing() -> None:
    rig = Rig()
    rig.put(b"k", 5000)
    rig.erase()
    with pytest.raises(Gone, match="deleted or purged"):
        rig.put(b"k", 5000)
    with pytest.raises(Gone):
        rig.store.delete(SCOPE, [b"k"], print)
    rig.drain()


def test_a_put_in_flight_fails_and_is_never_seen() -> None:
    rig = Rig(hot=HOT)
    outcomes, _ = rig.begin_put([chunk(b"k-%d" % n, content(b"k", 30_000)) for n in range(6)])
    new = rig.erase()
    rig.until(lambda: bool(outcomes))
    assert set(outcomes[0].statuses) == {PutStatus.FAILED}
    assert isinstance(outcomes[0].error, Gone)
    for restart in (False, True):
        if restart:
            rig.restart("kill")
        for scope in (SCOPE, new):
            assert not any(rig.has(b"k-%d" % n, scope) for n in range(6))
        rig.drain()


def test_a_put_that_waits_for_another_one_of_its_key_fails_with_it() -> None:
    rig = Rig()
    first, _ = rig.begin_put([chunk(b"k", bytes(30_000))])
    second, _ = rig.begin_put([chunk(b"k", bytes(30_000))])
    rig.erase()
    rig.until(lambda: bool(first and second))
    assert first[0].statuses == second[0].statuses == [PutStatus.FAILED]
    rig.drain()


@pytest.mark.parametrize("hot", [None, HOT])
def test_a_get_in_flight_is_a_miss_and_leaves_nothing_behind(hot: dict[str, object] | None) -> None:
    rig = Rig(hot=hot)
    rig.fill("k", 1, 30_000)
    if hot:
        rig.restart("kill")  # so that the get fills the hot tier
    memory = Memory.anonymous(32 << 10)
    lengths: list[int] = []
    wanted = [GetChunk(b"k-0", (memory.span(0, 30_000),))]
    rig.store.get(SCOPE, wanted, lambda got: lengths.extend(got.lengths))
    rig.erase()
    rig.until(lambda: bool(lengths))
    assert lengths == [-1]
    assert not any(memory.view[:30_000])
    rig.drain()


@pytest.mark.parametrize("hot", [None, HOT])
def test_a_stream_in_flight_is_cut_off(hot: dict[str, object] | None) -> None:
    rig = Rig(hot=hot)
    rig.fill("k", 1, 30_000)
    stream = rig.store.stream(SCOPE, b"k-0")
    assert stream is not None
    rig.erase()
    came: list[object] = []
    stream.next(came.append)
    rig.until(lambda: bool(came))
    assert came == [None]
    assert not stream.finish()
    assert rig.counters["streams_revoked"] == 1
    rig.drain()


def test_streams_are_cut_off_in_the_order_in_which_they_were_opened() -> None:
    """And not in that of where they lie in memory: who was waiting hears of it alike whenever it is played again."""
    rig = Rig()
    keys = rig.fill("k", 40, 4000)
    heard: list[bytes] = []
    streams = [rig.store.stream(SCOPE, key) for key in keys]
    for key, stream in zip(keys, streams, strict=True):
        assert stream is not None
        stream.next(lambda _, key=key: heard.append(key))  # type: ignore[misc]
    rig.erase()
    rig.until(lambda: len(heard) == len(keys))
    assert heard == keys
    for stream in streams:
        assert stream is not None
        stream.finish()
    rig.drain()


def test_leases_end_with_what_they_are_on() -> None:
    """Whoever holds them gives them back later, by the name that they had."""
    rig = Rig(hot=HOT)
    keys = rig.fill("k", 4, 20_000)
    assert rig.store.pin(SCOPE, keys[0])
    rig.store.pins.pin_all(SCOPE, keys)
    slots = rig.store.pins.hold_all(SCOPE, keys)
    generations = [slot.generation for slot in slots if slot is not None]
    assert len(generations) == 4
    rig.erase()
    while audit.context_of(rig.store).erasure.running:
        rig.store.pump()
    for slot, generation in zip(slots, generations, strict=True):
        assert slot is not None
        assert slot.generation > generation, "who uses it in place would not notice"
    rig.store.unpin(SCOPE, keys[0])
    rig.store.pins.unpin_all(SCOPE, keys)
    rig.store.pins.let_go_all([slot for slot in slots if slot is not None])
    rig.drain()
    assert rig.hot is not None
    assert rig.hot.report()["hot_bytes_used"] == 0


@pytest.mark.parametrize("how", ["kill", "cut", "close"])
@pytest.mark.parametrize("cleared", [True, False])
def test_no_restart_brings_it_back(how: str, *, cleared: bool) -> None:
    rig = Rig()
    keys = everywhere(rig)
    rig.erase(SCOPE)
    if cleared:
        rig.drain()
    for round_ in range(3):
        rig.restart(how, seed=round_)
        if how != "cut":
            assert rig.store.recovered.chunks_erased == 4
        assert not rig.has(keys[SCOPE][0])
        assert not rig.has(keys[SCOPE][0], rig.generations.scope(SCOPE))
        if how != "cut":
            assert rig.has(keys[SISTER][0], SISTER)
            assert rig.has(keys[STRANGER][0], STRANGER)
        rig.drain()


def test_told_only_at_the_restart() -> None:
    """The generation was raised while the store was down."""
    rig = Rig()
    keys = everywhere(rig)
    rig.generations.erase(SCOPE, tenant=True, deleted=True)
    rig.restart("kill")
    assert rig.store.recovered.chunks == 4
    assert rig.store.recovered.chunks_erased == 8
    assert not rig.has(keys[SCOPE][0])
    assert rig.has(keys[STRANGER][0], STRANGER)
    rig.drain()


def test_what_nobody_knows_is_dead_until_somebody_does_and_deleted_stays_deleted() -> None:
    rig = Rig(segments=12)
    keys = rig.fill("k", 8, 20_000, STRANGER)
    rig.restart("close")
    assert rig.delete(keys[0], scope=STRANGER)[0] == [True]
    rig.generations.unknown.add(STRANGER.tenant)
    rig.restart("close")
    assert rig.store.recovered.chunks_unknown == 8
    assert rig.store.report().counters["chunks_unknown"] == 8
    assert not rig.has(keys[1], STRANGER)
    goal = rig.counters["segments_reclaimed"] + 4
    number = 0
    while rig.counters["segments_reclaimed"] < goal:
        rig.put(b"more-%d" % number, 60_000)
        number += 1
    rig.drain()
    rig.generations.unknown.clear()
    rig.restart("kill")
    assert not rig.has(keys[0], STRANGER)
    rig.drain()


def test_what_nobody_knew_at_the_start_and_is_deleted_when_somebody_does_stays_deleted() -> None:
    """It is on its device, and the index does not know: only a tombstone keeps a restart from finding it."""
    rig = Rig()
    key, other = rig.fill("k", 2, 20_000, STRANGER)
    rig.generations.unknown.add(STRANGER.tenant)
    rig.restart("close")
    rig.generations.unknown.clear()
    rig.store.heed(rig.generations.standing())
    assert rig.delete(key, scope=STRANGER) == ([False], None)
    rig.restart("kill")
    assert not rig.has(key, STRANGER)
    assert rig.get(other, STRANGER) == content(other, 20_000)
    rig.drain()


class Told:
    """Somebody who watches a namespace."""

    over = 0

    def add(self, kind: int, key: bytes, length: int) -> None:
        """Not of interest here."""

    def erased(self) -> None:
        self.over += 1


@pytest.mark.parametrize("chunks", [0, 1])
def test_who_watches_is_told_once_that_it_is_erased(chunks: int) -> None:
    rig = Rig()
    told = Told()
    rig.store.watch(SCOPE, told)
    rig.fill("k", chunks, 100)
    rig.erase(SISTER)
    rig.drain()
    assert told.over == 0
    rig.erase()
    rig.drain()
    assert told.over == 1


def test_of_what_is_erased_no_counts_are_left() -> None:
    rig = Rig()
    everywhere(rig)
    rig.erase(tenant=True, deleted=True)
    rig.drain()
    (log,) = audit.context_of(rig.store).logs
    assert set(log.tenant_bytes) == {STRANGER.tenant}
    assert set(log.namespace_bytes) == {STRANGER.namespace}


def test_its_space_is_taken_first() -> None:
    """A tenant erased late goes before what is older than its chunks."""
    rig = Rig(segments=12)
    old = rig.fill("old", 12, 60_000, STRANGER)
    rig.fill("k", 12, 60_000)
    rig.erase()
    rig.drain()
    assert rig.store.report().bytes_live == 12 * (60_000 + 1440)
    rig.fill("more", 9, 60_000, SISTER)
    rig.drain()
    assert rig.counters["chunks_evicted"] == 0
    assert all(rig.has(key, STRANGER) for key in old)


def test_clearing_away_is_sliced() -> None:
    rig = Rig(segments=40)
    count = 4 * STEP_CHUNKS
    for start in range(0, count, 128):
        chunks = [chunk(b"%d" % n, b"x") for n in range(start, start + 128)]
        assert set(rig.put_chunks(chunks).statuses) == {PutStatus.STORED}
    rig.drain()
    audit.context_of(rig.store).later.run(64, [].append)
    new = rig.erase()
    erasure = audit.context_of(rig.store).erasure
    assert erasure.chunks == count, "nothing of it is done by who asks for it"
    assert rig.store.report().chunks == 0
    left = count
    while erasure.running:
        assert rig.put(b"k-%d" % left, 100, new) is PutStatus.STORED
        assert left - erasure.chunks <= 8 * STEP_CHUNKS
        left = erasure.chunks
    rig.drain()
    assert rig.counters["chunks_erased"] == count


def test_what_a_catalog_says() -> None:
    tenant = Tenant(id=b"t" * 16, name="t", generation=2)
    gone = Tenant(id=b"g" * 16, name="g", deleted=True)
    mine = Namespace(id=b"n" * 16, tenant_id=tenant.id, name="n", generation=1)
    purged = Namespace(id=b"p" * 16, tenant_id=tenant.id, name="p", deleted=True)
    catalog = Catalog(
        tenants={one.id: one for one in (tenant, gone)}, namespaces={one.id: one for one in (mine, purged)}
    )
    standing = standing_of(catalog)
    assert standing(Scope(tenant.id, mine.id, 2, 1)) is Standing.ALIVE
    assert standing(Scope(tenant.id, mine.id, 3, 1)) is Standing.ALIVE
    assert standing(Scope(tenant.id, mine.id, 1, 1)) is Standing.ERASED
    assert standing(Scope(tenant.id, mine.id, 2, 0)) is Standing.ERASED
    assert standing(Scope(tenant.id, purged.id, 2, 0)) is Standing.ERASED
    assert standing(Scope(gone.id, mine.id, 0, 0)) is Standing.ERASED
    assert standing(Scope(tenant.id, b"?" * 16, 2, 0)) is Standing.UNKNOWN
    assert standing(Scope(b"?" * 16, mine.id, 2, 1)) is Standing.UNKNOWN
    stolen = Scope(tenant.id, mine.id, 2, 1)
    catalog.namespaces[mine.id] = Namespace(id=mine.id, tenant_id=gone.id, name="n")  # type: ignore[index]
    assert standing(stolen) is Standing.UNKNOWN
