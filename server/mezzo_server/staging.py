"""The staging pool: one bounded arena for bytes that cannot go straight between device and region.

Who is served when:

- Requests of one owner that need blocks of one size are served in order. Others pass them: one that no room
  is free for holds up nobody that some is free for.
- One that was passed for long (`PASSED_ARENAS`, or `FAVOUR_PART` of the wait) is *favoured*: a block is set
  aside for it (`buddy.py`), and others have what is outside. One at a time, for a bounded time: where a piece
  of that block does not come back, its owner's client being slow, others are not to wait for it as well.
- One that waited for ``wait_s``, or was favoured in vain, is refused. So nothing waits for ever.

An *owner* (a tenant) may hold twice as much as is free, and one long piece besides: alone two thirds of the arena,
two of them two fifths each, so that something is always left for who comes (dynamic thresholds: Choudhury and Hahne,
"Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", IEEE/ACM Transactions on Networking 6(2),
1998).  Of the line of those that wait he may have so much, too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from mezzo.errors import Busy, Gone, InternalError, InvalidArgument, TooLarge
from mezzo_server.buddy import Buddy, order_of
from mezzo_server.memory import PAGE_BYTES, Memory, Span

OWNER_TIMES_FREE = 2
"""An owner may hold so many times what is free."""
LONG_PART = 0.25
"""A piece longer than this part of the arena is long: an owner may have one whatever it holds besides."""
WAIT_S = 5.0
PASSED_ARENAS = 1
"""A request is favoured when others were given so many times the arena's bytes since it could not be served,"""
FAVOUR_PART = 0.25
"""or when this part of the wait is over; and is so for no longer than this part of it."""
FAVOUR_PAUSE = 3
"""After one that was favoured in vain nobody is, for so many times as long."""


class StagingRequest:
    """A piece that was asked for; made by `StagingPool.request`."""

    __slots__ = ("_began", "_first_from", "_passed_from", "_ready", "_refused", "length", "owner")

    def __init__(
        self,
        length: int,
        ready: Callable[[Span], None],
        owner: bytes | None = None,
        refused: Callable[[], None] | None = None,
    ) -> None:
        self.length = length
        self.owner = owner
        self._ready: Callable[[Span], None] | None = ready
        self._refused = refused
        # Of one that waits: since when; since when it is seen to be the first of its line, and what pages all had been
        # given by then (-1: it was not seen to be).
        self._began: float
        self._first_from: float
        self._passed_from: int

    @property
    def waiting(self) -> bool:
        """Neither served, refused nor cancelled."""
        return self._ready is not None

    def cancel(self) -> None:
        """Never call back. Without effect on a piece that was handed over already."""
        self._ready = self._refused = None

    def _serve(self, span: Span) -> None:
        ready, self._ready = self._ready, None
        self._refused = None
        if ready is not None:
            ready(span)

    def _refuse(self, _: None) -> None:
        refused, self._refused = self._refused, None
        self._ready = None
        if refused is not None:
            refused()


T = TypeVar("T")
Line = tuple[bytes | None, int]
"""Requests that are served in order: of one owner, for blocks of one size (its order)."""


class StagingPool:
    """Page-aligned pieces of one arena. A piece occupies its length rounded up to whole pages.

    Owner of ``memory``, which devices register once.  Belongs to one thread; `tick` drives what time brings.
    """

    def __init__(
        self,
        total_bytes: int,
        *,
        waiting_max: int = 16384,
        wait_s: float = WAIT_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """An arena of ``total_bytes`` rounded up to whole pages, for at most ``waiting_max`` requests,
        each of which waits for at most ``wait_s``.
        """
        if total_bytes <= 0:
            raise InvalidArgument(f"a staging pool of {total_bytes} bytes holds nothing")
        self.memory = Memory.anonymous(total_bytes)
        self.memory.advise_huge()
        self.total_bytes = self.memory.length
        self.waiting_max = waiting_max
        self.wait_s = wait_s
        self.requests_refused = 0
        """requests that waited in vain"""
        self._now = now
        self._pages = Buddy(self.total_bytes // PAGE_BYTES)
        self._bytes_max = self._pages.pages_max * PAGE_BYTES
        """longest piece; 0: closed"""
        self._long_pages = int(LONG_PART * self._pages.pages)
        self._given_pages = 0
        """of all pieces there ever were"""
        self._lines: dict[Line, deque[StagingRequest]] = {}
        """whose turn it is comes first"""
        self._waiting = 0
        self._waiting_of: dict[bytes, int] = {}
        self._owners: dict[int, bytes] = {}
        """by the first page of a piece, of those that have one"""
        self._held: dict[bytes, int] = {}
        """pages by owner, but for his long piece"""
        self._long: dict[bytes, int] = {}
        """the first page of an owner's long piece"""
        self._favoured: StagingRequest | None = None
        self._favoured_until = 0.0
        self._favour_again = 0.0
        self._serving = False
        self._changed = False
        """within a callback: something came back, or was asked for"""
        self._closed = False

    @property
    def free_bytes(self) -> int:
        """Bytes in no piece; they need not be contiguous."""
        return (self._pages.free_pages + self._pages.aside_free_pages) * PAGE_BYTES

    @property
    def piece_bytes_max(self) -> int:
        """Length of the longest piece there can ever be: the largest power of two in the arena."""
        return self._pages.pages_max * PAGE_BYTES

    @property
    def pieces_taken(self) -> int:
        """Pieces taken and not given back."""
        return len(self._pages.taken)

    @property
    def requests_waiting(self) -> int:
        """Requests that wait for room (cancelled ones in a line's middle included)."""
        return self._waiting

    @property
    def _retry_s(self) -> float:
        return FAVOUR_PART * self.wait_s

    def busy(self) -> Busy:
        """What to say to who was refused."""
        return Busy(f"no staging memory was free within {self.wait_s:g} s", self._retry_s)

    def held_bytes(self, owner: bytes) -> int:
        """Bytes of an owner's pieces, whole pages."""
        return (self._held.get(owner, 0) + self._long_of(owner)) * PAGE_BYTES

    def take(self, length: int, owner: bytes | None = None) -> Span | None:
        """A piece of exactly ``length`` bytes; None without room, or if the owner waits for one of that size.

        Contents are whatever was there.  TooLarge over `piece_bytes_max`.
        """
        if not 0 < length <= self._bytes_max:
            self._check(length)
        pages = -(-length // PAGE_BYTES)
        if self._lines and self._head((owner, order_of(pages))) is not None:
            return None
        return self._take(length, pages, owner)

    def request(
        self,
        length: int,
        ready: Callable[[Span], None],
        owner: bytes | None = None,
        refused: Callable[[], None] | None = None,
    ) -> StagingRequest:
        """Call ``ready`` with a piece: from within this call if there is room, else in turn; or ``refused``, later.

        Both may take, give and request again, and must not raise.  What they request is served
        after they returned, so that no chain of requests grows the stack.  TooLarge over
        `piece_bytes_max`; Busy when ``waiting_max`` requests wait already, or too many of the owner's.
        """
        if not 0 < length <= self._bytes_max:
            self._check(length)
        request = StagingRequest(length, ready, owner, refused)
        pages = -(-length // PAGE_BYTES)
        if not self._serving and not (self._lines and self._head((owner, order_of(pages))) is not None):
            span = self._take(length, pages, owner)
            if span is not None:
                self._call(request._serve, span)
                return request
        self._count(owner)
        request._began, request._passed_from = self._now(), -1
        line = owner, order_of(pages)
        requests = self._lines.get(line)
        if requests is None:
            self._lines[line] = deque((request,))
        else:
            requests.append(request)
        self._changed = True
        return request

    def give(self, span: Span) -> None:
        """Take a piece back; ``span`` starts where the piece starts, and may be shorter.

        InternalError for what is not taken (given twice, or never from here).
        """
        first, beside = divmod(span.offset, PAGE_BYTES)
        pages = 0 if beside or span.memory is not self.memory else self._pages.taken.get(first, 0)
        if span.length > pages * PAGE_BYTES or not pages:
            raise InternalError(f"staging piece at {span.offset}+{span.length} is not taken: given twice?")
        self._pages.give(first)
        owner = self._owners.pop(first, None)
        if owner is not None:
            if self._long and self._long.get(owner) == first:
                del self._long[owner]
            else:
                left = self._held[owner] - pages
                if left:
                    self._held[owner] = left
                else:
                    del self._held[owner]
        self._came_back()

    def shorten(self, span: Span, length: int) -> Span:
        """Take back all of a piece but its first ``length`` bytes: ``span`` must be the whole piece."""
        first, beside = divmod(span.offset, PAGE_BYTES)
        pages = -(-length // PAGE_BYTES)
        whole = self._pages.taken.get(first, 0) if span.memory is self.memory and not beside else 0
        if not 0 < length <= span.length or whole != -(-span.length // PAGE_BYTES):
            raise InternalError(
                f"no staging piece at {span.offset}+{span.length} to be shortened to {length}"
            )
        rest = self._pages.shorten(first, pages)
        owner = self._owners.get(first)
        if owner is not None and self._long.get(owner) != first:
            self._held[owner] -= rest
        self._came_back()
        return span.part(0, length)

    def _came_back(self) -> None:
        self._changed = True
        if self._lines and not self._serving:
            self._serve()

    def tick(self) -> None:
        """Refuse who waited for too long, favour who was passed for too long. A few times a second."""
        if not self._lines and self._favoured is None:
            return
        now = self._now()
        refused: list[StagingRequest] = []
        favoured = self._favoured
        if favoured is not None and (now >= self._favoured_until or not favoured.waiting):
            if favoured.waiting:
                self._favour_again = now + FAVOUR_PAUSE * FAVOUR_PART * self.wait_s
                self._pop(self._line_of(favoured))
                refused.append(favoured)
            self._favour_no_more()
        for line in tuple(self._lines):
            request = self._head(line)
            while request is not None and now - request._began >= self.wait_s:
                if request is self._favoured:
                    self._favour_no_more()
                self._pop(line)
                refused.append(request)
                request = self._head(line)
        for request in refused:
            if request.waiting:
                self.requests_refused += 1
                self._call(request._refuse, None)
        if self._favoured is None and now >= self._favour_again:
            self._favour(now)
        self._serve()

    def close(self) -> None:
        """Cancel what waits and unmap. InternalError while pieces are taken. May be called again."""
        if self._closed:
            return
        for requests in self._lines.values():
            for request in requests:
                request.cancel()
        self._lines.clear()
        self._waiting_of.clear()
        self._waiting = 0
        if self._favoured is not None:
            self._favour_no_more()
        if self._pages.taken:
            raise InternalError(f"{self.pieces_taken} staging pieces are still taken")
        self._closed, self._bytes_max = True, 0
        self.memory.close()

    def __repr__(self) -> str:
        return (
            f"StagingPool(free {self.free_bytes} of {self.total_bytes} bytes,"
            f" {self.pieces_taken} taken, {self._waiting} waiting)"
        )

    def _check(self, length: int) -> None:
        if self._closed:
            raise Gone("the staging pool is closed")
        if length <= 0:
            raise InvalidArgument(f"a staging piece of {length} bytes")
        if length > self.piece_bytes_max:
            raise TooLarge(f"{length} bytes are over the longest staging piece, {self.piece_bytes_max}")

    # -- what an owner may have

    def _long_of(self, owner: bytes) -> int:
        first = self._long.get(owner)
        return 0 if first is None else self._pages.taken[first]

    def _may(self, pages: int, owner: bytes | None, free: int) -> bool:
        """Whether an owner may have so much more, while so much is free."""
        if owner is None:
            return True
        held = self._held.get(owner, 0)
        if pages > self._long_pages:
            held += self._long_of(owner)  # only one is apart
        return not held or held + pages <= OWNER_TIMES_FREE * free

    def _take(self, length: int, pages: int, owner: bytes | None) -> Span | None:
        if (owner in self._held or owner in self._long) and not self._may(
            pages, owner, self._pages.free_pages
        ):
            return None  # who holds nothing may have what there is
        first = self._pages.take(pages)
        if first < 0:
            return None
        self._given_pages += pages
        if owner is not None:
            self._owners[first] = owner
            if pages > self._long_pages and owner not in self._long:
                self._long[owner] = first
            else:
                self._held[owner] = self._held.get(owner, 0) + pages
        return Span(self.memory, first * PAGE_BYTES, length)

    def _count(self, owner: bytes | None) -> None:
        """One more waits. Busy: too many do."""
        room = self.waiting_max - self._waiting
        if room <= 0:
            raise Busy(f"{self.waiting_max} requests wait for staging memory already", self._retry_s)
        if owner is not None:
            his = self._waiting_of.get(owner, 0) + 1
            if his > OWNER_TIMES_FREE * room:
                raise Busy(f"{his - 1} requests of the tenant wait for staging memory already", self._retry_s)
            self._waiting_of[owner] = his
        self._waiting += 1

    # -- the lines

    def _head(self, line: Line) -> StagingRequest | None:
        """Who is next in a line; the line goes when it is empty."""
        requests = self._lines.get(line)
        while requests:
            if requests[0].waiting:
                return requests[0]
            self._pop(line)
        return None

    def _pop(self, line: Line) -> None:
        requests, owner = self._lines[line], line[0]
        requests.popleft()
        if not requests:
            del self._lines[line]
        self._waiting -= 1
        if owner is not None:
            left = self._waiting_of[owner] - 1
            if left:
                self._waiting_of[owner] = left
            else:
                del self._waiting_of[owner]

    def _call(self, callback: Callable[[T], None], argument: T) -> None:
        """Callbacks may give, take and request again: only the outermost call goes on serving, so that the order
        holds and the stack stays flat.
        """
        self._serving, self._changed = True, False
        try:
            callback(argument)
        finally:
            self._serving = False
        if self._changed and self._lines:
            self._serve()

    def _serve(self) -> None:
        """Serve whom there is room for."""
        self._serving = True
        try:
            while self._serve_one():
                pass
        finally:
            self._serving = False

    def _serve_one(self) -> bool:
        """Serve one, or clear away what was cancelled; whether there may be more to do."""
        pool, favoured = self._pages, self._favoured
        if favoured is not None:
            if not favoured.waiting:
                self._favour_no_more()
            elif self._is_there(favoured):
                self._favour_no_more()
                return self._serve_first(self._line_of(favoured))
        no_room = 64  # larger than any order
        for line, requests in self._lines.items():
            request, (owner, order) = requests[0], line
            if not request.waiting:
                self._head(line)
                return True
            if order >= no_room:
                continue
            pages = -(-request.length // PAGE_BYTES)
            if not self._may(pages, owner, pool.free_pages):
                continue
            if self._serve_first(line):
                return True
            if pages <= pool.free_pages:
                no_room = order  # they were put together, and make no block of that size
        return False

    def _serve_first(self, line: Line) -> bool:
        """Serve who is first in a line, if there is room; the line goes behind the others."""
        request = self._lines[line][0]
        span = self._take(request.length, -(-request.length // PAGE_BYTES), request.owner)
        if span is None:
            return False
        if request is self._favoured:
            self._favour_no_more()
        self._pop(line)
        if line in self._lines:
            self._lines[line] = self._lines.pop(line)
        request._serve(span)
        return True

    @staticmethod
    def _line_of(request: StagingRequest) -> Line:
        return request.owner, order_of(-(-request.length // PAGE_BYTES))

    # -- who is favoured

    def _favour(self, now: float) -> None:
        """Set a block aside for a request that others have passed for long, if there is one."""
        for line, requests in self._lines.items():
            request = requests[0]
            if request._passed_from < 0:
                request._passed_from, request._first_from = self._given_pages, now
                continue
            passed = self._given_pages - request._passed_from >= PASSED_ARENAS * self._pages.pages
            if not passed and now - request._first_from < FAVOUR_PART * self.wait_s:
                continue
            pages = -(-request.length // PAGE_BYTES)
            # Whose owner holds too much waits for his own pieces, but for a long one, which his others would pass.
            if pages > self._long_pages or self._may(pages, line[0], self._pages.free_pages):
                self._favoured, self._favoured_until = request, now + FAVOUR_PART * self.wait_s
                self._pages.set_aside(line[1])
                return

    def _is_there(self, request: StagingRequest) -> bool:
        """Whether the block that is set aside for it has come back, and its owner may have it.

        Until he may, none of the others of his may take that room.
        """
        pages = -(-request.length // PAGE_BYTES)
        free = self._pages.free_pages + self._pages.aside_free_pages
        return self._pages.aside_is_free and self._may(pages, request.owner, free)

    def _favour_no_more(self) -> None:
        self._favoured = None
        self._pages.end_aside()


def bytes_for_piece(length: int) -> int:
    """Least bytes of a pool that can have a piece of ``length`` bytes: a power of two."""
    return PAGE_BYTES << order_of(-(-length // PAGE_BYTES))
