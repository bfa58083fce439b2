"""Bounds of policies, computed on traces that are small enough to know them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.policy_bounds import as_density, by_age, ceiling, finer, learn, lru, replay

PREFIXES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 6)).map(
        lambda one: [10 * one[0] + place for place in range(one[1])]
    ),
    min_size=1,
    max_size=40,
)


def test_lru_drops_prefixes_from_their_end() -> None:
    assert lru([[1, 2, 3], [1, 2, 3]], 2) == 2
    assert lru([[1, 2], [3], [1, 2]], 2) == 1


def test_what_fits_is_kept_and_what_does_not_is_bounded() -> None:
    # Two chunks in turn, each wanted again after two references: one of them fits, so every other is a hit.
    requests = [[1 + number % 2] for number in range(400)]
    known = learn(requests, by_age)
    assert 195 <= ceiling(known, 1) <= 205
    assert replay(known, 2) == ceiling(known, 2) == 398


@settings(max_examples=15)
@given(PREFIXES, st.integers(1, 20))
def test_more_space_and_more_classes_never_lower_the_ceiling(requests: list[list[int]], space: int) -> None:
    coarse, fine = learn(requests, by_age), learn(requests, finer)
    assert ceiling(coarse, space) <= ceiling(fine, space) + 1e-6
    assert ceiling(coarse, space) <= ceiling(coarse, space + 1) + 1e-6
    distinct = {chunk for request in requests for chunk in request}
    known = learn(requests, as_density)
    assert replay(known, len(distinct)) == known.references - len(distinct)
