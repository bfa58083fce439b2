"""The index from the tables of all segments: who wins, and what is not brought back.

Of several copies of a key the highest sequence wins, be it a chunk or a tombstone; of equal ones, the
copy in the later life.  What was erased takes no part in it: it is dead from the beginning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

from mezzo_server.blockstore.api import Scope, Standing
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.entries import EntryTable
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.segment import Segment, life_of, number_of
from mezzo_server.sharded import HASH_SHIFT, SPREAD_AT

Key = tuple[Scope, bytes]
Kept = bytearray | None
"""For each entry 1 if it takes part, else 0; None: all do"""


@dataclass(slots=True)
class Found:
    """What became of the entries."""

    chunks: int = 0
    chunks_expired: int = 0
    """not brought back: their time was over"""
    chunks_erased: int = 0
    """not brought back: their tenant or namespace was deleted or purged"""
    chunks_unknown: int = 0
    """not brought back: nobody knows their tenant or namespace"""


def rebuild(context: Context, found: Found) -> None:
    """Fill the index, and put right what segments know of themselves."""
    stale: defaultdict[Key, list[tuple[int, int]]] = defaultdict(list)
    tombstones: list[tuple[Segment, int]] = []
    sieve = _Sieve(context, found)
    for life in sorted(context.lives):
        segment = context.lives[life]
        kept = sieve.kept(segment)
        _account(segment, kept)
        for namespace, key, loser in _insert(context, segment, kept, tombstones):
            _lost(context, namespace, key, loser, stale)
    covered: dict[Key, int] = {}
    for segment, number in tombstones:
        entries = segment.table
        scope, key, sequence = (
            entries.scopes[entries.scope[number]],
            entries.keys[number],
            entries.sequence[number],
        )
        namespace = context.index.recover(scope)
        location = namespace.get(key)
        if location is not None and _sequence(context, location) < sequence:
            namespace.remove(key)
            _lost(context, namespace, key, location, stale)
        older = frozenset(life for life, written in stale.get((scope, key), ()) if written < sequence)
        if older:
            segment.blockers[number] = older
        covered[scope, key] = max(covered.get((scope, key), 0), sequence)
    for (scope, key), copies in stale.items():
        lives = frozenset(life for life, sequence in copies if sequence > covered.get((scope, key), 0))
        if lives:
            context.index.recover(scope).shadows[key] = lives


class _Sieve:
    """Decides which entries take no part."""

    def __init__(self, context: Context, found: Found) -> None:
        self._index = context.index
        self._trimmed = context.trimmed
        self._found = found
        self._on_disk = frozenset(context.on_disk)
        self._expiry = context.expiry
        self._now_ms = context.clock.now_ms()

    def kept(self, segment: Segment) -> Kept:
        """Which of a segment's entries take part."""
        table = segment.table
        standings = [self._index.standing(scope) for scope in table.scopes]
        kept = self._standing(segment, standings) if any(standings) else None
        # Mostly none has a deadline: looked at as bytes, that is known at memory speed.
        some = table.expiry_ms.tobytes().strip(b"\0")
        return self._expired(segment, kept, max(table.expiry_ms)) if some else kept

    def _expired(self, segment: Segment, kept: Kept, last: int) -> Kept:
        """Also leave out what is over; ``last``: when the last of the segment's chunks expires."""
        column, now = segment.table.expiry_ms, self._now_ms
        first = min(column)
        if first <= now:
            if first and last <= now:
                over: Iterable[int] = range(len(column))
            else:
                over = [number for number, due in enumerate(column) if 0 < due <= now]
            kept = kept or bytearray(b"\1" * len(column))
            for number in over:
                self._found.chunks_expired += kept[number]
                kept[number] = 0
        if last > now:
            soonest = first if first > now else min(due for due in column if due > now)
            self._expiry.watch_all(segment, soonest)
        return kept

    def _standing(self, segment: Segment, standings: Sequence[Standing]) -> bytearray:
        table, found = segment.table, self._found
        for scope, standing in zip(table.scopes, standings, strict=True):
            if standing is Standing.UNKNOWN:
                # Should somebody know it again while we run, and delete: a restart could find this copy.
                self._trimmed.setdefault(scope.tenant, set()).add(segment.life)
        kept = bytearray(b"\1" * len(table))
        for number, place in enumerate(table.scope):
            standing = standings[place]
            if standing is Standing.ALIVE:
                continue
            kept[number] = 0
            if not table.parts[number]:
                if standing is Standing.UNKNOWN:
                    # Somebody may know it again one day: what it covers must not come back then.
                    segment.blockers[number] = self._on_disk
            elif standing is Standing.UNKNOWN:
                found.chunks_unknown += 1
            else:
                found.chunks_erased += 1
        return kept


def _insert(
    context: Context, segment: Segment, kept: Kept, tombstones: list[tuple[Segment, int]]
) -> Iterator[tuple[NamespaceIndex, bytes, int]]:
    """Enter a segment's chunks; yields (namespace, key, location that lost) for each conflict."""
    entries = segment.table
    if kept is not None and not any(kept):
        return
    rows: Iterator[tuple[bytes, int]] = zip(
        entries.keys, range(segment.base, segment.base + len(entries)), strict=True
    )
    if kept is not None:
        rows = compress(rows, kept)
    if len(entries.scopes) == 1 and not entries.tombstones:
        namespace = context.index.recover(entries.scopes[0])
        if namespace.count + len(entries) >= SPREAD_AT and not namespace.mask:
            namespace.spread()
        yield from _enter(context, namespace, rows)
        return
    for key, location in rows:
        number = location - segment.base
        if not entries.parts[number]:
            tombstones.append((segment, number))
            continue
        namespace = context.index.recover(entries.scopes[entries.scope[number]])
        if namespace.count >= SPREAD_AT and not namespace.mask:
            namespace.spread()
        yield from _enter(context, namespace, iter(((key, location),)))


def _enter(
    context: Context, namespace: NamespaceIndex, rows: Iterator[tuple[bytes, int]]
) -> Iterator[tuple[NamespaceIndex, bytes, int]]:
    shards, mask = namespace.shards, namespace.mask
    count = 0
    for key, location in rows:
        shard = shards[hash(key) >> HASH_SHIFT & mask]
        former = shard.setdefault(key, location)
        if former == location:
            count += 1
            continue
        # Lives come in rising order, so at equal sequences the later place wins.
        if _sequence(context, location) >= _sequence(context, former):
            shard[key] = location
            yield namespace, key, former
        else:
            yield namespace, key, location
    namespace.count += count


def _sequence(context: Context, location: int) -> int:
    return context.lives[life_of(location)].table.sequence[number_of(location)]


def _lost(
    context: Context,
    namespace: NamespaceIndex,
    key: bytes,
    location: int,
    stale: defaultdict[Key, list[tuple[int, int]]],
) -> None:
    segment = context.lives[life_of(location)]
    number = number_of(location)
    segment.account(number, -1)
    stale[namespace.scope, key].append((segment.life, segment.table.sequence[number]))


def _account(segment: Segment, kept: Kept) -> None:
    """All entries that take part live at first, in bulk."""
    entries = segment.table
    if kept is not None:
        _account_each(segment, entries, kept)
        return
    segment.live_count = len(entries) - entries.tombstones
    if not segment.live_count:
        return
    if min(entries.length) == max(entries.length):
        blocks = blocks_of(entries.length[0]) * len(entries)
    else:
        blocks = sum(map(blocks_of, entries.length))
    segment.live_bytes = blocks * BLOCK_BYTES
    if segment.expires_ms:
        segment.log.expiring += len(entries) - entries.expiry_ms.count(0)
    tenant_bytes, namespace_bytes = segment.log.tenant_bytes, segment.log.namespace_bytes
    if len(entries.scopes) == 1:
        entries.live_bytes[0] = segment.live_bytes
        tenant_bytes[entries.scopes[0].tenant] += segment.live_bytes
        namespace_bytes[entries.scopes[0].namespace] += segment.live_bytes
        return
    for number, place in enumerate(entries.scope):
        scope, size = entries.scopes[place], blocks_of(entries.length[number]) * BLOCK_BYTES
        entries.live_bytes[place] += size
        tenant_bytes[scope.tenant] += size
        namespace_bytes[scope.namespace] += size


def _account_each(segment: Segment, entries: EntryTable, kept: bytearray) -> None:
    for number in compress(range(len(entries)), kept):
        if entries.parts[number]:
            segment.account(number, +1)
