"""Reclaim policies: which segment goes next, which of its chunks live on, and which chunks share segments.

`base.py` is the interface.  `fifo.py`, `lru.py`, `s3fifo.py` and `sieve.py` are published algorithms on a
log of segments; `density.py` is our own.  docs/policies.md compares them, by replay of traces through the
real segment accounting.
"""

from mezzo_server.blockstore.policies.base import ReclaimPolicy
from mezzo_server.blockstore.policies.naming import POLICIES, policy

__all__ = ["POLICIES", "ReclaimPolicy", "policy"]
