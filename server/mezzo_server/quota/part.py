"""A shard's part of the quotas of tenants, where a node or a pod has several shards. No I/O, no clock.

A quota is of the whole node, or of the whole pod.  A shard enforces so many *points* of it, of `POINTS`: of a tenant
whom nothing is said of, its part by default; of one whose parts were weighed, what it was given for each limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mezzo_server.tenancy.model import Limit, Quota

POINTS = 1 << 20
"""a whole quota"""
SLACK_POINTS = POINTS // 16
"""By so much the parts by default are together more than the quota: chunks never spread quite evenly."""
NEWCOMER_POINTS = POINTS // 256
"""what a shard of a pod enforces until it is told its part"""

CAPACITY_AT, HOT_AT, LEASED_AT, BYTES_AT, REQUESTS_AT = range(5)
"""where limits stand in `quota.account.LIMITS`"""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one shard enforces. Handed over whole; the same only if it is the same object."""

    default: int
    """points of each quota"""
    exceptions: Mapping[bytes, Mapping[int, int]] = field(default_factory=dict)
    """points by tenant and by limit, where they are others"""
    settled: bool = True
    """It stays, as far as is known.  Else a tenant that has more than its part keeps that, and gets no more."""
    mark: bytes = b""
    """of what it was taken from (`pod.parts`); empty: nobody said so"""

    def points(self, tenant: bytes, limit: int) -> int:
        """Of a tenant's limit."""
        own = self.exceptions.get(tenant)
        return self.default if own is None else own.get(limit, self.default)

    def of(self, quota: Quota, tenant: bytes) -> Quota:
        """As much of a tenant's quota, rounded up; of a limit that there is at least 1."""
        if self.default == POINTS and not self.exceptions:
            return quota
        return Quota(
            capacity_bytes=_part(quota.capacity_bytes, self.points(tenant, CAPACITY_AT)),
            hot_bytes=_part(quota.hot_bytes, self.points(tenant, HOT_AT)),
            leased_bytes=_part(quota.leased_bytes, self.points(tenant, LEASED_AT)),
            bytes_per_s=_part(quota.bytes_per_s, self.points(tenant, BYTES_AT)),
            requests_per_s=_part(quota.requests_per_s, self.points(tenant, REQUESTS_AT)),
        )


WHOLE = Part(POINTS)
"""of a shard that is alone"""
NEWCOMER = Part(NEWCOMER_POINTS, settled=False)
"""of a shard of a pod that was not told its part yet"""


def default_points(weight: int, total: int) -> int:
    """Of a shard that has ``weight`` of ``total``: in proportion, and a sixteenth more; one that is alone has all."""
    return min(POINTS, (POINTS + SLACK_POINTS) * weight // total) if total else 0


def equal_part(count: int) -> Part:
    """Of each of ``count`` shards among which chunks are spread evenly, and which nobody balances."""
    return WHOLE if count == 1 else Part(default_points(1, count))


def _part(limit: Limit, points: int) -> Limit:
    return Limit(_of(limit.soft, points), _of(limit.hard, points))


def _of(limit: int, points: int) -> int:
    return max(1, -(-limit * points // POINTS)) if limit else 0
