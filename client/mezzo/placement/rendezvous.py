"""Which shard owns a slot: weighted rendezvous hashing in whole numbers, so that every language gets the same.

Each shard draws a number for each slot; the lowest, divided by the shard's weight, wins (Schindelhauer and
Schomaker, "Weighted distributed hash tables", SPAA 2005: for the negative logarithm of a uniform draw, each shard
wins in proportion to its weight).  A shard that comes, goes or changes its weight moves only slots from or to
itself.  docs/placement.md has this in words, with test vectors.  No I/O.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: the step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)"""
FRACTION_BITS = 48
"""of logarithms"""
TABLE_BITS = 8
WEIGHT_MAX = 1 << 40
COST_BITS = 40
"""that a logarithm is shifted left by before it is divided by a weight"""
NOBODY = 0xFFFF
"""in a table: no shard owns the slot"""
SHARDS_MAX = NOBODY


class Contender(NamedTuple):
    """A shard that may own slots."""

    id: bytes
    """16 random bytes"""
    weight: int
    """slots it gets in proportion to; 0: none"""


def mix(value: int) -> int:
    """The finalizer of SplitMix64: a permutation of 64-bit numbers in which every bit counts."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def shard_seed(shard_id: bytes) -> int:
    """What a shard draws its numbers from. ValueError: an id has 16 bytes."""
    if len(shard_id) != 16:
        raise ValueError(f"a shard's id has 16 bytes, not {len(shard_id)}")
    low, high = (int.from_bytes(half, "little") for half in (shard_id[:8], shard_id[8:]))
    return mix(low ^ mix((high + GOLDEN) & MASK))


def draw(seed: int, slot: int) -> int:
    """The number, 64 bits, that a shard draws for a slot."""
    return mix((seed + (slot + 1) * GOLDEN) & MASK)


@cache
def logarithms() -> tuple[int, ...]:
    """log2(1 + i / 2^TABLE_BITS) for each i up to 2^TABLE_BITS, in units of 2^-FRACTION_BITS, rounded down.

    By squaring: each time the number passes 2 the next bit of its logarithm is 1.
    """
    one = 1 << 62
    found = []
    for index in range((1 << TABLE_BITS) + 1):
        number = one + (index << (62 - TABLE_BITS))
        logarithm = 0
        if number == 2 * one:
            found.append(1 << FRACTION_BITS)
            continue
        for _ in range(FRACTION_BITS):
            number = (number * number) >> 62
            logarithm <<= 1
            if number >= 2 * one:
                number >>= 1
                logarithm |= 1
        found.append(logarithm)
    return tuple(found)


def negative_log2(number: int) -> int:
    """-log2(number / 2^64) for a number of 64 bits (0 counts as 1), in units of 2^-FRACTION_BITS.

    The leading bit is exact; what follows is interpolated between the entries of `logarithms`, and off by less
    than 2^-18.
    """
    table = logarithms()
    number = number or 1
    length = number.bit_length()
    rest = (number << (64 - length)) & (MASK >> 1)  # the bits behind the leading one: 63
    index = rest >> (63 - TABLE_BITS)
    low = table[index]
    step = table[index + 1] - low
    within = (rest >> (63 - TABLE_BITS - 24)) & 0xFFFFFF
    return ((65 - length) << FRACTION_BITS) - low - ((step * within) >> 24)


def cost(seed: int, slot: int, weight: int) -> int:
    """What a slot costs a shard; it goes to the shard that it costs least, among equals to the lowest id."""
    return (negative_log2(draw(seed, slot)) << COST_BITS) // weight


def owners(contenders: Sequence[Contender], slots_log2: int) -> array[int]:
    """The table of a pod: for each slot the index of its owner among ``contenders``, `NOBODY` if there is none.

    Slots times contenders steps; `mezzo_server.pod.table` does the same in C.
    """
    check_contenders(contenders)
    order = sorted(range(len(contenders)), key=lambda index: contenders[index].id)
    running = [(index, shard_seed(contenders[index].id), contenders[index].weight) for index in order]
    running = [each for each in running if each[2]]
    table = array("H", [NOBODY]) * (1 << slots_log2)
    if not running:
        return table
    for slot in range(1 << slots_log2):
        best = -1
        for index, seed, weight in running:
            price = cost(seed, slot, weight)
            if best < 0 or price < best:
                best = price
                table[slot] = index
    return table


def ranking(contenders: Sequence[Contender], slot: int) -> list[int]:
    """Indexes of all contenders with a weight, the slot's owner first, then who would follow."""
    running = [index for index, contender in enumerate(contenders) if contender.weight]
    return sorted(
        running,
        key=lambda index: (
            cost(shard_seed(contenders[index].id), slot, contenders[index].weight),
            contenders[index].id,
        ),
    )


def check_contenders(contenders: Sequence[Contender]) -> None:
    """Raises ValueError: too many, an id twice, or a weight out of range."""
    if len(contenders) > SHARDS_MAX:
        raise ValueError(f"{len(contenders)} shards; a pod has at most {SHARDS_MAX}")
    if len({contender.id for contender in contenders}) < len(contenders):
        raise ValueError("a shard stands twice among the contenders")
    for contender in contenders:
        if not 0 <= contender.weight <= WEIGHT_MAX:
            raise ValueError(f"shard {contender.id.hex()}: a weight of {contender.weight}; 0 to {WEIGHT_MAX}")
