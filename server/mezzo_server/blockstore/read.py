"""Reading the bytes of one chunk: plan, move, verify, and what a mismatch means.

A read goes straight into its target where addresses and lengths allow; a tail that does not fill a
block, or a target that is not aligned, goes through staging, so that neighbouring bytes never reach a
client's memory.  A mismatch is confirmed by reading again into staging, since a client may scribble
on its own region: only then the chunk leaves the index for good.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from mezzo.errors import Busy, TooLarge
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import DeviceTime, Op, Transfer
from mezzo_server.blockstore.sealing import OVERHEAD_BYTES, is_sealed
from mezzo_server.blockstore.segment import Segment
from mezzo_server.blockstore.spans import copy, cut, direct
from mezzo_server.memory import Span

Drop = Callable[[NamespaceIndex, bytes, Segment, int], None]


class ChunkRead:
    """The bytes of some parts of one chunk on their way into ``target``.

    Holds its segment from the beginning until ``done(found)``.
    """

    __slots__ = (
        "_bounced",
        "_context",
        "_done",
        "_drop",
        "_lent",
        "_room",
        "_staged",
        "_tail",
        "checksums",
        "first_part",
        "key",
        "length",
        "lengths",
        "namespace",
        "number",
        "sealed",
        "segment",
        "skip",
        "spans",
        "start",
        "target",
        "tenant",
        "time",
    )

    def __init__(
        self,
        context: Context,
        namespace: NamespaceIndex,
        key: bytes,
        place: tuple[Segment, int],
        parts: tuple[int, int],
        target: Sequence[Span],
        done: Callable[[bool], None],
        drop: Drop,
        time: DeviceTime | None = None,
        room: Span | None = None,
    ) -> None:
        """``room``: whole blocks of the server's own that ``target`` lies in, where it lies on the device: nothing
        is staged then, and bytes that are encrypted come as they are stored.
        """
        segment, number = place
        self.time = time
        self.tenant = namespace.scope.tenant
        """for whose work the device is used"""
        self._context = context
        self.namespace = namespace
        self.key = key
        self.segment = segment
        self.number = number
        table = segment.table
        self.first_part = 0
        self.sealed = room is None and table.has_sealed and is_sealed(table, number)
        if not parts[0] and not parts[1]:
            offset = 0
            self.length = table.length[number]
            self.lengths = table.part_lengths(number)
            self.checksums = table.part_checksums(number)
        else:
            offset, self.lengths, self.checksums = select(segment, number, *parts)
            self.first_part = parts[0]
            self.length = sum(self.lengths)
        self.target = target
        self.skip = offset % BLOCK_BYTES
        self.start = segment.offset + (table.block[number] + offset // BLOCK_BYTES) * BLOCK_BYTES
        """where on the device the transfer begins"""
        self.spans: list[Span] = []
        """what the transfer fills: whole blocks"""
        self._room = room
        self._staged: Span | None = None
        self._lent = False
        self._bounced = False
        self._tail = 0
        self._done = done
        self._drop = drop
        segment.hold()

    @property
    def blocks(self) -> int:
        """Blocks that hold the bytes."""
        return blocks_of(self.skip + self.length)

    def prepare(self) -> int:
        """Plan the transfer; bytes of staging that it needs (0: none)."""
        if self.sealed:
            self._bounced = True
            return self.blocks * BLOCK_BYTES
        if self._room is not None:
            self.spans = [self._room]
            return 0
        align = self.segment.log.device.memory_align_bytes
        self._bounced = self.skip != 0 or not direct(self.target, align)
        if self._bounced:
            return self.blocks * BLOCK_BYTES
        self._tail = self.length % BLOCK_BYTES
        if not self._tail:
            self.spans = list(self.target)
            return 0
        return BLOCK_BYTES

    def staged(self, piece: Span, *, lent: bool = False) -> None:
        """Staging came: the plan is complete. ``lent``: the caller takes it back himself."""
        self._staged, self._lent = piece, lent
        if self._bounced:
            self.spans = [piece]
        else:
            body = self.length - self._tail
            self.spans = [*(cut(self.target, 0, body) if body else ()), piece]

    def moved(self, result: int) -> None:
        """The transfer ended; verify what came."""
        if result < 0:
            self._context.counters["read_errors"] += 1
            self.segment.log.io_error(self.segment, -result, "read of a chunk")
            self._lose()
            return
        context = self._context
        if self._bounced and self._staged is not None:
            spans: Sequence[Span] = cut([self._staged], self.skip, self.length)
        else:
            if self._tail and self._staged is not None:
                copy(
                    cut(self.target, self.length - self._tail, self._tail), cut([self._staged], 0, self._tail)
                )
            spans = self.target
        seed = context.seed(self.namespace, self.key)
        context.verify(
            seed, self.first_part, self.lengths, self.checksums, spans, self._verified, self.tenant
        )

    def _verified(self, right: bool) -> None:
        if not right:
            self._give_back()
            self._confirm()
        elif self._bounced and self._staged is not None:
            self._hand_over(self._staged.part(self.skip, self.length))
        else:
            self._end(True)

    def _hand_over(self, source: Span) -> None:
        """What was verified in staging goes into the target, decrypted if it is encrypted."""
        context = self._context
        if not self.sealed:
            context.copy(self.target, [source], lambda: self._end(True), self.tenant)
            return
        parts = (self.first_part, self.segment.table.parts[self.number])
        lengths = [length - OVERHEAD_BYTES for length in self.lengths]
        context.unseal(self.namespace, self.key, parts, lengths, source, self.target, self._unsealed)

    def _unsealed(self, result: int) -> None:
        if not result:
            self._end(True)
        elif result == -errno.EBADMSG:
            # Its checksums match, so somebody who can compute them wrote it, or under another name.
            self._context.counters["seals_broken"] += 1
            self._corrupt()
        else:
            self._context.counters["seals_without_key"] += 1
            self._zero()

    # -- a mismatch --------------------------------------------------------------------------

    def _confirm(self) -> None:
        """Read again into memory that only the server can touch."""
        self._context.counters["mismatches_seen"] += 1
        try:
            self._context.staging.request(
                self.blocks * BLOCK_BYTES, self._read_again, self.tenant, self._zero
            )
        except (Busy, TooLarge):
            # without memory to confirm in, it is a miss that proves nothing
            self._zero()

    def _read_again(self, piece: Span) -> None:
        self._staged, self._lent = piece, False
        log = self.segment.log

        def moved(transfer: Transfer) -> None:
            if transfer.result < 0:
                log.io_error(self.segment, -transfer.result, "read of a chunk")
                self._lose()
                return
            spans = cut([piece], self.skip, self.length)
            seed = self._context.seed(self.namespace, self.key)
            self._context.verify(
                seed, self.first_part, self.lengths, self.checksums, spans, self._confirmed, self.tenant
            )

        log.transfer(Op.READ, self.start, [piece], moved, self.time, tenant=self.tenant)

    def _confirmed(self, right: bool) -> None:
        if right and self._staged is not None:
            self._context.counters["mismatches_not_confirmed"] += 1
            self._hand_over(self._staged.part(self.skip, self.length))
            return
        self._corrupt()

    def _corrupt(self) -> None:
        self._context.counters["chunks_corrupt"] += 1
        self.segment.suspects.append((self.segment.table.block[self.number], blocks_of(self._chunk_bytes)))
        self._lose()

    @property
    def _chunk_bytes(self) -> int:
        return self.segment.table.length[self.number]

    def _lose(self) -> None:
        """The chunk is not what was stored, or cannot be read: it leaves the index for good."""
        self._drop(self.namespace, self.key, self.segment, self.number)
        self._zero()

    def _zero(self) -> None:
        self._context.zero(self.target, lambda: self._end(False), self.tenant)

    def _give_back(self) -> None:
        if self._staged is not None:
            if not self._lent:
                self._context.staging.give(self._staged)
            self._staged = None

    def abandon(self) -> None:
        """Let the segment go before anything was transferred; ``done`` is not called.

        For who must wait for memory: others' slow clients may hold it for long, and reclaim waits for all reads.
        """
        self.segment.release()

    def _end(self, found: bool) -> None:
        self._give_back()
        self.segment.release()
        self._done(found)


def select(segment: Segment, number: int, first: int, count: int) -> tuple[int, Sequence[int], Sequence[int]]:
    """(byte offset, lengths, checksums) of parts ``first`` to ``first + count - 1``; 0: all from first.

    Parts beyond the last are left out: the answer's length tells.
    """
    table = segment.table
    lengths = table.part_lengths(number)
    end = first + count if count else len(lengths)
    return sum(lengths[:first]), lengths[first:end], table.part_checksums(number)[first:end]


def whole_bytes(segment: Segment, number: int, first: int, count: int) -> int:
    """Bytes of the blocks that hold those parts."""
    offset, lengths, _ = select(segment, number, first, count)
    return blocks_of(offset % BLOCK_BYTES + sum(lengths)) * BLOCK_BYTES
