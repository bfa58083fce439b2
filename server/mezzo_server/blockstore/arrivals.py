"""How the chunks of a put are cut into records: by the policy's lanes, and by size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mezzo_server.blockstore.api import PutChunk
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.index import NamespaceIndex

GROUP_BYTES = 4 << 20
GROUP_CHUNKS = 128
"""A put is cut into records of about this size, so that checksums of one overlap writes of another."""
GROUP_SEGMENT_SHARE = 4
"""No record of several chunks is larger than a segment divided by this: it must fit, and waste little."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Chunks of one request that become one record."""

    numbers: list[int]
    marks: list[int] | None
    """what the policy says of each; None: nothing"""
    lane: int


def arrivals(
    context: Context,
    namespace: NamespaceIndex,
    chunks: Sequence[PutChunk],
    fresh: Sequence[int],
    weight: Callable[[PutChunk], int],
) -> Iterator[Arrivals]:
    """Those of a request's chunks that are not stored yet, in groups.

    ``weight`` says how many bytes a chunk adds to a segment.
    """
    if not fresh:
        return
    policy = context.policy
    most = min(GROUP_BYTES, context.segment_bytes_min // GROUP_SEGMENT_SHARE)
    marks = policy.arriving(namespace.salt, chunks, fresh)
    if marks is None:
        for numbers in _cut(chunks, fresh, weight, most):
            yield Arrivals(numbers, None, 0)
        return
    of = dict(zip(fresh, marks, strict=True))
    lanes = list(map(policy.lane, marks))
    for lane in sorted(set(lanes)):
        mine = [number for number, one in zip(fresh, lanes, strict=True) if one == lane]
        for numbers in _cut(chunks, mine, weight, most):
            yield Arrivals(numbers, [of[number] for number in numbers], lane)


def _cut(
    chunks: Sequence[PutChunk], numbers: Sequence[int], weight: Callable[[PutChunk], int], most: int
) -> Iterator[list[int]]:
    group: list[int] = []
    size = 0
    for number in numbers:
        weighs = weight(chunks[number])
        if group and (size + weighs > most or len(group) >= GROUP_CHUNKS):
            yield group
            group, size = [], 0
        group.append(number)
        size += weighs
    if group:
        yield group
