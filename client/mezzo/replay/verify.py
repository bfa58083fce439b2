"""Checks what a replay left in a store, after a restart for instance."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from msgspec import Struct

from mezzo.replay.payload import Pattern
from mezzo.replay.trace import Trace
from mezzo.replay.worker import ReplayOptions, StoreClient, Tally, Worker


class Verified(Struct, frozen=True):
    """What `verify` found."""

    present: int
    """blocks of the trace that the store says it has"""
    compared: int
    lost: int
    """chosen blocks that it did not have after all"""
    wrong_bytes: int
    duration_s: float


def verify(
    client: StoreClient,
    trace: Trace,
    options: ReplayOptions,
    *,
    bytes_max: int,
    progress: Callable[[int], None] | None = None,
) -> Verified:
    """Look what of the trace's blocks is in the store, and get and compare up to ``bytes_max``
    of it, spread evenly over what is there.

    ``progress`` is called with the blocks compared. Raises what the client raises.
    """
    present = present_blocks(client, trace, options)
    step = max(1, -(-len(present) * options.block_bytes // max(1, bytes_max)))
    chosen = present[::step]
    tally = Tally()
    worker = Worker(client, options, tally, clock=time.monotonic, stop=threading.Event())
    start_s = time.monotonic()
    try:
        slots = worker.slots
        for first in range(0, len(chosen), slots):
            hash_ids = chosen[first : first + slots]
            worker.get(0, hash_ids, [worker.pattern.key(hash_id) for hash_id in hash_ids])
            if progress is not None:
                progress(min(len(chosen), first + slots))
    finally:
        worker.close()
    return Verified(
        present=len(present),
        compared=tally.got_bytes // options.block_bytes,
        lost=tally.lost,
        wrong_bytes=tally.wrong_bytes,
        duration_s=time.monotonic() - start_s,
    )


def present_blocks(client: StoreClient, trace: Trace, options: ReplayOptions, batch: int = 1024) -> list[int]:
    """The distinct blocks of the trace that the store has, in the order of their first use."""
    pattern = Pattern(options.block_bytes, options.salt)
    distinct = list(dict.fromkeys(hash_id for request in trace.requests for hash_id in request.hash_ids))
    present: list[int] = []
    for first in range(0, len(distinct), batch):
        hash_ids = distinct[first : first + batch]
        chunks = client.stat([pattern.key(hash_id) for hash_id in hash_ids])
        present += [hash_id for hash_id, chunk in zip(hash_ids, chunks, strict=True) if chunk is not None]
    return present
