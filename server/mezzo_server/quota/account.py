"""One tenant's account: what it may use, what it was charged, and what it was refused.

Of each limit there are two: over ``soft`` the tenant is *behind* (its requests come last while others have
queued work), over ``hard`` it is refused with `OverQuota`.  A request is charged before work for it is begun.
What is not known of a get before it has ended (how many of its bytes are there) is settled at its end.
"""

from __future__ import annotations

from collections.abc import Sequence

from mezzo.errors import OverQuota
from mezzo_server.quota.bucket import Bucket
from mezzo_server.tenancy.model import Limit, Quota

CAPACITY, HOT, LEASED, BYTES, REQUESTS = LIMITS = (
    "capacity_bytes",
    "hot_bytes",
    "leased_bytes",
    "bytes_per_s",
    "requests_per_s",
)
RETRY_S_MIN = 0.001
RETRY_S_MAX = 60.0
"""What a refusal says is between these: nobody should come back at once, or plan for a day."""


class Account:
    """What one tenant uses of this shard. Owner: `Accounts`; the same object as long as the shard lives."""

    __slots__ = (
        "_soft",
        "_hard",
        "burst_s",
        "bytes_total",
        "chunk_bytes",
        "limited",
        "name",
        "quota",
        "refusals",
        "requests_total",
        "tenant",
        "weight",
        "whole",
    )

    def __init__(self, tenant: bytes) -> None:
        self.tenant = tenant
        self.name = tenant.hex()[:8]
        self.weight = 1
        self.quota = Quota()
        """what this shard enforces"""
        self.whole = Quota()
        """what all shards together do: this is a part of it"""
        self.chunk_bytes = 0
        """the tenant's longest chunk that was over its part of capacity: so much it may always have here"""
        self.burst_s = 1.0
        self.limited = False
        """whether a rate of its is limited: else there is nothing to be decided about a request"""
        self.requests_total = 0
        self.bytes_total = 0
        """payload put and got"""
        self.refusals: dict[str, int] = dict.fromkeys(LIMITS, 0)
        self._soft: list[Bucket | None] = [None, None]
        self._hard: list[Bucket | None] = [None, None]

    def allow(
        self, name: str, weight: int, quota: Quota, burst_s: float, now: float, *, whole: Quota | None = None
    ) -> None:
        """What it may use from now on; ``burst_s``: seconds of a rate that may be used at once.

        ``whole``: what ``quota`` is a part of; None: of itself.
        """
        self.name = name
        self.weight = weight
        self.quota = quota
        self.whole = whole or quota
        self.burst_s = burst_s
        rates = (quota.requests_per_s, quota.bytes_per_s)
        self._soft = self._buckets(self._soft, [limit.soft for limit in rates], now)
        self._hard = self._buckets(self._hard, [limit.hard for limit in rates], now)
        self.limited = any(self._soft) or any(self._hard)

    def _buckets(
        self, former: Sequence[Bucket | None], rates: Sequence[int], now: float
    ) -> list[Bucket | None]:
        buckets: list[Bucket | None] = []
        for bucket, rate in zip(former, rates, strict=True):
            if not rate:
                buckets.append(None)
                continue
            # at least one request, however low the rate
            burst = max(1.0, rate * self.burst_s)
            if bucket is None:
                bucket = Bucket(rate, burst, now)
            else:
                bucket.change(rate, burst, now)
            buckets.append(bucket)
        return buckets

    def charge(self, nbytes: int, now: float) -> None:
        """A request begins that will move ``nbytes`` of payload, as far as is known.

        Raises:
            OverQuota: one of the rates does not allow it now; nothing was charged.
        """
        wait_s, which = 0.0, 0
        for place, bucket in enumerate(self._hard):
            if bucket is not None:
                needed_s = bucket.wait_s(nbytes if place else 1, now)
                if needed_s > wait_s:
                    wait_s, which = needed_s, place
        if wait_s > 0:
            self._refuse_rate(which, now, wait_s)
        self._take(1, nbytes, now)

    def settle(self, nbytes: int, now: float) -> None:
        """A request moved so many more bytes than it was charged for (less, if negative)."""
        if nbytes:
            self._take(0, nbytes, now)

    def _take(self, requests: int, nbytes: int, now: float) -> None:
        for bucket, taken in zip(self._hard, (requests, nbytes), strict=True):
            if bucket is not None:
                bucket.take(taken, now)
        for bucket, taken in zip(self._soft, (requests, nbytes), strict=True):
            if bucket is not None:
                bucket.mark(taken, now)

    def _refuse_rate(self, which: int, now: float, wait_s: float) -> None:
        name = (REQUESTS, BYTES)[which]
        bucket = self._hard[which]
        self.refusals[name] += 1
        over = 0.0 if bucket is None else -bucket.level(now)
        state = f"{over:.0f} more than the burst were used" if over > 0 else "the burst is used up"
        limit = self.quota.bytes_per_s if which else self.quota.requests_per_s
        raise OverQuota(f"{name}: {limit.hard} are allowed, and {state}", clamped(wait_s))

    def rate_is_over(self, now: float) -> bool:
        """Whether more is asked for than the soft limits of its rates."""
        return any(bucket is not None and bucket.level(now) < 0 for bucket in self._soft)


def merged(quota: Quota, default: Quota) -> Quota:
    """``quota``, and the default where it says nothing of a limit."""

    def limit(own: Limit, other: Limit) -> Limit:
        return own if own.soft or own.hard else other

    return Quota(
        capacity_bytes=limit(quota.capacity_bytes, default.capacity_bytes),
        hot_bytes=limit(quota.hot_bytes, default.hot_bytes),
        leased_bytes=limit(quota.leased_bytes, default.leased_bytes),
        bytes_per_s=limit(quota.bytes_per_s, default.bytes_per_s),
        requests_per_s=limit(quota.requests_per_s, default.requests_per_s),
    )


def clamped(seconds: float) -> float:
    """A time to come back after, within what makes sense."""
    return min(max(seconds, RETRY_S_MIN), RETRY_S_MAX)


def half(limit: int) -> int:
    """What one tenant may have of a limit for all of them that nobody has a quota of."""
    return max(1, limit // 2)
