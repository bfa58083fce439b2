"""What a block store can be told. One place for its limits, each with its unit and reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mezzo_server.blockstore.admission.admission import TAKES_ALL, AdmissionOptions

INLINE_BYTES = 2 << 20
"""Payload bytes of a request that are checksummed in the loop before others get their turn."""
INLINE_REST_BYTES = INLINE_BYTES // 4
"""And so many more, where nothing of the request is left then: another turn would cost more than they do."""


class Durability(Enum):
    """What a power loss may take of what was acknowledged. Killing a process never takes anything."""

    PROCESS = "process"
    """chunks in segments that were not sealed yet: a device is flushed when a segment is sealed"""
    POWER = "power"
    """nothing: the device is flushed before each acknowledgement"""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Limits and choices of one shard's block store."""

    durability: Durability = Durability.PROCESS
    policy: str = "fifo"
    """which chunks go when space is needed: one of `policies.POLICIES`"""
    admission: AdmissionOptions = TAKES_ALL
    """which puts are taken"""
    chunk_bytes_max: int = 64 << 20
    segment_bytes: int = 0
    """used when formatting; 0: chosen from the device's size (`attach.segment_bytes_for`)"""
    write_amplification: float = 1.1
    """bytes that may be written for each byte that is put, so that what is worth keeping is rewritten when its
    segment is reclaimed; what must be rewritten (leases, quotas) is rewritten beyond it"""
    open_segments_max: int = 8
    """segments open for new chunks at once on each device; one for each large tenant, one for all others"""
    namespaces_max: int = 65536
    """namespaces with chunks at once; each costs about a kilobyte"""
    staging_bytes: int = 256 << 20
    """bounce buffers, record headers; at least what one stream of the longest encrypted chunk needs in one piece
    (`sealed_stream.staging_bytes_max`)"""
    waiting_bytes_max: int = 1 << 30
    """payload bytes of puts that were accepted and not yet written"""
    put_wait_s: float = 5.0
    """how long a put may wait for space before it is refused as busy"""
    inline_bytes: int = 2 * (INLINE_BYTES + INLINE_REST_BYTES)
    """payload bytes checksummed or copied in the loop in one turn (`python -m benchmarks cost` has the time of a checksum),
    those of two requests that come at a time; half of it for small ones alone (`payloads.SMALL_BYTES`).  The rest goes
    to the workers: handing little work over costs more than doing it, and doing much holds the loop"""
    scrub_bytes_per_s: float = 16 << 20
    """0: no scrub"""
    drain_bytes_per_s: float = 256 << 20
    """rate at which the chunks of a device that is drained move to the others; 0: as fast as it goes"""
    device_queue_s: float = 0.01
    """how much work a device is given at a time, by the rate that it has shown (schedule.py); 0: all that there is"""
    background_share: float = 0.2
    """of a device's time for reclaim, scrub and drains while tenants have work for it too"""
    io_errors_max: int = 8
    """read or write errors after which a device is fenced; a failed flush fences at once"""
    allow_missing_devices: bool = False
    """start without devices of the set for good: what they held is given up"""
