"""Runs of pages in one arena, by a buddy allocator: take and give cost O(log pages).

Invariants: every page of the arena is in exactly one free block, one run kept for reuse, one run taken, or is
a free page of the block set aside; a free block's buddy of the same size is never free too (they merge at
once); runs kept for reuse are merged before a take fails.

A run is found in a power-of-two block, and the block's pages beyond the run stay free.  Runs given back are
kept as they are for the next of the same size (sizes repeat), until another size needs their room.

One block can be *set aside* for somebody whom no block is free for: nothing is taken out of it any more, so
that it is free as soon as what is taken of it came back.
"""

from __future__ import annotations


def order_of(pages: int) -> int:
    """The exponent of the least power of two that a run of so many pages is found in."""
    return (pages - 1).bit_length()


class Buddy:
    """Which pages are taken. Knows no memory: pages are numbers."""

    __slots__ = (
        "_aside_end",
        "_aside_first",
        "_free",
        "_kept",
        "aside_free_pages",
        "free_pages",
        "pages",
        "taken",
    )

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.free_pages = pages
        """free, and not in the block that is set aside"""
        self.aside_free_pages = 0
        """free in the block that is set aside"""
        self.taken: dict[int, int] = {}
        """pages of what is taken, by its first page; what was taken first comes first"""
        self._free: list[dict[int, None]] = [{} for _ in range(pages.bit_length())]
        self._kept: dict[int, list[int]] = {}
        self._aside_first = self._aside_end = 0
        self._merge(0, pages)

    @property
    def pages_max(self) -> int:
        """The longest run that there can ever be: the largest power of two in the arena."""
        return 1 << (len(self._free) - 1)

    def take(self, pages: int) -> int:
        """First page of a run; -1: there is none."""
        if pages > self.free_pages:
            return -1
        kept = self._kept.get(pages)
        if kept:
            # Last given first taken: its pages are the likeliest to be in the processor's cache.
            first = kept.pop()
        else:
            first = self._split(pages)
            if first < 0 and self._kept:
                self._merge_kept()
                first = self._split(pages)
            if first < 0:
                return -1
        self.free_pages -= pages
        self.taken[first] = pages
        return first

    def give(self, first: int) -> int:
        """Take back the run that begins with page ``first``; its pages."""
        pages = self.taken.pop(first)
        if first >= self._aside_end or first + pages <= self._aside_first:
            self._kept.setdefault(pages, []).append(first)
            self.free_pages += pages
            return pages
        self._free_run(first, pages)
        return pages

    def shorten(self, first: int, pages: int) -> int:
        """Take back all but the first ``pages`` of the run that begins with page ``first``; how many."""
        rest = self.taken[first] - pages
        self.taken[first] = pages
        self._free_run(first + pages, rest)
        return rest

    # -- a block set aside

    @property
    def aside_is_free(self) -> bool:
        """Whether a block is set aside and all of it has come back."""
        return 0 < self._aside_end - self._aside_first == self.aside_free_pages

    def set_aside(self, order: int) -> None:
        """Take nothing more out of one block of ``1 << order`` pages.

        Of the block whose oldest run is the youngest: what was there for long may stay for long.
        """
        if self._aside_end:
            raise RuntimeError("one block is set aside at a time")
        touched: dict[int, None] = {}
        for first, pages in self.taken.items():
            for block in range(first >> order, (first + pages - 1 >> order) + 1):
                touched.setdefault(block)
        blocks = [block for block in range(self.pages >> order) if block not in touched]
        blocks = blocks[:1] or [block for block in touched if block < self.pages >> order]
        self._merge_kept()
        self._aside_first = begin = blocks[-1] << order
        self._aside_end = end = begin + (1 << order)
        for size, free in enumerate(self._free):
            for first in [first for first in free if first < end and first + (1 << size) > begin]:
                del free[first]
                inside = min(1 << size, 1 << order)
                self.aside_free_pages += inside
                self.free_pages -= inside
                self._merge(first, max(0, begin - first))
                self._merge(end, max(0, first + (1 << size) - end))

    def end_aside(self) -> None:
        """What is set aside can be taken again by all."""
        at, end = self._aside_first, self._aside_end
        self._aside_first = self._aside_end = 0
        self.free_pages += self.aside_free_pages
        self.aside_free_pages = 0
        inside = (first for first in self.taken if first < end and first + self.taken[first] > at)
        for first in sorted(inside):
            self._merge(at, max(0, first - at))
            at = first + self.taken[first]
        self._merge(at, max(0, end - at))

    # -- blocks

    def _free_run(self, first: int, pages: int) -> None:
        """Free a run, of which some may lie in the block that is set aside."""
        end = first + pages
        inside = max(0, min(end, self._aside_end) - max(first, self._aside_first))
        self.aside_free_pages += inside
        self.free_pages += pages - inside
        if not inside:
            self._merge(first, pages)
            return
        self._merge(first, max(0, self._aside_first - first))
        self._merge(self._aside_end, max(0, end - self._aside_end))

    def _split(self, pages: int) -> int:
        """First page of a run cut off the smallest block that holds it; -1 without one."""
        for order in range(order_of(pages), len(self._free)):
            if self._free[order]:
                first, _ = self._free[order].popitem()
                self._merge(first + pages, (1 << order) - pages)
                return first
        return -1

    def _merge_kept(self) -> None:
        for pages, runs in self._kept.items():
            for first in runs:
                self._merge(first, pages)
        self._kept.clear()

    def _merge(self, first: int, pages: int) -> None:
        """Free a run of pages, cut into the largest blocks that are aligned to their own size."""
        while pages:
            order = pages.bit_length() - 1
            if first:
                order = min(order, (first & -first).bit_length() - 1)
            pages -= 1 << order
            block, first = first, first + (1 << order)
            # The arena's total is a sum of falling powers of two, each aligned to its size: a buddy
            # beyond the end, or across two of them, is in no free list and never merges.
            while block ^ (1 << order) in self._free[order]:
                del self._free[order][block ^ (1 << order)]
                block &= ~(1 << order)
                order += 1
            self._free[order][block] = None
