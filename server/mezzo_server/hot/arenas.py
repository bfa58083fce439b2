"""The memory of the hot tier, in arenas: how much each tenant has of it, and who gives an arena up for whom.

An arena belongs to one tenant for ever, so memory goes from one tenant to another by closing an arena and making
a new one.  A tenant's *share* is its quota, or failing that its part by weight among those that have arenas.  Who
has less may have one made of memory that is left, or else of what another has beyond its share; of a tenant that
is no more there is no share.  A client that has an arena's descriptor keeps its memory whatever the server
does, so an arena that was lent is not closed before those whom it was lent to are gone.

Invariants: all arenas, heads included, also those being made and being closed, are never more than ``bytes_max``;
no tenant's are more than its hard limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from mezzo_server.hot.slots import PAGE_BYTES, ArenaMemory, arena_bytes_for

NewArena = Callable[[int, bytes, int], ArenaMemory]
"""(number, tenant, bytes) -> an arena; may take long, and raise OSError"""
Offload = Callable[[Callable[[], None], Callable[[], None]], None]
"""Run the first where it may take long, then the second here."""

ARENA_BYTES_MIN = 64 << 10
"""What is left of the memory is not made an arena if it is smaller."""


class HotShares:
    """What the tier is told of tenants: here all weigh the same, and none has a quota."""

    def weight(self, tenant: bytes) -> float:
        """Its part of the memory beside others that want some."""
        return 1.0

    def exists(self, tenant: bytes) -> bool:
        """Whether there is such a tenant still."""
        return True

    def hot_bytes_max(self, tenant: bytes) -> int:
        """The most bytes of arenas that it may have; 0: no limit."""
        return 0

    def hot_share(self, tenant: bytes) -> int:
        """Bytes of arenas that are its share by quota; 0: by its weight."""
        return 0

    def hot_refused(self, tenant: bytes) -> None:
        """It wanted more than it may have."""


class Arenas:
    """All arenas, by number and by tenant. Owner of them; belongs to the tier's thread."""

    def __init__(self, *, bytes_max: int, arena_bytes: int, new_arena: NewArena, offload: Offload) -> None:
        """``bytes_max`` for all, heads included; ``arena_bytes`` of data in each."""
        self.bytes_max = bytes_max
        self.arena_bytes = arena_bytes
        self.offload = offload
        self.shares: HotShares = HotShares()
        self.made: Callable[[ArenaMemory], None] = lambda arena: None
        self.unmade: Callable[[ArenaMemory], None] = lambda arena: None
        """called with an arena that is about to be closed, while others live on"""
        self.bytes = 0
        self.bytes_by_tenant: Counter[bytes] = Counter()
        self.making = False
        self.failed = 0
        self.closed = False
        self._new_arena = new_arena
        self._arenas: dict[int, ArenaMemory] = {}
        self._next_number = 1
        self._exhausted = False
        self._waiting: list[Callable[[], None]] = []
        self._lent: dict[int, set[object]] = {}
        self._borrowed: dict[object, set[int]] = {}

    def __len__(self) -> int:
        return len(self._arenas)

    def __iter__(self) -> Iterator[ArenaMemory]:
        return iter(tuple(self._arenas.values()))

    def __getitem__(self, number: int) -> ArenaMemory:
        return self._arenas[number]

    def when_made(self, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` once the arena that is being made is there, or could not be made."""
        if self.making:
            self._waiting.append(go_on)
        else:
            go_on()

    def bytes_of(self, tenant: bytes) -> int:
        """Bytes of a tenant's arenas, heads included."""
        return self.bytes_by_tenant[tenant]

    # -- making and closing

    def next_bytes(self) -> int:
        """Bytes of the next arena; 0: there is none any more."""
        left = (self.bytes_max - self.bytes) // PAGE_BYTES * PAGE_BYTES
        size = min(arena_bytes_for(self.arena_bytes), left)
        return 0 if size < ARENA_BYTES_MIN or self._exhausted else size

    def make(self, tenant: bytes, came: Callable[[ArenaMemory], None]) -> None:
        """Begin to make an arena, if memory is left and the tenant may have more of it."""
        size = self.next_bytes()
        if self.making or self.closed or not size or not self._may_have(tenant, size):
            return
        self.making = True
        self.bytes += size
        self.bytes_by_tenant[tenant] += size
        number = self._next_number
        self._next_number += 1
        made: list[ArenaMemory] = []

        def work() -> None:
            try:
                made.append(self._new_arena(number, tenant, size))
            except (OSError, MemoryError):
                return

        def done() -> None:
            self.making = False
            received()
            waiting, self._waiting = self._waiting, []
            for go_on in waiting:
                go_on()

        def received() -> None:
            if not made:
                # the machine has no such memory: the tier stays as large as it is
                self._gone(tenant, size)
                self.failed += 1
                self._exhausted = True
                return
            arena = made[0]
            if self.closed:
                arena.close()
                return
            self._arenas[number] = arena
            came(arena)
            self.made(arena)

        self.offload(work, done)

    def remove(self, arena: ArenaMemory, then: Callable[[], None]) -> None:
        """Close an arena of which nothing is in use, and call ``then`` when its memory is free."""
        del self._arenas[arena.number]
        self.unmade(arena)

        def done() -> None:
            self._gone(arena.tenant, arena.bytes)
            self._exhausted = False
            then()

        self.offload(arena.close, done)

    def _gone(self, tenant: bytes, size: int) -> None:
        self.bytes -= size
        self.bytes_by_tenant[tenant] -= size
        if not self.bytes_by_tenant[tenant]:
            del self.bytes_by_tenant[tenant]

    def close(self) -> None:
        """Give all memory back. Nothing of it is in use any more."""
        self.closed = True
        while self._arenas:
            self._arenas.popitem()[1].close()

    # -- who may have how much

    def _may_have(self, tenant: bytes, size: int) -> bool:
        most = self.shares.hot_bytes_max(tenant)
        if not most or self.bytes_by_tenant[tenant] + size <= most:
            return True
        self.shares.hot_refused(tenant)
        return False

    def giver(self, tenant: bytes) -> bytes | None:
        """The tenant that is to give an arena up for this one; None: nobody has to."""
        size = arena_bytes_for(self.arena_bytes)
        if self.making or self.closed or not self._may_have(tenant, size):
            return None
        shares = self.shares
        there = [other for other in {**self.bytes_by_tenant, tenant: 0} if shares.exists(other)]
        weights = {other: shares.weight(other) for other in there}
        total = sum(weights.values())

        def share(of: bytes) -> float:
            if of not in weights:
                return 0
            # one arena at least: less would not be of use
            return max(shares.hot_share(of) or self.bytes_max * weights[of] / total, size)

        if self.bytes_by_tenant[tenant] + size > share(tenant):
            return None
        over = {other: have - share(other) for other, have in self.bytes_by_tenant.items() if other != tenant}
        most = max(over, key=lambda other: over[other], default=None)
        return most if most is not None and over[most] > 0 else None

    # -- whom arenas were lent to

    def lend(self, number: int, to: object) -> None:
        """Somebody gets an arena's descriptor, and may map it until `returned`."""
        self._lent.setdefault(number, set()).add(to)
        self._borrowed.setdefault(to, set()).add(number)

    def returned(self, by: object) -> None:
        """He is gone, and with him what he had mapped."""
        for number in self._borrowed.pop(by, ()):
            holders = self._lent[number]
            holders.discard(by)
            if not holders:
                del self._lent[number]

    def borrowers(self, number: int) -> tuple[object, ...]:
        """Those who may have an arena mapped."""
        return tuple(self._lent.get(number, ()))
