"""Staging memory for chunks on their way through: one region, lent in pieces for a bounded wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mezzo import mapping
from mezzo.errors import Busy, TooLarge, Unavailable
from mezzo.regions import Extent
from mezzo.staging import ALIGN_BYTES, Staging, StagingRequest
from mezzo_server.frontend.numbers import FrontendNumbers

WAIT_S_MAX = 1.0
"""for memory that others hold; then the call is refused"""


class Room:
    """Owner of the staging memory."""

    def __init__(self, bytes_max: int, calls_max: int, numbers: FrontendNumbers) -> None:
        self._staging = Staging(mapping.owned, bytes_max, waiting_max=calls_max)
        self._numbers = numbers

    @property
    def bytes_max(self) -> int:
        """The most that one call can have."""
        return self._staging.bytes_max

    @asynccontextmanager
    async def take(self, lengths: Sequence[int], timeout_s: float) -> AsyncIterator[list[Extent]]:
        """Memory for chunks of these lengths, for the block.

        Raises:
            TooLarge: it is more than there is in all.
            Busy: others hold it.
        """
        length = sum(map(aligned, lengths))
        if length > self.bytes_max:
            raise TooLarge(f"{length} bytes at a time are over {self.bytes_max} (frontend.staging_bytes)")
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ready(request: StagingRequest) -> None:
            if not arrived.done():
                arrived.set_result(None)

        request = self._staging.request(length, ready)
        try:
            if not arrived.done():
                async with asyncio.timeout(min(timeout_s, WAIT_S_MAX)):
                    await arrived
            piece = request.piece
            if piece is None:
                raise request.error or Unavailable("no staging memory")
        except TimeoutError:
            self._staging.cancel(request)
            self._numbers.staging_refused += 1
            raise Busy("other calls hold all staging memory (frontend.staging_bytes)", WAIT_S_MAX) from None
        except BaseException:
            self._staging.cancel(request)
            raise
        try:
            region, offset, _ = piece.extent
            extents = []
            for length in lengths:
                extents.append(Extent(region, offset, length))
                offset += aligned(length)
            yield extents
        finally:
            self._staging.give(piece)

    def close(self) -> None:
        """Give the memory up."""
        self._staging.close()


def aligned(length: int) -> int:
    """``length`` as it counts for staging: each chunk begins on a block of its own."""
    return -(-length // ALIGN_BYTES) * ALIGN_BYTES
