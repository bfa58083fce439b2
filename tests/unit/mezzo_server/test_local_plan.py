"""The map of a node's shards: the same for every front-end, and what its settings tell of them."""

from __future__ import annotations

import pytest

from mezzo.errors import InvalidArgument
from mezzo.placement.pod_map import decode_map
from mezzo_server.config.shards import ShardTold, parse_shard
from mezzo_server.pod.local import LocalPlan
from mezzo_server.pod.plan import Member

IDS = [bytes([number] * 16) for number in range(1, 5)]


def members(count: int, capacity: int = 1 << 30) -> list[Member]:
    return [
        Member(shard, "node", "", (f"unix:///{number}",), capacity)
        for number, shard in enumerate(IDS[:count])
    ]


def plan_of(shards: list[Member]) -> LocalPlan:
    plan = LocalPlan(slots_log2=8)
    assert plan.follow(shards, 1000.0)
    return plan


def test_every_front_end_makes_the_same_map_whatever_the_order_of_the_shards():
    one, other = plan_of(members(4)), plan_of(members(4)[::-1])
    assert one.pod_map.epoch == 1
    assert one.encoded == other.encoded
    assert decode_map(one.encoded) == one.pod_map
    counts = [list(one.pod_map.table).count(index) for index in range(4)]
    assert sum(counts) == 256
    assert max(counts) - min(counts) <= 8


def test_a_map_is_made_anew_only_when_the_shards_are_others():
    plan = plan_of(members(2))
    assert not plan.follow(members(2), 1001.0)
    larger = [members(2)[0], members(2, 1 << 31)[1]]
    assert plan.follow(larger, 1002.0)
    assert plan.pod_map.epoch == 2
    assert plan.pod_map.previous  # who had the slots that moved is asked still


def test_nodes_are_pods_of_their_own():
    assert plan_of(members(2)).pod_map.pod != plan_of(members(3)).pod_map.pod


@pytest.mark.parametrize(
    "told",
    [
        ShardTold(("unix:///run/mezzo.sock.0",)),
        ShardTold(("unix:///a", "tcp://127.0.0.1:7700", "tcps://h:1"), IDS[0], 5 << 30),
    ],
)
def test_what_is_told_of_a_shard_is_read_as_it_was_written(told):
    assert parse_shard(str(told)) == told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "1 to 8 addresses"),
        ("id=" + "00" * 16, "1 to 8 addresses"),
        ("unix:///a id=00", "32 hexadecimal digits"),
        ("unix:///a bytes=much", "a size"),
        ("grpc://h:1", "no shard's address"),
        ("nonsense", "nonsense"),
    ],
)
def test_what_is_told_of_a_shard_may_be_wrong(text, words):
    with pytest.raises(InvalidArgument, match=words):
        parse_shard(text)
