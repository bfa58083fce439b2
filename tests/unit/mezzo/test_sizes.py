"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument
from mezzo.sizes import SIZE_BYTES_MAX, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0), ("4096", 4096), ("64KiB", 65536), ("64 kib", 65536), ("4GiB", 2**32), ("1.5GB", 1_500_000_000),
        ("1MB", 10**6), ("2g", 2**31), ("1TiB", 2**40), (" 7 B ", 7), ("0.5k", 512),
        ("1_000", 1000), ("1kB", 1000), ("4096B", 4096),
    ],
)  # fmt: skip
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GiB",
        "-1",
        "64Q",
        "1e6",
        "1 2",
        "1_",
        "_1",
        "0.3KiB",
        "1..5GB",
        "9999999999TiB",
        "1GiB2",
        "\u0661",
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"size|whole number of bytes"):
        parse_size(text)


@given(st.integers(0, SIZE_BYTES_MAX))
def test_what_is_shown_can_be_given_back(nbytes: int) -> None:
    assert parse_size(format_size(nbytes)) == nbytes
