"""A hot chunk as a stream: its pieces are lent where they lie in the slot.

Nothing is hashed here: the checksums that were stored go with the payload, and the receiver, who must
check them anyhow, is the one who notices.  The slot is not reused before the last piece came back; a
stream holds no segment, so reclaim never waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.hot_read import hot_select
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.segment import Segment
from mezzo_server.hot.slots import Slot, State
from mezzo_server.hot.tier import HotTier
from mezzo_server.memory import Span

PIECE_BYTES = 4 << 20
"""More than of a chunk from a device: its memory is held as a whole anyway."""


class HotStream:
    """Pieces of one chunk out of its slot, which may still be filling. Same face as `ChunkStream`."""

    def __init__(
        self,
        context: Context,
        hot: HotTier,
        slot: Slot,
        namespace: NamespaceIndex,
        place: tuple[Segment, int],
        parts: tuple[int, int],
    ) -> None:
        offset, lengths, checksums = hot_select(slot, *place, *parts)
        self.length = sum(lengths)
        self.part_lengths = tuple(lengths)
        self.checksums = tuple(checksums)
        """those of an encrypted chunk are known from its first piece on"""
        self._place = place
        self._parts = parts
        self.seed = context.seed(namespace, slot.key)
        self.namespace = namespace
        self._context = context
        self._hot = hot
        self._slot = slot
        self._offset = offset
        self._given = 0
        self._lent = 0
        self._finished = False
        self._failed = False
        self._ready = slot.state is State.READY
        self._waiting: Callable[[Span | None], None] | None = None
        self._delivering = False
        hot.used(slot)
        hot.use(slot)
        context.streams.add(self)
        if not self._ready:
            slot.waiters.append(self._filled)

    def next(self, ready: Callable[[Span | None], None]) -> None:
        """Give the next piece to ``ready``; None: it could not be read, and nothing follows."""
        if self._waiting is not None:
            raise RuntimeError("a stream gives one piece at a time")
        self._waiting = ready
        self._deliver()

    def drop(self, span: Span) -> None:
        """The piece was sent."""
        self._lent -= 1
        self._let_go()

    def finish(self) -> bool:
        """End the stream, also early; True only if all pieces were given."""
        if self._finished:
            raise RuntimeError("a stream is finished once")
        self._finished = True
        self._waiting = None
        self._context.streams.discard(self)
        self._let_go()
        return self._given == self.length and not self._failed

    def revoke(self) -> None:
        """Its chunk was erased: give nothing more."""
        if self._finished or self._failed:
            return
        self._failed = self._ready = True
        self._context.counters["streams_revoked"] += 1
        self._deliver()

    def _let_go(self) -> None:
        if self._finished and not self._lent:
            self._lent = -1  # once
            self._hot.unuse(self._slot)

    def _filled(self, right: bool) -> None:
        self._ready = True
        self._failed |= not right
        if not self._failed:
            self.checksums = tuple(hot_select(self._slot, *self._place, *self._parts)[2])
        self._deliver()

    def _deliver(self) -> None:
        """Give what is there to who waits; he may ask for the next within, which must not nest."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._waiting is not None and self._ready:
                ready, self._waiting = self._waiting, None
                ready(self._take())
        finally:
            self._delivering = False

    def _take(self) -> Span | None:
        if self._failed:
            return None
        size = min(PIECE_BYTES, self.length - self._given)
        span = self._slot.span(self._offset + self._given, size)
        self._given += size
        self._lent += 1
        return span
