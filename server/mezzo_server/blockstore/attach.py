"""Which devices make up a store: reads superblocks, formats what is empty, refuses what is not ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mezzo.errors import DeviceFailed, FormatError, InvalidArgument
from mezzo_server.blockstore import sync
from mezzo_server.blockstore.format import superblock
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.superblock import COPY_OFFSETS, DATA_OFFSET, Content, Superblock
from mezzo_server.blockstore.io import Device
from mezzo_server.memory import Memory

SEGMENTS_AIM = 32
SEGMENTS_MIN = 8
SEGMENT_BYTES_MIN = 1 << 20
SEGMENT_BYTES_MAX = 256 << 20
SAMPLE_BYTES = DATA_OFFSET


@dataclass(frozen=True, slots=True)
class Found:
    """What a device holds."""

    content: Content
    superblock: Superblock | None
    trouble: str = ""
    """why there is no superblock, or why one copy must be written anew"""


def segment_bytes_for(device_bytes: int) -> int:
    """A power of two, so that a device has some tens of segments or more: 1 MiB to 256 MiB."""
    aim = max((device_bytes - DATA_OFFSET) // SEGMENTS_AIM, 1)
    return min(max(1 << (aim.bit_length() - 1), SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX)


def inspect(device: Device) -> Found:
    """Read both superblocks and what lies between. DeviceFailed if they cannot be read."""
    if device.block_bytes > BLOCK_BYTES or BLOCK_BYTES % device.block_bytes:
        raise FormatError(
            f"device {device.name} has blocks of {device.block_bytes} bytes; the format needs {BLOCK_BYTES} or a divisor"
        )
    if device.size_bytes < SAMPLE_BYTES:
        raise FormatError(f"device {device.name} has {device.size_bytes} bytes; {SAMPLE_BYTES} are the least")
    memory = Memory.anonymous(SAMPLE_BYTES)
    try:
        result = sync.read(device, 0, memory.span(0, SAMPLE_BYTES))
        if result < 0:
            raise DeviceFailed(f"device {device.name} cannot be read: {os.strerror(-result)}")
        copies = [bytes(memory.view[offset : offset + BLOCK_BYTES]) for offset in COPY_OFFSETS]
        content = superblock.classify(copies, memory.view)
    finally:
        memory.close()
    if content is not Content.MEZZO:
        return Found(content, None)
    newest = superblock.newest(copies)
    if newest is None:
        return Found(content, None, _trouble(copies))
    if newest.device_bytes > device.size_bytes:
        raise FormatError(
            f"device {device.name} has {device.size_bytes} bytes, its superblock says {newest.device_bytes}: "
            "it was truncated, or this is a partial copy"
        )
    same = copies[0] == copies[1]
    return Found(content, newest, "" if same else "one superblock copy is damaged or outdated")


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
        if one.superblock is None and one.content is not Content.EMPTY and not format_foreign:
            held = (
                f"a damaged Mezzo superblock ({one.trouble})" if one.trouble else "data that is not Mezzo's"
            )
            raise FormatError(f"device {device.name} holds {held}; --format would erase it")
    ours = [one.superblock for one in found if one.superblock is not None]
    if not ours:
        return _format(devices, segment_bytes, created_s, entropy)
    if len(ours) < len(found):
        names = ", ".join(
            device.name for device, one in zip(devices, found, strict=True) if one.superblock is None
        )
        raise FormatError(f"{names} is not part of the store that the other devices hold")
    _check_set(devices, ours)
    if len(ours) < ours[0].device_count:
        if not allow_missing:
            raise FormatError(
                f"the store has {ours[0].device_count} devices, {len(ours)} are here; "
                "--allow-missing-devices gives up the others and what they hold, for good"
            )
        generation = ours[0].set_generation + 1
        ours = [
            replace(block, device_count=len(ours), set_generation=generation, written=block.written + 1)
            for block in ours
        ]
        for device, block in zip(devices, ours, strict=True):
            write_superblock(device, block)
    else:
        for device, one, block in zip(devices, found, ours, strict=True):
            if one.trouble:
                write_superblock(device, block)
    return ours


def _check_set(devices: Sequence[Device], blocks: Sequence[Superblock]) -> None:
    if len({block.store_id for block in blocks}) > 1:
        raise FormatError("these devices belong to different stores")
    if len({block.device_id for block in blocks}) < len(blocks):
        raise FormatError("two of these devices are copies of one")
    newest = max(block.set_generation for block in blocks)
    for device, block in zip(devices, blocks, strict=True):
        if block.set_generation < newest:
            raise FormatError(
                f"device {device.name} was given up when the store started without it; erase it first"
            )


def _format(
    devices: Sequence[Device], segment_bytes: int, created_s: int, entropy: Callable[[int], bytes]
) -> list[Superblock]:
    store_id = entropy(16)
    result = []
    for number, device in enumerate(devices):
        size = segment_bytes or segment_bytes_for(device.size_bytes)
        count = (device.size_bytes - DATA_OFFSET) // size
        if size % BLOCK_BYTES or size < SEGMENT_BYTES_MIN // 4 or count < SEGMENTS_MIN:
            raise FormatError(
                f"device {device.name} with {device.size_bytes} bytes has room for {count} segments of {size} bytes; "
                f"{SEGMENTS_MIN} are the least, and a segment is a multiple of {BLOCK_BYTES} from "
                f"{SEGMENT_BYTES_MIN // 4} on"
            )
        block = Superblock(
            store_id, entropy(16), number, len(devices), 1, device.size_bytes, size, count, created_s
        )
        write_superblock(device, block)
        result.append(block)
    return result


def write_superblock(device: Device, block: Superblock) -> None:
    """Both copies, with a flush after each."""
    for offset in COPY_OFFSETS:
        result = sync.write(device, offset, superblock.encode(block))
        if result >= 0:
            result = sync.flush(device)
        if result < 0:
            raise DeviceFailed(f"writing the superblock of {device.name} failed: {os.strerror(-result)}")
