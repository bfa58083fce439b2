"""Which chunk leaves the hot tier when a slot is wanted. No I/O.

S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023):
a small queue that most chunks pass through once, a main queue for those that were used meanwhile, and
a ghost, which remembers who left the small queue lately.  Slots of one size have queues of their own,
since only a slot of the right size is of use; so bytes are in proportion to counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array

from mezzo_server.hot.slots import Slot, SlotQueue, State

SMALL_SHARE = 0.1
"""of the bytes; from the paper"""
FREQUENCY_MAX = 3
"""two bits, as in the paper"""
PROMOTE_AT = 2
"""uses in the small queue that make a chunk go on to the main queue; from the paper"""
STEPS_MAX = 64
"""slots looked at for one victim: busy ones are skipped, used ones given another round"""
GHOSTS_MIN = 64
GHOSTS_MAX = 65536
"""remembered at most, 16 bytes each"""


class SlotPolicy(ABC):
    """Order of eviction among the ready slots of one size and tenant. Every method is O(1)."""

    @abstractmethod
    def wants(self, key: bytes) -> bool:
        """Whether a chunk that was read from a device should become hot."""

    @abstractmethod
    def added(self, slot: Slot) -> None:
        """A slot became ready."""

    @abstractmethod
    def used(self, slot: Slot) -> None:
        """Its chunk was got, or taken to use in place."""

    @abstractmethod
    def removed(self, slot: Slot) -> None:
        """It lost its chunk for another reason than being a victim: deleted, evicted from the device."""

    @abstractmethod
    def victim(self) -> Slot | None:
        """Who goes next. It is not removed, and not busy; None: of those looked at all are busy."""

    @abstractmethod
    def evicted(self, slot: Slot) -> None:
        """A slot lost its chunk as a victim."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Bytes of the slots that it orders."""


class Ghost:
    """Hashes of the last ``size`` keys that were added, nearly: two that share a place displace one another."""

    __slots__ = ("_added", "_hashes", "_mask", "_size", "_stamps")

    def __init__(self, size: int) -> None:
        size = min(max(size, GHOSTS_MIN), GHOSTS_MAX)
        slots = 1 << (size - 1).bit_length()
        self._hashes = array("q", bytes(8 * slots))
        self._stamps = array("q", bytes(8 * slots))
        self._mask = slots - 1
        self._size = size
        self._added = size

    def add(self, key: bytes) -> None:
        """Remember a key."""
        self._added += 1
        number = hash(key)
        self._hashes[number & self._mask] = number
        self._stamps[number & self._mask] = self._added

    def __contains__(self, key: bytes) -> bool:
        number = hash(key)
        place = number & self._mask
        return self._hashes[place] == number and self._added - self._stamps[place] < self._size

    def take(self, key: bytes) -> bool:
        """Forget a key; whether it was remembered."""
        found = key in self
        if found:
            self._stamps[hash(key) & self._mask] = self._added - self._size
        return found


class S3Fifo(SlotPolicy):
    """See the module. ``slots_max``: slots of this size that there can be at most."""

    __slots__ = ("_ghost", "_main", "_slots_max", "_small")

    def __init__(self, slots_max: int) -> None:
        self._small = SlotQueue()
        self._main = SlotQueue()
        self._slots_max = slots_max
        self._ghost: Ghost | None = None
        """made when the first chunk is evicted: it may take a megabyte, and most sizes of most tenants never do"""

    def wants(self, key: bytes) -> bool:
        """Always: the small queue is what keeps chunks that are read once from displacing others."""
        return True

    def added(self, slot: Slot) -> None:
        """Into the main queue if it was here lately, else into the small one."""
        slot.frequency = 0
        again = self._ghost is not None and self._ghost.take(slot.key)
        (self._main if again else self._small).add(slot)

    def used(self, slot: Slot) -> None:
        """Counts uses, up to three."""
        if slot.frequency < FREQUENCY_MAX:
            slot.frequency += 1

    def removed(self, slot: Slot) -> None:
        """Out of its queue."""
        if slot.queue is not None:
            slot.queue.remove(slot)

    def evicted(self, slot: Slot) -> None:
        """Out of its queue; one of the small queue is remembered."""
        if slot.queue is self._small:
            if self._ghost is None:
                self._ghost = Ghost(self._slots_max)
            self._ghost.add(slot.key)
        self.removed(slot)

    @property
    def bytes(self) -> int:
        """Bytes of both queues."""
        return self._small.bytes + self._main.bytes

    def victim(self) -> Slot | None:
        """The oldest of a queue that nobody used since; after ``STEPS_MAX`` the least used one seen."""
        least: Slot | None = None
        # Slots in use are passed over, and must not hide the other queue: at most half of the steps for each.
        both = self._small.count and self._main.count
        busy_max = STEPS_MAX // 2 if both else STEPS_MAX
        busy_small = busy_main = 0
        for _ in range(min(STEPS_MAX, (FREQUENCY_MAX + 2) * (self._small.count + self._main.count))):
            main_left = busy_main < min(self._main.count, busy_max)
            from_small = busy_small < min(self._small.count, busy_max) and (
                self._small.bytes >= SMALL_SHARE * self.bytes or not main_left
            )
            if not (from_small or main_left):
                break
            queue = self._small if from_small else self._main
            slot = queue.first
            if slot is None:
                break
            if slot.state is not State.READY or slot.busy:
                # to the end of the queue: the next call looks at others
                queue.remove(slot)
                queue.add(slot)
                busy_small += from_small
                busy_main += not from_small
                continue
            if from_small:
                if slot.frequency < PROMOTE_AT:
                    return slot
                queue.remove(slot)
                slot.frequency = 0
                self._main.add(slot)
            else:
                if not slot.frequency:
                    return slot
                queue.remove(slot)
                slot.frequency -= 1
                queue.add(slot)
            if least is None or slot.frequency < least.frequency:
                least = slot
        return least
