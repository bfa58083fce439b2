"""An encrypted chunk as a stream: read and decrypted whole, before its first piece is given.

GCM says only at the end whether it was right, and the checksums that the receiver is told are those of
what he receives, not of what is stored.  So such a stream holds all of its bytes at once.
"""

from __future__ import annotations

from collections.abc import Callable

from mezzo.errors import Busy, TooLarge
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.get import submit
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import DeviceTime
from mezzo_server.blockstore.read import ChunkRead, Drop
from mezzo_server.blockstore.sealing import plain_parts
from mezzo_server.blockstore.segment import Segment
from mezzo_server.memory import Span

PIECE_BYTES = 512 << 10


class SealedStream:
    """Pieces of one chunk out of staging. Same face as `ChunkStream`; owner of its staging."""

    def __init__(
        self,
        context: Context,
        namespace: NamespaceIndex,
        key: bytes,
        place: tuple[Segment, int],
        parts: tuple[int, int],
        drop: Drop,
        time: DeviceTime | None = None,
    ) -> None:
        first, count = parts
        lengths = plain_parts(place[0].table, place[1])[first : first + count if count else None]
        self.length = sum(lengths)
        self.part_lengths = tuple(lengths)
        self.checksums: tuple[int, ...] = ()
        """known from the first piece on"""
        self.seed = context.seed(namespace, key)
        self.namespace = namespace
        self._context = context
        self._first_part = first
        self._memory: Span | None = None
        self._given = 0
        self._lent = 0
        self._here = False
        self._failed = False
        self._finished = False
        self._reading = True
        self._waiting: Callable[[Span | None], None] | None = None
        self._delivering = False
        self._read = ChunkRead(context, namespace, key, place, parts, (), self._was_read, drop, time)
        self._stored_bytes = self._read.prepare()
        context.streams.add(self)
        try:
            # Both at once: streams that each held one piece and waited for another could wait for ever.
            context.staging.request(self._stored_bytes + self.length, self._room, self.namespace.scope.tenant)
        except (Busy, TooLarge):
            context.counters["gets_without_memory"] += 1
            self._read.abandon()

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
        self._failed = self._here = True
        self._context.counters["streams_revoked"] += 1
        self._deliver()

    def _room(self, piece: Span) -> None:
        """Memory for what is read and for what is decrypted."""
        self._memory = piece
        if self._finished:
            self._read.abandon()
            return
        self._read.target = [piece.part(self._stored_bytes, self.length)]
        self._read.staged(piece.part(0, self._stored_bytes), lent=True)
        submit([self._read])

    def _was_read(self, found: bool) -> None:
        if not found or self._finished or self._memory is None:
            self._arrived(found=False)
            return

        def digested(checksums: list[int]) -> None:
            self.checksums = tuple(checksums)
            self._arrived(found=True)

        span = self._memory.part(self._stored_bytes, self.length)
        self._context.digest(
            self.seed, self._first_part, self.part_lengths, [span], digested, self._read.tenant
        )

    def _arrived(self, *, found: bool) -> None:
        self._here, self._reading = True, False
        self._failed |= not found
        self._let_go()
        self._deliver()

    def _let_go(self) -> None:
        if self._finished and not self._lent and not self._reading and self._memory is not None:
            self._context.staging.give(self._memory)
            self._memory = None

    def _deliver(self) -> None:
        """Give what is there to who waits; he may ask for the next within, which must not nest."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._waiting is not None and self._here:
                ready, self._waiting = self._waiting, None
                ready(self._take())
        finally:
            self._delivering = False

    def _take(self) -> Span | None:
        if self._failed or self._memory is None:
            return None
        size = min(PIECE_BYTES, self.length - self._given)
        span = self._memory.part(self._stored_bytes + self._given, size)
        self._given += size
        self._lent += 1
        return span
