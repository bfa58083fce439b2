"""One chunk as a stream of verified-in-the-end pieces, for transports that send payload.

The pieces come strictly in order; checksums run along, while a piece is still in the cache.  The
verdict is there only at the end: whoever streams must not let the receiver believe before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import xxhash

from mezzo.checksum import part_seed
from mezzo.errors import Busy, TooLarge
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.get import submit
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import DeviceTime, Op, Transfer
from mezzo_server.blockstore.read import ChunkRead, Drop, select
from mezzo_server.blockstore.segment import Segment
from mezzo_server.memory import Span

PIECE_BYTES = 512 << 10
READ_AHEAD = 4
Ready = Callable[[Span | None], None]


class _Piece:
    """A read ahead: ``span`` holds exactly the bytes asked for, ``staged`` the memory under them."""

    __slots__ = ("failed", "here", "span", "staged")

    def __init__(self) -> None:
        self.here = False
        self.failed = False
        self.span: Span | None = None
        self.staged: Span | None = None


class ChunkStream:
    """Pieces of one chunk. Holds the segment until `finish`; at most ``READ_AHEAD`` pieces at once."""

    def __init__(
        self,
        context: Context,
        namespace: NamespaceIndex,
        key: bytes,
        place: tuple[Segment, int],
        parts: tuple[int, int],
        drop: Drop,
    ) -> None:
        segment, number = place
        offset, lengths, checksums = select(segment, number, *parts)
        self.length = sum(lengths)
        self.part_lengths = tuple(lengths)
        self.checksums = tuple(checksums)
        self.seed = context.seed(namespace, key)
        self._parts = parts
        self._context = context
        self.namespace = namespace
        self._key = key
        self._segment = segment
        self._number = number
        self._drop = drop
        self.time: DeviceTime | None = None
        """set by who wants to know how long devices worked for it"""
        self._offset = segment.offset + segment.table.block[number] * BLOCK_BYTES + offset
        self._asked = 0
        self._pieces: deque[_Piece] = deque()
        self._lent: dict[tuple[int, int], Span | None] = {}
        self._waiting: Ready | None = None
        self._failed = False
        self._without_memory = False
        self._revoked = False
        self._delivering = False
        self._finished = False
        self._hashed_part = 0
        self._hashed_left = lengths[0]
        self._hash = xxhash.xxh3_64(seed=part_seed(self.seed, parts[0]))
        self._right = True
        self._holds = True
        self.moved_at = context.now()
        """when the receiver last took or returned a piece"""
        segment.hold()
        segment.streams[self] = None
        context.streams[self] = None

    def next(self, ready: Ready) -> None:
        """Give the next piece to ``ready``; None: it could not be read, and nothing follows.

        The piece is lent until `drop`. Not while a former call waits, nor beyond the end.
        """
        if self._waiting is not None:
            raise RuntimeError("a stream gives one piece at a time")
        self._waiting = ready
        self.moved_at = self._context.now()
        self._ahead()
        self._deliver()

    def drop(self, span: Span) -> None:
        """The piece was sent: its memory can be used again."""
        staged = self._lent.pop((span.address, span.length))
        self.moved_at = self._context.now()
        if staged is not None:
            self._context.staging.give(staged)
        elif self._failed or self._finished:
            self._let_go()

    def revoke(self) -> None:
        """The segment is wanted: give nothing more. What was lent of device memory ends with its `drop`."""
        if self._finished or self._revoked:
            return
        self._revoked = self._failed = True
        self._context.counters["streams_revoked"] += 1
        self._let_go()
        ready, self._waiting = self._waiting, None
        if ready is not None:
            ready(None)

    def _let_go(self) -> None:
        """Release the segment, once, when no memory of its device is lent."""
        if self._holds and all(staged is not None for staged in self._lent.values()):
            self._holds = False
            self._segment.streams.pop(self, None)
            self._segment.release()

    def finish(self) -> bool:
        """End the stream, also early; True only if all pieces came and their checksums match.

        A mismatch is confirmed in the background, by reading again, and the chunk dropped then.
        """
        if self._finished:
            raise RuntimeError("a stream is finished once")
        self._finished = True
        self._waiting = None
        self._context.streams.pop(self, None)
        for piece in self._pieces:
            if piece.here:
                self._give(piece)
        whole = self._hashed_part == len(self.part_lengths)
        mismatch = not self._right
        cut = self._revoked or self._without_memory  # which says nothing against the chunk
        if mismatch or (self._failed and not whole and not cut):
            self._confirm()
        self._let_go()
        return whole and self._right and not self._failed

    # -- reading ahead -----------------------------------------------------------------------

    def _ahead(self) -> None:
        while (
            self._asked < self.length
            and len(self._pieces) + len(self._lent) < READ_AHEAD
            and not self._failed
        ):
            size = min(PIECE_BYTES, self.length - self._asked)
            piece = _Piece()
            self._pieces.append(piece)
            self._read(piece, self._offset + self._asked, size)
            self._asked += size

    def _read(self, piece: _Piece, offset: int, size: int) -> None:
        log = self._segment.log
        borrowed = log.device.borrow(offset, size)
        if borrowed is not None:
            piece.span, piece.here = borrowed, True
            return
        skip = offset % BLOCK_BYTES
        whole = blocks_of(skip + size) * BLOCK_BYTES

        def moved(transfer: Transfer) -> None:
            piece.here = True
            if transfer.result < 0:
                piece.failed = True
                log.io_error(self._segment, -transfer.result, "read of a chunk")
            self._segment.release()
            if self._finished:
                self._give(piece)
            else:
                self._deliver()

        def staged(span: Span) -> None:
            piece.staged = span
            piece.span = span.part(skip, size)
            if self._finished or self._revoked:
                piece.here = True
                self._give(piece)
                return
            self._segment.hold()
            tenant = self.namespace.scope.tenant
            log.transfer(Op.READ, offset - skip, (span,), moved, self.time, tenant=tenant)

        def refused() -> None:
            self._find_no_memory(piece)
            if not self._finished:
                self._deliver()

        try:
            self._context.staging.request(whole, staged, self.namespace.scope.tenant, refused)
        except (Busy, TooLarge):
            self._find_no_memory(piece)

    def _find_no_memory(self, piece: _Piece) -> None:
        piece.here = piece.failed = True
        if not self._without_memory:
            self._without_memory = True
            self._context.counters["gets_without_memory"] += 1

    def _give(self, piece: _Piece) -> None:
        if piece.staged is not None:
            self._context.staging.give(piece.staged)
            piece.staged = None

    def _deliver(self) -> None:
        """Give what is there to who waits; he may ask for the next within, which must not nest."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._waiting is not None:
                if not self._failed and not (self._pieces and self._pieces[0].here):
                    return
                ready, self._waiting = self._waiting, None
                ready(self._take())
        finally:
            self._delivering = False

    def _take(self) -> Span | None:
        """Lend the first piece; None if it, or one before it, could not be read."""
        if self._failed:
            return None
        piece = self._pieces.popleft()
        if piece.failed or piece.span is None:
            self._failed = True
            self._give(piece)
            return None
        self._run_hash(piece.span.view)
        self._lent[piece.span.address, piece.span.length] = piece.staged
        return piece.span

    def _run_hash(self, view: memoryview) -> None:
        at = 0
        while at < len(view):
            take = min(self._hashed_left, len(view) - at)
            self._hash.update(view[at : at + take])
            at += take
            self._hashed_left -= take
            if not self._hashed_left:
                if self._hash.intdigest() != self.checksums[self._hashed_part]:
                    self._right = False
                self._hashed_part += 1
                if self._hashed_part < len(self.part_lengths):
                    self._hashed_left = self.part_lengths[self._hashed_part]
                    self._hash = xxhash.xxh3_64(seed=part_seed(self.seed, self._parts[0] + self._hashed_part))

    # -- a mismatch --------------------------------------------------------------------------

    def _confirm(self) -> None:
        """Read the chunk once more, whole, by the way that decides what a mismatch means."""
        context = self._context
        context.counters["streams_not_verified"] += 1
        skip = self._offset % BLOCK_BYTES

        def staged(span: Span) -> None:
            read = ChunkRead(
                context,
                self.namespace,
                self._key,
                (self._segment, self._number),
                self._parts,
                [span.part(skip, self.length)],
                lambda found: context.staging.give(span),
                self._drop,
                room=span,
            )
            read.prepare()
            submit([read])
            self._segment.release()

        self._segment.hold()
        try:
            tenant = self.namespace.scope.tenant
            need = blocks_of(skip + self.length) * BLOCK_BYTES
            context.staging.request(need, staged, tenant, self._segment.release)
        except (Busy, TooLarge):
            self._segment.release()
