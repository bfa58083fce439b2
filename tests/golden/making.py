"""Makes the golden files of the format: ``python -m tests.golden.making`` in the checkout's root.

Only for a new version of the format, or before the first release: files of released versions stay, since
devices in the field do.  Everything is deterministic, so a second run changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.attach import write_superblock
from mezzo_server.blockstore.clock import Anchor
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.entries import EntryTable
from mezzo_server.blockstore.format import record, segment_header, superblock, table
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from tests.simulation.audit import context_of
from tests.unit.mezzo_server.blockstore_format.driver import Driver, device_of, payload_of

FOLDER = Path(__file__).parent / "format-1"
IMAGE = FOLDER / "device.xz"
EXPECTED = FOLDER / "expected.json"
STRUCTURES = FOLDER / "structures.json"

LLAMA = Scope(bytes(range(16)), bytes(range(16, 32)), 3, 4)
QWEN = Scope(bytes(range(16)), bytes(range(32, 48)), 3, 0)
OTHER_TENANT = Scope(bytes(range(100, 116)), bytes(range(16, 32)))
INCARNATION = bytes(range(200, 216))
SEGMENT_BLOCKS = 64

# -- single structures -----------------------------------------------------------------------------

SUPERBLOCK = superblock.Superblock(
    store_id=bytes(range(1, 17)),
    device_id=bytes(range(17, 33)),
    members=(bytes(range(33, 49)), bytes(range(17, 33))),
    set_generation=5,
    device_bytes=superblock.DATA_OFFSET + (40 << 20) + 4096,
    segment_bytes=1 << 20,
    segment_count=40,
    created_s=1_700_000_000,
    written=9,
    retired=(3, 39),
)
ANCHORED = replace(
    SUPERBLOCK, anchor=Anchor(1_700_000_123_456, 86_400_001, bytes(range(0xB0, 0xC0))), written=10
)
SEGMENT_HEADER = segment_header.SegmentHeader(bytes(range(17, 33)), 7, INCARNATION, 300, 70_000, 1)
CHUNKS = (
    record.Entry(b"one part", 1000, (5000,), (0x1122334455667788,), 0, 0, 0, 0),
    record.Entry(bytes(range(64)), 1001, (4096, 1, 300), (1, 2**64 - 1, 3), 17, 1_700_000_001_000, 0x81, 0),
)
TOMBSTONES = (record.Entry(b"gone", 1002), record.Entry(b"x", 1003))


def placed(block: int, entries: tuple[record.Entry, ...]) -> tuple[int, list[record.Entry]]:
    """(blocks of the record, its entries) for a record at ``block``."""
    at = block + blocks_of(record.header_bytes(entries))
    result = []
    for entry in entries:
        result.append(replace(entry, block=at))
        at += blocks_of(entry.length)
    return at - block, result


def structures() -> dict[str, bytes]:
    """One of each structure, as the format of today has it."""
    chunk_blocks, chunks = placed(1, CHUNKS)
    end, tombstones = placed(1 + chunk_blocks, TOMBSTONES)
    end += 1 + chunk_blocks
    entries = EntryTable()
    for entry in chunks:
        entries.append(entry, LLAMA)
    for entry in tombstones:
        entries.append(entry, OTHER_TENANT)
    _, table_bytes = table.encode(entries, SEGMENT_BLOCKS, end, 300, INCARNATION)
    return {
        "superblock": superblock.encode(SUPERBLOCK),
        "superblock with an anchor": superblock.encode(ANCHORED),
        "segment header": segment_header.encode(SEGMENT_HEADER),
        "record of chunks": record.encode(LLAMA, 1, chunk_blocks, chunks, INCARNATION),
        "record of tombstones": record.encode(
            OTHER_TENANT, 1 + chunk_blocks, end - 1 - chunk_blocks, tombstones, INCARNATION
        ),
        "table": table_bytes,
        "table without entries": table.encode(EntryTable(), SEGMENT_BLOCKS, 1, 1, INCARNATION)[1],
    }


def packed(data: bytes) -> str:
    """Hex of a structure, with runs of zeros left out: readable in a diff."""
    pieces = []
    for at in range(0, len(data), 16):
        line = data[at : at + 16]
        if any(line):
            pieces.append(f"{at:05x} {line.hex()}")
    return "\n".join([*pieces, f"{len(data):05x}"])


def checksums(driver: Driver, scope: Scope, key: bytes) -> Sequence[int]:
    """Of a chunk's parts, as the index has them."""
    context = context_of(driver.store)
    place = context.find(context.index.peek(scope), key)
    assert place is not None
    return place[0].table.part_checksums(place[1])


# -- a whole device --------------------------------------------------------------------------------


def image() -> tuple[MemoryDevice, dict[str, object]]:
    """A device as a killed process left it, and what must be read from it."""
    device = device_of(16, name="golden")
    Driver(device, seed="golden").close()
    first = bytes(device.memory.view[:BLOCK_BYTES])
    write_superblock(device.restarted(), replace(superblock.decode(first), retired=(5, 11), written=3))
    driver = Driver(device, seed="golden 2")
    driver.put([b"survivor", b"leased"], (10_001,), scope=LLAMA)
    driver.store.pin(LLAMA, b"leased")
    # Enough to make reclaim rewrite the two: one is leased, the other is read again and again.
    for number in range(52):
        driver.put([b"filler %d" % number], (61_000 + number,), scope=QWEN)
        assert driver.get(b"survivor", LLAMA) is not None
    # Odd lengths, parts, short and long keys, the same key in three namespaces.
    driver.put([b"k"], (1,), scope=LLAMA, position=4_000_000_000)
    driver.put([b"K" * 64, b"shared"], (4095, 4097, 1), scope=LLAMA, position=7)
    driver.put([b"many parts"], tuple(range(1, 257)), scope=QWEN)
    for scope in (QWEN, OTHER_TENANT):
        driver.put([b"shared"], (12_288,), scope=scope)
    driver.put([b"to be deleted 1", b"to be deleted 2"], (500,), scope=LLAMA)
    driver.delete([b"to be deleted 1", b"filler 51"], scope=LLAMA)
    driver.delete([b"to be deleted 2"], scope=LLAMA)
    driver.put([b"to be deleted 2"], (600,), scope=LLAMA)
    keys = [b"survivor", b"leased", b"k", b"K" * 64, b"shared", b"many parts"]
    keys += [b"to be deleted 1", b"to be deleted 2", *(b"filler %d" % number for number in range(52))]
    present: list[dict[str, object]] = []
    absent: list[dict[str, str]] = []
    for scope in (LLAMA, QWEN, OTHER_TENANT):
        for key in keys:
            info = driver.store.info(scope, key)
            name = {"tenant": scope.tenant.hex(), "namespace": scope.namespace.hex(), "key": key.hex()}
            if info is None:
                absent.append(name)
                continue
            payload = payload_of(key, info.length)
            present.append(
                name
                | {
                    "generations": [scope.tenant_generation, scope.namespace_generation],
                    "parts": list(info.parts),
                    "checksums": [f"{checksum:016x}" for checksum in checksums(driver, scope, key)],
                    "sequence": info.sequence,
                    "position": info.position,
                    "sha256": hashlib.sha256(payload).hexdigest(),
                }
            )
    counters = driver.store.report().counters
    assert counters["chunks_rewritten"] >= 2, "there are survivors"
    return device, {"present": present, "absent": absent}


def main() -> None:
    """Write the golden files."""
    FOLDER.mkdir(exist_ok=True)
    device, expected = image()
    IMAGE.write_bytes(lzma.compress(bytes(device.memory.view), preset=9))
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n")
    STRUCTURES.write_text(
        json.dumps({name: packed(data).split("\n") for name, data in structures().items()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
