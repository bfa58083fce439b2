"""A dictionary by key that may grow to millions of entries without ever holding the loop.

One dictionary grows by copying all that is in it, so a large one is many: a dictionary of 20,000 entries grows
in under a millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

SHARDS = 512
HASH_SHIFT = 40  # high bits: a dictionary uses the low bits of the same hash for its own slots
SPREAD_AT = 4096
"""It is one dictionary until it has so many entries: most are small."""

V = TypeVar("V")


class ShardedMap(Generic[V]):
    """Values by key."""

    __slots__ = ("count", "mask", "shards")

    def __init__(self) -> None:
        self.shards: list[dict[bytes, V]] = [{}]
        self.mask = 0
        """a key is in ``shards[hash(key) >> HASH_SHIFT & mask]``"""
        self.count = 0

    def get(self, key: bytes) -> V | None:
        """What a key has, or None."""
        return self.shards[hash(key) >> HASH_SHIFT & self.mask].get(key)

    def get_all(self, keys: Sequence[bytes]) -> list[V | None]:
        """`get` for many: a third of the time, or half of it once there are many entries."""
        shards, mask = self.shards, self.mask
        if not mask:
            return list(map(shards[0].get, keys))
        return [shards[hash(key) >> HASH_SHIFT & mask].get(key) for key in keys]

    def set(self, key: bytes, value: V) -> None:
        """Give a key this value, in place of any other."""
        if self.count >= SPREAD_AT and not self.mask:
            self.spread()
        shard = self.shards[hash(key) >> HASH_SHIFT & self.mask]
        before = len(shard)
        shard[key] = value
        self.count += len(shard) - before

    def remove(self, key: bytes) -> None:
        """Take a key out. KeyError if it is not there."""
        del self.shards[hash(key) >> HASH_SHIFT & self.mask][key]
        self.count -= 1

    def spread(self) -> None:
        """Go over to many dictionaries; once, and of few entries, so that it takes under a millisecond."""
        small = self.shards[0]
        self.shards = [{} for _ in range(SHARDS)]
        self.mask = SHARDS - 1
        for key, value in small.items():
            self.shards[hash(key) >> HASH_SHIFT & self.mask][key] = value

    def part(self, part: int, parts: int, count_max: int) -> list[bytes] | None:
        """Keys in one of ``parts`` (a power of two): each key is always in the same, however the map grows.

        None: there are more than ``count_max``, which is found out without looking at them.
        """
        mask = self.mask
        if parts > mask:
            rest = parts - 1
            keys = [key for key in self.shards[part & mask] if hash(key) >> HASH_SHIFT & rest == part]
            return keys if len(keys) <= count_max else None
        shards = self.shards[part : mask + 1 : parts]
        if sum(map(len, shards)) > count_max:
            return None
        return [key for shard in shards for key in shard]
