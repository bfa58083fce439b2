"""What can be had with knowledge of the future.

Belady's MIN: what is wanted again last goes first (L. A. Belady 1966; optimal for chunks of one size).  With
hits counted as prefix hits it is a bound all the same: it goes by the time of the next use, which the chunks
of a prefix share but for those that a request diverges before, and among equals by the highest position, so
that prefixes shrink from their end.  A chunk that is never wanted again never displaces another.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from mezzo_server.simulate.workload import ChunkRequest

NEVER = 1 << 62


def optimum(requests: Sequence[ChunkRequest], capacity_bytes: int, chunk_bytes: int) -> tuple[float, float]:
    """(share of references that hit, share of bytes) under Belady's MIN, with not a byte wasted."""
    nexts = _next_uses(requests)
    there: dict[int, tuple[int, int]] = {}
    """chunk -> (when it is used next, bytes)"""
    heap: list[tuple[int, int, int]] = []
    used = hits = hit_bytes = references = asked = 0
    for request, uses in zip(requests, nexts, strict=True):
        sizes = request.sizes or (chunk_bytes,) * len(request.ids)
        whole = True
        for chunk, size in zip(request.ids, sizes, strict=True):
            whole = whole and chunk in there
            hits += whole
            hit_bytes += size * whole
        references += len(request.ids)
        asked += sum(sizes)
        for position, (chunk, use, size) in enumerate(zip(request.ids, uses, sizes, strict=True)):
            if chunk not in there:
                used += size
            there[chunk] = (use, size)
            heappush(heap, (-use, -position, chunk))
        while used > capacity_bytes:
            use, _, chunk = heappop(heap)
            known = there.get(chunk)
            if known is not None and known[0] == -use:
                used -= known[1]
                del there[chunk]
    return hits / max(references, 1), hit_bytes / max(asked, 1)


def _next_uses(requests: Sequence[ChunkRequest]) -> list[list[int]]:
    """For each reference, the number of the request that wants the chunk next."""
    last: dict[int, int] = {}
    nexts: list[list[int]] = []
    for number in range(len(requests) - 1, -1, -1):
        ids = requests[number].ids
        nexts.append([last.get(chunk, NEVER) for chunk in ids])
        for chunk in ids:
            last[chunk] = number
    nexts.reverse()
    return nexts
