"""A tenant that may have no more: its own oldest chunks make room, and nobody else's."""

from __future__ import annotations

import pytest

from mezzo.errors import OverQuota, TooLarge
from mezzo_server.blockstore.api import PutStatus, Scope
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.shares import Shares
from tests.simulation import audit
from tests.simulation.rig import Rig, chunk, content

A = Scope(b"a" * 16, b"n" * 16)
B = Scope(b"b" * 16, b"n" * 16)
LENGTH = 20_000
BLOCKS = blocks_of(LENGTH) * BLOCK_BYTES


class Limits(Shares):
    def __init__(self, **most: int) -> None:
        self.most = {name.encode() * 16: limit for name, limit in most.items()}
        self.refusals = 0

    def capacity_bytes_max(self, tenant: bytes) -> int:
        return self.most.get(tenant, 0)

    def refused(self, tenant: bytes) -> None:
        self.refusals += 1


def limited(rig: Rig, **most: int) -> Limits:
    limits = Limits(**most)
    rig.store.shares = limits
    return limits


def keys(count: int, start: int = 0) -> list[bytes]:
    return [b"k-%d" % number for number in range(start, start + count)]


def put_with_patience(rig: Rig, key: bytes, scope: Scope) -> None:
    """Put as a client does that comes back when it is told to."""
    for _ in range(20):
        try:
            assert rig.put(key, LENGTH, scope) is PutStatus.STORED
            return
        except OverQuota as error:
            rig.time += error.retry_after_s
            rig.drain(ticks=1)
    raise AssertionError("it is refused for ever")


def test_a_tenant_keeps_to_its_limit_and_its_newest_chunks() -> None:
    rig = Rig(segments=20)
    limited(rig, a=10 * BLOCKS)
    for key in keys(50):
        put_with_patience(rig, key, A)
        assert rig.store.space.used_bytes(A.tenant) <= 10 * BLOCKS
    rig.drain()
    left = [key for key in keys(50) if rig.has(key, A)]
    assert left == keys(50)[-len(left) :], "the oldest went"
    assert len(left) >= 9
    for key in left:
        assert rig.get(key, A) == content(key, LENGTH)
    assert rig.counters["chunks_trimmed"] == 50 - len(left)
    assert rig.counters["chunks_evicted"] == 0


def test_others_lose_nothing() -> None:
    rig = Rig(segments=20)
    limited(rig, a=5 * BLOCKS)
    for key in keys(10):
        assert rig.put(key, LENGTH, B) is PutStatus.STORED
    for key in keys(40):
        put_with_patience(rig, key, A)
    rig.drain()
    assert all(rig.get(key, B) == content(key, LENGTH) for key in keys(10))


def test_leased_chunks_stay_and_then_it_is_refused() -> None:
    rig = Rig(segments=20)
    limits = limited(rig, a=4 * BLOCKS)
    for key in keys(4):
        put_with_patience(rig, key, A)
    left = [key for key in keys(4) if rig.has(key, A)]
    for key in left:
        assert rig.store.pin(A, key)
    for key in keys(4 - len(left), 100):
        put_with_patience(rig, key, A)
        assert rig.store.pin(A, key)
    for _ in range(3):
        with pytest.raises(OverQuota, match=r"capacity_bytes: .* leased") as refused:
            rig.put(b"one more", LENGTH, A)
        rig.drain(ticks=1)
    assert refused.value.retry_after_s > 0
    assert limits.refusals == 3
    assert all(rig.has(key, A) for key in left)
    rig.store.unpin(A, left[0])
    put_with_patience(rig, b"one more", A)
    assert not rig.has(left[0], A)


def test_what_can_never_fit_is_told_so() -> None:
    rig = Rig(segments=20)
    limited(rig, a=2 * BLOCKS)
    chunks = [chunk(key, content(key, LENGTH)) for key in keys(3)]
    with pytest.raises(TooLarge, match="capacity_bytes"):
        rig.put_chunks(chunks, A)
    with pytest.raises(TooLarge, match="capacity_bytes"):
        rig.store.check_put(A, keys(3), [LENGTH] * 3)


def test_chunks_that_are_there_take_nothing() -> None:
    rig = Rig(segments=20)
    limited(rig, a=4 * BLOCKS)
    for key in keys(3):
        put_with_patience(rig, key, A)
    rig.drain()
    before = [key for key in keys(3) if rig.has(key, A)]
    for _ in range(5):
        outcome = rig.put_chunks([chunk(key, content(key, LENGTH)) for key in before], A)
        assert set(outcome.statuses) == {PutStatus.EXISTS}
        rig.drain(ticks=1)
    assert [key for key in keys(3) if rig.has(key, A)] == before


def test_a_burst_of_puts_cannot_overshoot() -> None:
    """Bytes of puts under way count from the moment they are begun."""
    rig = Rig(segments=20)
    limited(rig, a=6 * BLOCKS)
    begun = refused = 0
    for key in keys(12):
        try:
            rig.begin_put([chunk(key, content(key, LENGTH))], A)
            begun += 1
        except OverQuota:
            refused += 1
        assert rig.store.space.used_bytes(A.tenant) <= 6 * BLOCKS
    assert begun == 6
    assert refused == 6
    rig.drain()
    assert rig.store.space.live_bytes(A.tenant) <= 6 * BLOCKS
    assert rig.store.space.putting_bytes == 0


def test_what_a_restart_finds_again_is_trimmed_again() -> None:
    rig = Rig(segments=20)
    limited(rig, a=5 * BLOCKS)
    for key in keys(30):
        put_with_patience(rig, key, A)
    rig.drain()
    rig.restart()
    limited(rig, a=5 * BLOCKS)
    rig.drain()
    assert rig.store.space.live_bytes(A.tenant) <= 5 * BLOCKS
    left = [key for key in keys(30) if rig.has(key, A)]
    assert left == keys(30)[-len(left) :]
    for key in left:
        assert rig.get(key, A) == content(key, LENGTH)


@pytest.mark.parametrize("how", ["kill", "cut", "close"])
def test_a_trimmed_chunk_that_was_deleted_stays_deleted(how: str) -> None:
    """It is still on its device: only a tombstone keeps a restart from finding it."""
    rig = Rig(segments=20)
    limited(rig, a=5 * BLOCKS)
    for key in keys(30):
        put_with_patience(rig, key, A)
    rig.drain()
    gone = [key for key in keys(30) if not rig.has(key, A)]
    assert len(gone) > 20
    deleted, error = rig.delete(*gone[:10], scope=A)
    assert error is None
    assert not any(deleted)
    rig.restart(how)
    for key in gone[:10]:
        assert not rig.has(key, A)


def test_a_lowered_limit_holds_soon() -> None:
    rig = Rig(segments=20)
    rig.fill("k", 30, LENGTH, A)
    limited(rig, a=4 * BLOCKS)
    rig.drain()
    assert rig.store.space.live_bytes(A.tenant) <= 4 * BLOCKS
    assert rig.has(b"k-29", A)


def test_many_leased_chunks_do_not_make_every_put_look_at_them() -> None:
    rig = Rig(segments=40)
    for key in rig.fill("k", 200, 4096, A):
        rig.store.pin(A, key)
    limited(rig, a=200 * 4096)
    for _ in range(3):
        with pytest.raises(OverQuota):
            rig.put(b"more", 4096, A)
        rig.drain(ticks=1)
    trimming = rig.store.space
    assert not trimming.running


def test_of_a_tenant_that_is_gone_nothing_is_kept() -> None:
    rig = Rig(segments=10)
    limited(rig, a=5 * BLOCKS)
    for key in keys(10):
        put_with_patience(rig, key, A)
    rig.drain()
    trimmed = audit.context_of(rig.store).trimmed
    assert trimmed[A.tenant]
    rig.erase(A, tenant=True, deleted=True)
    rig.drain()
    assert trimmed[A.tenant], "a restart could find them"
    rig.fill("more", 150, LENGTH, B)
    rig.drain()
    assert not trimmed
    assert not rig.store.space._trimmings
