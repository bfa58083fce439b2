"""Where chunks are: in memory, one index for each namespace, reached only through its scope.

A location is ``life << 24 | entry number``.  An index is sharded so that no growth of one of its
dictionaries holds the loop (a dictionary of 20,000 entries grows in under a millisecond).  Nothing
else is a source of truth: it is rebuilt from the devices at each start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from mezzo_server.blockstore.api import Scope

SHARDS = 512
HASH_SHIFT = 40  # high bits: a dictionary uses the low bits of the same hash for its own slots
_EMPTY: dict[bytes, int] = {}


def shard_of(key: bytes) -> int:
    """Which shard of an index holds a key."""
    return (hash(key) >> HASH_SHIFT) & (SHARDS - 1)


class NamespaceIndex:
    """Locations of the visible chunks of one namespace, and what is under way for its keys."""

    __slots__ = ("busy", "count", "pins", "scope", "shadows", "shards")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.shards: list[dict[bytes, int]] = [_EMPTY] * SHARDS
        self.count = 0
        self.busy: dict[bytes, deque[Callable[[], None]]] = {}
        """keys with a put, a relocation or a delete under way -> who waits for its end"""
        self.pins: dict[bytes, int] = {}
        """leases on a key"""
        self.shadows: dict[bytes, frozenset[int]] = {}
        """lives that hold an outdated copy of a key without a tombstone that covers it"""

    def get(self, key: bytes) -> int | None:
        """Location of a key, or None."""
        return self.shards[(hash(key) >> HASH_SHIFT) & (SHARDS - 1)].get(key)

    def set(self, key: bytes, location: int) -> None:
        """Make a key visible at a location, or move it there."""
        number = shard_of(key)
        shard = self.shards[number]
        if shard is _EMPTY:
            shard = self.shards[number] = {}
        before = len(shard)
        shard[key] = location
        self.count += len(shard) - before

    def remove(self, key: bytes) -> None:
        """Make a key invisible. KeyError if it is not there."""
        del self.shards[shard_of(key)][key]
        self.count -= 1

    def items(self, shard: int) -> Iterator[tuple[bytes, int]]:
        """Entries of one shard, as they are now."""
        return iter(list(self.shards[shard].items()))

    def shade(self, key: bytes, life: int) -> None:
        """A copy in this life is outdated now, and nothing but a restart's comparison says so."""
        self.shadows[key] = self.shadows.get(key, frozenset()) | {life}

    def begin(self, key: bytes) -> None:
        """Mark a key as having something under way. Not while it has."""
        if key in self.busy:
            raise RuntimeError("two operations began on one key")
        self.busy[key] = deque()

    def end(self, key: bytes) -> None:
        """What was under way ended; who waited goes on, in order, until one has the key to himself."""
        waiters = self.busy.pop(key)
        while waiters:
            waiters.popleft()()
            later = self.busy.get(key)
            if later is not None:
                waiters.extend(later)
                self.busy[key] = waiters
                return

    def wait(self, key: bytes, waiter: Callable[[], None]) -> None:
        """Call ``waiter`` when what is under way for the key has ended."""
        self.busy[key].append(waiter)


class Index:
    """All namespaces of a shard."""

    __slots__ = ("_namespaces",)

    def __init__(self) -> None:
        self._namespaces: dict[Scope, NamespaceIndex] = {}

    def namespace(self, scope: Scope) -> NamespaceIndex:
        """The index of a namespace, made when first asked for."""
        namespace = self._namespaces.get(scope)
        if namespace is None:
            namespace = self._namespaces[scope] = NamespaceIndex(scope)
        return namespace

    def __iter__(self) -> Iterator[NamespaceIndex]:
        return iter(list(self._namespaces.values()))

    @property
    def count(self) -> int:
        """Visible chunks in all namespaces."""
        return sum(namespace.count for namespace in self._namespaces.values())
