"""The seeded workload: the same everywhere, and what conversations look like."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument
from mezzo.replay.trace import BLOCK_TOKENS, format_request, parse
from mezzo.replay.workload import WorkloadOptions, workload

SMALL = WorkloadOptions(conversations=40, duration_s=60)


def test_it_is_the_same_everywhere() -> None:
    lines = b"\n".join(format_request(request) for request in workload(SMALL).requests)
    assert (
        hashlib.sha256(lines).hexdigest()
        == "ff85ba6effb6d022b831d84ba2fe3cb06246b915128143456fa8d111916ae80e"
    )


def test_another_seed_is_another_workload() -> None:
    assert workload(SMALL) == workload(SMALL)
    assert (
        workload(SMALL).requests
        != workload(WorkloadOptions(conversations=40, duration_s=60, seed=2)).requests
    )


def test_the_default_has_work_for_a_cache() -> None:
    summary = workload(WorkloadOptions()).summary()
    assert 2000 < summary.requests < 4000
    assert 10_000 < summary.distinct < 30_000
    assert 0.6 < summary.hit_rate_max < 0.9


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 5), st.floats(1, 6))
def test_it_is_a_trace(seed: int, conversations: int, prompts: int, turns: float) -> None:
    made = workload(
        WorkloadOptions(seed=seed, conversations=conversations, system_prompts=prompts, turns_mean=turns)
    )
    assert len(made.requests) >= conversations
    assert tuple(parse([format_request(request) for request in made.requests], "made")) == made.requests
    # Numbers are dense, in order of their first appearance, and fit the length.
    fresh = 0
    for request in made.requests:
        assert len(request.hash_ids) == -(-request.input_tokens // BLOCK_TOKENS)
        for hash_id in request.hash_ids:
            assert hash_id <= fresh
            fresh += hash_id == fresh


def test_a_block_names_its_whole_prefix() -> None:
    before: dict[int, tuple[int, ...]] = {}
    for request in workload(SMALL).requests:
        for index, hash_id in enumerate(request.hash_ids):
            prefix = request.hash_ids[:index]
            assert before.setdefault(hash_id, prefix) == prefix


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conversations", 0),
        ("system_prompts", 0),
        ("duration_s", 0.0),
        ("turns_mean", -1.0),
        ("pause_s_mean", 1e9),
    ],
)
def test_senseless_options_are_named(name: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=name.replace("_prompts", " prompts")):
        workload(WorkloadOptions(**{name: value}))
