"""An encrypted chunk as a stream: read and decrypted whole, before its first piece is given.

GCM says only at the end whether it was right, and the checksums that the receiver is told are those of
what he receives, not of what is stored.  So such a stream holds all of its bytes at once, twice until they are decrypted.
"""

from __future__ import annotations

from mezzo.errors import Busy, TooLarge
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.get import submit
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import DeviceTime
from mezzo_server.blockstore.read import ChunkRead, Drop, whole_bytes
from mezzo_server.blockstore.sealing import OVERHEAD_BYTES, plain_parts
from mezzo_server.blockstore.segment import Segment
from mezzo_server.blockstore.whole_stream import WholeStream
from mezzo_server.memory import Span
from mezzo_server.staging import StagingRequest


class SealedStream(WholeStream):
    """Pieces of one chunk out of staging, of which it is the owner."""

    def __init__(
        self,
        context: Context,
        namespace: NamespaceIndex,
        key: bytes,
        place: tuple[Segment, int],
        parts: tuple[int, int],
        drop: Drop,
        time: DeviceTime | None = None,
    ) -> None:
        first, count = parts
        lengths = plain_parts(place[0].table, place[1])[first : first + count if count else None]
        super().__init__(context, namespace, key, lengths, ())
        self._key = key
        self._sequence = place[0].table.sequence[place[1]]
        self._parts = parts
        self._drop_chunk = drop
        self._time = time
        self._stored_bytes = whole_bytes(*place, *parts)
        self._plain_bytes = blocks_of(self.length) * BLOCK_BYTES
        self._memory: Span | None = None
        self._reading = False
        """a device or a thread writes into the memory"""
        self._request: StagingRequest | None = None
        tenant = namespace.scope.tenant
        try:
            # Both at once: streams that each held one piece and waited for another could wait for ever.
            self._request = context.staging.request(
                self._plain_bytes + self._stored_bytes, self._room, tenant, self._without_memory
            )
        except (Busy, TooLarge):
            self._without_memory()

    def _without_memory(self) -> None:
        self._context.counters["gets_without_memory"] += 1
        self._arrived(None)

    def _room(self, piece: Span) -> None:
        """Memory for what is read and for what is decrypted. Until it came no segment was held."""
        self._memory = piece
        place = self._context.find_again(self.namespace, self._key, self._sequence)
        if place is None or self._failed:
            self._arrived(None)
            return
        self._reading = True
        read = ChunkRead(
            self._context,
            self.namespace,
            self._key,
            place,
            self._parts,
            [piece.part(0, self.length)],
            self._was_read,
            self._drop_chunk,
            self._time,
        )
        read.prepare()
        read.staged(piece.part(self._plain_bytes, self._stored_bytes), lent=True)
        submit([read])

    def _was_read(self, found: bool) -> None:
        if not found or self._finished or self._memory is None:
            self._reading = False
            self._arrived(None)
            return
        # What is decrypted is held for as long as its reader takes; what it was decrypted from is not.
        self._memory = span = self._context.staging.shorten(self._memory, self.length)

        def digested(checksums: list[int]) -> None:
            self.checksums = tuple(checksums)
            self._reading = False
            self._arrived(span)

        tenant = self.namespace.scope.tenant
        self._context.digest(self.seed, self._parts[0], self.part_lengths, [span], digested, tenant)

    def _take_back(self) -> bool:
        if self._reading:
            return False
        if self._memory is not None:
            self._context.staging.give(self._memory)
        elif self._request is not None:
            self._request.cancel()
        return True


def staging_bytes_max(stored_bytes_max: int) -> int:
    """Staging that one stream needs in one piece, if no chunk takes more than this on its device."""
    plain_bytes_max = max(0, stored_bytes_max - OVERHEAD_BYTES)
    return (blocks_of(stored_bytes_max) + blocks_of(plain_bytes_max)) * BLOCK_BYTES
