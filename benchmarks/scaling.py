"""The figures of docs/scaling.md: ``python -m benchmarks.scaling [NODES ...]``.

For pods of so many nodes, each of four shards: how even, what one more node moves, how large the map and its
difference are, and what making and reading them takes.  Nothing here depends on how many chunks there are.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from mezzo.placement.pod_map import (
    PodMap,
    ShardPlace,
    apply,
    decode_difference,
    decode_map,
    difference,
    encode_difference,
    encode_map,
)
from mezzo.placement.seconds import domains
from mezzo_server.pod.table import make_seconds
from mezzo_server.pod.tuning import TUNING_ONE, Tuned, contenders, tune

SHARDS = 4
"""of a node"""
SHARD_UNITS = 150_000_000 // SHARDS
"""150 TB a node, in megabytes"""
SIZES = {4: 16, 16: 16, 64: 16, 256: 18}
"""slots (log2) for each number of nodes"""


class Figures(NamedTuple):
    """Of one size of pod."""

    nodes: int
    slots_log2: int
    node_off: float
    """how far the worst node's share is off"""
    shard_off: float
    moved: float
    """by one more node, over the least possible"""
    make_s: float
    """the first map, with all tunings to be found"""
    follow_s: float
    """the map with one more node"""
    map_bytes: int
    difference_bytes: int
    decode_ms: float
    apply_ms: float
    both_off: float
    """how far the worst shard is off in what it owns and is second for, together"""
    seconds_moved: float
    """slots that get a second with one more node who was neither second nor owner, over the least possible"""


def measure(nodes: int, slots_log2: int) -> Figures:
    """One size of pod. Seconds to minutes."""
    draw = random.Random(nodes)
    count = nodes * SHARDS
    ids = [draw.randbytes(16) for _ in range(count + SHARDS)]
    began = time.perf_counter()
    first = tune(ids[:count], [SHARD_UNITS] * count, [TUNING_ONE] * count, slots_log2)
    made = time.perf_counter()
    later = tune(ids, [SHARD_UNITS] * len(ids), [*first.tunings, *[TUNING_ONE] * SHARDS], slots_log2)
    followed = time.perf_counter()
    copies = [_seconds(ids[:count], first, slots_log2), _seconds(ids, later, slots_log2)]
    one = _map(1, ids[:count], first.table, slots_log2, copies[0])
    other = _map(2, ids, later.table, slots_log2, copies[1])
    whole, step = encode_map(other), encode_difference(difference(one, other))
    decoding = time.perf_counter()
    decode_map(whole)
    decoded = time.perf_counter()
    if apply(one, decode_difference(step)) != other:
        raise RuntimeError("a difference leads to another map")
    applied = time.perf_counter()
    slots = 1 << slots_log2
    shares = [0] * nodes
    for index in first.table:
        shares[index // SHARDS] += 1
    moved = sum(was != now for was, now in zip(first.table, later.table, strict=True))
    return Figures(
        nodes,
        slots_log2,
        max(abs(share * nodes / slots - 1) for share in shares),
        first.worst,
        moved * (nodes + 1) / slots,
        made - began,
        followed - made,
        len(whole),
        len(step),
        (decoded - decoding) * 1000,
        (applied - decoded) * 1000,
        max(abs(each * count / 2 / slots - 1) for each in _both(first.table, copies[0], count)),
        sum(now not in (was, owner) for was, now, owner in zip(*copies, first.table, strict=True))
        * (nodes + 1)
        / slots,
    )


def _node(index: int) -> str:
    return f"node-{index // SHARDS:05d}.pod.example"


def _seconds(ids: list[bytes], tuned: Tuned, slots_log2: int) -> Sequence[int]:
    count = len(ids)
    domain_of = domains([_node(index) for index in range(count)], [""] * count, [SHARD_UNITS] * count)
    these = contenders(ids, [SHARD_UNITS] * count, tuned.tunings)
    return make_seconds(these, domain_of, tuned.table, slots_log2)


def _both(table: Sequence[int], seconds: Sequence[int], count: int) -> list[int]:
    """For each shard, slots that it owns or is second for."""
    found = [0] * count
    for index in (*table, *seconds):
        found[index] += 1
    return found


def _map(epoch: int, ids: list[bytes], table: object, slots_log2: int, seconds: Sequence[int]) -> PodMap:
    places = [
        ShardPlace(
            shard,
            _node(index),
            f"rack-{index // SHARDS // 16:03d}",
            (f"tcps://10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}:7700",),
            SHARD_UNITS,
        )
        for index, shard in enumerate(ids)
    ]
    return PodMap(bytes(16), epoch, slots_log2, places, table, {}, seconds)  # type: ignore[arg-type]


def main(arguments: list[str]) -> None:
    """Print the table, a row for each size as it is measured."""
    print(
        "| nodes | slots | worst node | worst shard | one more node moves | first map | next map | map | difference "
        "| owned and second, worst shard | one more node moves of seconds |"
    )
    print("|" + "---|" * 11)
    for nodes in [int(each) for each in arguments] or list(SIZES):
        found = measure(nodes, SIZES.get(nodes, 18))
        print(
            f"| {nodes} | 2^{found.slots_log2} | {found.node_off:.1%} | {found.shard_off:.1%} | {found.moved:.2f} "
            f"| {found.make_s:.1f} s | {found.follow_s:.1f} s | {found.map_bytes / 1024:.0f} KiB, "
            f"{found.decode_ms:.0f} ms | {found.difference_bytes / 1024:.1f} KiB, {found.apply_ms:.0f} ms "
            f"| {found.both_off:.1%} | {found.seconds_moved:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
