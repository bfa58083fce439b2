"""A front-end's hold on its pod: the map that clients are given, and the next one when that is due."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mezzo.errors import Unavailable
from mezzo.placement.pod_map import PodMap, difference, encode_difference, encode_map
from mezzo.pod import MapHad, MapTold
from mezzo_server.config import NodeConfig
from mezzo_server.pod.planner import Planner
from mezzo_server.pod.records import Settings
from mezzo_server.pod.view import PodView

BASES_MAX = 8
"""Maps before the present one from which clients are told the difference: about as many as a shard's joining takes.
One is 256 KiB, and 10 to 50 ms of this thread for each map that follows it."""


@dataclass(frozen=True, slots=True)
class PodShard:
    """One shard of the map, for clients."""

    incarnation: bytes
    """of its process; empty: it is not registered at this moment"""
    addresses: tuple[str, ...]
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class PodKnown:
    """The map in force, and what is known of its shards. Immutable."""

    pod_map: PodMap
    encoded: bytes
    shards: tuple[PodShard, ...]
    """in the order of the map"""
    differences: Mapping[int, bytes]
    """to it from maps before, by their epoch, where that is less than the whole"""

    def told(self, had: MapHad) -> MapTold:
        """The map, for who has another one, or none."""
        pod_map = self.pod_map
        if had.pod == pod_map.pod:
            if had.epoch == pod_map.epoch:
                return MapTold(as_had=True)
            if had.epoch in self.differences:
                return MapTold(difference=self.differences[had.epoch])
        return MapTold(self.encoded)


class FrontendPod:
    """Owner of what clients are told of the pod. `start`, then `stop`."""

    def __init__(self, config: NodeConfig) -> None:
        pod = config.pod
        settings = Settings(os.urandom(16), pod.slots_log2, pod.ramp_s, pod.asked_s, pod.remembered_s)
        self._planner = Planner(config.metadata.engine, pod.lease_s, settings, self._moved)
        self._known: PodKnown | None = None
        self._bases: deque[PodMap] = deque(maxlen=BASES_MAX)
        self._untold: list[PodMap] = []
        """those of them from which there is no difference yet to the map in force, the oldest first"""

    @property
    def known(self) -> PodKnown:
        """In force; goes on while the engine is away.

        Raises:
            Unavailable: the pod has no map, as far as is known here.
        """
        known = self._known
        if known is None:
            raise Unavailable(
                "the pod has no map yet: no shard has registered, or the metadata were not reached"
            )
        return known

    def map_source(self) -> PodMap:
        """For connections of ours to all shards. Raises Unavailable as `known`."""
        return self.known.pod_map

    def start(self) -> None:
        """Follow the pod, and plan for it."""
        self._planner.start()

    async def stop(self) -> None:
        """End that. What is known stays."""
        await self._planner.stop()

    def numbers(self) -> Mapping[str, int | float]:
        """How the pod is followed; docs/metrics.md lists them."""
        return self._planner.numbers()

    # -- in the thread

    def _moved(self, view: PodView) -> None:
        if view.plan is None:
            return
        pod_map, before = view.plan.pod_map, self._known
        if before is not None and before.pod_map is pod_map:
            encoded, differences = before.encoded, before.differences
        else:
            encoded = encode_map(pod_map)
            if before is not None:
                self._bases.append(without_previous(before.pod_map))
            # Most clients have the map before this one. What others are told must hold up neither them nor the next map.
            *self._untold, last = self._bases or [pod_map]
            differences = differences_to(pod_map, [last], len(encoded))
            self._planner.call(self._tell_more)
        shards = []
        for place in pod_map.shards:
            record = view.records.get(place.id)
            shards.append(
                PodShard(
                    b"" if record is None else record.incarnation,
                    place.addresses,
                    0 if record is None else record.capacity_bytes,
                )
            )
        self._known = PodKnown(pod_map, encoded, tuple(shards), differences)

    def _tell_more(self) -> None:
        """The difference from one map more."""
        known = self._known
        if known is None or not self._untold:
            return
        more = differences_to(known.pod_map, [self._untold.pop()], len(known.encoded))
        self._known = replace(known, differences={**known.differences, **more})
        self._planner.call(self._tell_more)


def without_previous(pod_map: PodMap) -> PodMap:
    """A map to begin a difference at: who had slots before does not matter there, and takes the most memory."""
    return PodMap(
        pod_map.pod, pod_map.epoch, pod_map.slots_log2, pod_map.shards, pod_map.table, {}, pod_map.seconds
    )


def differences_to(pod_map: PodMap, bases: Iterable[PodMap], whole_bytes: int) -> dict[int, bytes]:
    """From which of these maps it is less to tell the difference; encoded, by epoch."""
    found: dict[int, bytes] = {}
    for base in bases:
        if (base.pod, base.slots_log2) == (pod_map.pod, pod_map.slots_log2) and base.epoch < pod_map.epoch:
            encoded = encode_difference(difference(base, pod_map))
            if len(encoded) < whole_bytes:
                found[base.epoch] = encoded
    return found
