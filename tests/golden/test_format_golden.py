"""The format does not change by accident: devices written long ago are read, and today's bytes are the same.

When one of these fails, the format has changed: that needs a new version, and code that reads this one.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import replace

import pytest

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.check import check_device
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.format import record, segment_header, superblock, table
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from tests.golden import making
from tests.unit.mezzo_server.blockstore_format.driver import Driver


def device() -> MemoryDevice:
    content = lzma.decompress(making.IMAGE.read_bytes())
    result = MemoryDevice(len(content), name="golden")
    result.memory.view[:] = content
    return result


@pytest.fixture(scope="module")
def expected() -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads(making.EXPECTED.read_text())
    return found


def structure(name: str) -> bytes:
    lines = json.loads(making.STRUCTURES.read_text())[name]
    data = bytearray(int(lines[-1], 16))
    for line in lines[:-1]:
        at, text = line.split()
        data[int(at, 16) : int(at, 16) + 16] = bytes.fromhex(text)
    return bytes(data)


def scope_of(chunk: dict[str, object]) -> Scope:
    generations = chunk.get("generations", [0, 0])
    assert isinstance(generations, list)
    return Scope(bytes.fromhex(str(chunk["tenant"])), bytes.fromhex(str(chunk["namespace"])), *generations)


# -- the image -----------------------------------------------------------------------------------


def test_files_are_small() -> None:
    assert sum(path.stat().st_size for path in making.FOLDER.iterdir()) < 200 << 10


def test_everything_on_the_device_is_read(expected: dict[str, list[dict[str, object]]]) -> None:
    golden = device()
    driver = Driver(golden, seed="reader")
    assert driver.store.recovered.segments_sealed >= 7
    assert driver.store.recovered.segments_scanned >= 2, "the process was killed: some segments were open"
    assert driver.store.report().chunks == len(expected["present"])
    for _ in range(2):
        for chunk in expected["present"]:
            scope, key = scope_of(chunk), bytes.fromhex(str(chunk["key"]))
            info = driver.store.info(scope, key)
            assert info is not None
            assert list(info.parts) == chunk["parts"]
            assert [f"{checksum:016x}" for checksum in making.checksums(driver, scope, key)] == chunk[
                "checksums"
            ]
            assert (info.sequence, info.position) == (chunk["sequence"], chunk["position"])
            payload = driver.get(key, scope)
            assert payload is not None
            assert hashlib.sha256(payload).hexdigest() == chunk["sha256"]
        for chunk in expected["absent"]:
            generations = next(
                one["generations"]
                for one in expected["present"]
                if one["namespace"] == chunk["namespace"] and one["tenant"] == chunk["tenant"]
            )
            scope = scope_of(chunk | {"generations": generations})
            assert driver.store.info(scope, bytes.fromhex(str(chunk["key"]))) is None
        # Sealed by now, so that the second round reads today's tables beside those of the image.
        driver.close()
        driver = Driver(golden, seed="second reader")
        assert driver.store.recovered.segments_scanned == 0


def test_what_the_image_is_made_of(expected: dict[str, list[dict[str, object]]]) -> None:
    report = check_device(device())
    assert report.ok, str(report)
    assert report.segments_retired == 2
    assert report.segments_sealed >= 7
    assert report.segments_unsealed >= 2
    assert report.tombstones >= 3
    assert report.chunks > len(expected["present"]), "deleted and outdated copies are there too"
    keys = {bytes.fromhex(str(chunk["key"])): chunk for chunk in expected["present"]}
    assert {b"survivor", b"leased", b"k", b"K" * 64, b"many parts", b"to be deleted 2"} <= set(keys)
    assert len(keys[b"many parts"]["parts"]) == 256  # type: ignore[arg-type]
    assert b"to be deleted 1" not in keys


def test_survivors_lie_in_a_segment_of_their_own() -> None:
    golden = device()
    purposes = []
    block = superblock.decode(bytes(golden.memory.view[:BLOCK_BYTES]))
    for segment in range(block.segment_count):
        offset = block.segment_offset(segment)
        data = bytes(golden.memory.view[offset : offset + BLOCK_BYTES])
        if data.strip(b"\0"):
            purposes.append(segment_header.decode(data, block.device_id, segment).purpose)
    assert purposes.count(1) == 1
    assert purposes.count(0) >= 7


# -- single structures ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(making.structures()))
def test_structures_have_the_same_bytes(name: str) -> None:
    assert making.packed(making.structures()[name]) == making.packed(structure(name))


def test_structures_mean_the_same() -> None:
    assert superblock.decode(structure("superblock")) == making.SUPERBLOCK
    assert superblock.decode(structure("superblock with an anchor")) == making.ANCHORED
    header = making.SEGMENT_HEADER
    assert segment_header.decode(structure("segment header"), header.device_id, header.segment) == header
    chunk_blocks, chunks = making.placed(1, making.CHUNKS)
    tombstone_blocks, tombstones = making.placed(1 + chunk_blocks, making.TOMBSTONES)
    end = 1 + chunk_blocks + tombstone_blocks
    for name, block, blocks, scope, entries in (
        ("record of chunks", 1, chunk_blocks, making.LLAMA, chunks),
        ("record of tombstones", 1 + chunk_blocks, tombstone_blocks, making.OTHER_TENANT, tombstones),
    ):
        found = record.decode(memoryview(structure(name)), block, making.SEGMENT_BLOCKS, making.INCARNATION)
        assert found == record.Record(scope, block, blocks, tuple(entries))
    data = structure("table")
    trailer = table.decode_trailer(data[-BLOCK_BYTES:], making.SEGMENT_BLOCKS, making.INCARNATION)
    assert (trailer.life, trailer.data_end, trailer.entry_count) == (300, end, 4)
    entry_table = table.decode(trailer, memoryview(data)[: trailer.body_bytes], making.INCARNATION)
    rows = [(entry_table.entry(n), entry_table.scopes[entry_table.scope[n]]) for n in range(4)]
    assert rows == [
        *((entry, making.LLAMA) for entry in chunks),
        *((entry, making.OTHER_TENANT) for entry in tombstones),
    ]


def test_a_changed_field_is_noticed() -> None:
    """That these tests can fail."""
    assert superblock.encode(replace(making.SUPERBLOCK, written=10)) != structure("superblock")
