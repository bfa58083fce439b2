"""Reading a segment record by record: for segments without a table, and for checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mezzo.checksum import chunk_seed, part_seed
from mezzo.errors import FormatError
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.format import record
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.memory import Span

Checksum = Callable[[list[Span], int], int]


@dataclass(frozen=True, slots=True)
class Scanned:
    """One record and, for each of its entries, whether its payload verifies."""

    record: record.Record
    whole: tuple[bool, ...]


def scan(content: Span, segment_blocks: int, incarnation: bytes, checksum: Checksum) -> Iterator[Scanned]:
    """Records in the order of their places. Gaps (writes that failed or never ended) are skipped."""
    view = content.view
    block = 1
    while block < segment_blocks:
        start = block * BLOCK_BYTES
        if view[start : start + 8] != record.MAGIC:
            block += 1
            continue
        try:
            found = record.decode(view[start:], block, segment_blocks, incarnation)
        except FormatError:
            block += 1
            continue
        whole = tuple(_verifies(found.scope, entry, content, checksum) for entry in found.entries)
        yield Scanned(found, whole)
        block += found.record_blocks


def _verifies(scope: Scope, entry: record.Entry, content: Span, checksum: Checksum) -> bool:
    seed = chunk_seed(scope.tenant + scope.namespace, entry.key)
    at = entry.block * BLOCK_BYTES
    for part, (length, expected) in enumerate(zip(entry.parts, entry.checksums, strict=True)):
        if checksum([content.part(at, length)], part_seed(seed, part)) != expected:
            return False
        at += length
    return True
