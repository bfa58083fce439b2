"""Payload that imitates structures, and structures of former lives, never pass for real ones."""

from __future__ import annotations

import pytest

from mezzo_server.blockstore.check import check_device
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.format import record, segment_header, table
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.superblock import DATA_OFFSET
from mezzo_server.blockstore.scan import scan
from mezzo_server.memory import Memory
from mezzo_server.workers import checksum_spans
from tests.unit.mezzo_server.blockstore_format.driver import (
    SCOPE,
    SEGMENT_BYTES,
    Driver,
    copy_of,
    device_of,
)

GHOSTS = [b"ghost %d" % number for number in range(4)]
SEGMENT_BLOCKS = SEGMENT_BYTES // BLOCK_BYTES


def structures_of(device: MemoryDevice) -> list[bytes]:
    """Every block of a device that begins with a magic number, as a client might have got hold of it."""
    view = device.memory.view
    magics = (record.MAGIC, segment_header.MAGIC, table.MAGIC, b"MEZZO-SB")
    blocks = (bytes(view[at : at + BLOCK_BYTES]) for at in range(0, device.size_bytes, BLOCK_BYTES))
    return [block for block in blocks if block[:8] in magics]


def donor() -> MemoryDevice:
    """A device of another store, with the ghosts on it: sealed, and a tombstone."""
    device = device_of()
    driver = Driver(device, seed="donor")
    driver.put(GHOSTS)
    driver.delete([GHOSTS[-1]])
    driver.close()
    return device


def ghosts_in(device: MemoryDevice) -> list[bytes]:
    driver = Driver(device, seed="again")
    return [ghost for ghost in GHOSTS if driver.get(ghost) is not None]


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("torn", [True, False], ids=["header lost", "header there"])
def test_payload_that_imitates_structures(sealed: bool, torn: bool) -> None:
    blocks = structures_of(donor())
    assert {block[:8] for block in blocks} >= {record.MAGIC, segment_header.MAGIC, table.MAGIC}
    device = device_of()
    driver = Driver(device)
    # In every block of the payload, each structure once, with its own payload behind it.
    parcels = b"".join(blocks) * 6
    driver.put([b"imitation"], (len(parcels),), payload=lambda key, length: parcels)
    driver.put([b"honest"])
    if sealed:
        driver.close()
    crashed = copy_of(device)
    if torn:
        # The header of the record never arrived: now its payload is walked through block by block.
        crashed.memory.view[DATA_OFFSET + BLOCK_BYTES : DATA_OFFSET + 2 * BLOCK_BYTES] = bytes(BLOCK_BYTES)
        if sealed:
            last = DATA_OFFSET + SEGMENT_BYTES - BLOCK_BYTES
            crashed.memory.view[last : last + BLOCK_BYTES] = blocks[-1]
    report = check_device(crashed.restarted())
    assert report.chunks == (1 if torn else 2)
    assert report.tombstones == 0
    assert ghosts_in(crashed) == []
    again = Driver(crashed)
    assert again.get(b"honest") is not None
    assert (again.get(b"imitation") == parcels) is not torn


def test_payload_with_the_same_device_s_former_structures() -> None:
    """Even blocks of this very device: real headers of lives that have ended, at their own places."""
    device = device_of(8)
    driver = Driver(device)
    driver.put(GHOSTS[:3])
    driver.close()
    former = bytes(device.memory.view[DATA_OFFSET : DATA_OFFSET + SEGMENT_BYTES])
    header = segment_header.decode(former[:BLOCK_BYTES], _device_id(device), 0)
    driver = Driver(device, seed="second")
    driver.delete(GHOSTS[:3])
    for number in range(300):
        driver.put([b"fill %d" % number], (60_000,))
        if life_of_first_segment(device) > header.life:
            break
    else:
        pytest.fail("the segment was never used again")
    # A client that could read the device puts the former record where it was: behind the header.
    crashed = copy_of(device)
    crashed.memory.view[DATA_OFFSET + BLOCK_BYTES : DATA_OFFSET + SEGMENT_BYTES] = former[BLOCK_BYTES:]
    assert ghosts_in(crashed) == []


def life_of_first_segment(device: MemoryDevice) -> int:
    """0 while it has none."""
    block = bytes(device.memory.view[DATA_OFFSET : DATA_OFFSET + BLOCK_BYTES])
    return segment_header.decode(block, _device_id(device), 0).life if any(block) else 0


def _device_id(device: MemoryDevice) -> bytes:
    return bytes(device.memory.view[32:48])


def test_a_stale_life_behind_a_new_header() -> None:
    """A segment is opened anew and nothing is written: what its former life left is not believed."""
    device = device_of()
    driver = Driver(device)
    driver.put(GHOSTS)
    driver.close()
    header = segment_header.decode(
        bytes(device.memory.view[DATA_OFFSET : DATA_OFFSET + BLOCK_BYTES]), _device_id(device), 0
    )
    new = segment_header.SegmentHeader(header.device_id, 0, b"a new life------", header.life + 1, 99, 0)
    device.memory.view[DATA_OFFSET : DATA_OFFSET + BLOCK_BYTES] = segment_header.encode(new)
    report = check_device(device.restarted())
    assert (report.ok, report.chunks, report.segments_unsealed) == (True, 0, 1)
    assert ghosts_in(device) == []


def test_a_segment_moved_to_another_place_is_not_believed() -> None:
    device = device_of()
    driver = Driver(device)
    driver.put(GHOSTS)
    driver.close()
    view = device.memory.view
    view[DATA_OFFSET + SEGMENT_BYTES : DATA_OFFSET + 2 * SEGMENT_BYTES] = view[
        DATA_OFFSET : DATA_OFFSET + SEGMENT_BYTES
    ]
    view[DATA_OFFSET : DATA_OFFSET + BLOCK_BYTES] = bytes(BLOCK_BYTES)
    assert ghosts_in(device) == []


def test_the_right_bytes_under_another_name_do_not_verify() -> None:
    """Checksums are bound to tenant, namespace, key and part."""
    device = device_of()
    driver = Driver(device)
    driver.put([b"one", b"two"], (4096, 4096), payload=lambda key, length: key * (length // 3) + key[:2])
    driver.close()
    table_before = check_device(device.restarted())
    assert table_before.ok
    view = device.memory.view
    first = DATA_OFFSET + 2 * BLOCK_BYTES
    parts = [bytes(view[first + n * BLOCK_BYTES : first + (n + 1) * BLOCK_BYTES]) for n in range(4)]
    view[first : first + 4 * BLOCK_BYTES] = parts[2] + parts[3] + parts[0] + parts[1]
    report = check_device(device.restarted())
    assert report.chunks == 0
    again = Driver(device)
    assert again.get(b"one", SCOPE) is None
    assert again.get(b"two", SCOPE) is None


def test_a_proven_record_s_payload_is_not_searched() -> None:
    """Not even a header with the right incarnation and place counts inside of another record's payload."""
    incarnation = b"incarnation-----"
    inner = record.Entry(b"inner", 1, (10,), (0,), block=3)
    imitation = record.encode(SCOPE, 2, 2, [inner], incarnation)
    outer = record.Entry(b"outer", 2, (3 * BLOCK_BYTES,), (0,), block=2)
    memory = Memory.anonymous(SEGMENT_BYTES)
    memory.view[BLOCK_BYTES : 2 * BLOCK_BYTES] = record.encode(SCOPE, 1, 4, [outer], incarnation)
    memory.view[2 * BLOCK_BYTES : 3 * BLOCK_BYTES] = imitation
    found = [
        entry.key
        for scanned in scan(memory.span(), SEGMENT_BLOCKS, incarnation, checksum_spans)
        for entry in scanned.record.entries
    ]
    assert found == [b"outer"]
