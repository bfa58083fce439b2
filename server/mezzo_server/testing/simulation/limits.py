"""What simulated shards allow: little, so that limits are met."""

from __future__ import annotations

from mezzo_server.config import Limits

CHUNK_BYTES_MAX = 64 << 10
STAGING_BYTES = 256 << 10
STORE_STAGING_BYTES = 1 << 20
PUTS_WAITING_BYTES_MAX = 64 << 10
LIMITS = Limits(
    staging_bytes=STAGING_BYTES,
    staging_connection_bytes_max=STAGING_BYTES // 2,
    chunk_bytes_max=CHUNK_BYTES_MAX,
    in_flight_bytes_max=256 << 10,
    connections_max=64,
    requests_max=4,
    lease_ms_max=5_000,
)
