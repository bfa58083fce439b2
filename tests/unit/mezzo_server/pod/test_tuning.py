"""Tunings: how even the shards' shares are, and how little joining and leaving moves."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.placement.rendezvous import NOBODY
from mezzo_server.pod import table as pod_table
from mezzo_server.pod.tuning import TOLERANCE, TUNING_MAX, TUNING_MIN, TUNING_ONE, contenders, tune

needs_c = pytest.mark.skipif(not pod_table.fast, reason="there is no compiled table")
NODE_GB = 150_000


def names(count: int, seed: int = 1) -> list[bytes]:
    draw = random.Random(seed)
    return [draw.randbytes(16) for _ in range(count)]


@needs_c
@pytest.mark.parametrize("seed", range(3))
def test_a_rack_of_64_nodes_is_even_and_a_65th_moves_no_more_than_it_must(seed):
    ids = names(65, seed)
    now = tune(ids[:64], [NODE_GB] * 64, [TUNING_ONE] * 64, 16)
    assert now.worst <= TOLERANCE < 0.05
    counts = Counter(now.table)
    assert max(abs(counts[index] / 1024 - 1) for index in range(64)) <= 0.05
    later = tune(ids, [NODE_GB] * 65, [*now.tunings, TUNING_ONE], 16)
    assert later.worst <= TOLERANCE
    moved = sum(was != new for was, new in zip(now.table, later.table, strict=True))
    assert moved <= 1.1 * (1 << 16) / 65


@needs_c
def test_nodes_of_different_sizes_get_what_they_are_worth():
    sizes = [50_000, 100_000, 150_000] * 8
    found = tune(names(24), sizes, [TUNING_ONE] * 24, 16)
    counts = Counter(found.table)
    for index, size in enumerate(sizes):
        due = (1 << 16) * size / sum(sizes)
        assert abs(counts[index] / due - 1) <= 0.05


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 7, 100, 5000]), max_size=5),
    st.lists(st.integers(TUNING_MIN, TUNING_MAX), min_size=5, max_size=5),
)
def test_tuning_never_makes_it_worse_and_is_repeatable(capacities, tunings):
    ids = names(len(capacities))
    tunings = tunings[: len(capacities)]
    found = tune(ids, capacities, tunings, 7)
    assert found == tune(ids, capacities, tunings, 7)
    assert all(TUNING_MIN <= tuning <= TUNING_MAX for tuning in found.tunings)
    assert list(found.table) == list(pod_table.make_table(contenders(ids, capacities, found.tunings), 7))
    for index, capacity in enumerate(capacities):
        assert capacity or index not in found.table
    assert (NOBODY in found.table) is (not any(capacities))
