"""Which cores each shard runs on, when there are several shards. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

Pin = Literal["auto", "cores", "none"]
Cores = frozenset[int]


def deal_cores(
    pin: Pin,
    homes: Sequence[int | None],
    nodes: Mapping[int, Cores],
    groups: Sequence[Cores],
) -> list[Cores | None]:
    """The cores of each shard; None: all.

    ``homes`` has the node of memory that each shard's devices are at (None: any will do), ``nodes`` the cores
    of each node, ``groups`` the cores that may be used at all, those of one physical core together.
    """
    usable: Cores = frozenset().union(*groups)
    near = {node: cores & usable for node, cores in nodes.items() if cores & usable}
    if pin == "none" or (pin == "auto" and len(near) < 2):
        return [None] * len(homes)
    if not near:
        near = {0: usable}
    chosen = _nodes(homes, near)
    if pin == "auto":
        return [near[node] for node in chosen]
    return _apart(chosen, near, groups)


def _nodes(homes: Sequence[int | None], near: Mapping[int, Cores]) -> list[int]:
    """A node for each shard: its own, or the one that has the most cores for each shard so far."""
    shards = dict.fromkeys(near, 0)
    for home in homes:
        if home in shards:
            shards[home] += 1
    chosen = []
    for home in homes:
        node = home if home is not None and home in shards else None
        if node is None:
            node = min(shards, key=lambda each: ((shards[each] + 1) / len(near[each]), each))
            shards[node] += 1
        chosen.append(node)
    return chosen


def _apart(chosen: Sequence[int], near: Mapping[int, Cores], groups: Sequence[Cores]) -> list[Cores | None]:
    """Physical cores of each node divided among its shards; all of them for each where there are too few."""
    dealt: list[Cores | None] = [None] * len(chosen)
    for node, cores in near.items():
        shards = [number for number, each in enumerate(chosen) if each == node]
        there = [group & cores for group in groups if group & cores]
        for order, number in enumerate(shards):
            mine = there[order * len(there) // len(shards) : (order + 1) * len(there) // len(shards)]
            dealt[number] = _union(mine) if len(there) >= len(shards) else cores
    return dealt


def _union(groups: Iterable[Cores]) -> Cores:
    return frozenset().union(*groups)
