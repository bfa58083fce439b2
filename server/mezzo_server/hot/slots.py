"""Slots: the places of an arena that hold one chunk each, and how an arena is cut into them. No I/O.

    FREE -> FILLING -> READY -> FREE
    FILLING or READY -> LEAVING -> FREE      it lost its chunk while somebody used it

Invariants: slots of one arena do not overlap; the generation word of a slot's first page is raised
whenever the slot loses its chunk, before a byte of it is overwritten, and never has a value twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Protocol

from mezzo_server.memory import Memory, Span
from mezzo_server.sharded import ShardedMap

PAGE_BYTES = 4096
"""What slots are measured in: a block of every device, and a page of most processors."""
STEPS = 8
"""Size classes for each doubling of the size: a slot wastes less than an eighth of its pages."""
WORDS_PER_PAGE = PAGE_BYTES // 8


class ArenaMemory(Protocol):
    """What the tier needs of an arena; `mezzo_server.hot.arena` has two kinds."""

    @property
    def number(self) -> int:
        """Names the arena; never used twice by one tier."""

    @property
    def tenant(self) -> bytes:
        """Whose it is, for ever."""

    @property
    def fd(self) -> int:
        """A descriptor that clients may have; -1: there is none."""

    @property
    def bytes(self) -> int:
        """All of it, head included."""

    @property
    def data_offset(self) -> int:
        """Where page 0 of the data begins."""

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""

    @property
    def memory(self) -> Memory:
        """The server's mapping of it."""

    def publish(self, page: int, generation: int) -> None:
        """Write a page's generation word; no byte written later may be seen before it."""

    def generation(self, page: int) -> int:
        """A page's generation word."""

    def close(self) -> None:
        """Give the memory back; nothing of it is in use."""


class State(IntEnum):
    """What a slot is doing."""

    FREE = 0
    FILLING = 1
    """a chunk is on its way into it"""
    READY = 2
    """it holds a visible chunk, verified"""
    LEAVING = 3
    """it lost its chunk; free as soon as nobody uses it any more"""


class SlotMap(ShardedMap["Slot"]):
    """The slots of one namespace by key: those that are filling or ready."""

    __slots__ = ("scope",)

    def __init__(self, scope: object = None) -> None:
        super().__init__()
        self.scope = scope
        """names the namespace, for whoever comes from a slot"""

    def __iter__(self) -> Iterator[Slot]:
        for shard in self.shards:
            yield from shard.values()


class Slot:
    """A place for one chunk. Owned by its `Cut`; its state is changed by `HotTier` alone."""

    __slots__ = (
        "arena",
        "capacity",
        "checksums",
        "cut",
        "frequency",
        "generation",
        "holds",
        "key",
        "length",
        "next",
        "owner",
        "page",
        "previous",
        "queue",
        "sequence",
        "state",
        "used_at",
        "uses",
        "waiters",
    )

    def __init__(self, cut: Cut, page: int, generation: int) -> None:
        self.cut = cut
        self.arena = cut.arena.number
        self.page = page
        """of the arena's data, where it begins"""
        self.capacity = cut.slot_pages * PAGE_BYTES
        """bytes that it can hold: whole pages"""
        self.generation = generation
        self.length = 0
        """bytes of the chunk"""
        self.owner: SlotMap | None = None
        self.key = b""
        self.checksums: tuple[int, ...] = ()
        """of the parts of a chunk that is encrypted on its device: what is stored there are others"""
        self.sequence = 0
        self.state = State.FREE
        self.holds = 0
        """clients that use it in place"""
        self.uses = 0
        """fills, copies and streams of the store's own"""
        self.used_at = 0
        self.frequency = 0
        self.waiters: list[Callable[[bool], None]] = []
        """called when the fill has ended: is it ready?"""
        # where the policy keeps it
        self.queue: SlotQueue | None = None
        self.previous: Slot | None = None
        self.next: Slot | None = None

    @property
    def busy(self) -> bool:
        """Whether its bytes must stay."""
        return bool(self.holds or self.uses)

    def span(self, offset: int = 0, length: int | None = None) -> Span:
        """Bytes of the slot; those of the chunk by default."""
        size = self.length - offset if length is None else length
        if offset < 0 or size < 0 or offset + size > self.capacity:
            raise ValueError(f"bytes {offset}+{size} are outside of a slot of {self.capacity}")
        arena = self.cut.arena
        return Span(arena.memory, arena.data_offset + self.page * PAGE_BYTES + offset, size)

    def __repr__(self) -> str:
        return (
            f"Slot({self.state.name} {self.key.hex()[:16]} in arena {self.arena} page {self.page}, "
            f"{self.length} of {self.capacity} bytes, generation {self.generation}, "
            f"holds {self.holds}, uses {self.uses})"
        )


class SlotQueue:
    """A first-in-first-out queue whose members can leave from anywhere; every step is O(1)."""

    __slots__ = ("bytes", "count", "first", "last")

    def __init__(self) -> None:
        self.first: Slot | None = None
        """the oldest"""
        self.last: Slot | None = None
        self.count = 0
        self.bytes = 0

    def add(self, slot: Slot) -> None:
        """Add as the newest."""
        slot.queue = self
        slot.previous = self.last
        slot.next = None
        if self.last is None:
            self.first = slot
        else:
            self.last.next = slot
        self.last = slot
        self.count += 1
        self.bytes += slot.capacity

    def remove(self, slot: Slot) -> None:
        """Take out one that is in it."""
        if slot.queue is not self:
            raise RuntimeError("a slot leaves a queue that it is not in")
        if slot.previous is None:
            self.first = slot.next
        else:
            slot.previous.next = slot.next
        if slot.next is None:
            self.last = slot.previous
        else:
            slot.next.previous = slot.previous
        slot.queue = slot.previous = slot.next = None
        self.count -= 1
        self.bytes -= slot.capacity


class Cut:
    """An arena and the slots of one size that it is cut into. Slots are made as they are needed."""

    __slots__ = ("arena", "busy", "count", "draining", "free", "live", "made", "slot_pages", "used_at")

    def __init__(self, arena: ArenaMemory) -> None:
        self.arena = arena
        self.slot_pages = 0
        """pages of each slot; 0: not cut yet"""
        self.count = 0
        """slots that fit"""
        self.made: list[Slot] = []
        self.free: list[Slot] = []
        """of those that were made"""
        self.live = 0
        """slots that are not free"""
        self.busy = 0
        """slots that somebody uses"""
        self.used_at = 0
        """when one of them was used last"""
        self.draining = False
        """it is being emptied, to be cut anew"""

    def recut(self, slot_pages: int) -> None:
        """Cut it into slots of this size. RuntimeError while a slot holds a chunk."""
        if self.live:
            raise RuntimeError("an arena with chunks in it is cut anew")
        self.slot_pages = slot_pages
        self.count = data_pages(self.arena) // slot_pages
        self.made = []
        self.free = []
        self.draining = False

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self.free) or len(self.made) < self.count

    def take(self, draw: Callable[[], int]) -> Slot:
        """A free slot; ``draw`` gives generations. IndexError if none is."""
        if self.free:
            slot = self.free.pop()
        else:
            if len(self.made) >= self.count:
                raise IndexError("no slot is free")
            page = len(self.made) * self.slot_pages
            slot = Slot(self, page, draw())
            self.arena.publish(page, slot.generation)
            self.made.append(slot)
        self.live += 1
        return slot

    def give(self, slot: Slot) -> None:
        """A slot is free."""
        self.live -= 1
        self.free.append(slot)


def pages_of(length: int) -> int:
    """Pages that so many bytes take."""
    return -(-length // PAGE_BYTES)


def class_pages(length: int) -> int:
    """Pages of the slots for chunks of ``length`` bytes.

    Eight sizes for each doubling, so that less than an eighth of a slot's pages is wasted.
    """
    pages = max(1, pages_of(length))
    step = 1 << max(0, (pages - 1).bit_length() - STEPS.bit_length())
    return -(-pages // step) * step


def head_pages(arena_bytes: int) -> int:
    """Pages at the beginning of an arena that hold a generation word for each page behind them."""
    pages = arena_bytes // PAGE_BYTES
    return -(-pages // (WORDS_PER_PAGE + 1))


def data_pages(arena: ArenaMemory) -> int:
    """Pages of an arena's data."""
    return (arena.bytes - arena.data_offset) // PAGE_BYTES


def arena_bytes_for(data_bytes: int) -> int:
    """Bytes of an arena, head included, whose data has room for ``data_bytes``."""
    pages = pages_of(data_bytes)
    return (pages + -(-pages // WORDS_PER_PAGE)) * PAGE_BYTES
