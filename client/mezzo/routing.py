"""Whose each key of a call is, and what the answers of several shards are together. No I/O, no clock.

`spread` asks; this decides.  A key's place in the caller's order is called its index.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

from mezzo.placement.pod_map import PodMap
from mezzo.placement.rendezvous import NOBODY
from mezzo.placement.slots import hash_key, namespace_seed
from mezzo.results import LookupResult


class Router:
    """One map, for the keys of one namespace. Immutable.

    Shards are named by their index in the map, `NOBODY` if a slot has no owner.
    """

    __slots__ = ("_seed", "_shift", "pod_map")

    def __init__(self, pod_map: PodMap, tenant_id: bytes, namespace_id: bytes) -> None:
        self.pod_map = pod_map
        self._seed = namespace_seed(tenant_id, namespace_id)
        self._shift = 64 - pod_map.slots_log2

    @property
    def epoch(self) -> int:
        """Of the map."""
        return self.pod_map.epoch

    def shard_id(self, shard: int) -> bytes:
        """What everybody calls a shard."""
        return self.pod_map.shards[shard].id

    def owners(self, keys: Iterable[bytes]) -> list[int]:
        """Whose each key is."""
        table, seed, shift = self.pod_map.table, self._seed, self._shift
        return [table[hash_key(key, seed) >> shift] for key in keys]

    def seconds(self, keys: Iterable[bytes]) -> list[int]:
        """Who would have a second copy of each key; `NOBODY`: nobody."""
        table, seed, shift = self.pod_map.seconds, self._seed, self._shift
        return [table[hash_key(key, seed) >> shift] if table else NOBODY for key in keys]

    def formers(self, keys: Sequence[bytes]) -> list[int]:
        """Who owned the slot of each key before; `NOBODY`: nobody who is asked still."""
        previous = self.pod_map.previous
        if not previous:
            return [NOBODY] * len(keys)
        seed, shift = self._seed, self._shift
        return [previous.get(hash_key(key, seed) >> shift, NOBODY) for key in keys]

    def split(self, keys: Sequence[bytes], indexes: Iterable[int] | None = None) -> dict[int, list[int]]:
        """The indexes of each owner's keys, in the caller's order; of these keys only, if ``indexes`` says which."""
        if indexes is None:
            # `owners` and `grouped` in one pass: on the way of every call.
            table, shift = self.pod_map.table, self._shift
            shares: defaultdict[int, list[int]] = defaultdict(list)
            for index, number in enumerate(map(hash_key, keys, repeat(self._seed))):
                shares[table[number >> shift]].append(index)
            return shares
        wanted = list(indexes)
        return grouped(zip(wanted, self.owners([keys[index] for index in wanted]), strict=True))

    def split_before(self, keys: Sequence[bytes], indexes: Iterable[int]) -> dict[int, list[int]]:
        """Of these keys, those whose slot moved lately: the indexes by who had it before."""
        previous = self.pod_map.previous
        if not previous:
            return {}
        table, seed, shift = self.pod_map.table, self._seed, self._shift
        moved: list[tuple[int, int]] = []
        for index in indexes:
            slot = hash_key(keys[index], seed) >> shift
            before = previous.get(slot)
            if before is not None and before != table[slot]:
                moved.append((index, before))
        return grouped(moved)


def grouped(holders: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """Indexes by holder, from (index, holder)."""
    shares: dict[int, list[int]] = {}
    for index, holder in holders:
        if holder in shares:
            shares[holder].append(index)
        else:
            shares[holder] = [index]
    return shares


class Share(NamedTuple):
    """What one shard has of a prefix."""

    indexes: Sequence[int]
    """of the keys that it was asked for, in order"""
    found: LookupResult
    """of these: its ``prefix`` counts them alone"""

    def counted(self, prefix: int) -> int:
        """How many of its keys are within the first ``prefix`` ones of the call."""
        return bisect_left(self.indexes, prefix)


def prefix_of(count: int, shares: Iterable[Share], absent: Iterable[int] = ()) -> int:
    """How many of ``count`` keys are there, from the first one on.

    Each shard says how far its own keys go; the whole ends at the first that is missing anywhere, or is among the
    ``absent`` ones, of whom nobody could say anything.
    """
    prefix = min(absent, default=count)
    for indexes, found in shares:
        if found.prefix < len(indexes):
            prefix = min(prefix, indexes[found.prefix])
    return prefix


def merged(prefix: int, shares: Sequence[Share], unanswered: int = 0) -> LookupResult:
    """What several shards said of a prefix of so many keys, as one answer.

    They load at the same time, so it takes as long as the slowest of them; bytes add up.  Each share counts within
    the prefix only: one that went beyond it was asked again.
    """
    counted = [share for share in shares if share.found.prefix]
    hot_prefix = prefix
    for share in counted:
        hot = share.found.hot_prefix
        if hot < share.found.prefix:
            hot_prefix = min(hot_prefix, share.indexes[hot])
    found = [share.found for share in counted]
    return LookupResult(
        prefix=prefix,
        bytes=sum([each.bytes for each in found]),
        load_s=max([each.load_s for each in found], default=0.0),
        load_high_s=max([each.load_high_s for each in found], default=0.0),
        hot_prefix=hot_prefix,
        hot_bytes=sum([each.hot_bytes for each in found]),
        hot_load_s=max([each.hot_load_s for each in found], default=0.0),
        device_load_s=max([each.device_load_s for each in found], default=0.0),
        load_wait_s=max([min(each.load_wait_s, each.load_s) for each in found], default=0.0),
        unanswered=unanswered,
    )


def sums(numbers: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Numbers of several shards by name, added up."""
    total: dict[str, float] = {}
    for each in numbers:
        for name, value in each.items():
            total[name] = total.get(name, 0.0) + value
    return total
