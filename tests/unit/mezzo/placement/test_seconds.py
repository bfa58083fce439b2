"""Who has second copies: always another failure domain, the next best, and moved by as little as may be."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.placement.rendezvous import NOBODY, Contender, owners, ranking
from mezzo.placement.seconds import domains, seconds
from mezzo_server.pod import table as pod_table

IDS = [bytes([n, 255 - n]) * 8 for n in range(64)]
WEIGHTS = st.sampled_from([0, 1, 3, 1000, 1 << 40])


@st.composite
def pods(draw):
    these = draw(
        st.lists(
            st.builds(Contender, st.binary(min_size=16, max_size=16), WEIGHTS),
            max_size=8,
            unique_by=lambda contender: contender.id,
        )
    )
    domain_of = draw(st.lists(st.integers(0, 3), min_size=len(these), max_size=len(these)))
    return these, domain_of


@given(pods())
def test_the_seconds_in_c_are_those_in_python(pod):
    if not pod_table.fast_seconds:
        pytest.skip("there is no compiled table")
    these, domain_of = pod
    table = owners(these, 6)
    assert pod_table.make_seconds(these, domain_of, table, 6) == seconds(these, domain_of, table, 6)


@given(pods(), st.integers(0, 63))
def test_a_second_is_the_next_of_the_ranking_that_does_not_fail_with_the_owner(pod, slot):
    these, domain_of = pod
    table = owners(these, 6)
    order = ranking(these, slot)
    others = [index for index in order if domain_of[index] != domain_of[order[0]]]
    assert seconds(these, domain_of, table, 6)[slot] == (others[0] if others else NOBODY)


@given(pods())
def test_the_order_in_which_shards_stand_is_no_matter(pod):
    these, domain_of = pod
    there = seconds(these, domain_of, owners(these, 5), 5)
    back = seconds(these[::-1], domain_of[::-1], owners(these[::-1], 5), 5)
    last = len(these) - 1
    assert list(there) == [index if index == NOBODY else last - index for index in back]


def test_when_an_owner_leaves_its_slots_go_to_those_that_were_second():
    """So second copies are owned copies at once, wherever the pod has as many nodes as shards."""
    these = [Contender(shard, 100) for shard in IDS[:8]]
    table = owners(these, 10)
    found = seconds(these, list(range(8)), table, 10)
    for gone in range(8):
        after = owners([*these[:gone], these[gone]._replace(weight=0), *these[gone + 1 :]], 10)
        assert all(now == second for was, now, second in zip(table, after, found, strict=True) if was == gone)


def test_seconds_are_shared_out_as_slots_are():
    these = [Contender(shard, 100) for shard in IDS]
    table = pod_table.make_table(these, 16)
    domain_of = [index // 4 for index in range(64)]
    counts = Counter(pod_table.make_seconds(these, domain_of, table, 16))
    assert NOBODY not in counts
    assert max(abs(counts[index] / 1024 - 1) for index in range(64)) < 0.16


ONE, TWO = ["a", "a", "b", "b"], ["x", "x", "y", "y"]


@pytest.mark.parametrize(
    ("nodes", "racks", "weights", "together"),
    [
        (ONE, ["", "", "", ""], [1, 1, 1, 1], ["01", "23"]),  # nodes
        (["a", "b", "c", "d"], TWO, [1, 1, 1, 1], ["01", "23"]),  # racks
        (["a", "b", "c", "d"], TWO, [2, 2, 1, 1], ["01", "23"]),  # the larger has two thirds
        (["a", "b", "c", "d"], TWO, [2, 3, 1, 1], ["0", "1", "2", "3"]),  # and more
        (["a", "b", "c", "d"], ["x", "x", "x", "x"], [1, 1, 1, 1], ["0", "1", "2", "3"]),  # one rack
        (["a", "b", "c", "d"], ["x", "x", "y", ""], [1, 1, 1, 1], ["0", "1", "2", "3"]),  # one is not known
        (["a", "b", "c", "d"], ["x", "x", "y", ""], [1, 1, 1, 0], ["01", "2", "3"]),  # of who owns nothing
        (["a", "a", "a", "a"], ["", "", "", ""], [1, 1, 1, 1], ["0", "1", "2", "3"]),  # one node: its shards
        (["a", "a", "b", "b"], ["", "", "", ""], [1, 1, 0, 0], ["0", "1", "2", "3"]),  # one node is left
    ],
)
def test_what_fails_together(nodes, racks, weights, together):
    numbers = domains(nodes, racks, weights)
    groups = [[int(digit) for digit in group] for group in together]
    for group in groups:
        assert len({numbers[index] for index in group}) == 1
    assert len({numbers[group[0]] for group in groups}) == len(groups)


def test_a_shard_that_joins_takes_seconds_and_moves_few_others():
    before = [Contender(shard, 100) for shard in IDS[:16]]
    after = [*before, Contender(IDS[16], 100)]
    tables = [owners(these, 12) for these in (before, after)]
    found = [
        seconds(these, list(range(len(these))), table, 12)
        for these, table in zip((before, after), tables, strict=True)
    ]
    moved = sum(was != now for was, now in zip(*found, strict=True))
    # Who loses a slot to it is mostly its second from then on, and its second before is not needed any more.
    assert moved <= 1.3 * 2 * (1 << 12) / 17
    stayed = [
        (was, now)
        for was, now, old, new in zip(*found, *tables, strict=True)
        if old == new  # the owner
    ]
    assert all(now in (was, 16) for was, now in stayed)


def test_vectors():
    """Those of docs/placement.md: an implementation in another language must find the same."""
    these = [Contender(IDS[n], n + 1) for n in range(4)]
    table = owners(these, 4)
    assert list(table) == [3, 0, 3, 2, 1, 2, 3, 3, 2, 3, 2, 1, 1, 3, 2, 2]
    found = {
        "nodes": domains(["a", "a", "b", "b"], [""] * 4, [1, 2, 3, 4]),
        "racks": domains(["a", "b", "c", "d"], ["x", "y", "y", "x"], [1, 2, 3, 4]),
        "seconds by nodes": list(seconds(these, [0, 0, 1, 1], table, 4)),
        "seconds by racks": list(seconds(these, [0, 1, 1, 0], table, 4)),
        "seconds by shards": list(seconds(these, [0, 1, 2, 3], table, 4)),
    }
    assert found == VECTORS


VECTORS: dict[str, object] = {
    "nodes": [0, 0, 1, 1],
    "racks": [0, 1, 1, 0],
    "seconds by nodes": [1, 3, 1, 0, 3, 0, 1, 1, 0, 1, 0, 3, 2, 1, 1, 1],
    "seconds by racks": [1, 2, 1, 3, 3, 3, 1, 1, 0, 1, 3, 0, 3, 2, 3, 3],
    "seconds by shards": [1, 3, 1, 3, 3, 3, 1, 1, 0, 1, 3, 0, 2, 2, 1, 1],
}
