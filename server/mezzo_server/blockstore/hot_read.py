"""Chunks that are read out of the hot tier, and those that are read into it.

    a get    -> serve: copied out of the slot and checked on the way
    not hot  -> fill: the device reads into a slot, it is verified there, who waits is served out of it

Who finds that a slot does not have what he wants goes to the device, as without a hot tier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mezzo.errors import Busy, TooLarge
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import DeviceTime
from mezzo_server.blockstore.read import ChunkRead, Drop, select
from mezzo_server.blockstore.sealing import is_sealed, plain_length, plain_parts
from mezzo_server.blockstore.segment import Segment
from mezzo_server.hot.slots import Slot, State
from mezzo_server.hot.tier import HotTier
from mezzo_server.memory import Span

WARM_CHUNKS = 64
"""Chunks of a `warm` begun in one turn."""


class HotReads:
    """Gets out of slots and fills of slots. ``submit`` queues the transfers of reads, neighbours together."""

    def __init__(
        self, context: Context, hot: HotTier, drop: Drop, submit: Callable[[Sequence[ChunkRead]], None]
    ) -> None:
        self._context = context
        self.hot = hot
        self._drop = drop
        self._submit = submit

    def slot(
        self,
        namespace: NamespaceIndex,
        key: bytes,
        place: tuple[Segment, int],
        reads: list[ChunkRead],
        *,
        fill: bool,
        time: DeviceTime | None = None,
    ) -> tuple[Slot | None, bool]:
        """(the slot that holds a visible chunk or is being filled with it, whether that was begun now).

        With ``fill`` one is reserved for a chunk that is not hot, if there is room, and a read into it
        appended to ``reads``, for the caller to submit.
        """
        slot = namespace.hot.get(key)
        segment, number = place
        sequence = segment.table.sequence[number]
        if slot is not None:
            return (slot if slot.sequence == sequence else None), False
        if not fill:
            return None, False
        hot, tenant = self.hot, namespace.scope.tenant
        length = plain_length(segment.table, number)
        if not hot.wants(tenant, key, length):
            return None, False
        slot = hot.reserve(namespace.hot, tenant, key, length)
        if slot is None:
            return None, False
        slot.sequence = sequence
        _Fill(self, namespace, slot, time).begin(place, reads)
        return slot, True

    def serve(
        self,
        slot: Slot,
        namespace: NamespaceIndex,
        place: tuple[Segment, int],
        parts: tuple[int, int],
        target: Sequence[Span],
        done: Callable[[bool], None],
    ) -> None:
        """Copy parts of a ready slot's chunk into ``target``, checked. False: they are not right there.

        What does not match is compared again in the slot, since a client may scribble on its own
        region: only if the slot is wrong it is given up.
        """
        context, hot = self._context, self.hot
        offset, lengths, checksums = hot_select(slot, *place, *parts)
        first_part = parts[0]
        seed, tenant = context.seed(namespace, slot.key), namespace.scope.tenant
        source = [slot.span(offset, sum(lengths))]
        hot.used(slot)
        hot.use(slot)

        def end(right: bool) -> None:
            hot.unuse(slot)
            done(right)

        def copied(found: list[int]) -> None:
            if all(map(int.__eq__, found, checksums)):
                end(True)
            else:
                context.verify(seed, first_part, lengths, checksums, source, confirmed, tenant)

        def confirmed(right: bool) -> None:
            if right:
                context.counters["mismatches_not_confirmed"] += 1
                context.copy(target, source, lambda: end(True), tenant)
                return
            context.counters["hot_mismatches"] += 1
            hot.drop(slot)
            end(False)

        context.copy_digest(seed, first_part, lengths, target, source, copied, tenant)

    def warm(self, namespace: NamespaceIndex, keys: Sequence[bytes], done: Callable[[], None]) -> None:
        """Read into the hot tier what is present and not hot, as far as there is room; then ``done``.

        No more than clients may hold: what came last would displace what came first.
        """
        _Warming(self, namespace, keys, done).step(0)


class _Fill:
    """One chunk on its way from a device into its slot."""

    __slots__ = ("_namespace", "_reads", "_slot", "_time")

    def __init__(
        self, reads: HotReads, namespace: NamespaceIndex, slot: Slot, time: DeviceTime | None
    ) -> None:
        self._reads = reads
        self._namespace = namespace
        self._slot = slot
        self._time = time

    def begin(self, place: tuple[Segment, int], ready: list[ChunkRead], piece: Span | None = None) -> None:
        """Add the read to ``ready``, or ask for the memory that it needs; ``piece``: that came."""
        reads, slot = self._reads, self._slot
        context = reads._context
        sealed = is_sealed(place[0].table, place[1])
        read = ChunkRead(
            context,
            self._namespace,
            slot.key,
            place,
            (0, 0),
            [slot.span()],
            partial(self._ended, place),
            reads._drop,
            self._time,
            None if sealed else slot.span(0, blocks_of(slot.length) * BLOCK_BYTES),
        )
        need = read.prepare()
        if need:
            # An encrypted chunk needs memory to lie in before it is decrypted into its slot.
            piece = context.staging.take(need, read.tenant) if piece is None else piece
            if piece is None:
                read.abandon()
                try:
                    context.staging.request(need, self._came, read.tenant, self._without_memory)
                except (Busy, TooLarge):
                    context.later.add(self._without_memory)
                return
            read.staged(piece)
        ready.append(read)

    def _without_memory(self) -> None:
        self._reads._context.counters["gets_without_memory"] += 1
        self._reads.hot.fail(self._slot)

    def _came(self, piece: Span) -> None:
        reads, slot = self._reads, self._slot
        place = reads._context.find_again(self._namespace, slot.key, slot.sequence)
        if place is None:
            reads._context.staging.give(piece)
            reads.hot.fail(slot)
            return
        ready: list[ChunkRead] = []
        self.begin(place, ready, piece)
        reads._submit(ready)

    def _ended(self, place: tuple[Segment, int], found: bool) -> None:
        reads, slot = self._reads, self._slot
        table, number = place[0].table, place[1]
        if not found:
            reads.hot.fail(slot)
        elif is_sealed(table, number):
            # what is stored has other checksums than what lies in the slot
            context, namespace = reads._context, self._namespace
            seed, tenant = context.seed(namespace, slot.key), namespace.scope.tenant
            context.digest(seed, 0, plain_parts(table, number), [slot.span()], self._digested, tenant)
        else:
            reads.hot.ready(slot, slot.sequence)

    def _digested(self, checksums: list[int]) -> None:
        self._slot.checksums = tuple(checksums)
        self._reads.hot.ready(self._slot, self._slot.sequence)


class _Warming:
    """Chunks on their way into the hot tier for one request."""

    __slots__ = ("_bytes_left", "_done", "_keys", "_left", "_namespace", "_reads")

    def __init__(
        self, reads: HotReads, namespace: NamespaceIndex, keys: Sequence[bytes], done: Callable[[], None]
    ) -> None:
        self._reads = reads
        self._namespace = namespace
        self._keys = keys
        self._done = done
        self._left = 1
        self._bytes_left = reads.hot.held_bytes_max

    def step(self, start: int) -> None:
        """Begin some, and the rest in later turns."""
        reads, context, namespace = self._reads, self._reads._context, self._namespace
        end = min(start + WARM_CHUNKS, len(self._keys))
        begun: list[ChunkRead] = []
        for key in self._keys[start:end]:
            place = context.find(namespace, key)
            if place is None:
                continue
            slot, _ = reads.slot(namespace, key, place, begun, fill=True)
            if slot is None:
                continue
            self._bytes_left -= slot.capacity
            if slot.state is State.FILLING:
                self._left += 1
                slot.waiters.append(self._filled)
            else:
                reads.hot.used(slot)
            if self._bytes_left <= 0:
                end = len(self._keys)
                break
        if begun:
            reads._submit(begun)
        if end < len(self._keys):
            context.later.add(lambda: self.step(end))
        else:
            self._filled(True)

    def _filled(self, right: bool) -> None:
        self._left -= 1
        if not self._left:
            self._done()


def hot_select(
    slot: Slot, segment: Segment, number: int, first: int, count: int
) -> tuple[int, Sequence[int], Sequence[int]]:
    """(byte offset, lengths, checksums) of parts of the chunk in a ready slot, as `select` gives them of its place."""
    if not is_sealed(segment.table, number):
        return select(segment, number, first, count)
    lengths = plain_parts(segment.table, number)
    end = first + count if count else len(lengths)
    return sum(lengths[:first]), lengths[first:end], slot.checksums[first:end]
