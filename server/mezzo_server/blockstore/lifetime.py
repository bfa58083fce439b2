"""Lifetime classes: chunks that will die together share segments, so that space comes back whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo_server.blockstore.segment import Purpose, Segment

if TYPE_CHECKING:
    from mezzo_server.blockstore.device_log import DeviceLog

LARGE_TENANT_SEGMENTS = 4
"""a tenant with more live bytes than so many segments gets open segments of its own"""
OPEN_SHARE = 8
"""at most one in so many segments of a device is open for new chunks"""
IDLE_SEGMENTS = 4
"""an open segment is idle when so many segments for each open one were written since it was written last"""
TTL_STEP_MS = 60_000
TTL_CLASSES = 8
Class = tuple[Purpose, bytes, int, int]
"""why a segment is open, for which tenant (empty: any), the policy's lane, and about how long its chunks live"""


def class_of(log: DeviceLog, purpose: Purpose, tenant: bytes, lane: int = 0, expiry_ms: int = 0) -> Class:
    """The class of a record: those of a large tenant, of a lane, and of about the same time to live keep
    to themselves.  ``expiry_ms`` is that of its chunks, 0: they do not expire.

    Over the bound on open segments the least special class takes what would need one more: a segment that
    is closed before it is full wastes space.
    """
    if purpose is not Purpose.CHUNKS:
        return (purpose, b"", 0, 0)
    ttl = _ttl_class(expiry_ms - log.context.clock.now_ms()) if expiry_ms else 0
    large = log.tenant_bytes.get(tenant, 0) > LARGE_TENANT_SEGMENTS * log.superblock.segment_bytes
    kind = (purpose, tenant if large else b"", lane, ttl)
    if kind in log.open or _may_open(log):
        return kind
    for kind in ((purpose, b"", lane, ttl), (purpose, b"", 0, ttl)):
        if kind in log.open or _may_open(log):
            return kind
    return (purpose, b"", 0, 0)


def _ttl_class(left_ms: int) -> int:
    """1 for what expires within two minutes, one more for each four times as long."""
    return 1 + min(max(left_ms, 0) // TTL_STEP_MS, 1 << 2 * TTL_CLASSES - 5).bit_length() // 2


def open_max(log: DeviceLog) -> int:
    """Segments that may be open for new chunks: not many of a device that has few."""
    return min(log.context.options.open_segments_max, max(1, log.superblock.segment_count // OPEN_SHARE))


def over_open_max(log: DeviceLog) -> Segment | None:
    """The segment that must be closed before one more is opened for new chunks: written longest ago."""
    own = [kind for kind in log.open if kind[0] is Purpose.CHUNKS]
    return log.open[own[0]] if len(own) >= open_max(log) else None


def _may_open(log: DeviceLog) -> bool:
    """Whether one more segment may be open for new chunks; one that nobody uses is closed for it."""
    oldest = over_open_max(log)
    if oldest is None:
        return True
    if log.written_blocks - oldest.last_block > IDLE_SEGMENTS * open_max(log) * log.segment_blocks:
        log.close_segment(oldest)
        return True
    return False
