"""Where chunks are: in memory, one index for each namespace, reached only through its scope.

A location is ``life << 24 | entry number``.  Nothing here is a source of truth: it is rebuilt from the
devices at each start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from mezzo.errors import Gone, TooLarge
from mezzo_server.blockstore.api import EventSink, Scope, Standing, StandingOf
from mezzo_server.hot.slots import SlotMap
from mezzo_server.sharded import ShardedMap

SWEEP_STEP = 64
"""Namespaces looked at for every new one that is over the limit."""


class NamespaceIndex(ShardedMap[int]):
    """Locations of the visible chunks of one namespace, and what is under way for its keys."""

    __slots__ = (
        "busy",
        "erased",
        "events",
        "hot",
        "pins",
        "salt",
        "scope",
        "shadows",
        "users",
        "vetted",
    )

    def __init__(self, scope: Scope, vetted: StandingOf | None = None) -> None:
        super().__init__()
        self.scope = scope
        self.salt = int.from_bytes(scope.namespace[:8], "little") ^ scope.namespace_generation
        """64 bits that tell this namespace from others"""
        self.vetted = vetted
        """what told last that it is not erased"""
        self.erased = False
        """it is none of the index any more, and empty; what was under way in it ends, and adds nothing"""
        self.users = 0
        """requests that may add to it"""
        self.busy: dict[bytes, deque[Callable[[], None]]] = {}
        """keys with a put, a relocation or a delete under way -> who waits for its end"""
        self.hot = SlotMap(scope)
        """slots of the hot tier: ready only for what is visible here"""
        self.pins: dict[bytes, int] = {}
        """leases on a key"""
        self.events: EventSink | None = None
        """who wants to know what appears and vanishes here"""
        self.shadows: dict[bytes, frozenset[int]] = {}
        """lives that hold an outdated copy of a key without a tombstone that covers it"""

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost without it."""
        return not (self.count or self.users or self.busy or self.pins or self.shadows)

    def erase(self) -> tuple[list[dict[bytes, int]], dict[bytes, frozenset[int]]]:
        """Empty it for good, at once; what its shards and shadows were is the caller's to clear away."""
        shards, self.shards = self.shards, [{}]
        shadows, self.shadows = self.shadows, {}
        self.mask = self.count = 0
        self.erased = True
        return shards, shadows

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

    __slots__ = ("_most", "_namespaces", "_standing", "_watched", "erased")

    def __init__(self, namespaces_max: int) -> None:
        self._namespaces: dict[Scope, NamespaceIndex] = {}
        self._most = namespaces_max
        self._watched: dict[Scope, EventSink] = {}
        self._standing: StandingOf | None = None
        self.erased: Callable[[NamespaceIndex], None] = lambda namespace: None
        """called with each namespace that turns out to be erased, once it is out of the index"""

    def vet(self, standing: StandingOf | None) -> None:
        """From now on what ``standing`` calls erased is not reached; it leaves when touched, or by `sift`."""
        self._standing = standing

    def sift(self, scope: Scope) -> None:
        """Let a namespace leave if it is erased."""
        if self._living(scope) is None and self.is_erased(scope):
            self._unwatch(scope)

    def scopes(self) -> list[Scope]:
        """Of all namespaces, and of those that are watched without having anything."""
        return [*self._namespaces, *(scope for scope in self._watched if scope not in self._namespaces)]

    def standing(self, scope: Scope) -> Standing:
        """What is known of a scope; alive while nothing is known of any."""
        return Standing.ALIVE if self._standing is None else self._standing(scope)

    def is_erased(self, scope: Scope) -> bool:
        """Whether nothing of it is ever read again."""
        return self._standing is not None and self._standing(scope) is Standing.ERASED

    def _living(self, scope: Scope) -> NamespaceIndex | None:
        """The namespace if it is there, and not erased."""
        namespace = self._namespaces.get(scope)
        if namespace is None or namespace.vetted is self._standing:
            return namespace
        if not self.is_erased(scope):
            namespace.vetted = self._standing
            return namespace
        del self._namespaces[scope]
        namespace.events = None
        self._unwatch(scope)
        self.erased(namespace)
        return None

    def _unwatch(self, scope: Scope) -> None:
        sink = self._watched.pop(scope, None)
        if sink is not None:
            sink.erased()

    def namespace(self, scope: Scope) -> NamespaceIndex:
        """The index of a namespace, made if there is none: for who is going to add to it.

        TooLarge over the limit, if not one of those looked at is empty.  Gone if it was erased.
        """
        namespace = self._namespaces.get(scope)
        if namespace is None or namespace.vetted is not self._standing:
            namespace = self._living(scope)
        if namespace is None:
            if self.is_erased(scope):
                raise Gone("the namespace, or its tenant, was deleted or purged")
            if len(self._namespaces) >= self._most:
                self._sweep()
            namespace = self._namespaces[scope] = NamespaceIndex(scope, self._standing)
            namespace.events = self._watched.get(scope)
        return namespace

    def watch(self, scope: Scope, sink: EventSink | None) -> None:
        """Tell ``sink`` what appears and vanishes in a namespace from now on, or nobody.

        It lasts however often the namespace becomes empty, is forgotten and made anew.
        """
        if sink is None:
            self._watched.pop(scope, None)
        else:
            self._watched[scope] = sink
        namespace = self._namespaces.get(scope)
        if namespace is not None:
            namespace.events = sink

    def peek(self, scope: Scope) -> NamespaceIndex:
        """The index of a namespace, for who only looks: an empty one that is not kept if there is none."""
        namespace = self._namespaces.get(scope)
        if namespace is not None and namespace.vetted is self._standing:
            return namespace  # as nearly always
        return self._living(scope) or NamespaceIndex(scope)

    def recover(self, scope: Scope) -> NamespaceIndex:
        """`namespace` without the limit, which may have been higher when the chunks were put."""
        if scope not in self._namespaces:
            self._namespaces[scope] = NamespaceIndex(scope, self._standing)
        return self._namespaces[scope]

    def _sweep(self) -> None:
        """Forget empty namespaces, looking at those looked at longest ago."""
        for _ in range(min(SWEEP_STEP, len(self._namespaces))):
            scope = next(iter(self._namespaces))
            namespace = self._namespaces.pop(scope)
            if not namespace.idle:
                self._namespaces[scope] = namespace
        if len(self._namespaces) >= self._most:
            raise TooLarge(f"{len(self._namespaces)} namespaces are in use; namespaces_max is {self._most}")

    def __iter__(self) -> Iterator[NamespaceIndex]:
        return iter(list(self._namespaces.values()))

    @property
    def count(self) -> int:
        """Visible chunks in all namespaces."""
        return sum(namespace.count for namespace in self._namespaces.values())
