"""Metrics of a shard's tenants: what each uses of its quota, and what it was refused.

Tenants are many, so that only those with the most requests have labels of their own; the others are added
up under ``(others)``.
"""

from __future__ import annotations

from mezzo_server.metrics.catalog import Table
from mezzo_server.metrics.declaring import SHARD

TENANT_METRICS = (
    SHARD.gauge(
        "tenant_used_bytes",
        "Bytes that a tenant uses, by quota: capacity_bytes (chunks on devices, in whole blocks), hot_bytes"
        " (arenas of the hot tier), leased_bytes.",
        Table("tenant_used"),
        ("tenant", "quota"),
        advice="Near its hard limit of capacity a tenant's oldest chunks make room for its new ones.",
    ),
    SHARD.gauge(
        "tenant_limit",
        "A tenant's limits, by quota (bytes, or bytes or requests a second) and by kind: soft or hard. Only"
        " those that there are.",
        Table("tenant_limits"),
        ("tenant", "quota", "limit"),
    ),
    SHARD.counter(
        "tenant_refusals",
        "Requests refused with OverQuota, by the quota that they were over.",
        Table("tenant_refusals"),
        ("tenant", "quota"),
        advice="The tenant wants more than it may have: raise its quota, or let it slow down.",
    ),
    SHARD.counter(
        "tenant_requests",
        "Requests of a tenant that were begun.",
        Table("tenant_requests"),
        ("tenant",),
    ),
    SHARD.counter(
        "tenant_payload_bytes",
        "Payload that a tenant put or got.",
        Table("tenant_payload"),
        ("tenant",),
    ),
    SHARD.counter(
        "tenant_device_bytes",
        "Bytes that devices moved for a tenant; `(background)`: reclaim, scrub and drains.",
        Table("tenant_device_bytes"),
        ("tenant",),
    ),
    SHARD.counter(
        "tenant_device_wait_seconds",
        "Time that a tenant's transfers waited for its turn, all of them together.",
        Table("tenant_device_wait"),
        ("tenant",),
        advice="It rises for who asks for more than his part while others have work: give him more weight, or add devices.",
    ),
)
