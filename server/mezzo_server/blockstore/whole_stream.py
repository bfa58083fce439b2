"""Streams of chunks that lie in memory as a whole before their first piece is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.memory import Span

PIECE_BYTES = 4 << 20
"""More than of a chunk that is read piece by piece: its memory is held as a whole anyway."""


class WholeStream(ABC):
    """Pieces of one chunk out of one span. Same face as `ChunkStream`.

    Subclasses get the chunk there, say so by `_arrived`, and take its memory back in `_take_back`.
    """

    def __init__(
        self,
        context: Context,
        namespace: NamespaceIndex,
        key: bytes,
        part_lengths: Sequence[int],
        checksums: Sequence[int],
    ) -> None:
        self.length = sum(part_lengths)
        self.part_lengths = tuple(part_lengths)
        self.checksums = tuple(checksums)
        """those of a chunk that is encrypted on its device are known from its first piece on"""
        self.seed = context.seed(namespace, key)
        self.namespace = namespace
        self._context = context
        self._whole: Span | None = None
        """where it lies, once it is there"""
        self._over = False
        """it is there, or will not come"""
        self._failed = False
        self._finished = False
        self._given = 0
        self._lent = 0
        self._taken_back = False
        self._waiting: Callable[[Span | None], None] | None = None
        self._delivering = False
        context.streams[self] = None

    @abstractmethod
    def _take_back(self) -> bool:
        """The stream is finished and lends nothing: give its memory back. False: that is for later."""

    def next(self, ready: Callable[[Span | None], None]) -> None:
        """Give the next piece to ``ready``; None: it could not be read, and nothing follows."""
        if self._waiting is not None:
            raise RuntimeError("a stream gives one piece at a time")
        self._waiting = ready
        self._deliver()

    def drop(self, span: Span) -> None:
        """The piece was sent."""
        self._lent -= 1
        self._rest()

    def finish(self) -> bool:
        """End the stream, also early; True only if all pieces were given."""
        if self._finished:
            raise RuntimeError("a stream is finished once")
        self._finished = True
        self._waiting = None
        self._context.streams.pop(self, None)
        self._rest()
        return self._given == self.length and not self._failed

    def revoke(self) -> None:
        """Its chunk was erased: give nothing more."""
        if self._finished or self._failed:
            return
        self._context.counters["streams_revoked"] += 1
        self._arrived(None)

    def _arrived(self, whole: Span | None) -> None:
        """All of it is there; None: it will not come."""
        self._over = True
        if whole is None:
            self._failed = True
        elif not self._failed:
            self._whole = whole
        self._rest()
        self._deliver()

    def _rest(self) -> None:
        if self._finished and not self._lent and not self._taken_back:
            self._taken_back = self._take_back()

    def _deliver(self) -> None:
        """Give what is there to who waits; he may ask for the next within, which must not nest."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._waiting is not None and self._over:
                ready, self._waiting = self._waiting, None
                ready(self._piece())
        finally:
            self._delivering = False

    def _piece(self) -> Span | None:
        if self._failed or self._whole is None:
            return None
        span = self._whole.part(self._given, min(PIECE_BYTES, self.length - self._given))
        self._given += span.length
        self._lent += 1
        return span
