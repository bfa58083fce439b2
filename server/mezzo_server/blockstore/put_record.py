"""One record of a put: from client memory to the device.

    staging (what cannot go straight) -> checksums -> write -> its chunks appear

What is aligned is written from where it lies.  A chunk that becomes hot goes by way of its slot, one that is
encrypted by way of staging, into which it is encrypted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from mezzo.errors import Busy, DeadlineExceeded, Gone, InternalError, TooLarge
from mezzo_server.blockstore.api import PutChunk, PutStatus
from mezzo_server.blockstore.arrivals import Arrivals
from mezzo_server.blockstore.entries import SEALED
from mezzo_server.blockstore.format import record
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.sealing import sealed_parts
from mezzo_server.blockstore.spans import copy, cut, direct
from mezzo_server.blockstore.writer import RecordWrite
from mezzo_server.hot.slots import Slot
from mezzo_server.hot.tier import HotTier
from mezzo_server.memory import Span
from mezzo_server.staging import StagingRequest

if TYPE_CHECKING:
    from mezzo_server.blockstore.put import PutTicket


class PutRecord:
    """Chunks of one put that become one record. Owner of its staging memory until that is written."""

    __slots__ = (
        "_align_bytes",
        "_arriving",
        "_bounced",
        "_entries",
        "_fault",
        "_header_bytes",
        "_left",
        "_numbers",
        "_piece",
        "_request",
        "_slots",
        "_spans",
        "_ticket",
        "_write",
    )

    def __init__(self, ticket: PutTicket, arriving: Arrivals) -> None:
        self._ticket = ticket
        self._arriving = arriving
        self._numbers = arriving.numbers
        self._piece: Span | None = None
        self._request: StagingRequest | None = None
        self._write: RecordWrite | None = None
        self._entries: list[record.Entry] = []
        self._spans: list[list[Span]] = []
        self._bounced: list[bool] = []
        self._slots: list[Slot | None] = []
        """where in the hot tier the chunks go, if they do"""
        self._fault: Exception | None = None
        self._align_bytes = 0
        self._header_bytes = 0
        """in whole blocks"""
        self._left = 0

    def begin(self) -> None:
        """Ask for staging memory: the header, tails that do not fill a block, what is not aligned."""
        ticket, sealed = self._ticket, self._ticket.sealed
        context = ticket.puts.context
        align = self._align_bytes = max([log.device.memory_align_bytes for log in context.logs])
        size = 0
        for number in self._numbers:
            chunk = ticket.chunks[number]
            length = sum(chunk.parts)
            entry = record.Entry(
                chunk.key,
                0,
                chunk.parts,
                chunk.checksums or (0,) * len(chunk.parts),
                chunk.position,
                chunk.expiry_ms,
                chunk.priority,
            )
            if sealed:
                entry.parts = sealed_parts(chunk.parts)
                entry.flags |= SEALED
                size += blocks_of(entry.length) * BLOCK_BYTES
            self._entries.append(entry)
            slot = None if context.hot is None else self._reserve(context.hot, chunk.key, length)
            self._slots.append(slot)
            bounce = slot is None and not sealed and not direct(chunk.source, align)
            self._bounced.append(bounce)
            if slot is None and not sealed:
                size += blocks_of(length) * BLOCK_BYTES if bounce else (length % BLOCK_BYTES and BLOCK_BYTES)
        header = self._header_bytes = blocks_of(record.header_bytes(self._entries)) * BLOCK_BYTES
        try:
            tenant = ticket.namespace.scope.tenant
            self._request = context.staging.request(header + size, self._stage, tenant, self._without_memory)
        except (Busy, TooLarge) as error:
            self._ended(error)

    def _without_memory(self) -> None:
        self._request = None
        self._ended(self._ticket.puts.context.staging.busy())

    def _reserve(self, hot: HotTier, key: bytes, length: int) -> Slot | None:
        """A slot of the hot tier for a chunk, if it is to become hot and there is room."""
        namespace = self._ticket.namespace
        if not hot.fill_puts:
            return None
        return hot.reserve(namespace.hot, namespace.scope.tenant, key, length)

    def _stage(self, piece: Span) -> None:
        """Copy what cannot go straight, then take checksums of what will be written."""
        ticket = self._ticket
        context, tenant = ticket.puts.context, ticket.namespace.scope.tenant
        self._piece = piece
        self._request = None
        at = self._header_bytes
        self._left = 1
        for place, number in enumerate(self._numbers):
            chunk = ticket.chunks[number]
            length = sum(chunk.parts)
            whole = blocks_of(length) * BLOCK_BYTES
            slot = self._slots[place]
            if ticket.sealed:
                at += self._seal(place, slot, piece, at)
            elif slot is not None:
                # The device is written out of the slot: whatever the client does to its source from now on,
                # the bytes that were checksummed are those that are hot and those that are stored.
                slot.span(length, whole - length).view[:] = bytes(whole - length)
                self._spans.append([slot.span(0, whole)])
                self._left += 1
                seed, digested = context.seed(ticket.namespace, chunk.key), self._digested(place)
                context.copy_digest(seed, 0, chunk.parts, [slot.span()], chunk.source, digested, tenant)
            elif self._bounced[place]:
                target = piece.part(at, whole)
                at += whole
                target.view[length:] = bytes(whole - length)
                self._spans.append([target])
                self._left += 1
                context.copy(
                    cut([target], 0, length), chunk.source, partial(self._take_checksums, place), tenant
                )
            else:
                body = length - length % BLOCK_BYTES
                spans = cut(chunk.source, 0, body) if body else []
                if body < length:
                    tail = piece.part(at, BLOCK_BYTES)
                    at += BLOCK_BYTES
                    copy(cut([tail], 0, length - body), cut(chunk.source, body, length - body))
                    tail.view[length - body :] = bytes(BLOCK_BYTES - length + body)
                    spans = [*spans, tail]
                self._spans.append(spans)
                self._left += 1
                self._take_checksums(place)
        self._ready()

    def _seal(self, place: int, slot: Slot | None, piece: Span, at: int) -> int:
        """Encrypt a chunk, by way of its slot if it becomes hot, into ``piece`` from ``at`` on; bytes taken."""
        ticket = self._ticket
        context, namespace = ticket.puts.context, ticket.namespace
        tenant = namespace.scope.tenant
        chunk, entry = ticket.chunks[self._numbers[place]], self._entries[place]
        whole = blocks_of(entry.length) * BLOCK_BYTES
        piece.view[at + entry.length : at + whole] = bytes(whole - entry.length)
        self._spans.append([piece.part(at, whole)])
        target = piece.part(at, entry.length)
        self._left += 1

        def digested(found: list[int]) -> None:
            entry.checksums = tuple(found)
            self._ready()

        def sealed(result: int) -> None:
            if result < 0:
                self._fault = InternalError(f"a chunk could not be encrypted: {os.strerror(-result)}")
                self._ready()
            else:
                context.digest(context.seed(namespace, chunk.key), 0, entry.parts, [target], digested, tenant)

        if slot is None:
            context.seal(namespace, chunk.key, chunk.parts, target, chunk.source, sealed)
            return whole
        into = slot

        def copied(found: list[int]) -> None:
            into.checksums = tuple(found)
            if self._is_unchanged(chunk, found):
                context.seal(namespace, chunk.key, chunk.parts, target, [into.span()], encrypted)
            else:
                self._ready()

        def encrypted(result: int) -> None:
            # Checksums of what is stored are taken of the cipher: a bit that flipped in the slot before it was
            # encrypted would be stored for good, and nothing could tell.
            if result < 0:
                sealed(result)
            else:
                context.digest(seed, 0, chunk.parts, [into.span()], read_again, tenant)

        def read_again(found: list[int]) -> None:
            if tuple(found) == into.checksums:
                sealed(0)
            else:
                context.counters["hot_mismatches"] += 1
                self._fault = InternalError("the bytes of a chunk changed in memory while it was encrypted")
                self._ready()

        seed = context.seed(namespace, chunk.key)
        context.copy_digest(seed, 0, chunk.parts, [slot.span()], chunk.source, copied, tenant)
        return whole

    def _take_checksums(self, place: int) -> None:
        """Take the checksums of one chunk, whose bytes lie where they should."""
        ticket = self._ticket
        chunk = ticket.chunks[self._numbers[place]]
        if chunk.checksums is not None:
            self._ready()
            return
        context = ticket.puts.context
        spans = cut(self._spans[place], 0, sum(chunk.parts))
        seed, tenant = context.seed(ticket.namespace, chunk.key), ticket.namespace.scope.tenant
        context.digest(seed, 0, chunk.parts, spans, self._digested(place), tenant)

    def _digested(self, place: int) -> Callable[[list[int]], None]:
        """A callback that takes over the checksums of one chunk, or compares them with those known."""
        chunk = self._ticket.chunks[self._numbers[place]]

        def digested(found: list[int]) -> None:
            if self._is_unchanged(chunk, found):
                self._entries[place].checksums = tuple(found)
            self._ready()

        return digested

    def _is_unchanged(self, chunk: PutChunk, found: list[int]) -> bool:
        """Whether what was copied has the checksums that were known, if any were; else the record fails."""
        if chunk.checksums is None or tuple(found) == tuple(chunk.checksums):
            return True
        self._ticket.puts.context.counters["hot_mismatches"] += 1
        self._fault = InternalError("the bytes of a chunk changed in memory while it was put")
        return False

    def _ready(self) -> None:
        self._left -= 1
        if self._left:
            return
        ticket = self._ticket
        if self._fault is not None:
            self._ended(self._fault)
            return
        if ticket.abandoned:
            self._ended(DeadlineExceeded("the put was given up"))
            return
        if self._piece is None:
            raise RuntimeError("a record without staging memory is ready")
        self._write = RecordWrite(
            ticket.namespace.scope,
            self._entries,
            self._spans,
            self._piece.part(0, self._header_bytes),
            self._ended,
            deadline=ticket.deadline,
            time=ticket.time,
            align_bytes=self._align_bytes,
            lane=self._arriving.lane,
        )
        ticket.puts.writer.write(self._write)

    def abandon(self) -> None:
        """Give up if nothing was handed to a device or a worker."""
        puts = self._ticket.puts
        waits_for_memory = self._request is not None and self._piece is None
        if waits_for_memory and self._request is not None:
            self._request.cancel()
        if waits_for_memory or (self._write is not None and puts.writer.drop(self._write)):
            self._ended(DeadlineExceeded("the put was given up"))

    def _ended(self, error: Exception | None) -> None:
        """The record is written, or failed: its chunks appear, or do not; who waited goes on."""
        ticket = self._ticket
        puts = ticket.puts
        context = puts.context
        namespace = ticket.namespace
        if self._piece is not None:
            context.staging.give(self._piece)
            self._piece = None
        ticket.records.remove(self)
        write, self._write = self._write, None  # it holds our method: no work for the garbage collector
        if error is None and namespace.erased:
            error = erased()  # its record is dead space from the beginning
        if error is None and write is not None:
            table = write.segment.table
            context.policy.stored(write.segment, write.numbers, self._arriving.marks)
            for number in write.numbers:
                context.appear(namespace, table.keys[number], write.segment, number)
            self._settle(table.sequence[number] for number in write.numbers)
            context.changes += 1
            context.counters["chunks_put"] += len(self._numbers)
            size = sum(sum(ticket.chunks[n].parts) for n in self._numbers)
            context.counters["bytes_put"] += size
            context.rewrites.put(size)
        else:
            self._settle(None)
        if error is not None and write is not None and write.began:
            # until the segment has its table, a restart may find what came through of the record
            for entry in self._entries:
                namespace.shade(entry.key, write.segment.life)
        for number, entry in zip(self._numbers, self._entries, strict=True):
            ticket.answer(number, PutStatus.STORED if error is None else PutStatus.FAILED, error)
            namespace.end(entry.key)

    def _settle(self, sequences: Iterable[int] | None) -> None:
        """What became of the slots: hot from now on, under these sequences, or free again."""
        slots, self._slots = self._slots, []
        hot = self._ticket.puts.context.hot
        if hot is None:
            return
        if sequences is None:
            for slot in slots:
                if slot is not None:
                    hot.fail(slot)
            return
        for slot, sequence in zip(slots, sequences, strict=True):
            if slot is not None:
                hot.ready(slot, sequence)


def erased() -> Gone:
    """The error of a put whose namespace was erased meanwhile."""
    return Gone("the namespace, or its tenant, was deleted or purged while the chunk was put")
