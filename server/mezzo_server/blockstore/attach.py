"""Which devices make up a store: reads superblocks, formats what is empty, refuses what is not ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mezzo.errors import DeviceFailed, FormatError, InvalidArgument
from mezzo_server.blockstore import sync
from mezzo_server.blockstore.format import superblock
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.superblock import (
    COPY_OFFSETS,
    DATA_OFFSET,
    MEMBERS_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    Content,
    Superblock,
)
from mezzo_server.blockstore.io import Device
from mezzo_server.memory import Memory, Span

SEGMENTS_AIM = 32
SEGMENTS_MIN = 8
AUTO_SEGMENT_BYTES_MIN = 1 << 20
AUTO_SEGMENT_BYTES_MAX = 256 << 20
SAMPLE_BYTES = DATA_OFFSET
"""Looked at for what a device holds, at its beginning"""
SAMPLE_TAIL_BYTES = 1 << 20
"""and at its end, where RAID members and partition tables keep copies"""


@dataclass(frozen=True, slots=True)
class Found:
    """What a device holds."""

    content: Content
    superblock: Superblock | None
    trouble: str = ""
    """why there is no superblock, or why one copy must be written anew"""
    foreign_copy: bool = False
    """where one copy should be lies something that may be somebody else's"""

    @property
    def unfinished(self) -> bool:
        """Formatting was interrupted: nothing can have been stored."""
        return self.superblock is not None and not self.superblock.set_generation


def segment_bytes_for(device_bytes: int) -> int:
    """A power of two that makes 16 to 32 segments of a small device, and more of a large one."""
    aim = max((device_bytes - DATA_OFFSET) // SEGMENTS_AIM, 1)
    return min(max(1 << (aim - 1).bit_length(), AUTO_SEGMENT_BYTES_MIN), AUTO_SEGMENT_BYTES_MAX)


def inspect(device: Device) -> Found:
    """Read both superblocks, what lies between, and the device's end.

    Raises:
        FormatError: it is too small, or is not all there.
        DeviceFailed: it cannot be read so far that what it holds is known. A place that cannot be read does not matter
            where a superblock says what the device holds: what lies there is found out when it is needed.
    """
    if device.block_bytes > BLOCK_BYTES or BLOCK_BYTES % device.block_bytes:
        raise FormatError(
            f"device {device.name} has blocks of {device.block_bytes} bytes; the format needs {BLOCK_BYTES} or a divisor"
        )
    if device.size_bytes < SAMPLE_BYTES:
        raise FormatError(f"device {device.name} has {device.size_bytes} bytes; {SAMPLE_BYTES} are the least")
    end = device.size_bytes - device.size_bytes % BLOCK_BYTES
    tail = max(DATA_OFFSET, end - SAMPLE_TAIL_BYTES)
    memory = Memory.anonymous(SAMPLE_BYTES + SAMPLE_TAIL_BYTES)
    memory.advise_huge()
    try:
        failure = _read(device, 0, memory.span(0, SAMPLE_BYTES))
        if failure < 0:
            for offset in COPY_OFFSETS:
                _read(device, offset, memory.span(offset, BLOCK_BYTES))
        if end > tail:
            failure = min(failure, _read(device, tail, memory.span(SAMPLE_BYTES, end - tail)))
        copies = [bytes(memory.view[offset : offset + BLOCK_BYTES]) for offset in COPY_OFFSETS]
        content = superblock.classify(copies, memory.view)
    finally:
        memory.close()
    newest = None
    if content is Content.MEZZO:
        try:
            newest = superblock.newest(copies)
        except superblock.Unsupported as error:
            return Found(content, None, f"of a newer release: {error}")
    if newest is None:
        if failure < 0:
            raise DeviceFailed(f"device {device.name} cannot be read: {os.strerror(-failure)}")
        return Found(content, None, _trouble(copies) if content is Content.MEZZO else "")
    if newest.device_bytes > device.size_bytes:
        raise FormatError(
            f"device {device.name} has {device.size_bytes} bytes, its superblock says {newest.device_bytes}: "
            "it was truncated, or this is a partial copy"
        )
    same = copies[0] == copies[1]
    foreign = not all(superblock.looks_ours(copy, newest) for copy in copies)
    return Found(content, newest, "" if same else "one superblock copy is damaged or outdated", foreign)


def _read(device: Device, offset: int, span: Span) -> int:
    """As `sync.read`; if it fails nothing of it is left: a part may have come."""
    result = sync.read(device, offset, span)
    if result < 0:
        span.view[:] = bytes(span.length)
    return result


def _trouble(copies: Sequence[bytes]) -> str:
    troubles = []
    for copy in copies:
        try:
            superblock.decode(copy)
        except FormatError as error:
            troubles.append(str(error))
    return "; ".join(dict.fromkeys(troubles))


def attach(
    devices: Sequence[Device],
    *,
    format_foreign: bool,
    segment_bytes: int,
    allow_missing: bool,
    created_s: int,
    entropy: Callable[[int], bytes],
) -> list[Superblock]:
    """Superblocks of the devices of one store, in the order of ``devices``.

    Empty devices are formatted.  Devices with anything else are refused, or formatted if
    ``format_foreign``; a valid superblock of ours is never formatted away.  FormatError says what does
    not fit together.
    """
    if not devices:
        raise InvalidArgument("a store needs at least one device")
    found = [inspect(device) for device in devices]
    for device, one in zip(devices, found, strict=True):
        if format_foreign:
            break
        if one.content is Content.LEFT:
            raise FormatError(
                f"device {device.name} was given up: `mezzo device drain` or `replace` took it out of its store; "
                "remove it from [shard] devices. `mezzo device add` takes it into a store that serves, --format "
                "begins a new one on it"
            )
        if one.superblock is None and one.content is not Content.EMPTY:
            held = f"a Mezzo superblock ({one.trouble})" if one.trouble else "data that is not Mezzo's"
            raise FormatError(f"device {device.name} holds {held}; --format would erase it")
        if one.foreign_copy:
            raise FormatError(
                f"device {device.name} holds a Mezzo store, and data that is not Mezzo's in place of one "
                "copy of its superblock: was it given to somebody else? --format would repair it"
            )
    if all(one.superblock is None or one.unfinished for one in found):
        return _format(devices, segment_bytes, created_s, entropy)
    ours = [one.superblock for one in found if one.superblock is not None]
    if len(ours) < len(found):
        names = ", ".join(
            device.name for device, one in zip(devices, found, strict=True) if one.superblock is None
        )
        raise FormatError(
            f"{names} is not part of the store that the other devices hold: if `mezzo device drain` or "
            "`replace` took it out, remove it from [shard] devices; `mezzo device add` takes a device in "
            "while the store serves"
        )
    newest = _check_set(devices, ours)
    members, generation = newest.members, newest.set_generation
    here = {block.device_id for block in ours}
    if not here.issuperset(members):
        if not allow_missing:
            missing = [member.hex() for member in members if member not in here]
            names = ", ".join(
                device.name for device, block in zip(devices, ours, strict=True) if block.device_id in members
            )
            raise FormatError(
                f"the store has {len(members)} devices, {len(members) - len(missing)} are here ({names}) "
                f"and not {', '.join(missing)}: if `mezzo device add` or `replace` took one in, list it in "
                "[shard] devices; --allow-missing-devices gives up what is missing, for good"
            )
        members, generation = tuple(member for member in members if member in here), generation + 1
    # Devices that were about to join when the store stopped, and hold nothing yet: they join now.
    joining = tuple(block.device_id for block in ours if block.device_id not in members)
    if joining:
        members, generation = (*members, *joining), generation + 1
    result = []
    for device, one, block in zip(devices, found, ours, strict=True):
        # Members with an older generation saw a change of the set that was interrupted: they join it now.
        if block.members != members or block.set_generation != generation:
            block = replace(block, members=members, set_generation=generation, written=block.written + 1)
            write_superblock(device, block)
        elif one.trouble:
            write_superblock(device, block)
        result.append(block)
    return result


def _check_set(devices: Sequence[Device], blocks: Sequence[Superblock]) -> Superblock:
    """The superblock that says which devices the set has; FormatError if these are not of one set."""
    if len({block.store_id for block in blocks}) > 1:
        raise FormatError("these devices belong to different stores")
    if len({block.device_id for block in blocks}) < len(blocks):
        raise FormatError("two of these devices are copies of one")
    newest = max(blocks, key=lambda block: block.set_generation)
    for device, block in zip(devices, blocks, strict=True):
        same = block.set_generation < newest.set_generation or block.members == newest.members
        joins = not block.set_generation  # it was prepared, and nothing was ever stored on it
        if not joins and (block.device_id not in newest.members or not same):
            raise FormatError(
                f"device {device.name} was given up: `mezzo device drain` or `replace` took it out of the store, "
                "or the store started without it; remove it from [shard] devices, or erase it and add it anew"
            )
    if len({block.device_id for block in blocks} | set(newest.members)) > MEMBERS_MAX:
        raise FormatError(f"more than {MEMBERS_MAX} devices, the most that a store can have")
    return newest


def _format(
    devices: Sequence[Device], segment_bytes: int, created_s: int, entropy: Callable[[int], bytes]
) -> list[Superblock]:
    """Superblocks of generation 0 on all devices, then of generation 1: so an interrupted one is noticed."""
    if len(devices) > MEMBERS_MAX:
        raise FormatError(f"{len(devices)} devices; a store has {MEMBERS_MAX} at most")
    sizes = []
    for device in devices:
        size = segment_bytes or segment_bytes_for(device.size_bytes)
        count = (device.size_bytes - DATA_OFFSET) // size
        if (
            size % BLOCK_BYTES
            or not SEGMENT_BYTES_MIN <= size <= SEGMENT_BYTES_MAX
            or not SEGMENTS_MIN <= count < 1 << 32
        ):
            raise FormatError(
                f"device {device.name} with {device.size_bytes} bytes has room for {count} segments of {size} "
                f"bytes; {SEGMENTS_MIN} are the least, and a segment is a multiple of {BLOCK_BYTES} bytes from "
                f"{SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            )
        sizes.append((size, count))
    store_id = entropy(16)
    members = tuple(entropy(16) for _ in devices)
    blocks = [
        Superblock(store_id, member, members, 0, device.size_bytes, size, count, created_s)
        for device, member, (size, count) in zip(devices, members, sizes, strict=True)
    ]
    for generation in (0, 1):
        blocks = [replace(block, set_generation=generation, written=generation + 1) for block in blocks]
        for device, block in zip(devices, blocks, strict=True):
            write_superblock(device, block)
    return blocks


def write_superblock(device: Device, block: Superblock) -> None:
    """Both copies, with a flush after each."""
    for offset in COPY_OFFSETS:
        result = sync.write(device, offset, superblock.encode(block))
        if result >= 0:
            result = sync.flush(device)
        if result < 0:
            raise DeviceFailed(f"writing the superblock of {device.name} failed: {os.strerror(-result)}")
