"""What all structures of the format share: block size, the digest, the error.

Every structure is checked by 128 bits of XXH3 over its bytes, preceded by a secret that says which
life of which place it belongs to.  XXH3-128: https://github.com/Cyan4973/xxHash, release 0.8.
"""

from __future__ import annotations

import xxhash

VERSION = 1
"""Of superblock, segment header, record and table; each carries it on its own, behind its magic."""

BLOCK_BYTES = 4096
"""Unit of space and of alignment in the format. Devices with larger blocks are refused."""

DIGEST_BYTES = 16


def digest(secret: bytes, *pieces: bytes | bytearray | memoryview) -> bytes:
    """XXH3-128 of ``secret`` and then ``pieces``."""
    state = xxhash.xxh3_128(secret)
    for piece in pieces:
        state.update(piece)
    return state.digest()


def blocks_of(length: int) -> int:
    """How many blocks ``length`` bytes take."""
    return -(-length // BLOCK_BYTES)


def padded(data: bytes) -> bytes:
    """``data`` with zeros up to the next block boundary."""
    return data + bytes(-len(data) % BLOCK_BYTES)
