"""Metrics of what devices are written: amplification, endurance, and which puts were not taken."""

from __future__ import annotations

from mezzo_server.metrics.catalog import by, one
from mezzo_server.metrics.declaring import SHARD

WRITE_METRICS = (
    SHARD.gauge(
        "write_amplification",
        "Bytes of records written to the devices for each byte that was put, since the start.",
        one("write_amplification_ppm", scale=1e-6),
        advice="Above `write_amplification` of the settings: leases and quotas have chunks rewritten beyond it.",
    ),
    SHARD.gauge(
        "daily_written_bytes",
        "Bytes written to the devices a day, at the rate since the start.",
        one("written_bytes_per_day"),
    ),
    SHARD.gauge(
        "device_life_days",
        "Days until the devices have been written what `admission.endurance_bytes` rates them for, at the rate"
        " since the start; 0: it is not set, or nothing was written.",
        one("life_days_left"),
        advice="Too few: set `admission.writes_per_day`.",
    ),
    SHARD.counter(
        "admitted_chunks",
        "Chunks that admission looked at and took; 0 where it takes everything.",
        one("chunks_admitted"),
    ),
    SHARD.counter(
        "declined_chunks",
        "Chunks that admission did not take, by reason: first_touch, too_large, position, endurance.",
        by(
            {reason: f"declined_{reason}" for reason in ("first_touch", "too_large", "position", "endurance")}
        ),
        ("reason",),
        advice="endurance: more is put than the devices may be written; the least useful goes without.",
    ),
)
