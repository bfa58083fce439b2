"""Figures of traces: against small traces whose figures one can count, and a simple model of a cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.replay.describe import describe, lru_hit_rate
from mezzo.replay.trace import Request, Trace

TRACE = Trace(
    "t",
    (
        Request(0.0, 1000, 10, (0, 1)),
        Request(30_000.0, 600, 20, (0, 2)),
        Request(60_000.0, 1500, 30, (0, 1, 3)),
        Request(150_000.0, 1500, 40, (0, 1, 3)),
    ),
)


def test_figures_that_one_can_count() -> None:
    d = describe(TRACE)
    assert (d.requests, d.references, d.distinct, d.duration_s) == (4, 10, 4, 150)
    assert d.hit_rate_max == 0.6
    assert d.lru_hit_rates["1000"] == 0.6
    assert (d.single_use_share, d.used_2_to_4_share) == (0.25, 0.75)
    assert (d.first_block_share, d.second_block_share_max) == (1.0, 0.75)
    assert (d.first_turn_share, d.full_hit_share) == (0.5, 0.25)
    assert d.input_tokens.mean == 1150
    assert (d.output_tokens.p10, d.output_tokens.p50, d.output_tokens.p99) == (10, 20, 40)
    assert d.new_blocks.mean == 1
    assert (d.reuse_s.mean, d.reuse_s.p10, d.reuse_s.p99) == (75, 60, 90)
    assert d.requests_per_minute.mean == 1.5
    assert d.last_third_to_first == 0.5


@pytest.mark.filterwarnings("error")
def test_one_request_is_enough() -> None:
    d = describe(Trace("t", (Request(5.0, 1, 1, (0,)),)))
    assert (d.hit_rate_max, d.reuse_s.mean, d.requests_per_minute.mean) == (0, 0, 1)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, unique=True), min_size=1), st.integers(1, 12))
def test_lru_as_a_list_does_it(lists: list[list[int]], size: int) -> None:
    cache: list[int] = []
    hits = 0
    flat = [hash_id for ids in lists for hash_id in ids]
    for hash_id in flat:
        hits += hash_id in cache
        cache = [hash_id, *(one for one in cache if one != hash_id)][:size]
    requests = [Request(0.0, 1, 1, tuple(ids)) for ids in lists]
    assert lru_hit_rate(requests, size) == hits / len(flat)
