"""Scrub: finds rot that nobody reads, no faster than it is told."""

from __future__ import annotations

import pytest

from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, content
from tests.simulation.world import options


def scrubbing(rate: float) -> Rig:
    rig = Rig(options=options(scrub_bytes_per_s=rate))
    rig.fill("k", 40, 20_000)
    rig.restart("close")
    return rig


def run(rig: Rig, seconds: float) -> None:
    for _ in range(int(seconds / 0.02)):
        rig.time += 0.02
        rig.store.tick()
        for _ in range(20):
            if not rig.store.pump() and not rig.store.busy:
                break


def test_rate_is_respected() -> None:
    rig = scrubbing(100_000.0)
    run(rig, 20.0)
    assert 0.6 * 2_000_000 <= rig.counters["scrubbed_bytes"] <= 2_000_000 + 50_000 + 20_480
    audit.check_rest(rig.store)


def test_zero_means_none() -> None:
    rig = scrubbing(0.0)
    run(rig, 5.0)
    assert rig.counters["scrubbed_bytes"] == 0


def test_it_goes_round_and_finds_what_rots() -> None:
    rig = scrubbing(400_000.0)
    context = audit.context_of(rig.store)
    run(rig, 5.0)
    assert rig.counters["scrubbed_chunks"] >= 40
    assert rig.counters["chunks_corrupt"] == 0
    place = context.find(context.index.namespace(SCOPE), b"k-17")
    assert place is not None
    rig.devices[0].flip(place[0].offset + place[0].table.block[place[1]] * 4096 + 19_999)
    run(rig, 10.0)
    assert rig.counters["chunks_corrupt"] == 1
    assert not rig.has(b"k-17")
    assert rig.store._scrubs[0].rounds >= 2
    assert all(rig.get(b"k-%d" % n) == content(b"k-%d" % n, 20_000) for n in range(40) if n != 17)


@pytest.mark.parametrize("keys_there", [True, False])
@pytest.mark.parametrize("length", [20_000, 20_440])
def test_what_is_encrypted_is_checked_as_it_is_stored(length: int, keys_there: bool) -> None:
    rig = Rig(keys={SCOPE.tenant: b"K" * 32}, options=options(scrub_bytes_per_s=400_000.0))
    rig.fill("k", 40, length)
    if not keys_there:
        rig.keys = {}
    rig.restart("close")
    run(rig, 6.0)
    assert rig.store._scrubs[0].rounds >= 1
    context = audit.context_of(rig.store)
    place = context.find(context.index.namespace(SCOPE), b"k-17")
    assert place is not None
    rig.devices[0].flip(place[0].offset + place[0].table.block[place[1]] * 4096 + 19_999)
    run(rig, 6.0)
    assert rig.counters["chunks_corrupt"] == 1
    assert rig.counters["seals_without_key"] == rig.counters["seals_broken"] == 0
    assert not rig.has(b"k-17")
    audit.check_rest(rig.store)


def test_it_prolongs_no_life_and_ends_with_the_store() -> None:
    rig = scrubbing(float(1 << 40))
    run(rig, 1.0)
    context = audit.context_of(rig.store)
    assert not any(any(segment.table.touched) for segment in context.lives.values())
    rig.time += 1.0
    rig.store.tick()
    rig.store.close()
    audit.check_rest(rig.store)


def test_what_is_encrypted_is_scrubbed_without_its_key() -> None:
    rig = Rig(options=options(scrub_bytes_per_s=400_000.0), keys={SCOPE.tenant: b"K" * 32})
    lengths = (1, 4_056, 20_000, 100_001)
    for number, length in enumerate(lengths):
        rig.put(b"k-%d" % number, length)
    rig.restart("close")
    rig.store.set_tenant_keys({})
    run(rig, 2.0)
    assert rig.counters["scrubbed_chunks"] >= len(lengths)
    assert rig.counters["mismatches_seen"] == rig.counters["seals_without_key"] == 0
    context = audit.context_of(rig.store)
    place = context.find(context.index.namespace(SCOPE), b"k-2")
    assert place is not None
    rig.devices[0].flip(place[0].offset + place[0].table.block[place[1]] * 4096 + 19_999)
    run(rig, 2.0)
    assert rig.counters["chunks_corrupt"] == 1
    rig.store.set_tenant_keys(rig.keys)
    assert not rig.has(b"k-2")
    for number in (0, 1, 3):
        assert rig.get(b"k-%d" % number) == content(b"k-%d" % number, lengths[number])
    run(rig, 1.0)
    audit.check_rest(rig.store)
