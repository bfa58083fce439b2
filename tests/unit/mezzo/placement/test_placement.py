"""The function that names a slot's owner: its vectors, its shares, and how little it moves."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.placement import rendezvous
from mezzo.placement.rendezvous import NOBODY, Contender, cost, negative_log2, owners, ranking, shard_seed
from mezzo.placement.slots import namespace_seed, slot_of
from mezzo_server.pod import table as pod_table

IDS = [bytes([n, 255 - n]) * 8 for n in range(40)]

contenders = st.lists(
    st.builds(Contender, st.binary(min_size=16, max_size=16), st.sampled_from([0, 1, 3, 1000, 1 << 40])),
    max_size=8,
    unique_by=lambda contender: contender.id,
)


@given(contenders)
def test_the_table_in_c_is_the_one_in_python(these):
    if not pod_table.fast:
        pytest.skip("there is no compiled table")
    assert pod_table.make_table(these, 6) == owners(these, 6)


@given(contenders, st.integers(0, 63))
def test_a_slot_goes_to_the_first_of_its_ranking(these, slot):
    order = ranking(these, slot)
    assert owners(these, 6)[slot] == (order[0] if order else NOBODY)
    assert sorted(order) == [index for index, contender in enumerate(these) if contender.weight]


@given(contenders.filter(bool), st.data())
def test_one_that_leaves_moves_its_own_slots_only(these, data):
    gone = data.draw(st.integers(0, len(these) - 1))
    before = owners(these, 6)
    after = owners([*these[:gone], these[gone]._replace(weight=0), *these[gone + 1 :]], 6)
    assert all(was == now for was, now in zip(before, after, strict=True) if was != gone)
    assert gone not in after


@given(contenders.filter(bool), st.data())
def test_the_order_in_which_shards_stand_is_no_matter(these, data):
    shuffled = data.draw(st.permutations(these))
    by_id = [
        [group[index].id for index in owners(group, 5) if index != NOBODY] for group in (these, shuffled)
    ]
    assert by_id[0] == by_id[1]


def test_shares_are_as_weights():
    weights = [1, 2, 3, 10]
    these = [Contender(shard, weight) for shard, weight in zip(IDS, weights, strict=False)]
    counts = Counter(pod_table.make_table(these, 16))
    for index, weight in enumerate(weights):
        due = (1 << 16) * weight / 16
        assert abs(counts[index] - due) < 5 * math.sqrt(due)


@given(st.integers(1, (1 << 64) - 1))
def test_logarithms_are_right(number):
    exact = -math.log2(number) + 64 if number < 1 << 63 else -math.log2(Fraction(number, 1 << 64))
    assert abs(negative_log2(number) / (1 << 48) - exact) < 2**-18
    assert negative_log2(number) >= 0


def test_nothing_is_drawn_as_one():
    assert negative_log2(0) == negative_log2(1) == 64 << 48


@pytest.mark.parametrize(
    ("these", "why"),
    [
        ([Contender(IDS[0], 1), Contender(IDS[0], 2)], "twice"),
        ([Contender(IDS[0], -1)], "weight"),
        ([Contender(IDS[0], rendezvous.WEIGHT_MAX + 1)], "weight"),
        ([Contender(b"short", 1)], "16 bytes"),
    ],
)
def test_who_is_no_contender(these, why):
    with pytest.raises(ValueError, match=why):
        owners(these, 4)


def test_vectors():
    """Those of docs/placement.md: an implementation in another language must find the same."""
    tenant, namespace = bytes(range(16)), bytes(range(16, 32))
    seed = namespace_seed(tenant, namespace)
    keys = [b"", b"a", bytes(32), b"prefix/0001"]
    numbers = {
        "namespace seed": f"{seed:016x}",
        "slots": [slot_of(key, seed) for key in keys],
        "logarithms": [
            negative_log2(n) for n in (1, 1 << 32, (1 << 63) + 1, (1 << 64) - 1, 0x0123456789ABCDEF)
        ],
        "shard seed": f"{shard_seed(tenant):016x}",
        "costs": [cost(shard_seed(tenant), slot, 1000) for slot in (0, 1, 65535)],
        "table": list(owners([Contender(IDS[n], n + 1) for n in range(4)], 4)),
    }
    assert numbers == VECTORS


VECTORS: dict[str, object] = {
    "namespace seed": "3523581fe96e4c05",
    "slots": [12224, 35097, 51992, 60310],
    "logarithms": [18014398509481984, 9007199254740992, 281474976710656, 47321, 2199384351312721],
    "shard seed": "59acd74743e8db97",
    "costs": [1003649036913749229653983, 104726992142830033377951, 404714442905338905087705],
    "table": [3, 0, 3, 2, 1, 2, 3, 3, 2, 3, 2, 1, 1, 3, 2, 2],
}
