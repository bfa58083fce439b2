"""A device becomes fit to join a running store: what is on it is looked at, and its first superblock written.

Everything here blocks and touches nothing but the new device, so it runs in a thread of its own, by the
terms that the store gave out (docs/format.md, "Sets of devices").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mezzo.errors import FormatError, InvalidArgument
from mezzo_server.blockstore.attach import (
    SEGMENTS_MIN,
    Found,
    inspect,
    segment_bytes_for,
    write_superblock,
)
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.superblock import (
    DATA_OFFSET,
    MEMBERS_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    Content,
    Superblock,
)
from mezzo_server.blockstore.io import Device

SEGMENT_OVERHEAD_BYTES = 64 << 10
"""Header, record header and table beside the largest chunk that fits into a segment."""


@dataclass(frozen=True, slots=True)
class JoinTerms:
    """What a device must comply with to join; a snapshot of the store."""

    store_id: bytes
    members: tuple[bytes, ...]
    set_generation: int
    segment_bytes: int
    """preferred; a device too small for it gets smaller segments"""
    chunk_bytes_max: int
    """longest chunk that clients were told they may put: must fit into a segment"""


def prepare(
    device: Device,
    terms: JoinTerms,
    *,
    format_foreign: bool,
    created_s: int,
    entropy: Callable[[int], bytes],
) -> Superblock:
    """Write the superblock of a device that has not joined yet (set generation 0), and return it.

    InvalidArgument or FormatError says why it cannot join; then nothing was written.  DeviceFailed if
    it cannot be read or written.
    """
    if len(terms.members) >= MEMBERS_MAX:
        raise InvalidArgument(
            f"the store has {len(terms.members)} devices already, the most that it can have"
        )
    found = inspect(device)
    _check_content(device, found, terms, format_foreign)
    segment_bytes, count = _geometry(device, terms)
    device_id = entropy(16)
    block = Superblock(
        terms.store_id,
        device_id,
        (*terms.members, device_id),
        0,
        device.size_bytes,
        segment_bytes,
        count,
        created_s,
        # above what it bore before: of two valid copies the higher one counts
        written=1 + (found.superblock.written if found.superblock is not None else 0),
    )
    write_superblock(device, block)
    return block


def _check_content(device: Device, found: Found, terms: JoinTerms, format_foreign: bool) -> None:
    """Whether what the device holds may be lost."""
    block = found.superblock
    if block is not None and block.store_id == terms.store_id and block.device_id in terms.members:
        raise InvalidArgument(f"device {device.name} is part of the store already")
    if format_foreign or found.content in (Content.EMPTY, Content.LEFT) or found.unfinished:
        return
    if block is None:
        held = f"a Mezzo superblock ({found.trouble})" if found.trouble else "data that is not Mezzo's"
    elif (
        block.store_id == terms.store_id
        and block.set_generation < terms.set_generation
        and set(block.members) & set(terms.members)
        and not found.foreign_copy
    ):
        # Drained, or given up, by the very devices that it would join: what it holds is out of date.
        return
    else:
        held = "chunks of another store"
    raise FormatError(f"device {device.name} holds {held}; --format would erase it")


def _geometry(device: Device, terms: JoinTerms) -> tuple[int, int]:
    """Segment size and count."""
    segment_bytes = terms.segment_bytes
    if (device.size_bytes - DATA_OFFSET) // segment_bytes < SEGMENTS_MIN:
        segment_bytes = segment_bytes_for(device.size_bytes)
    count = (device.size_bytes - DATA_OFFSET) // segment_bytes
    if (
        count < SEGMENTS_MIN
        or count >= 1 << 32
        or segment_bytes % BLOCK_BYTES
        or not SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX
    ):
        raise InvalidArgument(
            f"device {device.name} with {device.size_bytes} bytes has room for {count} segments of "
            f"{segment_bytes} bytes; {SEGMENTS_MIN} are the least"
        )
    if segment_bytes - SEGMENT_OVERHEAD_BYTES < terms.chunk_bytes_max:
        raise InvalidArgument(
            f"device {device.name} with {device.size_bytes} bytes would have segments of {segment_bytes} bytes, "
            f"too small for the chunks of up to {terms.chunk_bytes_max} bytes that this store takes; a device "
            f"of {DATA_OFFSET + SEGMENTS_MIN * terms.segment_bytes} bytes or more has room for larger ones"
        )
    return segment_bytes, count
