"""The staging pool: one bounded arena for bytes that cannot go straight between device and region.

Invariants: every page of the arena is in exactly one free block, one piece kept for reuse or one
piece taken; a free block's buddy of the same size is never free too (they merge at once); pieces kept
for reuse are merged before a take fails; requests are served strictly in order, and nothing overtakes
one that waits, but for owners that have had their part.

An *owner* (a tenant) may hold twice as much as is free, or one piece: alone two thirds of the arena, two of them
two fifths each, so that something is always left for who comes (dynamic thresholds: Choudhury and Hahne,
"Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", IEEE/ACM Transactions on Networking 6(2),
1998).  What is over that waits in a queue of the owner's, and holds up nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mezzo.errors import Busy, Gone, InternalError, InvalidArgument, TooLarge
from mezzo_server.memory import PAGE_BYTES, Memory, Span

OWNER_TIMES_FREE = 2
"""An owner may hold so many times what is free."""


class StagingRequest:
    """A piece that was asked for; made by `StagingPool.request`."""

    __slots__ = ("_ready", "length", "owner")

    def __init__(self, length: int, ready: Callable[[Span], None], owner: bytes | None = None) -> None:
        self.length = length
        self.owner = owner
        self._ready: Callable[[Span], None] | None = ready

    @property
    def waiting(self) -> bool:
        """Neither served nor cancelled."""
        return self._ready is not None

    def cancel(self) -> None:
        """Never call back. Without effect on a piece that was handed over already."""
        self._ready = None

    def _serve(self, span: Span) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready(span)


class StagingPool:
    """Page-aligned pieces of one arena, by a buddy allocator: take and give cost O(log pages).

    A piece is found in a power-of-two block, and the block's pages beyond the piece stay free, so
    that a piece occupies its length rounded up to whole pages.  Pieces given back are kept as they are
    for the next of the same size (sizes repeat), until another size needs their room.  Owner of ``memory``, which devices
    register once.  Belongs to one thread.
    """

    def __init__(self, total_bytes: int, *, waiting_max: int = 16384) -> None:
        """An arena of ``total_bytes`` rounded up to whole pages, for at most ``waiting_max`` requests."""
        if total_bytes <= 0:
            raise InvalidArgument(f"a staging pool of {total_bytes} bytes holds nothing")
        self.memory = Memory.anonymous(total_bytes)
        self.memory.advise_huge()
        self.total_bytes = self.memory.length
        self.waiting_max = waiting_max
        pages = self.total_bytes // PAGE_BYTES
        self._free: list[dict[int, None]] = [{} for _ in range(pages.bit_length())]
        self._free_pages = pages
        self._kept: dict[int, list[int]] = {}
        self._taken: dict[int, int] = {}
        self._waiting: deque[StagingRequest] = deque()
        self._owners: dict[int, bytes] = {}
        """by where a piece begins, of those that have one"""
        self._held: dict[bytes, int] = {}
        """pages by owner"""
        self._held_back: dict[bytes, deque[StagingRequest]] = {}
        """requests of owners that have had their part"""
        self._held_back_count = 0
        self._serving = False
        self._closed = False
        self._merge(0, pages)

    @property
    def free_bytes(self) -> int:
        """Bytes in no piece; they need not be contiguous."""
        return self._free_pages * PAGE_BYTES

    @property
    def piece_bytes_max(self) -> int:
        """Length of the longest piece there can ever be: the largest power of two in the arena."""
        return PAGE_BYTES << (len(self._free) - 1)

    @property
    def pieces_taken(self) -> int:
        """Pieces taken and not given back."""
        return len(self._taken)

    @property
    def requests_waiting(self) -> int:
        """Requests that wait for room (cancelled ones in the queue's middle included)."""
        return len(self._waiting) + self._held_back_count

    def held_bytes(self, owner: bytes) -> int:
        """Bytes of an owner's pieces, whole pages."""
        return self._held.get(owner, 0) * PAGE_BYTES

    def take(self, length: int, owner: bytes | None = None) -> Span | None:
        """A piece of exactly ``length`` bytes; None without room, or while requests wait for theirs.

        Contents are whatever was there.  TooLarge over `piece_bytes_max`.
        """
        self._check(length)
        self._drop_cancelled()
        if self._waiting or not self._may(length, owner):
            return None
        return self._take(length, owner)

    def request(
        self, length: int, ready: Callable[[Span], None], owner: bytes | None = None
    ) -> StagingRequest:
        """Call ``ready`` with a piece: from within this call if there is room, else in turn.

        ``ready`` may take, give and request again, and must not raise.  What it requests is served
        after it returned, so that no chain of requests grows the stack.  TooLarge over
        `piece_bytes_max`; Busy when ``waiting_max`` requests wait already.
        """
        self._check(length)
        self._drop_cancelled()
        request = StagingRequest(length, ready, owner)
        if len(self._waiting) + self._held_back_count >= self.waiting_max:
            raise Busy(f"{self.waiting_max} requests wait for staging memory already")
        if not self._may(length, owner) and owner is not None:
            self._held_back.setdefault(owner, deque()).append(request)
            self._held_back_count += 1
            return request
        self._waiting.append(request)
        if len(self._waiting) == 1:
            self._serve()
        return request

    def give(self, span: Span) -> None:
        """Take a piece back; ``span`` starts where the piece starts, and may be shorter.

        InternalError for what is not taken (given twice, or never from here).
        """
        pages = self._taken.pop(span.offset, 0) if span.memory is self.memory else 0
        if not pages or span.length > pages * PAGE_BYTES:
            if pages:
                self._taken[span.offset] = pages
            raise InternalError(f"staging piece at {span.offset}+{span.length} is not taken: given twice?")
        self._kept.setdefault(pages, []).append(span.offset)
        self._free_pages += pages
        owner = self._owners.pop(span.offset, None)
        if owner is not None:
            left = self._held[owner] - pages
            if left:
                self._held[owner] = left
            else:
                del self._held[owner]
        if self._waiting or self._held_back:
            self._serve()

    def close(self) -> None:
        """Cancel what waits and unmap. InternalError while pieces are taken. May be called again."""
        if self._closed:
            return
        for requests in (self._waiting, *self._held_back.values()):
            for request in requests:
                request.cancel()
        self._waiting.clear()
        self._held_back.clear()
        self._held_back_count = 0
        if self._taken:
            raise InternalError(f"{len(self._taken)} staging pieces are still taken")
        self._closed = True
        self.memory.close()

    def __repr__(self) -> str:
        return (
            f"StagingPool(free {self.free_bytes} of {self.total_bytes} bytes,"
            f" {len(self._taken)} taken, {len(self._waiting)} waiting)"
        )

    def _check(self, length: int) -> None:
        if self._closed:
            raise Gone("the staging pool is closed")
        if length <= 0:
            raise InvalidArgument(f"a staging piece of {length} bytes")
        if length > self.piece_bytes_max:
            raise TooLarge(f"{length} bytes are over the longest staging piece, {self.piece_bytes_max}")

    def _may(self, length: int, owner: bytes | None) -> bool:
        """Whether an owner may have so much more now."""
        if owner is None:
            return True
        if owner in self._held_back:
            return False
        return owner not in self._held or self._is_within(length, owner)

    def _is_within(self, length: int, owner: bytes) -> bool:
        held = self._held.get(owner, 0)
        return not held or held - (-length // PAGE_BYTES) <= OWNER_TIMES_FREE * self._free_pages

    def _let_one_go_on(self) -> None:
        """The first request of an owner that was held back and may go on, in turn, joins those that wait."""
        for owner, requests in tuple(self._held_back.items()):
            while requests and not requests[0].waiting:
                requests.popleft()
                self._held_back_count -= 1
            goes_on = bool(requests) and self._is_within(requests[0].length, owner)
            if goes_on:
                self._held_back_count -= 1
                self._waiting.append(requests.popleft())
            if goes_on or not requests:
                del self._held_back[owner]
            if requests and goes_on:
                self._held_back[owner] = requests  # behind the others
            if goes_on:
                return

    def _drop_cancelled(self) -> None:
        while self._waiting and not self._waiting[0].waiting:
            self._waiting.popleft()

    def _serve(self) -> None:
        # Callbacks may give, take and request again: only the outermost call goes on serving, so
        # that the order holds and the stack stays flat.
        if self._serving:
            return
        self._serving = True
        try:
            while True:
                self._drop_cancelled()
                if not self._waiting and self._held_back:
                    self._let_one_go_on()
                if not self._waiting:
                    return
                span = self._take(self._waiting[0].length, self._waiting[0].owner)
                if span is None:
                    return
                self._waiting.popleft()._serve(span)
        finally:
            self._serving = False

    def _take(self, length: int, owner: bytes | None) -> Span | None:
        pages = -(-length // PAGE_BYTES)
        if pages > self._free_pages:
            return None
        kept = self._kept.get(pages)
        if kept:
            # Last given first taken: its pages are the likeliest to be in the processor's cache.
            offset = kept.pop()
        else:
            first = self._split(pages)
            if first < 0 and self._kept:
                self._merge_kept()
                first = self._split(pages)
            if first < 0:
                return None
            offset = first * PAGE_BYTES
        self._free_pages -= pages
        self._taken[offset] = pages
        if owner is not None:
            self._owners[offset] = owner
            self._held[owner] = self._held.get(owner, 0) + pages
        return Span(self.memory, offset, length)

    def _split(self, pages: int) -> int:
        """First page of a run cut off the smallest block that holds it; -1 without one."""
        for order in range((pages - 1).bit_length(), len(self._free)):
            if self._free[order]:
                first, _ = self._free[order].popitem()
                self._merge(first + pages, (1 << order) - pages)
                return first
        return -1

    def _merge_kept(self) -> None:
        for pages, offsets in self._kept.items():
            for offset in offsets:
                self._merge(offset // PAGE_BYTES, pages)
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


def bytes_for_piece(length: int) -> int:
    """Least bytes of a pool that can have a piece of ``length`` bytes: a power of two."""
    return PAGE_BYTES << (-(-length // PAGE_BYTES) - 1).bit_length()
