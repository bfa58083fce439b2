"""Which shard has a slot's second copy: the next best of another failure domain than the owner's. No I/O.

What counts as a domain is the same for a whole map (`domains`): racks where they are known and of like size, else
nodes, else shards.  docs/placement.md has this in words, with test vectors.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence

from mezzo.placement.rendezvous import NOBODY, Contender, check_contenders, cost, shard_seed

RACK_PART = 2, 3
"""Racks count as domains if none of them has more than this part of the pod's weight (numerator, denominator): whose
owner is in the largest has its second in one of the others, and these must not drown in it."""


def domains(nodes: Sequence[str], racks: Sequence[str], weights: Sequence[int]) -> list[int]:
    """A number for the failure domain of each shard: the same for those that fail together.

    Shards without a weight own nothing and are nobody's second, but may be owners still in a map that changes.
    """
    running = [index for index, weight in enumerate(weights) if weight]
    by_rack: Counter[str] = Counter()
    for index in running:
        by_rack[racks[index]] += weights[index]
    part, whole = RACK_PART
    names: Sequence[tuple[str, ...]]
    if len(by_rack) > 1 and "" not in by_rack and whole * max(by_rack.values()) <= part * by_rack.total():
        names = [(rack, "" if rack else node) for rack, node in zip(racks, nodes, strict=True)]
    elif len({nodes[index] for index in running}) > 1:
        names = [(node,) for node in nodes]
    else:
        return list(range(len(weights)))
    number_of: dict[tuple[str, ...], int] = {}
    return [number_of.setdefault(name, len(number_of)) for name in names]


def seconds(
    contenders: Sequence[Contender], domain_of: Sequence[int], table: Sequence[int], slots_log2: int
) -> array[int]:
    """For each slot the index of who has its second copy; `NOBODY` if it has no owner, or there is no other domain.

    ``table`` has the owners, of these contenders.  `mezzo_server.pod.table` does the same in C.
    """
    check_contenders(contenders)
    order = sorted(range(len(contenders)), key=lambda index: contenders[index].id)
    running = [(index, shard_seed(contenders[index].id), contenders[index].weight) for index in order]
    running = [each for each in running if each[2]]
    found = array("H", [NOBODY]) * (1 << slots_log2)
    for slot in range(1 << slots_log2):
        owner, best = table[slot], -1
        if owner == NOBODY:
            continue
        for index, seed, weight in running:
            if domain_of[index] == domain_of[owner]:
                continue
            price = cost(seed, slot, weight)
            if best < 0 or price < best:
                best = price
                found[slot] = index
    return found
