"""Settings: `schema` says which there are, `loading` where they come from."""

from __future__ import annotations

from mezzo.sizes import parse_size
from mezzo_server.config.loading import ENV_PREFIX, env_names, load
from mezzo_server.config.schema import (
    FrontendConfig,
    HotConfig,
    Limits,
    LogConfig,
    MetricsConfig,
    NodeConfig,
    ShardConfig,
    SupervisorConfig,
)

__all__ = [
    "ENV_PREFIX",
    "FrontendConfig",
    "HotConfig",
    "Limits",
    "LogConfig",
    "MetricsConfig",
    "NodeConfig",
    "ShardConfig",
    "SupervisorConfig",
    "env_names",
    "load",
    "parse_size",
]
