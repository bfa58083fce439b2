"""What a client knows of its pod: the map in force, what opens the shards, and what they said of themselves. No I/O."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from mezzo.address import Address, parse
from mezzo.copies import Copies
from mezzo.credentials import Ticket
from mezzo.errors import FormatError, InvalidArgument, Unavailable
from mezzo.placement.pod_map import PodMap, apply, decode_difference, decode_map
from mezzo.placement.rendezvous import NOBODY
from mezzo.protocol.messages import U32_MAX, Welcome
from mezzo.routing import Router

MapSource: TypeAlias = Callable[[], PodMap]
"""Gives the present map, to who need not ask a front-end for it."""

ID_UNKNOWN = bytes(16)
"""of a shard of a release that does not say its own"""
AGAIN_S = 1.0
"""Who was told so short a time ago would be told the same."""
BEHIND_S_MIN = 0.1
"""Who asks for a map that shards follow already, and that nobody could give, asks again after so long, and then after
longer and longer: front-ends mostly have it a moment later."""
BEHIND_S_MAX = 30.0
"""And so often at least."""


class MapHad(NamedTuple):
    """Which map a client has, so that it is told the difference."""

    pod: bytes
    epoch: int


NO_MAP = MapHad(b"", 0)


class MapTold(NamedTuple):
    """A pod's map as a front-end tells it: one of these, or nothing where there is one shard."""

    encoded: bytes = b""
    """whole"""
    difference: bytes = b""
    """from the one that we have"""
    as_had: bool = False
    """it is the one that we have"""

    def __bool__(self) -> bool:
        return bool(self.encoded or self.difference or self.as_had)


class KnownPod:
    """Shared by a client and its ways to the shards, from any thread. Owner of the router in force."""

    def __init__(self, pod_map: PodMap, encoded: bytes = b"") -> None:
        self.ticket = Ticket(b"")
        """what opens the shards"""
        self.namespace_name = ""
        """what a front-end calls the namespace; empty: as the client does"""
        self.told_at = 0.0
        """clock reading of when a front-end was asked last"""
        self.heard_epoch = 0
        """the latest that a shard said it follows"""
        self.asking = False
        """somebody asks for the map that was heard of"""
        self.renewing = False
        """somebody asks for another ticket"""
        self._behind_s = BEHIND_S_MIN
        self._ask_at = -math.inf
        self._whole = False
        self.copies = Copies(threading.Lock())
        """second copies, and which of two is asked"""
        self._encoded = encoded
        self._map = pod_map
        self._ids: tuple[bytes, bytes] | None = None
        self._router: Router | None = None
        self._limits: dict[bytes, Welcome] = {}
        self._owning = owning(pod_map)
        self._came: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<KnownPod {self._map!r}, {len(self._limits)} shards met>"

    @property
    def router(self) -> Router:
        """Raises Unavailable: no shard was met yet, and only they know the ids of a namespace."""
        if self._router is None:
            raise Unavailable("no shard of the pod has answered yet")
        return self._router

    @property
    def pod_map(self) -> PodMap:
        """The map in force."""
        return self._map

    @property
    def chunk_bytes_max(self) -> int:
        """Bytes of the largest chunk that all shards take which were met."""
        return min([limits.chunk_bytes_max for limits in tuple(self._limits.values())], default=U32_MAX)

    def follow(self, pod_map: PodMap) -> None:
        """Another map, unless that in force is of a later epoch of the same pod; one that was made anew begins to count."""
        with self._lock:
            if pod_map.pod != self._map.pod:
                self.heard_epoch = 0
                self._came.clear()
            elif pod_map is self._map or pod_map.epoch < self._map.epoch:
                return
            before, self._map = self._map, pod_map
            now_owning = owning(pod_map)
            names = {shard.id for shard in pod_map.shards}
            came = {shard: epoch for shard, epoch in self._came.items() if shard in names}
            back = now_owning - self._owning
            if pod_map.pod == before.pod and pod_map.epoch > before.epoch + 1:
                back |= gained(before, pod_map)
            self._came = came | dict.fromkeys(back, pod_map.epoch)
            self._owning = now_owning
            self._limits = {shard: limits for shard, limits in self._limits.items() if shard in names}
            self.copies.follow(names)
            self._route()

    def came(self, shard: bytes) -> int:
        """The epoch by which a shard that had owned nothing had slots again: it was there. 0: there was none.

        Over maps that were never seen it counts that the shard was given slots: it may have been gone in between.
        """
        return self._came.get(shard, 0)

    @property
    def had(self) -> MapHad:
        """For who is asked for the map."""
        pod_map = self._map
        return NO_MAP if self._whole else MapHad(pod_map.pod, pod_map.epoch)

    def take(self, told: MapTold) -> None:
        """As `follow`, of a map as it was sent.

        Raises:
            FormatError: it is none that this release reads, or does not follow from ours: the next is asked for whole.
        """
        if told.as_had or (told.encoded and told.encoded == self._encoded):
            return
        if told.encoded:
            self.follow(decode_map(told.encoded))
            self._encoded, self._whole = told.encoded, False
            return
        base = self._map
        try:
            step = decode_difference(told.difference)
            if (step.pod, step.base) == (base.pod, base.epoch) or step.epoch > base.epoch:
                self.follow(apply(base, step))
        except (FormatError, InvalidArgument) as error:
            self._whole = True
            raise FormatError(str(error)) from None

    def hear(self, epoch: int) -> None:
        """A shard says which map it follows."""
        if epoch > self.heard_epoch:
            with self._lock:
                self.heard_epoch = max(self.heard_epoch, epoch)
                self._behind_s, self._ask_at = BEHIND_S_MIN, -math.inf

    @property
    def behind(self) -> bool:
        """Whether a shard follows a later map than ours."""
        return self.heard_epoch > self._map.epoch

    def begin_asking(self, now: float) -> bool:
        """Whether to ask for the map that was heard of: one does at a time, and not again and again. `end_asking`."""
        with self._lock:
            if self.asking or not self.behind or now < self._ask_at:
                return False
            self._ask_at = now + self._behind_s
            self._behind_s = min(2 * self._behind_s, BEHIND_S_MAX)
            self.asking = True
            return True

    def end_asking(self) -> None:
        """It was got, or not."""
        self.asking = False

    def begin_renewing(self) -> bool:
        """Whether to ask for another ticket: one does at a time. `end_renewing`."""
        with self._lock:
            begins = not self.renewing
            self.renewing = True
            return begins

    def end_renewing(self) -> None:
        """It was got, or not."""
        self.renewing = False

    def met(self, shard: bytes, limits: Welcome) -> None:
        """A shard answered our hello."""
        with self._lock:
            self._limits[shard] = limits
            self.copies.met(limits)
            ids = limits.tenant_id, limits.namespace_id
            if ids != self._ids:
                self._ids = ids
                self._route()

    def addresses(self, shard: bytes) -> list[Address]:
        """Where a shard is, the best first; none if it is not in the map."""
        place = next((each for each in self._map.shards if each.id == shard), None)
        found: list[Address] = []
        for text in () if place is None else place.addresses:
            try:
                address = parse(text)
            except InvalidArgument:
                continue  # a kind of address that a newer release has
            if not address.is_frontend:
                found.append(address)
        found.sort(key=lambda address: address.scheme != "unix")
        return found

    def _route(self) -> None:
        if self._ids is not None:
            self._router = Router(self._map, *self._ids)


def owning(pod_map: PodMap) -> frozenset[bytes]:
    """The shards that own slots."""
    return frozenset([pod_map.shards[index].id for index in set(pod_map.table) if index != NOBODY])


def gained(before: PodMap, later: PodMap) -> frozenset[bytes]:
    """The shards that were given slots by the later map, or by one between the two: others had these last.

    So a shard counts that owned the very same slots before, and was gone in between.
    """
    former, owners = before.previous, later.table
    old, new = before.shards, later.shards
    return frozenset(
        [
            new[owners[slot]].id
            for slot, index in later.previous.items()
            if owners[slot] != NOBODY and (slot not in former or old[former[slot]].id != new[index].id)
        ]
    )


def is_shard(limits: Welcome, shard: bytes) -> bool:
    """Whether this is that shard: a path or a loopback address means another one on another host."""
    return limits.shard_id in (shard, ID_UNKNOWN)
