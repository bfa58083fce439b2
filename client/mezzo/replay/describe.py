"""Figures of a trace that a cache feels, to compare one with another.

All follow from the trace alone.  Hit rates count every block reference, as `Trace.summary` does:
a block is a hit if it is in the cache, whatever became of the blocks before it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from msgspec import Struct

from mezzo.replay.figures import percentile
from mezzo.replay.trace import Request, Trace

CACHE_BLOCKS = (1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000)
"""capacities at which a least-recently-used cache is simulated: where a hit rate rises is how far
apart, in distinct blocks, the uses of a block are"""
SHARES = (0.10, 0.25, 0.50, 0.75, 0.90, 0.99)
SECOND_BLOCK = 1


class Spread(Struct, frozen=True):
    """How the values of something are distributed."""

    mean: float
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    p99: float


class Description(Struct, frozen=True, kw_only=True):
    """Figures of one trace."""

    name: str
    requests: int
    references: int
    distinct: int
    duration_s: float
    hit_rate_max: float
    """references to blocks seen before / references: what an unbounded cache reaches"""
    lru_hit_rates: dict[str, float]
    """hit rate of a least-recently-used cache of so many blocks"""
    single_use_share: float
    """distinct blocks that are used once / distinct blocks"""
    used_2_to_4_share: float
    used_5_to_9_share: float
    used_10_or_more_share: float
    first_block_share: float
    """requests that begin with the most popular first block / requests"""
    second_block_share_max: float
    """requests that go on with the most popular second block / requests"""
    first_turn_share: float
    """requests of which at most the first block had been seen / requests"""
    full_hit_share: float
    """requests of which all blocks had been seen / requests"""
    input_tokens: Spread
    output_tokens: Spread
    new_blocks: Spread
    """blocks of a request that had not been seen"""
    reuse_s: Spread
    """time from the latest earlier request with a request's longest known prefix to that request,
    where that prefix is two blocks or more"""
    requests_per_minute: Spread
    """in whole minutes"""
    dispersion: float
    """variance / mean of the requests per minute; 1 for a Poisson process of constant rate"""
    last_third_to_first: float
    """requests in the last third of the time / in the first"""


def describe(trace: Trace) -> Description:
    """Look through a trace, which must have a request."""
    requests = trace.requests
    summary = trace.summary()
    uses = Counter(hash_id for request in requests for hash_id in request.hash_ids)
    distinct = len(uses)
    of_uses = Counter(min(count, 10) for count in uses.values())
    minutes = _minutes(requests)
    mean = sum(minutes) / len(minutes)
    new, first_turns, full_hits, reuse_s = _walk(requests)
    start_ms = requests[0].timestamp_ms
    third_ms = max(1e-9, summary.duration_s * 1000 / 3)
    thirds = Counter(min(2, int((request.timestamp_ms - start_ms) / third_ms)) for request in requests)
    return Description(
        name=trace.name,
        requests=summary.requests,
        references=summary.references,
        distinct=summary.distinct,
        duration_s=summary.duration_s,
        hit_rate_max=summary.hit_rate_max,
        lru_hit_rates={str(size): lru_hit_rate(requests, size) for size in CACHE_BLOCKS},
        single_use_share=of_uses[1] / distinct,
        used_2_to_4_share=sum(of_uses[count] for count in (2, 3, 4)) / distinct,
        used_5_to_9_share=sum(of_uses[count] for count in range(5, 10)) / distinct,
        used_10_or_more_share=of_uses[10] / distinct,
        first_block_share=_most_popular(requests, 0),
        second_block_share_max=_most_popular(requests, SECOND_BLOCK),
        first_turn_share=first_turns / len(requests),
        full_hit_share=full_hits / len(requests),
        input_tokens=_spread([request.input_tokens for request in requests]),
        output_tokens=_spread([request.output_tokens for request in requests]),
        new_blocks=_spread(new),
        reuse_s=_spread(reuse_s),
        requests_per_minute=_spread(minutes),
        dispersion=sum((count - mean) ** 2 for count in minutes) / len(minutes) / mean if mean else 0.0,
        last_third_to_first=thirds[2] / max(1, thirds[0]),
    )


def lru_hit_rate(requests: Sequence[Request], blocks_max: int) -> float:
    """Share of the block references that a cache of ``blocks_max`` blocks has, the least recently used going first."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = references = 0
    for request in requests:
        for hash_id in request.hash_ids:
            references += 1
            if hash_id in cache:
                hits += 1
                cache.move_to_end(hash_id)
            else:
                cache[hash_id] = None
                if len(cache) > blocks_max:
                    cache.popitem(last=False)
    return hits / max(1, references)


def _walk(requests: Sequence[Request]) -> tuple[list[float], int, int, list[float]]:
    """New blocks of each request, first turns, full hits, seconds since the known prefix was used."""
    last_ms: dict[int, float] = {}
    new: list[float] = []
    reuse_s: list[float] = []
    first_turns = full_hits = 0
    for request in requests:
        ids = request.hash_ids
        known = 0
        while known < len(ids) and ids[known] in last_ms:
            known += 1
        new.append(len(ids) - known)
        first_turns += known <= 1
        full_hits += known == len(ids)
        if known > 1:
            reuse_s.append((request.timestamp_ms - last_ms[ids[known - 1]]) / 1000)
        for hash_id in ids:
            last_ms[hash_id] = request.timestamp_ms
    return new, first_turns, full_hits, reuse_s


def _most_popular(requests: Sequence[Request], index: int) -> float:
    counts = Counter(request.hash_ids[index] for request in requests if len(request.hash_ids) > index)
    return max(counts.values(), default=0) / len(requests)


def _minutes(requests: Sequence[Request]) -> list[float]:
    start_ms = requests[0].timestamp_ms
    whole = int((requests[-1].timestamp_ms - start_ms) // 60_000)
    counts = Counter(int((request.timestamp_ms - start_ms) // 60_000) for request in requests)
    return [float(counts[minute]) for minute in range(max(1, whole))]


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(0, 0, 0, 0, 0, 0, 0)
    ordered = sorted(values)
    return Spread(sum(ordered) / len(ordered), *(percentile(ordered, share) for share in SHARES))
