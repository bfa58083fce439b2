"""Regions: client memory that a shard moves chunks into and out of. No I/O (see `mapping`).

Invariants: a region's descriptor and mapping are given up only when it is closed and no operation
uses it; while a region is *tainted* a shard may still write into a part of it (the connection broke
with a transfer in flight), and that ends only when the region was registered on a new connection, which
the shard answers after everything older has ended, or with the shard's process.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from mezzo.errors import InvalidArgument, RegionError

_numbers = itertools.count(1)


class Region:
    """Shared memory that a shard on the same host reaches; over TCP the SDK itself does.

    Made by ``client.region`` (*owned*: memory of the SDK's) or ``client.adopt`` (*adopted*: a mapping
    that exists).  ``region.view`` is its memory, ``region[a:b]`` an `Extent` of it.  May be used with
    any client of this process, and from any thread.
    """

    def __init__(
        self,
        view: memoryview,
        descriptor: int,
        *,
        offset: int,
        sealed: bool,
        adopted: bool,
        release: Callable[[], None],
    ) -> None:
        self.number = next(_numbers)
        """names this region on every connection of the process"""
        self.length = len(view)
        self.offset = offset
        """where in the descriptor the region begins, in bytes"""
        self.sealed = sealed
        """whether it can no longer shrink, so that a shard maps it (zero copy)"""
        self.adopted = adopted
        self._view: memoryview | None = view
        self._descriptor = descriptor
        self._release: Callable[[], None] | None = release
        self._lock = threading.RLock()  # a garbage collection inside may close another's user
        self._pins = 0
        self._closed = False
        self._taints: dict[str, list[_Taint]] = {}
        self._on_close: list[weakref.WeakMethod[Callable[[int], None]]] = []

    def __repr__(self) -> str:
        state = "closed" if self._closed else "tainted" if self._taints else "open"
        kind = "adopted" if self.adopted else "owned"
        return f"<mezzo.Region {self.number}, {self.length} bytes, {kind}, {state}>"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: slice) -> Extent:
        """The extent ``[start, stop)``; unlike with a list, a bound outside is an error."""
        if getattr(index, "step", 0) not in (None, 1):
            raise InvalidArgument("a region is indexed with region[start:stop], without a step")
        start = 0 if index.start is None else index.start
        stop = self.length if index.stop is None else index.stop
        start += self.length if start < 0 else 0
        stop += self.length if stop < 0 else 0
        if not 0 <= start <= stop <= self.length:
            raise RegionError(f"[{index.start}:{index.stop}] is not within a region of {self.length} bytes")
        return Extent(self, start, stop - start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            self.close()

    @property
    def view(self) -> memoryview:
        """The memory, writable, as bytes.

        Raises:
            RegionError: the region is closed, or a shard that the connection was lost to may still
                write into it (`tainted`).
        """
        if self.tainted:
            raise RegionError(
                "the connection was lost with a transfer in flight, so this region may still be written "
                "to; it is usable again after the next call with it has succeeded"
            )
        return self.memory

    def view_of(self, extent: Extent) -> memoryview:
        """The memory of an extent. Raises RegionError as `view` does, but only if that part is meant."""
        if self._taints and self._tainting((extent,)):
            return self.view
        return self.memory[extent.offset : extent.offset + extent.length]

    @property
    def memory(self) -> memoryview:
        """As `view`, tainted or not. Raises RegionError when closed."""
        view = self._view
        if view is None:
            raise RegionError("the region is closed")
        return view

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def tainted(self) -> bool:
        """Whether a shard may still write into it on behalf of a lost connection."""
        return bool(self._taints) and bool(self._tainting(None))

    @property
    def descriptor(self) -> int:
        """The file descriptor of the memory. Raises RegionError when closed."""
        if self._view is None:
            raise RegionError("the region is closed")
        return self._descriptor

    def close(self) -> None:
        """Give the memory up: at once for new calls; for calls in flight when they have ended.

        Views that were taken (NumPy arrays over ``view``) keep the memory alive, not the region.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            listeners, self._on_close = self._on_close, []
        for listener in listeners:
            if (call := listener()) is not None:
                call(self.number)
        self._release_when_idle()

    def pin(self) -> None:
        """Keep descriptor and mapping until `unpin`. Raises RegionError when closed."""
        with self._lock:
            if self._closed:
                raise RegionError("the region is closed")
            self._pins += 1

    def unpin(self) -> None:
        """Undo one `pin`."""
        with self._lock:
            self._pins -= 1
        if self._closed:
            self._release_when_idle()

    def taint(
        self, address: str, extents: Sequence[Extent] | None = None, gone: Callable[[], bool] | None = None
    ) -> None:
        """A connection to ``address`` ended while that shard may be moving bytes here: to or from these
        ``extents``, or anywhere.  ``gone`` tells whether its process has ended since, and with it all that it did.
        """
        with self._lock:
            self._taints.setdefault(address, []).append(_Taint(extents, gone))

    def untaint(self, address: str) -> None:
        """A new connection to ``address`` has registered it: what was in flight there has ended."""
        with self._lock:
            self._taints.pop(address, None)

    def check_taint(self, address: str | None, extents: Sequence[Extent] | None = None) -> None:
        """Raise RegionError if a shard may still be writing to these ``extents`` (None: to any), unless it is
        that of ``address``: a call to that one waits until it has registered the region anew.
        """
        if self._taints and (writers := self._tainting(extents) - {address}):
            raise RegionError(
                f"region {self.number} may still be written to by {', '.join(sorted(writers))}, to "
                "which a connection was lost; use it there first, or use another region"
            )

    def _tainting(self, extents: Sequence[Extent] | None) -> set[str]:
        """Who may still write to these extents, as far as they are this region's; None: to any part of it."""
        if extents is not None:
            extents = [extent for extent in extents if extent.region is self]
        with self._lock:
            for address, taints in tuple(self._taints.items()):
                left = [taint for taint in taints if taint.gone is None or not taint.gone()]
                if left:
                    self._taints[address] = left
                else:
                    del self._taints[address]
            return {
                address
                for address, taints in self._taints.items()
                if extents is None or any(taint.meets(extents) for taint in taints)
            }

    def call_on_close(self, method: Callable[[int], None]) -> None:
        """Have the bound ``method`` called with the region's number when it closes (held weakly)."""
        with self._lock:
            self._on_close = [known for known in self._on_close if known() is not None]
            self._on_close.append(weakref.WeakMethod(method))

    def _release_when_idle(self) -> None:
        with self._lock:
            if self._pins or self._release is None:
                return
            release, self._release = self._release, None
            self._view = None
        release()


class Extent(NamedTuple):
    """``length`` bytes of ``region`` from ``offset`` on."""

    region: Region
    offset: int
    length: int

    @property
    def view(self) -> memoryview:
        """The memory. Raises RegionError as `Region.view` does, but only if this part of it is meant."""
        return self.region.view_of(self)


class _Taint(NamedTuple):
    """What a shard may still write to."""

    extents: Sequence[Extent] | None
    """None: anything"""
    gone: Callable[[], bool] | None

    def meets(self, extents: Sequence[Extent]) -> bool:
        """Whether any of these may be written to."""
        if self.extents is None:
            return True
        mine = sorted([(extent.offset, extent.offset + extent.length) for extent in self.extents])
        starts = [start for start, _ in mine]
        for _, offset, length in extents:
            behind = bisect_right(starts, offset + length - 1)
            if any(end > offset for _, end in mine[:behind]):
                return True
        return False
