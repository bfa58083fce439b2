"""Chunks of the hot tier that the holder of a lease reads where they lie. No I/O.

A shard on the same host keeps hot chunks in arenas, which its clients map for reading.  Each page of
an arena's data has a *generation* in the arena's head; the shard raises that of a chunk's first page
before it overwrites any byte of the chunk.  So bytes that were read are right if the generation is
still the one that came with the lease, looked at after the reading: that is `Places.changed`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from mezzo.errors import ProtocolError
from mezzo.protocol.messages import ArenaOpened

GENERATION_BYTES = 8

Views = tuple[memoryview | None, ...]
"""For each chunk of a lease its bytes, read-only; None: it is not hot."""


class Arena:
    """One mapped arena. Its views keep the mapping; nothing else does."""

    __slots__ = ("data", "generations", "page_bytes")

    def __init__(self, memory: memoryview, data_offset: int, page_bytes: int) -> None:
        """``memory``: the whole arena, head first.

        Raises:
            ProtocolError: this cannot be the layout of an arena.
        """
        data_bytes = len(memory) - data_offset
        words, rest = divmod(data_offset, GENERATION_BYTES)
        if rest or page_bytes <= 0 or not 0 < data_bytes <= words * page_bytes:
            raise ProtocolError(
                f"an arena of {len(memory)} bytes cannot have its data at {data_offset} in pages of {page_bytes}"
            )
        self.generations = memory[:data_offset].cast("Q")
        self.data = memory[data_offset:]
        self.page_bytes = page_bytes


class Channel(Protocol):
    """The way on which one arena comes to a client (`arenas.open_channel`)."""

    @property
    def descriptor(self) -> int:
        """The end that goes to the shard."""

    def receive(self, opened: ArenaOpened) -> Arena:
        """The arena, after the shard has answered that it was sent."""

    def close(self) -> None:
        """Give both ends up."""


class LeasedPlaces(Protocol):
    """What a lease needs of the places of its chunks."""

    @property
    def views(self) -> Views:
        """For each chunk its bytes, or None."""

    @property
    def hot(self) -> int:
        """How many are in place."""

    def changed(self) -> int:
        """How many of them have been given up by the shard since the lease."""

    def give_back(self) -> int:
        """Make the views unusable; how many cannot be, because an array or tensor over them lives."""


class Places:
    """The places that came with a lease: their views, and how to see that they are still good."""

    __slots__ = ("_checks", "hot", "views")

    def __init__(self, arenas: Mapping[int, Arena], numbers: Sequence[int]) -> None:
        """``numbers``: of `Acquired.places`; ``arenas`` has all that they name.

        Raises:
            ProtocolError: a place lies outside of its arena.
        """
        # Column by column: half the time of one place after the other.
        pages, lengths, generations = numbers[1::4], numbers[2::4], numbers[3::4]
        nowhere: dict[int, Arena] = {}
        of = [
            (arenas if word else nowhere).get(n) for n, word in zip(numbers[0::4], generations, strict=True)
        ]
        views = [
            None if arena is None else arena.data[page * arena.page_bytes : page * arena.page_bytes + length]
            for arena, page, length in zip(of, pages, lengths, strict=True)
        ]
        self._checks = [
            (arena.generations, page, generation)
            for arena, page, generation in zip(of, pages, generations, strict=True)
            if arena is not None
        ]
        for at, view in enumerate(views):
            if view is not None and not 0 < lengths[at] == len(view):
                raise ProtocolError(
                    f"page {pages[at]} and {lengths[at]} bytes are outside of arena {numbers[4 * at]}"
                )
        self.views: Views = tuple(views)
        self.hot = len(self._checks)

    def changed(self) -> int:
        """See `LeasedPlaces.changed`. What was read before the call is covered by it."""
        read_in_order()
        return sum([generations[page] != generation for generations, page, generation in self._checks])

    def give_back(self) -> int:
        """See `LeasedPlaces.give_back`."""
        return give_back(self.views)


class SpreadPlaces:
    """The places of a lease that several shards granted, each its own."""

    __slots__ = ("_shares", "hot", "views")

    def __init__(self, prefix: int, shares: Sequence[tuple[Sequence[int], LeasedPlaces]]) -> None:
        """``prefix`` keys are leased in all; of each shard, where its keys stand among them, and its places."""
        views: list[memoryview | None] = [None] * prefix
        for indexes, places in shares:
            for index, view in zip(indexes, places.views, strict=False):
                views[index] = view
        self._shares = [places for _, places in shares]
        self.views: Views = tuple(views)
        self.hot = sum([places.hot for places in self._shares])

    def changed(self) -> int:
        """See `LeasedPlaces.changed`."""
        return sum([places.changed() for places in self._shares])

    def give_back(self) -> int:
        """See `LeasedPlaces.give_back`."""
        return sum([places.give_back() for places in self._shares])


def unknown_arenas(arenas: Mapping[int, Arena], numbers: Sequence[int]) -> list[int]:
    """Arenas that places name and that are not mapped."""
    if not set(numbers[::4]).difference(arenas):
        return []
    named = {number for number, generation in zip(numbers[::4], numbers[3::4], strict=True) if generation}
    return sorted(named.difference(arenas))


def give_back(views: Views) -> int:
    """Release views; how many cannot be, because something was made over them that lives."""
    in_use = 0
    for view in views:
        if view is not None:
            try:
                view.release()
            except BufferError:
                in_use += 1
    return in_use


def read_in_order() -> None:
    """No read of memory from before this call is made after one that follows it.

    x86-64 keeps reads in order by itself; Arm does not.  Giving a lock up waits for all earlier reads,
    and no later read comes before taking it again, nor the taking before the giving up.
    """
    lock = threading.Lock()
    with lock:
        pass
    with lock:
        pass
