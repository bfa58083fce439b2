"""The demo's choice of a capacity and of a hot tier."""

from __future__ import annotations

import pytest

from mezzo.cli.demo import choose_capacity, choose_hot
from mezzo.errors import Unavailable

MIB = 1024**2
GIB = 1024**3


def test_so_few_bytes_that_reclaim_has_work() -> None:
    assert choose_capacity(0, distinct_bytes=12 * GIB, free_bytes=100 * GIB) == 4 * GIB
    assert choose_capacity(0, distinct_bytes=2 * GIB, free_bytes=100 * GIB) == int(2 * GIB * 0.4) // MIB * MIB
    assert choose_capacity(0, distinct_bytes=1 * MIB, free_bytes=100 * GIB) == 256 * MIB


def test_as_asked() -> None:
    assert choose_capacity(7 * GIB, distinct_bytes=1 * GIB, free_bytes=100 * GIB) == 7 * GIB
    assert choose_capacity(64 * MIB, distinct_bytes=1 * GIB, free_bytes=100 * GIB) == 64 * MIB


def test_less_where_the_disk_has_less_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_capacity(7 * GIB, distinct_bytes=1 * GIB, free_bytes=3 * GIB) == 2 * GIB
    assert capsys.readouterr().err == "a device of 2GiB instead of 7GiB: the disk has no room for more\n"


def test_no_room_at_all() -> None:
    with pytest.raises(Unavailable, match=r"1\.1 GB are free on the disk.*--dir"):
        choose_capacity(0, distinct_bytes=1 * GIB, free_bytes=1 * GIB + 10 * MIB)


def test_a_hot_tier_that_neither_device_nor_memory_feels(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_hot(2 * GIB, free_bytes=64 * GIB) == 512 * MIB
    assert choose_hot(64 * GIB, free_bytes=64 * GIB) == 1 * GIB
    assert choose_hot(4 * GIB, free_bytes=1 * GIB) == 256 * MIB
    assert choose_hot(350 * MIB, free_bytes=64 * GIB) == 64 * MIB, "whole arenas"
    assert capsys.readouterr().err == ""
    assert choose_hot(128 * MIB, free_bytes=64 * GIB) == 0
    assert "no hot tier" in capsys.readouterr().err
