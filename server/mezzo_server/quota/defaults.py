"""From the settings to the quota of tenants that have none of their own."""

from __future__ import annotations

from mezzo_server.config import QuotaConfig
from mezzo_server.tenancy.model import Limit, Quota


def default_quota(config: QuotaConfig) -> Quota:
    """The quota that the settings give to every tenant."""
    return Quota(
        capacity_bytes=Limit(config.capacity_bytes_soft, config.capacity_bytes_hard),
        hot_bytes=Limit(config.hot_bytes_soft, config.hot_bytes_hard),
        leased_bytes=Limit(config.leased_bytes_soft, config.leased_bytes_hard),
        bytes_per_s=Limit(config.bytes_per_s_soft, config.bytes_per_s_hard),
        requests_per_s=Limit(config.requests_per_s_soft, config.requests_per_s_hard),
    )
