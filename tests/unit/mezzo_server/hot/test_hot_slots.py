"""How arenas are cut: sizes, waste, and queues whose members leave from anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo_server.hot.arena import AnonymousArena
from mezzo_server.hot.slots import (
    PAGE_BYTES,
    Cut,
    Slot,
    SlotMap,
    SlotQueue,
    arena_bytes_for,
    class_pages,
    data_pages,
    head_pages,
    pages_of,
)


@given(st.integers(1, 1 << 32))
def test_a_slot_holds_its_chunk_and_wastes_less_than_an_eighth(length: int) -> None:
    pages, needed = class_pages(length), pages_of(length)
    assert pages * PAGE_BYTES >= length
    assert (pages - needed) * 8 < pages
    assert class_pages(pages * PAGE_BYTES) == pages


def test_eight_sizes_for_each_doubling() -> None:
    assert len({class_pages(pages * PAGE_BYTES) for pages in range(1025, 2049)}) == 8


@given(st.integers(1, 100_000))
def test_an_arena_has_a_word_for_each_page(pages: int) -> None:
    nbytes = arena_bytes_for(pages * PAGE_BYTES)
    head = head_pages(nbytes)
    assert nbytes // PAGE_BYTES - head == pages
    assert (head - 1) * PAGE_BYTES < pages * 8 <= head * PAGE_BYTES


def cut_of(pages: int, slot_pages: int) -> Cut:
    cut = Cut(AnonymousArena(1, b"t" * 16, arena_bytes_for(pages * PAGE_BYTES)))
    cut.recut(slot_pages)
    return cut


def test_slots_of_a_cut_do_not_overlap_and_stay_inside() -> None:
    cut = cut_of(100, 7)
    slots = [cut.take(lambda: 1) for _ in range(14)]
    assert [slot.page for slot in slots] == list(range(0, 98, 7))
    assert not cut.has_room
    with pytest.raises(IndexError):
        cut.take(lambda: 1)
    last = slots[-1].span(0, slots[-1].capacity)
    assert last.offset + last.length <= data_pages(cut.arena) * PAGE_BYTES + cut.arena.data_offset
    with pytest.raises(ValueError, match="outside"):
        slots[0].span(1, slots[0].capacity)
    with pytest.raises(RuntimeError, match="chunks in it"):
        cut.recut(3)
    for slot in slots:
        cut.give(slot)
    cut.recut(3)
    assert cut.take(lambda: 2).capacity == 3 * PAGE_BYTES


def test_the_map_stays_right_when_it_spreads() -> None:
    slots, cut = SlotMap(), cut_of(10, 1)
    slot = cut.take(lambda: 1)
    for number in range(5000):
        slots.set(b"%d" % number, slot)
    assert slots.mask
    assert slots.count == 5000 == len(list(slots))
    assert all(slots.get(b"%d" % number) is slot for number in range(5000))
    for number in range(5000):
        slots.remove(b"%d" % number)
    assert slots.count == 0
    assert slots.get(b"1") is None
    with pytest.raises(KeyError):
        slots.remove(b"1")


@given(st.lists(st.integers(0, 9)))
def test_a_queue_keeps_the_order_whoever_leaves(moves: list[int]) -> None:
    cut, queue, model = cut_of(10, 1), SlotQueue(), list[Slot]()
    slots = [cut.take(lambda: 1) for _ in range(10)]
    for index in moves:
        slot = slots[index]
        if slot in model:
            queue.remove(slot)
            model.remove(slot)
        else:
            queue.add(slot)
            model.append(slot)
        assert (queue.count, queue.bytes) == (len(model), PAGE_BYTES * len(model))
        found, at = [], queue.first
        while at is not None:
            found.append(at)
            at = at.next
        assert found == model
        assert queue.last is (model[-1] if model else None)
    other = SlotQueue()
    for slot in model:
        with pytest.raises(RuntimeError):
            other.remove(slot)
