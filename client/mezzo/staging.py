"""Staging: a bounded region of the client's own that foreign memory is copied through.

Only calls over shared memory whose source or target lies in no region need it; each takes one piece
for as long as it runs, so waiting for a piece cannot deadlock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from mezzo.errors import Busy, MezzoError, TooLarge
from mezzo.regions import Extent, Region

ALIGN_BYTES = 4096


class _Area:
    """A region and what is free in it: ``[offset, length]`` pieces in order of offset."""

    __slots__ = ("free", "region", "taken")

    def __init__(self, region: Region) -> None:
        self.region = region
        self.free: list[tuple[int, int]] = [(0, region.length)]
        self.taken = 0

    def take(self, length: int) -> int | None:
        for index, (offset, free_bytes) in enumerate(self.free):
            if free_bytes >= length:
                if free_bytes == length:
                    del self.free[index]
                else:
                    self.free[index] = (offset + length, free_bytes - length)
                self.taken += 1
                return offset
        return None

    def give(self, offset: int, length: int) -> None:
        self.taken -= 1
        self.free.append((offset, length))
        self.free.sort()
        merged: list[tuple[int, int]] = []
        for start, size in self.free:
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((start, size))
        self.free = merged


class Piece:
    """Memory lent by `Staging` until ``give``."""

    __slots__ = ("area", "extent", "length")

    def __init__(self, area: _Area, offset: int, length: int) -> None:
        self.area = area
        self.length = length
        self.extent = Extent(area.region, offset, length)


class StagingRequest:
    """A wait for a piece; ``ready`` is called once with it, unless cancelled first."""

    __slots__ = ("cancelled", "error", "length", "passed_bytes", "piece", "ready")

    def __init__(self, length: int, ready: Callable[[StagingRequest], None]) -> None:
        self.length = length
        self.ready = ready
        self.piece: Piece | None = None
        self.error: MezzoError | None = None
        """set when there is no memory to be had"""
        self.cancelled = False
        self.passed_bytes = 0
        """that were lent to others while this was the first of those that wait"""


class Staging:
    """Lends pieces. Owner of the region, which is made at first use.

    First come first served, but that those for whom there is room pass the first if there is none for it, until
    they have been lent as much as there is in all.
    """

    def __init__(
        self, make_region: Callable[[int], Region], bytes_max: int, *, waiting_max: int = 1024
    ) -> None:
        self._make_region = make_region
        self.bytes_max = -(-bytes_max // ALIGN_BYTES) * ALIGN_BYTES
        self._waiting_max = waiting_max
        self._area: _Area | None = None
        self._waiting: deque[StagingRequest] = deque()
        self._lock = threading.Lock()

    def request(self, length: int, ready: Callable[[StagingRequest], None]) -> StagingRequest:
        """Ask for ``length`` bytes; ``ready`` may be called at once, or later by another thread.

        Raises:
            TooLarge: it is more than there is in all.
            Busy: too many wait already.
        """
        length = -(-length // ALIGN_BYTES) * ALIGN_BYTES
        if length > self.bytes_max:
            raise TooLarge(
                f"{length} bytes of foreign memory are over staging_bytes = {self.bytes_max}; use a region"
            )
        request = StagingRequest(length, ready)
        with self._lock:
            if len(self._waiting) >= self._waiting_max:
                raise Busy(f"{self._waiting_max} calls wait for staging memory already")
            self._waiting.append(request)
        self._serve()
        return request

    def cancel(self, request: StagingRequest) -> None:
        """Stop waiting; a piece that came meanwhile is given back."""
        with self._lock:
            request.cancelled = True
            if request in self._waiting:
                self._waiting.remove(request)
            piece = request.piece
        if piece is not None:
            self.give(piece)
        else:
            self._serve()  # those behind it may find room

    def give(self, piece: Piece) -> None:
        """Take a piece back."""
        with self._lock:
            area = piece.area
            area.give(piece.extent.offset, piece.length)
            retired = area is not self._area and area.taken == 0
        if retired:
            area.region.close()
        self._serve()

    def close(self) -> None:
        """Give the memory up, once the pieces are back."""
        with self._lock:
            area, self._area = self._area, None
            retired = area is not None and area.taken == 0
        if area is not None and retired:
            area.region.close()

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                current = self._area
                area: _Area | MezzoError
                if current is None or current.region.tainted:
                    area = self._renew(current)
                else:
                    area = current
                if isinstance(area, MezzoError):
                    request = self._waiting.popleft()
                    request.error = area
                else:
                    served = self._next(area)
                    if served is None:
                        return
                    request = served
            request.ready(request)

    def _next(self, area: _Area) -> StagingRequest | None:
        """Lend to the first for whom there is room, if it may go before the others."""
        first = self._waiting[0]
        no_room = self.bytes_max + 1
        for place, request in enumerate(self._waiting):
            if request.length >= no_room:
                continue
            offset = area.take(request.length)
            if offset is not None:
                if place:
                    first.passed_bytes += request.length
                del self._waiting[place]
                request.piece = Piece(area, offset, request.length)
                return request
            no_room = request.length
            if first.passed_bytes >= self.bytes_max:
                return None
        return None

    def _renew(self, old: _Area | None) -> _Area | MezzoError:
        """A fresh area. A shard may still write into the old one, so nothing is lent from it again."""
        try:
            area = _Area(self._make_region(self.bytes_max))
        except MezzoError as error:
            return error
        self._area = area
        if old is not None and old.taken == 0:
            old.region.close()
        return area
