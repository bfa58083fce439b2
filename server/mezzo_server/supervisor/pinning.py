"""What processes took is kept: a restart comes back at its addresses, with the devices of its store. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from mezzo_server.config.schema import NodeConfig

MEMORY_NAMES = ("memory", "null")
"""names of devices that are no files: their size is in the settings only"""


def pin_addresses(config: NodeConfig, part: str, said: Mapping[str, Any]) -> NodeConfig:
    """Settings with the addresses that ``part`` says it took in place of those with port 0.

    ``said`` is what it said when it was ready.  The front-end is led to the shard, over its Unix socket
    if it has one, unless the settings name a shard for it.
    """
    metrics = said.get("metrics")
    if isinstance(metrics, str) and metrics and part in {"shard", "frontend", "metadata"}:
        config = replace(config, metrics=replace(config.metrics, **{part: _host_port(metrics)}))
    listen = said.get("listen")
    if part == "shard" and isinstance(listen, list) and listen:
        addresses = [str(address) for address in listen]
        config = replace(config, shard=replace(config.shard, listen=addresses))
        if not config.frontend.shard:
            best = min(addresses, key=lambda address: not address.startswith("unix://"))
            config = replace(config, frontend=replace(config.frontend, shard=best))
    if part == "frontend":
        taken = {
            key: _host_port(said[name])
            for key, name in (("listen", "listen"), ("admin_listen", "admin"))
            if isinstance(said.get(name), str) and said[name]
        }
        config = replace(config, frontend=replace(config.frontend, **taken))
    if part == "metadata" and isinstance(listen, str) and listen:
        service = replace(config.metadata_service, listen=_host_port(listen))
        config = replace(config, metadata_service=service)
    # What lies on a device now is the store that this node made; formatting was for the first start.
    return replace(config, shard=replace(config.shard, format=False)) if part == "shard" else config


def pin_devices(config: NodeConfig, said: Mapping[str, Any]) -> NodeConfig:
    """Settings with the devices that the shard says its store has by now.

    Devices are added and drained while it serves, and a store starts with all of its devices or not at
    all.  Memory ends with the process, so what the settings say of it stays.
    """
    names = said.get("devices")
    if not isinstance(names, list) or not names:
        return config
    memory = [spec for spec in config.shard.devices if spec.startswith(("memory:", "null:"))]
    others = [name for name in names if isinstance(name, str) and name not in MEMORY_NAMES]
    return replace(config, shard=replace(config.shard, devices=[*memory, *others]))


def _host_port(address: str) -> str:
    """``host:port`` of an address with or without a scheme and a path."""
    return address.partition("://")[2].partition("/")[0] if "://" in address else address
