"""Checksums that bind bytes to what they are.

A part's checksum is XXH3-64 of its bytes with a seed that is drawn from tenant, namespace, key
and the part's number, so that the right bytes under the wrong name do not pass.  Both sides
compute it on their own: the server before it stores and before it answers, the SDK over what it
received by TCP.

XXH3: https://github.com/Cyan4973/xxHash, release 0.8 (the stable XXH3 output).
"""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

MASK_64 = 0xFFFF_FFFF_FFFF_FFFF
PART_STEP = 0x9E37_79B9_7F4A_7C15  # 2**64 / golden ratio: distinct seeds for neighbouring parts


def scope_of(tenant: bytes, namespace: bytes) -> bytes:
    """What `chunk_seed` needs to know of a session: 16 bytes of tenant id, 16 of namespace id."""
    if len(tenant) != 16 or len(namespace) != 16:
        raise ValueError("tenant and namespace ids are 16 bytes long")
    return tenant + namespace


def chunk_seed(scope: bytes, key: bytes) -> int:
    """The 64-bit seed of a chunk: XXH3-64 of tenant id, namespace id and key."""
    return xxhash.xxh3_64_intdigest(scope + key)


def part_seed(seed: int, part: int) -> int:
    """The seed of part number ``part`` (from 0) of the chunk with `chunk_seed` ``seed``."""
    return (seed + part * PART_STEP) & MASK_64


def part_checksum(seed: int, part: int, pieces: Iterable[bytes | bytearray | memoryview]) -> int:
    """XXH3-64 over ``pieces`` in order, seeded for part number ``part``."""
    state = xxhash.xxh3_64(seed=part_seed(seed, part))
    for piece in pieces:
        state.update(piece)
    return state.intdigest()
