"""Who had which slot when, by the plans that were written: what only the simulator knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo.placement.slots import hash_key
from mezzo_server.testing.simulation.catalog import Space
from mezzo_server.testing.simulation.violation import Violation

NEVER = float("-inf")


class _Since:
    """Since when something is so of each slot: from when all act by a map by which it is."""

    def __init__(self, slots: int) -> None:
        self.at = [float("inf")] * slots
        """infinity: it is not so, or not to everybody"""
        self._from: dict[int, int] = {}
        """the epoch from which on it is, where not all act by that yet"""

    def ends(self, slot: int) -> None:
        """By a new map it is not so."""
        self.at[slot] = float("inf")
        self._from.pop(slot, None)

    def holds(self, slot: int, epoch: int) -> None:
        """By the map of an epoch it is so, perhaps as before."""
        if self.at[slot] == float("inf"):
            self._from.setdefault(slot, epoch)

    def acted_by(self, oldest: int, now: float) -> None:
        """Everybody acts by this epoch or a later one."""
        for slot in [slot for slot, epoch in self._from.items() if epoch <= oldest]:
            del self._from[slot]
            self.at[slot] = now


class Placement:
    """Owner of the maps of all epochs, and of since when each slot has its owner."""

    def __init__(self, slots_log2: int, now: Callable[[], float], *, copies: bool = False) -> None:
        """``copies``: some chunks have second copies, and it matters who is second for a slot."""
        self.maps: dict[int, PodMap] = {}
        self.epoch = 0
        """of the plan in force"""
        self._slots_log2 = slots_log2
        self._now = now
        self._copies = copies
        self._settled = _Since(1 << slots_log2)
        """that a slot has its owner, and second"""
        self._alone = _Since(1 << slots_log2)
        """that nobody is asked for a slot since he had it before"""
        self._owners: list[list[tuple[float, bytes]]] = [[] for _ in range(1 << slots_log2)]
        """who has had each slot, and from when on"""
        self._seconds: list[list[tuple[float, bytes]]] = [[] for _ in self._owners]
        """who has been second for each slot, and from when on; empty: nobody"""
        self._deletes: dict[tuple[bytes, bytes], list[tuple[float, bytes]]] = {}
        """when which shard acknowledged that it has deleted a key"""
        self._losses: dict[bytes, float] = {}
        """when a shard's device last lost power or lied"""
        self._liars: set[bytes] = set()

    def slot(self, space: Space, key: bytes) -> int:
        """Of a key of a namespace."""
        return hash_key(key, space.seed) >> (64 - self._slots_log2)

    @property
    def pod_map(self) -> PodMap | None:
        """In force."""
        return self.maps.get(self.epoch)

    def planned(self, pod_map: PodMap) -> None:
        """Another plan was written.

        Raises:
            Violation: it does not follow the one before.
        """
        before = self.pod_map
        if pod_map.epoch <= self.epoch:
            raise Violation(f"a plan of epoch {pod_map.epoch} is written over that of epoch {self.epoch}")
        for slot in range(len(pod_map.table)):
            was = None if before is None else before.owner(slot)
            owner = pod_map.owner(slot)
            moves = was is None or owner is None or was.id != owner.id
            if moves and owner is not None:
                self._owners[slot].append((self._now(), owner.id))
            if self._copies:
                moves = self._second_is(slot, pod_map.second(slot)) or moves
            if moves:
                self._settled.ends(slot)
            self._settled.holds(slot, pod_map.epoch)
            if pod_map.owner_before(slot) is None:
                self._alone.holds(slot, pod_map.epoch)
            else:
                self._alone.ends(slot)
        self.maps[pod_map.epoch] = pod_map
        self.epoch = pod_map.epoch

    def _second_is(self, slot: int, second: ShardPlace | None) -> bool:
        """Whether another is second for a slot from now on."""
        known, shard = self._seconds[slot], b"" if second is None else second.id
        if known and known[-1][1] == shard:
            return False
        known.append((self._now(), shard))
        return True

    def acted_by(self, epochs: Iterable[int]) -> None:
        """The epochs by which shards that serve act at this moment."""
        oldest = min(epochs, default=0)
        for each in (self._settled, self._alone):
            each.acted_by(oldest, self._now())

    def settled_since(self, slot: int) -> float:
        """Since when a slot has had its owner, and everybody has known it; infinity: it moves."""
        return self._settled.at[slot]

    def alone_since(self, slot: int) -> float:
        """Since when nobody is asked for a slot since he had it before; infinity: somebody is.

        Until then what he has of it may come to the owner, as well.
        """
        return self._alone.at[slot]

    def deleted(self, shard: bytes, space: Space, key: bytes) -> None:
        """A shard acknowledges that it has deleted a key."""
        self._deletes.setdefault((space.namespace_id, key), []).append((self._now(), shard))

    def deleted_everywhere(self, space: Space, key: bytes, since: float, begin: float, end: float) -> bool:
        """Whether all who had the slot of a key (or were second for it) at any time from ``since`` on deleted it between two times, none of
        them on a device that lies, and nobody else has had it since.
        """
        slot = self.slot(space, key)
        had: set[bytes] = set()
        for holders in (self._owners[slot], self._seconds[slot]):
            first = max([at for at, _ in holders if at <= since], default=0.0)
            had.update(shard for at, shard in holders if at >= first and shard)
        told = {shard for at, shard in self._deletes.get((space.namespace_id, key), ()) if begin <= at <= end}
        return had <= told and not had & self._liars and self._settled.at[slot] < begin

    def lost(self, shard: bytes, *, lies: bool = False) -> None:
        """A shard's device loses power, or lies from now on."""
        self._losses[shard] = self._now()
        if lies:
            self._liars.add(shard)

    def lies(self, slot: int) -> bool:
        """Whether the device of a slot's owner lied at any time: it may have lost what says that a chunk is deleted.

        Or that of its second, where that matters.
        """
        owner = None if self.pod_map is None else self.pod_map.owner(slot)
        second = None if self.pod_map is None or not self._copies else self.pod_map.second(slot)
        return owner is None or owner.id in self._liars or (second is not None and second.id in self._liars)

    def lost_since(self, slot: int, since: float) -> bool:
        """Whether the owner of a slot lost something since then."""
        owner = None if self.pod_map is None else self.pod_map.owner(slot)
        return owner is None or self._losses.get(owner.id, NEVER) >= since

    def owns(self, shard: bytes, epoch: int, slot: int) -> bool:
        """Whether a slot is a shard's by the map of an epoch."""
        pod_map = self.maps.get(epoch)
        owner = None if pod_map is None else pod_map.owner(slot)
        return owner is not None and owner.id == shard

    def concerns(self, shard: bytes, epoch: int, slot: int) -> bool:
        """Whether by the map of an epoch a shard may have chunks of a slot: it owns it, had it before, or is second."""
        pod_map = self.maps.get(epoch)
        if pod_map is None:
            return False
        places = (pod_map.owner(slot), pod_map.owner_before(slot), pod_map.second(slot))
        return any(place is not None and place.id == shard for place in places)
