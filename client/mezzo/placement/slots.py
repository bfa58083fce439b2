"""From a chunk's name to its slot: one hash. docs/placement.md has this in words, with test vectors. No I/O."""

from __future__ import annotations

import xxhash

SLOTS_LOG2_MIN = 4
SLOTS_LOG2 = 16
"""of the number of slots, unless the pod was made with another"""
SLOTS_LOG2_MAX = 20

hash_key = xxhash.xxh3_64_intdigest
"""hash_key(key, seed): XXH3-64 of the key under the namespace's seed"""


def namespace_seed(tenant_id: bytes, namespace_id: bytes) -> int:
    """What the keys of a namespace are hashed under, 64 bits: XXH3-64 of the two ids, one behind the other.

    Two namespaces that hold the same keys spread them differently, so no shard is hot for both.
    """
    return hash_key(tenant_id + namespace_id)


def slot_of(key: bytes, seed: int, slots_log2: int = SLOTS_LOG2) -> int:
    """The slot of a key: the highest bits of its hash."""
    return hash_key(key, seed) >> (64 - slots_log2)
