"""Gets of many chunks: neighbours on the device are read with one transfer.

Chunks of a prefix were put together, so they mostly lie one behind the other: a get of sixty-four
small chunks costs a few vectored reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from mezzo.errors import Busy, InvalidArgument, TooLarge
from mezzo_server.blockstore.api import GetChunk, GetDone, GetOutcome
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.hot_read import HotReads
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import DeviceTime, Op, Transfer
from mezzo_server.blockstore.read import ChunkRead, Drop
from mezzo_server.blockstore.sealing import plain_length, plain_parts
from mezzo_server.blockstore.segment import Segment
from mezzo_server.blockstore.spans import SPANS_PER_TRANSFER_MAX, cut, total
from mezzo_server.hot.slots import Slot, State
from mezzo_server.memory import Span

SLICE_CHUNKS = 64
"""Chunks begun in one turn."""
MERGE_BYTES = 1 << 20
"""Neighbours are merged up to about this size: larger reads gain nothing and complete later."""


class Gets:
    """Begins gets."""

    def __init__(self, context: Context, drop: Drop) -> None:
        self.context = context
        self.drop = drop
        self.in_flight = 0
        self.hot = None if context.hot is None else HotReads(context, context.hot, drop, submit)

    def begin(
        self,
        namespace: NamespaceIndex,
        chunks: Sequence[GetChunk],
        done: GetDone,
        first_part: int,
        part_count: int,
        time: DeviceTime | None = None,
    ) -> None:
        """Check, then begin. Raises TooLarge if a chunk is longer than its target, before any read."""
        if first_part < 0 or part_count < 0:
            raise InvalidArgument(f"parts {first_part}+{part_count} make no sense")
        parts = (first_part, part_count)
        for number, chunk in enumerate(chunks):
            place = self.context.find(namespace, chunk.key)
            room = total(chunk.target)
            length = -1 if place is None else _length(place, parts)
            if length > room:
                raise TooLarge(f"chunk {number} has {length} bytes, its target has {room}")
        _Get(self, namespace, chunks, done, parts, time)


def _length(place: tuple[Segment, int], parts: tuple[int, int]) -> int:
    segment, number = place
    if not parts[0] and not parts[1]:
        table = segment.table
        return plain_length(table, number) if table.has_sealed else table.length[number]
    first, count = parts
    return sum(plain_parts(segment.table, number)[first : first + count if count else None])


class _Get:
    """One get request under way."""

    __slots__ = (
        "_chunks",
        "_done",
        "_from_hot",
        "_gets",
        "_left",
        "_lengths",
        "_namespace",
        "_parts",
        "_time",
    )

    def __init__(
        self,
        gets: Gets,
        namespace: NamespaceIndex,
        chunks: Sequence[GetChunk],
        done: GetDone,
        parts: tuple[int, int],
        time: DeviceTime | None,
    ) -> None:
        self._gets = gets
        self._time = time
        self._namespace = namespace
        self._chunks = chunks
        self._done = done
        self._parts = parts
        self._lengths = [-1] * len(chunks)
        self._left = len(chunks)
        self._from_hot = [0, 0]
        """chunks, and their bytes, for which no device was asked"""
        gets.in_flight += 1
        if not chunks:
            gets.in_flight -= 1
            gets.context.call(done, GetOutcome([]))
            return
        self._slice(0)

    def _slice(self, start: int) -> None:
        """Begin the reads of some chunks, and of the rest in later turns."""
        context = self._gets.context
        policy = context.policy
        policy.request()
        end = min(start + SLICE_CHUNKS, len(self._chunks))
        ready: list[ChunkRead] = []
        for number in range(start, end):
            chunk = self._chunks[number]
            place = context.find(self._namespace, chunk.key)
            length = -1 if place is None else _length(place, self._parts)
            if place is None or length < 1 or length > total(chunk.target):
                # gone, or put anew with another length, since the request was checked
                self._one(number, -1)
                continue
            policy.used(*place)
            if self._gets.hot is not None and self._hot(self._gets.hot, number, place, length, ready):
                continue
            self._prepare(number, place, length, ready)
        submit(ready)
        if end < len(self._chunks):
            context.later.add(lambda: self._slice(end))

    def _hot(
        self,
        hot: HotReads,
        number: int,
        place: tuple[Segment, int],
        length: int,
        ready: list[ChunkRead],
    ) -> bool:
        """Serve a chunk from the hot tier, or by way of it. False: it has to come from the device."""
        key = self._chunks[number].key
        whole = length == plain_length(place[0].table, place[1])
        slot, begun = hot.slot(self._namespace, key, place, ready, fill=whole, time=self._time)
        if slot is None:
            return False
        if slot.state is State.READY:
            self._serve(hot, slot, number, place, length, asked=False)
            return True
        filling = slot

        def filled(right: bool) -> None:
            if right:
                self._serve(hot, filling, number, place, length, asked=begun)
            else:
                self._anew(number)

        filling.waiters.append(filled)
        return True

    def _serve(
        self, hot: HotReads, slot: Slot, number: int, place: tuple[Segment, int], length: int, *, asked: bool
    ) -> None:
        """``asked``: a device was, for this get."""

        def served(right: bool) -> None:
            if not right:
                self._anew(number)
                return
            if not asked:
                self._from_hot[0] += 1
                self._from_hot[1] += length
            self._one(number, length)

        target = cut(self._chunks[number].target, 0, length)
        hot.serve(slot, self._namespace, place, self._parts, target, served)

    def _anew(self, number: int, piece: Span | None = None) -> None:
        """Read it from the device, if it is there: the hot tier had it not after all, or memory came now."""
        chunk = self._chunks[number]
        place = self._gets.context.find(self._namespace, chunk.key)
        length = -1 if place is None else _length(place, self._parts)
        ready: list[ChunkRead] = []
        if place is None or length < 1 or length > total(chunk.target):
            if piece is not None:
                self._gets.context.staging.give(piece)
            self._one(number, -1)
            return
        self._prepare(number, place, length, ready, piece)
        if ready:
            submit(ready)

    def _prepare(
        self,
        number: int,
        place: tuple[Segment, int],
        length: int,
        ready: list[ChunkRead],
        piece: Span | None = None,
    ) -> None:
        """Make a read and add it to ``ready``, or ask for the memory that it needs; ``piece``: that came."""
        context = self._gets.context
        staging = context.staging
        read = ChunkRead(
            context,
            self._namespace,
            self._chunks[number].key,
            place,
            self._parts,
            cut(self._chunks[number].target, 0, length),
            lambda found: self._one(number, length if found else -1),
            self._gets.drop,
            self._time,
        )
        need = read.prepare()
        if piece is not None and piece.length != need:
            staging.give(piece)  # it was put anew, or moved to a device that asks for more
            piece = None
        if need:
            # At once if there is some, so that it can be merged with others.
            piece = staging.take(need, read.tenant) if piece is None else piece
            if piece is None:
                read.abandon()
                try:
                    staging.request(
                        need,
                        lambda late: self._anew(number, late),
                        read.tenant,
                        lambda: self._without_memory(number),
                    )
                except (Busy, TooLarge):
                    self._without_memory(number)
                return
            read.staged(piece)
        ready.append(read)

    def _without_memory(self, number: int) -> None:
        self._gets.context.counters["gets_without_memory"] += 1
        self._one(number, -1)

    def _one(self, number: int, length: int) -> None:
        self._lengths[number] = length
        self._left -= 1
        if not self._left:
            if self._namespace.erased and max(self._lengths) > 0:
                # erased while it was read: nothing of it stays with the caller
                came = [place for place, length in enumerate(self._lengths) if length > 0]
                targets = [cut(self._chunks[place].target, 0, self._lengths[place]) for place in came]
                self._lengths = [-1] * len(self._lengths)
                self._from_hot = [0, 0]
                spans = [span for target in targets for span in target]
                self._gets.context.zero(spans, self._end, self._namespace.scope.tenant)
            else:
                self._end()

    def _end(self) -> None:
        counters = self._gets.context.counters
        lengths = self._lengths
        missed = lengths.count(-1)
        count = len(lengths) - missed
        nbytes = sum(lengths) + missed  # a miss is -1
        counters["chunks_got"] += count
        counters["bytes_got"] += nbytes
        hot_chunks, hot_bytes = self._from_hot
        if hot_chunks:
            counters["chunks_got_hot"] += hot_chunks
            counters["bytes_got_hot"] += hot_bytes
        counters["chunks_got_device"] += count - hot_chunks
        counters["bytes_got_device"] += nbytes - hot_bytes
        if missed:
            counters["chunks_missed"] += missed
        self._gets.in_flight -= 1
        self._gets.context.call(self._done, GetOutcome(self._lengths))


def submit(reads: Sequence[ChunkRead]) -> None:
    """Queue transfers for these reads, neighbours on a device together."""
    if len(reads) == 1:
        _transfer(list(reads))
        return
    run: list[ChunkRead] = []
    end = size = spans = 0
    for read in sorted(reads, key=lambda read: (id(read.segment.log), read.start)):
        joins = (
            run
            and read.segment.log is run[0].segment.log
            and read.start == end
            and size < MERGE_BYTES
            and spans + len(read.spans) <= SPANS_PER_TRANSFER_MAX
        )
        if not joins:
            if run:
                _transfer(run)
            run, size, spans = [], 0, 0
        run.append(read)
        size += read.blocks * BLOCK_BYTES
        spans += len(read.spans)
        end = read.start + read.blocks * BLOCK_BYTES
    if run:
        _transfer(run)


def _transfer(run: list[ChunkRead]) -> None:
    def moved(transfer: Transfer) -> None:
        if transfer.result < 0 and len(run) > 1:
            # which of them cannot be read? ask for each alone
            for read in run:
                _transfer([read])
            return
        for read in run:
            read.moved(transfer.result)

    spans = run[0].spans if len(run) == 1 else [span for read in run for span in read.spans]
    run[0].segment.log.transfer(Op.READ, run[0].start, spans, moved, run[0].time, tenant=run[0].tenant)
