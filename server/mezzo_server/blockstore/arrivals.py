"""How the chunks of a put are cut into records: by the policy's lanes, and by size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mezzo_server.blockstore.api import PutChunk
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.index import NamespaceIndex

GROUP_BYTES = 4 << 20
GROUP_CHUNKS = 128
"""A put is cut into records of about this size, so that checksums of one overlap writes of another."""
GROUP_SEGMENT_SHARE = 4
"""No record of several chunks is larger than a segment divided by this: it must fit, and waste little."""

ENTRY_BYTES_MAX = 128
PART_BYTES = 12
"""Upper bounds of a row in a record's header or in a table, key included, and of a part's."""
ROWS_BYTES_MAX = 2 * ENTRY_BYTES_MAX
"""of a chunk's two rows, without its parts"""


def record_weight(parts: Sequence[int]) -> int:
    """Bytes that a chunk adds to a segment, at most: payload, and its rows in header and table."""
    return blocks_of(sum(parts)) * BLOCK_BYTES + ROWS_BYTES_MAX + 2 * PART_BYTES * len(parts)


@dataclass(slots=True)
class Arrivals:
    """Chunks of one request that become one record."""

    numbers: list[int]
    marks: list[int] | None
    """what the policy says of each; None: nothing"""
    lane: int


def admitted(
    context: Context, namespace: NamespaceIndex, chunks: Sequence[PutChunk], fresh: Sequence[int]
) -> Sequence[int]:
    """Those of the chunks that are taken."""
    admission = context.admission
    if admission.takes_all:
        return fresh
    salt = namespace.salt
    return [n for n in fresh if chunks[n].admitted or admission.takes(salt, chunks[n])]


def arrivals(
    context: Context,
    namespace: NamespaceIndex,
    chunks: Sequence[PutChunk],
    fresh: Sequence[int],
    sizes: Sequence[int],
) -> list[Arrivals]:
    """Those of a request's chunks that are not stored yet, in groups. ``sizes``: of all chunks, in whole blocks."""
    if not fresh:
        return []
    policy = context.policy
    # one alone is a record, however large
    most = 0 if len(fresh) == 1 else min(GROUP_BYTES, context.segment_bytes_min // GROUP_SEGMENT_SHARE)
    marks = policy.arriving(namespace.salt, chunks, fresh)
    if marks is None:
        return [Arrivals(numbers, None, 0) for numbers in _cut(chunks, fresh, sizes, most)]
    of = dict(zip(fresh, marks, strict=True))
    lanes = list(map(policy.lane, marks))
    result = []
    for lane in sorted(set(lanes)):
        mine = [number for number, one in zip(fresh, lanes, strict=True) if one == lane]
        for numbers in _cut(chunks, mine, sizes, most):
            result.append(Arrivals(numbers, [of[number] for number in numbers], lane))
    return result


def _cut(
    chunks: Sequence[PutChunk], numbers: Sequence[int], sizes: Sequence[int], most: int
) -> list[list[int]]:
    if len(numbers) == 1:
        return [list(numbers)]
    groups: list[list[int]] = []
    group: list[int] = []
    size = 0
    for number in numbers:
        # `record_weight`, of what is known already
        weighs = sizes[number] + ROWS_BYTES_MAX + 2 * PART_BYTES * len(chunks[number].parts)
        if not group or size + weighs > most or len(group) >= GROUP_CHUNKS:
            group, size = [], 0
            groups.append(group)
        group.append(number)
        size += weighs
    return groups
