"""Records that wait for space: which goes next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.record import Entry
from mezzo_server.blockstore.segment import Purpose
from mezzo_server.blockstore.shares import Shares
from mezzo_server.blockstore.waiting import Waiting
from mezzo_server.blockstore.writer import RecordWrite
from mezzo_server.memory import Memory

HEADER = Memory.anonymous(BLOCK_BYTES)
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


class Known(Shares):
    def weight(self, tenant: bytes) -> float:
        return 3.0 if tenant == B else 1.0

    def behind(self, tenant: bytes) -> bool:
        return tenant == C


def record(
    tenant: bytes, blocks: int = 1, purpose: Purpose = Purpose.CHUNKS, deadline: float = 9.0
) -> RecordWrite:
    entries = [Entry(b"k", 0, (blocks * BLOCK_BYTES,), (0,), 0)]
    scope = Scope(tenant, b"n" * 16)
    return RecordWrite(scope, entries, [()], HEADER.span(), lambda error: None, purpose, deadline=deadline)


def drawn(waiting: Waiting, count: int) -> list[RecordWrite]:
    went = []
    for _ in range(count):
        write = waiting.heads()[0]
        waiting.went(write)
        went.append(write)
    return went


def test_a_flood_does_not_stand_before_who_comes_late() -> None:
    waiting = Waiting(Shares)
    flood = [record(A) for _ in range(100)]
    for write in flood:
        waiting.add(write)
    assert drawn(waiting, 10) == flood[:10]
    mine = record(B)
    assert waiting.add(mine), "he may be the next"
    assert mine in drawn(waiting, 2)


def test_space_is_shared_by_weight_and_who_is_behind_comes_last() -> None:
    waiting = Waiting(Known)
    for _ in range(200):
        for tenant in (A, B, C):
            waiting.add(record(tenant))
    went = [write.scope.tenant for write in drawn(waiting, 130)]
    assert abs(went.count(B) / went.count(A) - 3.0) < 0.3
    assert 1 <= went.count(C) <= went.count(A) // 8


def test_tombstones_go_before_all_in_their_order() -> None:
    waiting = Waiting(Shares)
    mine = record(A)
    waiting.add(mine)
    tombstones = [record(B, purpose=Purpose.TOMBSTONES) for _ in range(3)]
    for tombstone in tombstones:
        waiting.add(tombstone)
    assert drawn(waiting, 4) == [*tombstones, mine]


def test_a_tombstone_that_finds_no_room_holds_up_no_put() -> None:
    waiting = Waiting(Shares)
    mine, tombstone = record(A), record(B, purpose=Purpose.TOMBSTONES)
    waiting.add(mine)
    waiting.add(tombstone)
    assert waiting.heads() == [tombstone, mine]
    waiting.went(mine)
    assert waiting.heads() == [tombstone]


def test_others_are_tried_where_the_first_does_not_fit() -> None:
    waiting = Waiting(Shares)
    large, small = record(A, blocks=100), record(B)
    waiting.add(large)
    waiting.add(small)
    assert waiting.heads() == [large, small]
    waiting.went(small)
    assert waiting.heads() == [large]


def test_late_ones_are_taken_out() -> None:
    waiting = Waiting(Shares)
    late, later = record(A, deadline=1.0), record(A, deadline=2.0)
    for write in (late, later):
        waiting.add(write)
    assert waiting.take_late(1.5) == [late]
    assert waiting.heads() == [later]
    assert len(waiting) == 1


@given(
    st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(1, 50), st.sampled_from("adr")), max_size=80)
)
def test_each_goes_once_and_in_its_tenants_order(steps: list[tuple[bytes, int, str]]) -> None:
    waiting = Waiting(Known)
    there: dict[bytes, list[RecordWrite]] = {A: [], B: [], C: []}
    for tenant, blocks, what in steps:
        if what == "a":
            write = record(tenant, blocks)
            assert waiting.add(write) is (not there[tenant])
            there[tenant].append(write)
        elif what == "r" and there[tenant]:
            assert waiting.remove(there[tenant].pop(len(there[tenant]) // 2))
        elif what == "d" and len(waiting):
            (write,) = drawn(waiting, 1)
            assert there[write.scope.tenant].pop(0) is write
        assert len(waiting) == sum(map(len, there.values()))
        assert len(waiting.heads()) == sum(bool(writes) for writes in there.values())
    assert set(map(id, waiting)) == {id(write) for writes in there.values() for write in writes}
    assert not waiting.remove(record(A))
