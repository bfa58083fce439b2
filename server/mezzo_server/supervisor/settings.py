"""The settings that each process of a node gets, with what the others took in them. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from mezzo_server.config.schema import NodeConfig
from mezzo_server.config.several import numbered, shard_name, shard_settings
from mezzo_server.config.shards import UNKNOWN_ID, ShardTold
from mezzo_server.supervisor.devices import Dealt, part_bytes
from mezzo_server.supervisor.pinning import pin_addresses, pin_devices

FRONTEND = "frontend"
METADATA = "metadata"


class ProcessSettings:
    """Owner of the settings of each process. What one said of itself reaches it, and the others, at their next start."""

    def __init__(self, config: NodeConfig, dealt: Dealt | None = None) -> None:
        """``dealt``: the devices of each shard; None: there is one shard, and it has all of them."""
        self._node = config
        self._led = bool(config.frontend.shard or config.frontend.shards)
        """the settings say themselves which shards the front-end serves"""
        self._shards: dict[str, NodeConfig] = {}
        self._told: dict[str, ShardTold] = {}
        if dealt is not None:
            count = len(dealt.devices)
            for number, devices in enumerate(dealt.devices):
                name = shard_name(number, count)
                self._shards[name] = _dealt(
                    shard_settings(config, number), devices, count, divided=dealt.divided
                )
                store_id, nbytes = dealt.stores[number] if dealt.stores else (b"", 0)
                seen = {"id": store_id.hex(), "bytes_total": nbytes}
                self._told[name] = _told(config, self._shards[name], number, seen)

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the shards, in order."""
        return tuple(self._shards) or (shard_name(0, 1),)

    @property
    def dispensable(self) -> tuple[str, ...]:
        """Shards of several whose stores are known, so that a front-end can tell clients of them before they are ready."""
        return tuple(
            name
            for name, told in self._told.items()
            if told.id != UNKNOWN_ID and not any(address.endswith(":0") for address in told.addresses)
        )

    def of(self, process: str) -> NodeConfig:
        """What a process is started with now."""
        own = self._shards.get(process)
        if own is not None or not self._shards or self._led:
            return self._node if own is None else own
        told = [str(each) for each in self._told.values()]
        return replace(self._node, frontend=replace(self._node.frontend, shards=told))

    def ready(self, process: str, said: Mapping[str, Any]) -> None:
        """A process said this when it was ready."""
        own = self._shards.get(process)
        if own is None:
            self._node = pin_addresses(self._node, process, said)
            return
        self._shards[process] = pin_addresses(own, "shard", said)
        self._told[process] = _told(self._node, self._shards[process], self.shards.index(process), said)

    def changed(self, process: str, said: Mapping[str, Any]) -> None:
        """A process said this when something about it had changed."""
        own = self._shards.get(process)
        if own is None:
            self._node = pin_devices(self._node, said)
        else:
            self._shards[process] = pin_devices(own, said)


def _dealt(config: NodeConfig, devices: Sequence[str], count: int, *, divided: bool) -> NodeConfig:
    shard = replace(config.shard, devices=list(devices))
    if divided:
        shard = replace(shard, capacity_bytes=part_bytes(shard.capacity_bytes, count))
    return replace(config, shard=shard)


def _told(node: NodeConfig, config: NodeConfig, number: int, said: Mapping[str, Any]) -> ShardTold:
    """What the front-end hears of a shard, with the settings that this one has by now."""
    taken = [address for address in config.shard.listen if not address.endswith(":0")] or config.shard.listen
    listen = sorted(taken, key=lambda address: not address.startswith("unix://"))
    advertised = [numbered(text, number) for text in node.frontend.advertise] or listen
    try:
        shard_id = bytes.fromhex(str(said.get("id", "")))
    except ValueError:
        shard_id = b""
    nbytes = said.get("bytes_total")
    return ShardTold(
        tuple(advertised),
        shard_id if len(shard_id) == len(UNKNOWN_ID) else UNKNOWN_ID,
        nbytes if isinstance(nbytes, int) else 0,
        asked_at="" if advertised[0] == listen[0] else listen[0],
    )
