"""What clients put, got and deleted, and which bytes may hence be answered.

Each put has bytes of its own, so an answer tells which put it came from.  A miss is always legal.  Else:

- *No wrong bytes*: what comes is, byte for byte, what some put of that key had, and was begun before. (Chunks are long
  enough that no two puts have the same bytes.)
- *What is deleted stays so*: a version whose put was acknowledged before an acknowledged delete began is never
  seen by a get that begins after that, as long as its slot has had one and the same owner since before it was put,
  whose device does not lie
  (design: linearizable within an epoch, best effort across a change).
- Nor after a change, if everybody who has had the slot since then said that he has deleted it: chunks move from a
  former owner to the new one, and what is deleted must not come back on that way.
- *One version at a time*: a put that was told `stored` found nothing, so a version that was acknowledged before it
  began is never seen again by a get that begins after it: as long as the slot has had one and the same owner (and
  second) since before the later one was put, whose device did not lose power since, or ever lie.  If a former
  owner was asked still when the later one was put (he has what was put before, is asked if the owner does not answer, and
  what he has moves to an owner that has lost the later one): since before the earlier one was.
- *What is erased stays so*: once every shard that runs has heard that a namespace was erased, no version is seen that
  was stored before.
- *Nothing of another tenant's*: keys of two tenants are alike, and no bytes are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from mezzo_server.testing.simulation.catalog import Space
from mezzo_server.testing.simulation.placement import Placement
from mezzo_server.testing.simulation.violation import Violation

LENGTHS = (16, 100, 4096, 4097, 9_000, 20_000, 40_000)


@dataclass(slots=True)
class Version:
    """One put of one key."""

    number: int
    data: bytes
    began: float
    stored: float = float("inf")
    """when its put was told `stored`"""


@dataclass(slots=True)
class KeyHistory:
    """All that happened to one key."""

    slot: int
    versions: list[Version] = field(default_factory=list)
    deletes: list[tuple[float, float]] = field(default_factory=list)
    """acknowledged ones: when each began and ended"""


class History:
    """Owner of what is known of each key."""

    def __init__(self, seed: str, placement: Placement) -> None:
        self._seed = seed
        self.placement = placement
        self.begun = False
        """all the shards have served at the same time: from then on there is somebody for each key"""
        self._keys: dict[tuple[str, bytes], KeyHistory] = {}
        self.gets = 0
        self.hits = 0
        self.puts_stored = 0
        self.deletes = 0

    def of(self, space: Space, key: bytes) -> KeyHistory:
        """What is known of a key."""
        known = self._keys.get((space.tenant, key))
        if known is None:
            known = self._keys[space.tenant, key] = KeyHistory(self.placement.slot(space, key))
        return known

    def put(self, space: Space, key: bytes, now: float, length: int) -> Version:
        """A put begins; its version."""
        known = self.of(space, key)
        number = len(known.versions)
        name = f"{self._seed}/{space.tenant}/{key.hex()}/{number}"
        version = Version(number, hashlib.shake_128(name.encode()).digest(length), now)
        known.versions.append(version)
        return version

    def stored(self, version: Version, now: float) -> None:
        """Its put was told `stored`."""
        version.stored = now
        self.puts_stored += 1

    def deleted(self, space: Space, key: bytes, began: float, now: float) -> None:
        """A delete was acknowledged."""
        self.of(space, key).deletes.append((began, now))
        self.deletes += 1

    def got(self, space: Space, key: bytes, data: bytes, began: float, now: float) -> Version:
        """A get that began at ``began`` was answered with these bytes; which version they are.

        Raises:
            Violation: it may not be.
        """
        known = self.of(space, key)
        self.hits += 1
        version = next((one for one in known.versions if one.data == data), None)
        if version is None:
            raise Violation(
                f"wrong bytes: {len(data)} bytes of {key!r} of {space.tenant} are of {self._whose(data)}"
            )
        erased = space.erased(version.stored, began)
        if erased is not None:
            raise Violation(
                f"{key!r} of {space.tenant}: version {version.number}, stored at {version.stored:.3f}, was erased at "
                f"{erased.at:.3f}, as all knew from {erased.known:.3f} on, and got at {now:.3f}"
            )
        for start, end in known.deletes:
            before = version.stored < start and end < began
            if before and self.placement.deleted_everywhere(space, key, version.began, start, end):
                raise Violation(
                    f"{key!r}: version {version.number}, stored at {version.stored:.3f}, was deleted from "
                    f"{start:.3f} to {end:.3f} by all who had it, and came back: got at {now:.3f}"
                )
        settled, alone = self.placement.settled_since(known.slot), self.placement.alone_since(known.slot)
        if self.placement.lies(known.slot):
            return version
        for start, end in known.deletes:
            if settled < version.began and version.stored < start and end < began:
                raise Violation(
                    f"{key!r}: version {version.number}, stored at {version.stored:.3f}, was deleted from "
                    f"{start:.3f} to {end:.3f} and got at {now:.3f} (slot {known.slot} is settled since {settled:.3f})"
                )
        for later in known.versions:
            # With a later one that was not sealed may have gone what stood before the earlier one.
            since = later.began if alone < later.began else version.began
            binding = settled < since and not self.placement.lost_since(known.slot, later.began)
            if (
                binding
                and space.heard(later.stored, began)
                and version.stored < later.began
                and later.stored < began
            ):
                raise Violation(
                    f"{key!r}: version {version.number} was got at {now:.3f} although version {later.number} was "
                    f"stored from {later.began:.3f} to {later.stored:.3f} (slot {known.slot} is settled since "
                    f"{settled:.3f})"
                )
        return version

    def _whose(self, data: bytes) -> str:
        for (tenant, key), known in self._keys.items():
            if any(one.data == data for one in known.versions):
                return f"{key!r} of {tenant}"
        return "no put"
