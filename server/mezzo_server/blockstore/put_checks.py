"""What must hold of the chunks of a put before anything is done. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mezzo.errors import InvalidArgument, TooLarge
from mezzo.protocol.messages.types import PRIORITY_MAX
from mezzo_server.blockstore.api import PutChunk
from mezzo_server.blockstore.format import record
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.sealing import OVERHEAD_BYTES
from mezzo_server.blockstore.spans import total

KEY_BYTES_MAX = 64


def checked(chunks: Sequence[PutChunk], limit: int, *, sealed: bool) -> tuple[int, list[int]]:
    """Bytes of all chunks, and what each takes on a device, in whole blocks. ``sealed``: they are encrypted.

    Raises:
        TooLarge: one is longer than ``limit`` as it is stored.
        InvalidArgument: one cannot be stored at all.
    """
    size = 0
    sizes = []
    for number, chunk in enumerate(chunks):
        parts = chunk.parts
        count = len(parts)
        length = sum(parts)
        size += length
        stored = length + OVERHEAD_BYTES * count if sealed else length
        sizes.append(-(-stored // BLOCK_BYTES) * BLOCK_BYTES)  # `blocks_of`, written out
        if not 1 <= len(chunk.key) <= KEY_BYTES_MAX:
            raise InvalidArgument(
                f"key {number} has {len(chunk.key)} bytes; 1 to {KEY_BYTES_MAX} are allowed"
            )
        if not 1 <= count <= record.PARTS_MAX or min(parts) < 1:
            raise InvalidArgument(
                f"chunk {number} has {count} parts; 1 to {record.PARTS_MAX} that are not empty are allowed"
            )
        if stored > limit:
            raise TooLarge(
                f"chunk {number} has {stored} bytes{' when it is encrypted' if sealed else ''}; {limit} are the most here (chunk_bytes_max, and a segment must hold it)"
            )
        if not 0 <= chunk.priority <= PRIORITY_MAX:
            raise InvalidArgument(f"priority {chunk.priority} of chunk {number} is not 0 to {PRIORITY_MAX}")
        if total(chunk.source) != length:
            raise InvalidArgument(
                f"the source of chunk {number} has {total(chunk.source)} bytes, its parts {length}"
            )
    return size, sizes
