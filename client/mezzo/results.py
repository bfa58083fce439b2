"""What calls answer. Immutable values; tuples are in the order of the call's keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Self

from msgspec import Struct

from mezzo.protocol.messages import ChunkStat, LookedUp


class PutState(IntEnum):
    """How the put of one chunk ended."""

    STORED = 0
    EXISTS = 1
    """the key was there; its first bytes stay, these were not looked at"""
    FAILED = 2
    """not stored: the device failed, the bytes changed while they were read, or the shard did not answer"""
    DECLINED = 3
    """not stored: the server does not think it worth the device's writes now; a put again later may be taken"""


class PutResult(Struct, frozen=True):
    """Outcome of a put."""

    states: tuple[PutState, ...]
    stored: int
    """chunks stored by this call"""
    exists: int
    """chunks that were there already"""
    failed: int
    """chunks not stored, though the server would have taken them"""
    declined: int = 0
    """chunks that the server did not take"""
    unanswered: int = 0
    """of the failed ones, those whose shard did not answer (in a pod, where the others did)"""


class GetResult(Struct, frozen=True):
    """Outcome of a get. Only where ``found`` is true may the target's bytes be read."""

    found: tuple[bool, ...]
    count: int
    """chunks found"""
    lengths: tuple[int, ...]
    """bytes delivered for each key, 0 for a miss"""
    bytes: int
    """bytes delivered in all"""
    unanswered: int = 0
    """of the misses, those whose shard did not answer (in a pod, where the others did)"""


class LookupResult(Struct, frozen=True):
    """How much of a prefix is there."""

    prefix: int
    """keys present, counted from the first one on"""
    bytes: int
    """their bytes in all"""
    load_s: float
    """estimate of the time that a get of them would take now, in seconds"""
    load_high_s: float = 0.0
    """nine of ten such gets take no longer"""
    hot_prefix: int = 0
    """keys that are in the hot tier, counted from the first one on"""
    hot_bytes: int = 0
    """bytes of the prefix that are in the hot tier"""
    hot_load_s: float = 0.0
    """of the estimate, what the hot bytes take"""
    device_load_s: float = 0.0
    """of the estimate, what the others take"""
    load_wait_s: float = 0.0
    """of the estimate, what passes before the first byte, however much is loaded"""
    unanswered: int = 0
    """keys whose shard did not answer (in a pod, where the others did): the prefix ends before the first of them"""


class Stats(tuple[ChunkStat | None, ...]):  # noqa: SLOT001 - of varying length, so it can have none
    """What is known of each chunk; None for a miss."""

    unanswered: int = 0
    """of the misses, those whose shard did not answer (in a pod, where the others did)"""

    @classmethod
    def of(cls, chunks: Iterable[ChunkStat | None], unanswered: int = 0) -> Self:
        """These, of which so many are not known."""
        stats = cls(chunks)
        stats.unanswered = unanswered
        return stats


class DeleteResult(Struct, frozen=True):
    """Outcome of a delete."""

    deleted: tuple[bool, ...]
    """whether each key was there"""
    count: int
    """chunks deleted"""


def looked_up(found: Sequence[LookedUp], unanswered: int = 0) -> LookupResult:
    """The answers to the pieces of one prefix, as one."""
    if len(found) == 1:
        return _told(found[0], unanswered)
    hot_prefix = 0
    for piece in found:
        hot_prefix += piece.hot_prefix
        if piece.hot_prefix < piece.prefix:
            break
    # The pieces of a get follow one another without a pause, so what passes before its first byte passes once.
    waits_us = [min(piece.load_wait_us, piece.load_us) for piece in found]
    again_us = sum(waits_us) - max(waits_us, default=0)
    return _told(
        LookedUp(
            prefix=sum([piece.prefix for piece in found]),
            bytes=sum([piece.bytes for piece in found]),
            load_us=sum([piece.load_us for piece in found]) - again_us,
            hot_prefix=hot_prefix,
            hot_bytes=sum([piece.hot_bytes for piece in found]),
            hot_load_us=sum([piece.hot_load_us for piece in found]),
            device_load_us=sum([piece.device_load_us for piece in found]),
            load_high_us=sum([max(piece.load_high_us, piece.load_us) for piece in found]) - again_us,
            load_wait_us=max(waits_us, default=0),
        ),
        unanswered,
    )


def _told(found: LookedUp, unanswered: int) -> LookupResult:
    """What callers are told of an answer."""
    load_us = found.load_us
    return LookupResult(
        found.prefix,
        found.bytes,
        load_us / 1e6,
        max(found.load_high_us, load_us) / 1e6,
        found.hot_prefix,
        found.hot_bytes,
        found.hot_load_us / 1e6,
        found.device_load_us / 1e6,
        found.load_wait_us / 1e6,
        unanswered,
    )
