"""Settings: `schema` says which there are, `loading` where they come from, `rules` what goes together."""

from __future__ import annotations

from mezzo.durations import parse_duration
from mezzo.sizes import parse_size
from mezzo_server.config.keys import ENV_PREFIX, Key, keys
from mezzo_server.config.loading import Loaded, env_names, load, load_with_origins
from mezzo_server.config.schema import (
    AccessConfig,
    EncryptionConfig,
    FrontendConfig,
    HotConfig,
    Limits,
    LogConfig,
    MetadataConfig,
    MetadataServiceConfig,
    MetricsConfig,
    NodeConfig,
    PodConfig,
    QuotaConfig,
    ShardConfig,
    SupervisorConfig,
    TlsConfig,
)

__all__ = [
    "AccessConfig",
    "ENV_PREFIX",
    "EncryptionConfig",
    "FrontendConfig",
    "HotConfig",
    "Key",
    "Limits",
    "Loaded",
    "LogConfig",
    "MetadataConfig",
    "MetadataServiceConfig",
    "MetricsConfig",
    "NodeConfig",
    "PodConfig",
    "QuotaConfig",
    "ShardConfig",
    "SupervisorConfig",
    "TlsConfig",
    "env_names",
    "keys",
    "load",
    "load_with_origins",
    "parse_duration",
    "parse_size",
]
