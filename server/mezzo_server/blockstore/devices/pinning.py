"""Pinning memory for a ring, off the loop and slice by slice.

Pinning touches every page, and pages never touched before are allocated then: a second for a few
hundred MiB.  Hence a thread populates a slice in small steps, then registers it, which holds the ring
for about a millisecond; transfers in slices that are not ready yet, or across two, go by address.

Invariants: a slot of the ring's table belongs to one pin or to ``_free``; the thread touches a
memory's mapping only with the pin's lock held and the pin not cancelled, so that once `unregister` has
returned the mapping may be closed; what is pinned is never over ``pinned_bytes_max``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from mezzo_server._native.ring import BUFFER_SLOTS, SLICE_BYTES, Ring
from mezzo_server.memory import PAGE_BYTES, Memory

STEP_BYTES = 1 << 20
"""Populated at once: what `unregister` may have to wait for."""


@dataclass(eq=False, slots=True)
class _Pin:
    memory: Memory
    address: int
    length: int
    first_slot: int
    slots: int
    cancelled: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def slices(self) -> Iterator[tuple[int, int, int]]:
        """Slot, address and length of each slice."""
        for index in range(self.slots):
            start = index * SLICE_BYTES
            yield self.first_slot + index, self.address + start, min(SLICE_BYTES, self.length - start)


class Pinner:
    """Registers memory with one ring. Owner of the ring's buffer table and of one thread."""

    def __init__(self, ring: Ring, pinned_bytes_max: int) -> None:
        self._ring = ring
        self._pinned_bytes_max = pinned_bytes_max
        self._pins: dict[Memory, _Pin] = {}
        self._lock = threading.Lock()
        self._free = [(0, BUFFER_SLOTS)] if ring.fixed_buffers else []
        self._thread: ThreadPoolExecutor | None = None
        self.pinned_bytes = 0
        """Memory pinned, being pinned or being let go now."""

    def register(self, memory: Memory) -> bool:
        """Begin to pin ``memory``; False where it cannot be had."""
        if memory in self._pins:
            return True
        slots = -(-memory.length // SLICE_BYTES)
        with self._lock:
            if not slots or self.pinned_bytes + memory.length > self._pinned_bytes_max:
                return False
            first_slot = self._take(slots)
            if first_slot is None:
                return False
            self.pinned_bytes += memory.length
        pin = _Pin(memory, memory.address, memory.length, first_slot, slots)
        # One page tells at once whether the kernel pins such memory at all, and for us.
        if self._ring.pin(first_slot, pin.address, min(pin.length, PAGE_BYTES)):
            self._release(pin)
            return False
        self._pins[memory] = pin
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="mezzo-pin")
        self._thread.submit(self._pin, pin)
        return True

    def unregister(self, memory: Memory) -> None:
        """Stop using ``memory``; its mapping may be closed then. It is let go in the thread."""
        pin = self._pins.pop(memory, None)
        if pin is not None and self._thread is not None:
            pin.cancelled = True
            with pin.lock:
                self._ring.publish(memory, pin.first_slot, 0)
            self._thread.submit(self._release, pin)

    def wait(self) -> None:
        """Until everything asked for is done."""
        if self._thread is not None:
            self._thread.submit(int).result()

    def close(self) -> None:
        """Stop; the ring that is closed next lets everything go."""
        for pin in self._pins.values():
            pin.cancelled = True
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        self._pins.clear()

    def _pin(self, pin: _Pin) -> None:
        ready = 0
        for slot, address, length in pin.slices():
            for at in range(0, length, STEP_BYTES):
                with pin.lock:
                    if pin.cancelled:
                        return
                    self._ring.populate(address + at, min(STEP_BYTES, length - at))
            with pin.lock:
                # ENOMEM: over RLIMIT_MEMLOCK. The slices that follow go by address.
                if pin.cancelled or self._ring.pin(slot, address, length):
                    return
                ready += 1
                self._ring.publish(pin.memory, pin.first_slot, ready)

    def _release(self, pin: _Pin) -> None:
        for slot, _, _ in pin.slices():
            self._ring.unpin(slot)
        with self._lock:
            self._give(pin.first_slot, pin.slots)
            self.pinned_bytes -= pin.length

    def _take(self, count: int) -> int | None:
        """The first of ``count`` neighbouring slots; None without them."""
        for index, (first, length) in enumerate(self._free):
            if length >= count:
                self._free[index : index + 1] = [(first + count, length - count)] if length > count else []
                return first
        return None

    def _give(self, first: int, count: int) -> None:
        merged: list[tuple[int, int]] = []
        for start, length in sorted([*self._free, (first, count)]):
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        self._free = merged
