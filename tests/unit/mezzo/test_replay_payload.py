"""The payload pattern: any byte out of place is found."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument
from mezzo.replay.payload import Pattern

SIZE = 4096


def payload(hash_id: int, salt: str = "", size: int = SIZE) -> bytearray:
    block = bytearray(size)
    Pattern(size, salt).fill(memoryview(block), hash_id)
    return block


def wrong(block: bytearray, hash_id: int, salt: str = "") -> int:
    return Pattern(len(block), salt).wrong_bytes(memoryview(block), hash_id)


ids = st.integers(0, 2**63 - 1)


@given(ids, st.text(max_size=5), st.integers(1, 100))
def test_right_bytes_are_right(hash_id: int, salt: str, words: int) -> None:
    assert wrong(payload(hash_id, salt, 8 * words), hash_id, salt) == 0


@given(ids, ids)
def test_another_block_is_wrong_all_over(one: int, other: int) -> None:
    assume(one != other)
    # Two random bytes are equal once in 256, and the secret repeats every 8 bytes.
    assert wrong(payload(one), other) >= SIZE // 8


@given(ids)
def test_another_salt_is_wrong(hash_id: int) -> None:
    assert wrong(payload(hash_id, "a"), hash_id, "b") >= SIZE // 8
    assert Pattern(SIZE, "a").key(hash_id) != Pattern(SIZE, "b").key(hash_id)


@given(ids, st.integers(1, SIZE - 1))
def test_shifted_bytes_are_wrong(hash_id: int, shift: int) -> None:
    block = payload(hash_id)
    assert wrong(block[shift:] + block[:shift], hash_id) > SIZE // 2


@given(ids, st.integers(0, SIZE // 512 - 1), st.integers(0, SIZE // 512 - 1))
def test_a_sector_in_the_place_of_another_is_found(hash_id: int, here: int, there: int) -> None:
    assume(here != there)
    block = payload(hash_id)
    block[512 * here : 512 * (here + 1)] = block[512 * there : 512 * (there + 1)]
    assert 256 < wrong(block, hash_id) <= 512


@given(ids, st.integers(0, SIZE - 1), st.integers(1, 255))
def test_one_wrong_byte_is_counted(hash_id: int, place: int, change: int) -> None:
    block = payload(hash_id)
    block[place] ^= change
    assert wrong(block, hash_id) == 1


@given(ids)
def test_spoiled_memory_has_no_right_byte(hash_id: int) -> None:
    block = payload(hash_id)
    Pattern(SIZE).spoil(memoryview(block), hash_id)
    assert wrong(block, hash_id) == SIZE


def test_keys_differ_by_block_and_by_size() -> None:
    keys = {Pattern(SIZE).key(hash_id) for hash_id in range(1000)}
    assert len(keys) == 1000
    assert {len(key) for key in keys} == {16}
    assert Pattern(8).key(3) not in keys


def test_golden_bytes() -> None:
    """A store filled by one release is checked by another: keys and bytes never change."""
    pattern = Pattern(16, "salt")
    block = bytearray(16)
    pattern.fill(memoryview(block), 7)
    assert pattern.key(7).hex() == "206d887b35fad9dccaf1b34e327ab7b4"
    assert block.hex() == "8709d2d3c4087796dca17609973e2f1a"


@pytest.mark.parametrize("size", [0, -8, 7, 2**31])
def test_sizes_that_it_cannot_do(size: int) -> None:
    with pytest.raises(InvalidArgument, match="bytes per block"):
        Pattern(size)


def test_memory_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="8 bytes given for a block of 16"):
        Pattern(16).fill(memoryview(bytearray(8)), 1)
