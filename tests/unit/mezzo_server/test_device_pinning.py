"""The pinner, over a ring that only notes what it is told."""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass, field

import pytest

pinning = pytest.importorskip(
    "mezzo_server.blockstore.devices.pinning", reason="the native module was not built", exc_type=ImportError
)
SLICE = pinning.SLICE_BYTES
SLOTS = pinning.BUFFER_SLOTS


@dataclass(eq=False)
class FakeMemory:
    """Address space of which nothing is touched."""

    length: int
    address: int = 1 << 40


@dataclass
class FakeRing:
    """Notes buffers; ``codes`` are answers of `pin` for slots."""

    fixed_buffers: bool = True
    codes: dict[int, int] = field(default_factory=dict)
    buffers: dict[int, tuple[int, int]] = field(default_factory=dict)
    published: dict[FakeMemory, tuple[int, int]] = field(default_factory=dict)
    populating: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event | None = None

    def populate(self, address: int, length: int) -> None:
        assert length <= pinning.STEP_BYTES
        self.populating.set()
        if self.go_on is not None:
            self.go_on.wait(30)

    def pin(self, slot: int, address: int, length: int) -> int:
        assert 0 <= slot < SLOTS
        assert length <= SLICE
        if slot in self.codes and length > 4096:
            return self.codes[slot]
        self.buffers[slot] = (address, length)
        return 0

    def unpin(self, slot: int) -> None:
        self.buffers.pop(slot, None)

    def publish(self, memory: FakeMemory, first_slot: int, ready: int) -> None:
        if ready:
            self.published[memory] = (first_slot, ready)
        else:
            self.published.pop(memory, None)


@pytest.fixture
def ring():
    return FakeRing()


@pytest.fixture
def pinner(ring):
    pinner = pinning.Pinner(ring, 1 << 50)
    yield pinner
    pinner.close()


def test_every_byte_is_in_one_slice(ring, pinner):
    memory = FakeMemory(2 * SLICE + 4096)
    assert pinner.register(memory)
    assert pinner.register(memory)
    pinner.wait()
    assert ring.published == {memory: (0, 3)}
    assert ring.buffers == {
        0: (memory.address, SLICE),
        1: (memory.address + SLICE, SLICE),
        2: (memory.address + 2 * SLICE, 4096),
    }
    pinner.unregister(memory)
    pinner.unregister(memory)
    pinner.wait()
    assert ring.published == {}
    assert ring.buffers == {}
    assert pinner.pinned_bytes == 0


def test_slots_come_back_and_merge(ring, pinner):
    whole = FakeMemory(SLOTS * SLICE)
    parts = [FakeMemory(SLOTS // 8 * SLICE) for _ in range(8)]
    for order in (parts, parts[::-1], parts[::2] + parts[1::2]):
        assert all(pinner.register(memory) for memory in order)
        assert not pinner.register(FakeMemory(4096))
        for memory in order:
            pinner.unregister(memory)
        pinner.wait()
        assert pinner.register(whole)
        pinner.unregister(whole)
        pinner.wait()
        assert ring.buffers == {}


def test_pinned_bytes_are_capped(ring):
    pinner = pinning.Pinner(ring, 2 * SLICE)
    first = FakeMemory(2 * SLICE)
    assert pinner.register(first)
    assert not pinner.register(FakeMemory(1))
    pinner.unregister(first)
    pinner.wait()
    assert pinner.register(FakeMemory(2 * SLICE))
    pinner.close()


def test_memory_that_the_kernel_does_not_pin(ring, pinner, monkeypatch):
    monkeypatch.setattr(ring, "pin", lambda *_: -errno.EOPNOTSUPP)
    assert not pinner.register(FakeMemory(SLICE))
    assert pinner.pinned_bytes == 0


def test_over_the_memlock_limit_the_rest_goes_by_address(ring, pinner):
    ring.codes = {2: -errno.ENOMEM}
    memory = FakeMemory(5 * SLICE)
    assert pinner.register(memory)
    pinner.wait()
    assert ring.published[memory] == (0, 2)
    pinner.unregister(memory)
    pinner.wait()
    assert ring.buffers == {}
    assert pinner.pinned_bytes == 0


def test_an_old_kernel_has_no_table():
    pinner = pinning.Pinner(FakeRing(fixed_buffers=False), 1 << 40)
    assert not pinner.register(FakeMemory(4096))
    pinner.wait()
    pinner.close()


def test_unregister_in_the_middle_waits_for_one_step_at_most(ring, pinner):
    ring.go_on = threading.Event()
    memory = FakeMemory(SLICE)
    assert pinner.register(memory)
    assert ring.populating.wait(30)
    ring.go_on.set()
    pinner.unregister(memory)
    assert memory not in ring.published
    pinner.wait()
    assert ring.buffers == {}
    assert memory not in ring.published


def test_close_in_the_middle_ends_the_thread(ring):
    pinner = pinning.Pinner(ring, 1 << 50)
    for _ in range(4):
        pinner.register(FakeMemory(SLOTS // 4 * SLICE))
    pinner.close()
    assert not any(thread.name.startswith("mezzo-pin") for thread in threading.enumerate())
