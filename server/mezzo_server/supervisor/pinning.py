"""Addresses that processes took are kept: a restart comes back where its clients look for it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from mezzo_server.config.schema import NodeConfig


def pin_addresses(config: NodeConfig, part: str, said: Mapping[str, Any]) -> NodeConfig:
    """Settings with the addresses that ``part`` says it took in place of those with port 0.

    ``said`` is what it said when it was ready.  The front-end is led to the shard, over its Unix socket
    if it has one, unless the settings name a shard for it.
    """
    metrics = said.get("metrics")
    if isinstance(metrics, str) and metrics and part in {"shard", "frontend"}:
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
    # What lies on a device now is the store that this node made; formatting was for the first start.
    return replace(config, shard=replace(config.shard, format=False)) if part == "shard" else config


def _host_port(address: str) -> str:
    """``host:port`` of an address with or without a scheme and a path."""
    return address.partition("://")[2].partition("/")[0] if "://" in address else address
