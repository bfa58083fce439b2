"""Staging memory for chunks on their way through: one region, lent in pieces for a bounded wait.

A tenant may hold twice what is free, or what one call needs, so that something is left for who comes (as in
the shard, staging.py); what is over that waits in a line of the tenant's, and holds up nobody else.  Where there
are no tenants nothing is shared.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mezzo import mapping
from mezzo.errors import Busy, TooLarge, Unavailable
from mezzo.regions import Extent
from mezzo.staging import ALIGN_BYTES, Staging, StagingRequest
from mezzo_server.access.principal import NO_TENANT
from mezzo_server.frontend.numbers import FrontendNumbers

WAIT_S_MAX = 1.0
"""for memory that others hold; then the call is refused"""
TENANT_TIMES_FREE = 2
"""A tenant may hold so many times what is free."""


class Room:
    """Owner of the staging memory."""

    def __init__(self, bytes_max: int, calls_max: int, numbers: FrontendNumbers) -> None:
        self._staging = Staging(mapping.owned, bytes_max, waiting_max=calls_max)
        self._numbers = numbers
        self._free = self._staging.bytes_max
        """less what was promised and waits for others' to come back"""
        self._held: Counter[bytes] = Counter()
        """bytes by tenant, promised ones included"""
        self._lines: dict[bytes, deque[tuple[int, asyncio.Future[None]]]] = {}
        """calls of tenants that have had their part"""

    @property
    def bytes_max(self) -> int:
        """The most that one call can have."""
        return self._staging.bytes_max

    @asynccontextmanager
    async def take(
        self, lengths: Sequence[int], timeout_s: float, tenant: bytes = NO_TENANT
    ) -> AsyncIterator[list[Extent]]:
        """Memory for chunks of these lengths, for the block, out of the part of ``tenant``.

        Raises:
            TooLarge: it is more than there is in all.
            Busy: others hold it.
        """
        length = sum(map(aligned, lengths))
        if length > self.bytes_max:
            raise TooLarge(f"{length} bytes at a time are over {self.bytes_max} (frontend.staging_bytes)")
        until = asyncio.get_running_loop().time() + min(timeout_s, WAIT_S_MAX)
        async with self._part(tenant, length, until):
            request = await self._request(length, until)
            piece = request.piece
            if piece is None:
                raise request.error or Unavailable("no staging memory")
            try:
                region, offset, _ = piece.extent
                extents = []
                for length in lengths:
                    extents.append(Extent(region, offset, length))
                    offset += aligned(length)
                yield extents
            finally:
                self._staging.give(piece)

    async def _request(self, length: int, until: float) -> StagingRequest:
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ready(request: StagingRequest) -> None:
            if not arrived.done():
                arrived.set_result(None)

        request = self._staging.request(length, ready)
        try:
            if not arrived.done():
                async with asyncio.timeout_at(until):
                    await arrived
        except TimeoutError:
            self._staging.cancel(request)
            raise self._busy() from None
        except BaseException:
            self._staging.cancel(request)
            raise
        return request

    @asynccontextmanager
    async def _part(self, tenant: bytes, length: int, until: float) -> AsyncIterator[None]:
        """So much of a tenant's part, for the block."""
        if tenant in self._lines or not self._may(tenant, length):
            await self._wait(tenant, length, until)
        else:
            self._promise(tenant, length)
        try:
            yield
        finally:
            self._give_part(tenant, length)

    def _may(self, tenant: bytes, length: int) -> bool:
        held = self._held.get(tenant, 0)
        return not held or tenant == NO_TENANT or held + length <= TENANT_TIMES_FREE * self._free

    def _promise(self, tenant: bytes, length: int) -> None:
        self._free -= length
        self._held[tenant] += length

    async def _wait(self, tenant: bytes, length: int, until: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(tenant, deque())
        line.append((length, turn))
        try:
            async with asyncio.timeout_at(until):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._give_part(tenant, length)  # it was promised in the same moment
            else:
                turn.cancel()
                self._go_on()
            if isinstance(error, TimeoutError):
                raise self._busy() from None
            raise

    def _give_part(self, tenant: bytes, length: int) -> None:
        self._free += length
        self._held[tenant] -= length
        if not self._held[tenant]:
            del self._held[tenant]
        self._go_on()

    def _go_on(self) -> None:
        """Calls go on for which there is room now in their tenants' parts."""
        for tenant, line in tuple(self._lines.items()):
            while line:
                length, turn = line[0]
                if not turn.done():
                    if not self._may(tenant, length):
                        break
                    self._promise(tenant, length)
                    turn.set_result(None)
                line.popleft()
            if not line:
                del self._lines[tenant]

    def _busy(self) -> Busy:
        self._numbers.staging_refused += 1
        return Busy("other calls hold all staging memory (frontend.staging_bytes)", WAIT_S_MAX)

    def close(self) -> None:
        """Give the memory up."""
        self._staging.close()


def aligned(length: int) -> int:
    """``length`` as it counts for staging: each chunk begins on a block of its own."""
    return -(-length // ALIGN_BYTES) * ALIGN_BYTES
