"""Space: full devices, leases, policies, classes of lifetime."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mezzo.errors import Busy, TooLarge
from mezzo_server.blockstore.api import PutOutcome, PutStatus, Scope
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.policies.fifo import FifoReinsertion
from mezzo_server.blockstore.segment import Purpose
from mezzo_server.sharded import SPREAD_AT
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.simulation.world import options

STORED = PutStatus.STORED


@pytest.mark.parametrize("length", [190_000, 60_000, 4096])
def test_full_of_leased_chunks(length: int) -> None:
    rig = Rig(segments=8)
    waiting = rig.fill_with_leases(length)
    leased = [key for n in range(10_000) if rig.has(key := b"leased-%d" % n)]
    began = rig.time
    for _ in range(1000):
        if waiting:
            break
        rig.time += 0.02
        rig.store.tick()
        rig.store.pump()
    assert isinstance(waiting[0].error, Busy)
    assert waiting[0].error.retry_after_s > 0
    assert rig.time - began <= rig.options.put_wait_s + 0.1
    rig.drain()
    rewritten = rig.counters["rewritten_bytes"]
    for _ in range(50):
        rig.drain(ticks=1)
    assert rig.counters["rewritten_bytes"] == rewritten, "leased chunks are rewritten again and again"
    for key in leased:
        assert rig.get(key) == content(key, length)
    # a lease that ends makes room
    for key in leased[: len(leased) // 2]:
        rig.store.unpin(SCOPE, key)
    rig.drain()
    for number in range(12):
        assert rig.put(b"new-%d" % number, length) is STORED
        rig.drain(ticks=1)
    for key in leased[len(leased) // 2 :]:
        assert rig.get(key) == content(key, length)
    rig.restart()
    for key in leased[len(leased) // 2 :]:
        assert rig.get(key) == content(key, length)


def test_reclaim_under_leases_on_every_segment() -> None:
    rig = Rig(segments=10)
    leased = []
    for number in range(400):
        key = b"k-%d" % number
        assert rig.put(key, 20_000) is STORED
        if number % 12 == 0 and len(leased) < 25:
            leased.append(key)
            assert rig.store.pin(SCOPE, key)
        if number % 20 == 0:
            rig.drain(ticks=1)
    rig.drain()
    for key in leased:
        assert rig.get(key) == content(key, 20_000)
    assert rig.counters["chunks_evicted"] > 200
    rig.restart()
    for key in leased:
        assert rig.get(key) == content(key, 20_000)


def test_leased_in_the_middle_of_the_reclaim_that_would_evict_it() -> None:
    for moment in range(40):
        rig = Rig(segments=8, in_order=False, seed=moment)
        keys = rig.fill("k", 14, 60_000)
        for number in range(8):
            rig.begin_put([chunk(b"more-%d" % number, bytes(60_000))])
        for _ in range(moment):
            rig.store.pump()
        leased = [key for key in keys if rig.store.pin(SCOPE, key)]
        rig.drain()
        for key in leased:
            assert rig.get(key) == content(key, 60_000)


def test_space_stays_within_the_device() -> None:
    rig = Rig(segments=8)
    size = rig.devices[0].size_bytes
    answers: list[PutOutcome] = []
    for number in range(300):
        rig.store.put(SCOPE, [chunk(b"k-%d" % number, bytes(100_000))], answers.append)
        rig.store.pump()
        audit.check_space(rig.store)
    for _ in range(200):
        rig.time += 0.05
        rig.drain(ticks=1)
    assert len(answers) == 300
    assert rig.devices[0].size_bytes == size
    assert rig.store.report().bytes_live <= rig.store.capacity_bytes


def hit_rate(rig: Rig) -> float:
    """A skewed workload: the popular keys come again and again, among many that come once."""
    randomness = random.Random(5)
    hits = 0
    for _ in range(1500):
        popular = randomness.random() < 0.5
        key = b"hot-%d" % randomness.randrange(25) if popular else b"cold-%d" % randomness.getrandbits(40)
        if rig.get(key, room=20_480) is None:
            rig.put(key, 20_000)
        else:
            hits += 1
        rig.store.tick()
        rig.store.pump()
    return hits / 1500


def test_policies_keep_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {policy: hit_rate(Rig(options=options(policy=policy))) for policy in ("fifo", "lru")}
    monkeypatch.setattr(FifoReinsertion, "survivors", lambda self, victim, live, sealed: [])
    plain = hit_rate(Rig())
    assert rates["fifo"] > plain + 0.02
    assert rates["lru"] > plain + 0.02


def test_chunks_of_a_large_tenant_share_segments() -> None:
    rig = Rig(segments=40, options=options(open_segments_max=4))
    large, small = Scope(b"L" * 16, b"n" * 16), Scope(b"S" * 16, b"n" * 16)
    for number in range(120):
        rig.put(b"k-%d" % number, 20_000, large)
        if number % 4 == 0:
            rig.put(b"k-%d" % number, 20_000, small)
    rig.drain()
    mixed = alone = 0
    context = audit.context_of(rig.store)
    for segment in sorted(context.logs[0].segments.values(), key=lambda segment: segment.life)[10:]:
        if segment.purpose is Purpose.CHUNKS and len(segment.table):
            tenants = {scope.tenant for scope in segment.table.scopes}
            mixed += len(tenants) > 1
            alone += tenants == {large.tenant}
    assert alone >= 3
    assert mixed == 0


def test_open_segments_are_bounded() -> None:
    rig = Rig(segments=40, options=options(open_segments_max=2))
    for tenant in range(6):
        scope = Scope(bytes([tenant]) * 16, b"n" * 16)
        for number in range(60):
            rig.put(b"k-%d" % number, 20_000, scope)
            log = audit.context_of(rig.store).logs[0]
            assert sum(kind[0] is Purpose.CHUNKS for kind in log.open) <= 2


def test_devices_are_filled_evenly() -> None:
    rig = Rig(devices=3)
    rig.fill("k", 60, 20_000)
    free = [device.segments_free for device in rig.store.report().devices]
    assert max(free) - min(free) <= 1
    assert rig.counters["chunks_evicted"] == 0


def scopes(count: int) -> list[Scope]:
    return [Scope(bytes(16), number.to_bytes(16, "big")) for number in range(1, count + 1)]


def test_namespaces_that_are_only_looked_at_are_not_kept() -> None:
    rig = Rig()
    for scope in scopes(1000):
        assert not rig.has(b"k", scope)
        assert rig.get(b"k", scope=scope) is None
        assert rig.store.prefix(scope, [b"k"]) == (0, 0)
    assert not list(rig.store._context.index)


def test_empty_namespaces_make_room_for_new_ones_and_full_ones_do_not() -> None:
    rig = Rig(options=replace(options(), namespaces_max=4))
    full, others = scopes(9)[:4], scopes(9)[4:]
    for scope in full:
        assert rig.put(b"k", 100, scope) is STORED
    with pytest.raises(TooLarge, match="namespaces_max is 4"):
        rig.put(b"k", 100, others[0])
    rig.delete(b"k", scope=full[0])
    for scope in others:
        assert rig.put(b"k", 100, scope) is STORED
        rig.delete(b"k", scope=scope)
    assert [rig.has(b"k", scope) for scope in full] == [False, True, True, True]


def test_a_namespace_that_grows_spreads_over_many_dictionaries() -> None:
    namespace = NamespaceIndex(SCOPE)
    keys = [b"%d" % number for number in range(3 * SPREAD_AT)]
    for location, key in enumerate(keys):
        namespace.set(key, location)
    assert [namespace.get(key) for key in keys] == list(range(len(keys)))
    assert max(map(len, namespace.shards)) < SPREAD_AT // 16
    for key in keys:
        namespace.remove(key)
    assert namespace.idle
