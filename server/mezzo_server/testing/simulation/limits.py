"""What simulated shards allow: little, so that limits are met."""

from __future__ import annotations

from mezzo_server.config import Limits

CHUNK_BYTES_MAX = 64 << 10
STAGING_BYTES = 1 << 20
LIMITS = Limits(
    staging_bytes=STAGING_BYTES,
    staging_connection_bytes_max=STAGING_BYTES // 2,
    chunk_bytes_max=CHUNK_BYTES_MAX,
    requests_max=32,
    lease_ms_max=5_000,
)
