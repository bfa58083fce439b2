"""What the store is told of its tenants: weights, quotas, and who uses more than its share.

Whoever runs the store hands in an object of his own (`BlockStore.shares`).  Every method is O(1) and is
asked on the way of requests, so it decides from numbers that are at hand.
"""

from __future__ import annotations


class Shares:
    """Of nobody anything is known: all tenants weigh the same, and none has a quota."""

    def weight(self, tenant: bytes) -> float:
        """Its share of device time beside others that have work for the device."""
        return 1.0

    def behind(self, tenant: bytes) -> bool:
        """Whether it is over a soft limit: its work comes last while others have some."""
        return False

    def capacity_bytes_max(self, tenant: bytes) -> int:
        """The most bytes of chunks that it may have, in whole blocks; 0: no limit."""
        return 0

    def capacity_bytes_for(self, tenant: bytes, chunk_bytes: int) -> tuple[int, int]:
        """`capacity_bytes_max`, raised if one chunk of so many bytes is more; and what the tenant may have in all, of
        which that is this shard's part.
        """
        most = self.capacity_bytes_max(tenant)
        return most, most

    def over_share(self, tenant: bytes) -> bool:
        """Whether it has more on the devices than its share: its chunks go first when space is needed."""
        return False

    @property
    def divided(self) -> bool:
        """Whether reclaim must ask of whom a chunk is: there are several tenants, or quotas."""
        return False

    def within_quota(self, tenant: bytes) -> bool:
        """Whether it has a quota and is within it: none of its chunks is evicted, whoever wants space.

        What is promised so to all tenants together must be less than the devices have.
        """
        return False

    def refused(self, tenant: bytes) -> None:
        """A put of its was refused for want of capacity."""
