"""Payload bytes that say whose they are, made and checked at the speed of memory.

The bytes of a block are 64-bit words: word i is ``mix(i) XOR secret(salt, block)``. Neighbouring
words differ and blocks differ in every word, so bytes of another block, of another place within
the block or of another salt are wrong bytes, and a check compares every one of them.

``mix`` is the output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom
number generators, OOPSLA 2014), chosen since it is defined by three lines and will stay the same:
a store filled by one release can be checked by another.
"""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

from mezzo.errors import InvalidArgument

WORD_BYTES = 8
BLOCK_BYTES_MAX = 1024**3
KEY_BYTES = 16

_GAMMA = 0x9E37_79B9_7F4A_7C15
_KEY_SEED = 1  # the key is public, the secret must not follow from it by accident
_SECRET_SEED = 2


def check_block_bytes(block_bytes: int) -> None:
    """Raise `InvalidArgument` for a size of blocks that `Pattern` cannot do."""
    if not 0 < block_bytes <= BLOCK_BYTES_MAX or block_bytes % WORD_BYTES:
        raise InvalidArgument(
            f"bytes per block: {block_bytes} is not a multiple of {WORD_BYTES} from {WORD_BYTES} to {BLOCK_BYTES_MAX}"
        )


class Pattern:
    """Keys and payload bytes of blocks of ``block_bytes`` (a multiple of 8) under ``salt``.

    Not thread-safe (it has one scratch block): each thread makes its own.
    """

    def __init__(self, block_bytes: int, salt: str = "") -> None:
        check_block_bytes(block_bytes)
        self.block_bytes = block_bytes
        # With the size in it, replays with other sizes of blocks do not meet each other's chunks.
        self._salt = f"{block_bytes} {salt}".encode()
        self._words = _mix(block_bytes // WORD_BYTES)
        self._scratch = np.empty_like(self._words)

    def key(self, hash_id: int) -> bytes:
        """The chunk key of a block: 16 bytes that depend on size, salt and ``hash_id``."""
        return xxhash.xxh3_128_digest(hash_id.to_bytes(8, "little") + self._salt, seed=_KEY_SEED)

    def fill(self, target: memoryview, hash_id: int) -> None:
        """Write the block's bytes to ``target``."""
        np.bitwise_xor(self._words, self._secret(hash_id), out=self._view(target))

    def spoil(self, target: memoryview, hash_id: int) -> None:
        """Make every byte of ``target`` a wrong one for this block.

        Before a get, so that memory that still holds the right bytes from an earlier one does not
        pass for delivered.
        """
        np.bitwise_xor(self._words, ~self._secret(hash_id), out=self._view(target))

    def wrong_bytes(self, source: memoryview, hash_id: int) -> int:
        """How many bytes of ``source`` are not the block's; 0 is right."""
        found = self._view(source)
        np.bitwise_xor(found, self._secret(hash_id), out=self._scratch)
        if np.array_equal(self._scratch, self._words):
            return 0
        return int(np.count_nonzero(self._scratch.view(np.uint8) != self._words.view(np.uint8)))

    def _secret(self, hash_id: int) -> np.uint64:
        digest = xxhash.xxh3_64_intdigest(hash_id.to_bytes(8, "little") + self._salt, seed=_SECRET_SEED)
        return np.uint64(digest)

    def _view(self, memory: memoryview) -> NDArray[np.uint64]:
        view = np.frombuffer(memory, dtype=np.uint64)
        if view.nbytes != self.block_bytes:
            raise InvalidArgument(f"{view.nbytes} bytes given for a block of {self.block_bytes}")
        return view


def _mix(count: int) -> NDArray[np.uint64]:
    """Outputs 1 to ``count`` of SplitMix64 from state 0; all differ, since it is a bijection."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return z ^ (z >> np.uint64(31))
