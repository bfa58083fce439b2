"""What a chunk that is pulled becomes here: its memory, the put of it, and whether it is what is here already."""

from __future__ import annotations

import asyncio

from mezzo.protocol.messages import PulledChunk
from mezzo_server.blockstore.api import ChunkInfo, PutChunk, PutOutcome
from mezzo_server.memory import PAGE_BYTES, Span
from mezzo_server.pod.moving import Wanted
from mezzo_server.shard.share import StagingShare

SAME_LIFE_MS = 1000
"""Ends of lives that differ by less are the same: each is told with the time that an answer took."""


def is_same(here: ChunkInfo, chunk: PulledChunk, asked_ms: int) -> bool:
    """Whether a chunk that is here is the source's, and lives no longer. What is encrypted is not known to be."""
    if not here.checksums or here.checksums != tuple(chunk.checksums) or here.parts != tuple(chunk.parts):
        return False
    ends_ms = asked_ms + chunk.ttl_ms + SAME_LIFE_MS
    return chunk.ttl_ms < 0 or 0 < here.expiry_ms <= ends_ms


def room(chunk: PulledChunk) -> int:
    """Bytes of staging memory for a chunk: whole pages, so that the next begins where devices can read it."""
    return -(-sum(chunk.parts) // PAGE_BYTES) * PAGE_BYTES


def chunk_of(
    wanted: Wanted,
    chunk: PulledChunk,
    source: tuple[Span, ...],
    checksums: tuple[int, ...] | None,
    asked_ms: int,
) -> PutChunk:
    """The put of it. Its life ends no later than at the source: that counted what is left after we asked."""
    expiry_ms, priority = asked_ms + chunk.ttl_ms if chunk.ttl_ms >= 0 else 0, chunk.priority
    if wanted.lives_ms:
        ends_ms = asked_ms + wanted.lives_ms
        expiry_ms, priority = min(expiry_ms or ends_ms, ends_ms), 0
    return PutChunk(
        wanted.key,
        tuple(chunk.parts),
        source,
        chunk.position,
        checksums,
        expiry_ms,
        priority,
        admitted=True,
    )


async def to_its_end(ended: asyncio.Future[PutOutcome]) -> PutOutcome:
    """Wait for the store, which reads the memory until then, whoever wants us to stop."""
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return ended.result()


async def stage(share: StagingShare, length: int) -> Span | None:
    """Staging memory; None: clients needed it for too long."""
    arrived: asyncio.Future[Span | None] = asyncio.get_running_loop().create_future()

    def ready(span: Span | None) -> None:
        if not arrived.done():
            arrived.set_result(span)
        elif span is not None:
            share.give(span)

    ask = share.request(length, ready)
    try:
        return await arrived
    except asyncio.CancelledError:
        ask.cancel()
        if arrived.done() and not arrived.cancelled() and (late := arrived.result()) is not None:
            share.give(late)
        raise
