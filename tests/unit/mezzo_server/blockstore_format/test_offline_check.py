"""`mezzo check`: what is whole is found whole, and whatever is damaged is named."""

from __future__ import annotations

import errno
import random
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mezzo.errors import InvalidArgument, Unavailable
from mezzo_server.blockstore.attach import write_superblock
from mezzo_server.blockstore.check import CheckReport, StoreCheck, check_device, check_devices
from mezzo_server.blockstore.check_segment import FINDINGS_MAX
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.format import segment_header, superblock, table
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.superblock import DATA_OFFSET
from mezzo_server.blockstore.io import Op, Transfer
from tests.unit.mezzo_server.blockstore_format.driver import (
    SEGMENT_BYTES,
    Driver,
    copy_of,
    device_of,
)

KEYS = [b"key %d" % number for number in range(6)]
LAST_BLOCK = SEGMENT_BYTES // BLOCK_BYTES - 1


def stored(*, sealed: bool = True) -> MemoryDevice:
    """Chunks of two odd parts in segment 0, and a tombstone."""
    device = device_of()
    driver = Driver(device)
    driver.put(KEYS, (5000, 77))
    driver.delete(KEYS[-1:])
    if sealed:
        driver.close()
    return copy_of(device)


def place(block: int, segment: int = 0) -> int:
    return DATA_OFFSET + segment * SEGMENT_BYTES + block * BLOCK_BYTES


def flip(device: MemoryDevice, offset: int, bit: int = 0) -> None:
    device.memory.view[offset] ^= 1 << bit


def check(device: MemoryDevice) -> CheckReport:
    """A check, which must not change the device."""
    before = bytes(device.memory.view)
    report = check_device(device)
    assert bytes(device.memory.view) == before
    assert report.ok is (report.problem_count == 0)
    assert len(report.problems) == min(report.problem_count, FINDINGS_MAX)
    msgspec.json.decode(msgspec.json.encode(report), type=CheckReport)
    return report


def only_problem(report: CheckReport) -> tuple[int, int, str, str]:
    (problem,) = report.problems
    assert str(problem) in str(report)
    return problem.segment, problem.block, problem.key, problem.what


# -- what is whole -------------------------------------------------------------------------------


def test_a_store_that_was_stopped_in_order() -> None:
    report = check(stored())
    assert report.ok
    assert report.notes == ()
    assert (report.chunks, report.tombstones, report.records) == (6, 1, 2)
    assert report.chunk_bytes == 6 * 5077
    assert (report.segments_total, report.segments_sealed, report.segments_free) == (16, 1, 15)
    assert report.members == (report.device_id,)


def test_a_store_that_was_killed() -> None:
    report = check(stored(sealed=False))
    assert report.ok
    assert (report.chunks, report.tombstones) == (6, 1)
    assert (report.segments_sealed, report.segments_unsealed) == (0, 1)
    assert [note.segment for note in report.notes] == [0]


def test_a_store_after_much_reclaim() -> None:
    device = device_of(8)
    driver = Driver(device)
    rng = random.Random(7)
    for number in range(120):
        driver.put([b"fill %d" % number], (rng.randrange(1, 60_000), 1))
        if number % 5 == 4:
            driver.delete([b"fill %d" % (number - 2)])
        if number % 3:
            driver.get(b"fill %d" % (number - 1))
        report = check(copy_of(device))
        assert report.ok, str(report)
    driver.close()
    assert check(device).segments_unsealed == 0
    assert check(device).ok


def test_an_empty_store_and_progress() -> None:
    device = device_of()
    Driver(device).close()
    seen: list[tuple[int, int]] = []
    report = check_device(device, lambda done, total: seen.append((done, total)))
    assert (report.ok, report.segments_free, report.chunks) == (True, 16, 0)
    assert seen == [(number, 16) for number in range(1, 17)]


def test_retired_segments_are_left_alone() -> None:
    device = stored()
    found = superblock.decode(bytes(device.memory.view[:BLOCK_BYTES]))
    write_superblock(device, replace(found, retired=(0,), written=9))
    flip(device, place(2))
    report = check(device)
    assert (report.ok, report.segments_retired, report.chunks) == (True, 1, 0)


def test_leftovers_of_a_former_store_are_free_segments() -> None:
    device = stored()
    for offset in superblock.COPY_OFFSETS:
        device.memory.view[offset : offset + BLOCK_BYTES] = bytes(BLOCK_BYTES)
    Driver(device, seed="second", format_foreign=True).close()
    report = check(device)
    assert (report.ok, report.segments_free, report.chunks) == (True, 16, 0)


# -- what is damaged -----------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 1])
def test_a_rotten_payload_names_its_chunk(part: int) -> None:
    device = stored()
    # Chunk 2 is the third: two blocks each, behind the header.
    flip(device, place(2 + 2 * 2) + (5000 + 3 if part else 17), 5)
    report = check(device)
    segment, block, key, what = only_problem(report)
    assert (segment, block, key) == (0, 6, KEYS[2].hex())
    assert "payload" in what
    assert report.chunks == 5


def test_padding_is_nobody_s() -> None:
    device = stored()
    flip(device, place(2) + 5077)
    assert check(device).ok


def test_a_damaged_record_header_leaves_its_chunks_in_the_table_alone() -> None:
    device = stored()
    flip(device, place(1) + 200)
    report = check(device)
    assert report.problem_count == 6
    assert {problem.key for problem in report.problems} == {key.hex() for key in KEYS}
    assert all("no record" in problem.what for problem in report.problems)
    assert report.chunks == 6, "the payloads still verify"


@pytest.mark.parametrize("offset", [0, 8, 40, 50, 70, 100, BLOCK_BYTES - 1])
def test_a_damaged_trailer(offset: int) -> None:
    device = stored()
    flip(device, place(LAST_BLOCK) + offset)
    report = check(device)
    assert only_problem(report)[:2] == (0, LAST_BLOCK)
    assert report.chunks == 6, "records tell what the table cannot"


def test_a_damaged_table() -> None:
    device = stored()
    flip(device, place(LAST_BLOCK - 1) + 30)
    report = check(device)
    assert "table" in only_problem(report)[3]
    assert report.chunks == 6


@pytest.mark.parametrize("offset", [0, 20, 40, 60, 2000, BLOCK_BYTES - 1])
def test_a_damaged_segment_header(offset: int) -> None:
    device = stored()
    flip(device, place(0) + offset)
    report = check(device)
    assert "header is damaged" in only_problem(report)[3]
    assert report.chunks == 0


@pytest.mark.parametrize("copy", superblock.COPY_OFFSETS)
def test_a_damaged_superblock_copy(copy: int) -> None:
    device = stored()
    flip(device, copy + 33)
    report = check(device)
    assert only_problem(report)[:2] == (-1, copy // BLOCK_BYTES)
    assert report.chunks == 6, "the other copy counts"


def test_any_flipped_bit_of_a_sealed_segment_is_found() -> None:
    """All that a table and a record name: header, record headers, payloads, table, trailer."""
    device = stored()
    blocks = [0, 1, 2, 4, 14, LAST_BLOCK - 1, LAST_BLOCK]
    used = {1: 460, 2: BLOCK_BYTES, 14: 130, LAST_BLOCK - 1: 500}
    rng = random.Random(3)
    for block in blocks:
        for _ in range(12):
            offset, bit = place(block) + rng.randrange(used.get(block, BLOCK_BYTES)), rng.randrange(8)
            flip(device, offset, bit)
            assert not check_device(device).ok, (block, offset - place(block), bit)
            flip(device, offset, bit)
    assert check_device(device).ok


def test_a_table_that_names_less_or_else_than_the_records() -> None:
    device = stored()
    view = device.memory.view
    device_id = bytes(view[32:48])
    header = segment_header.decode(bytes(view[place(0) : place(1)]), device_id, 0)
    blocks = SEGMENT_BYTES // BLOCK_BYTES
    trailer = table.decode_trailer(bytes(view[place(LAST_BLOCK) : place(blocks)]), blocks, header.incarnation)
    first = place(trailer.table_block)
    body = bytes(view[first : first + trailer.body_bytes])
    entries = table.decode(trailer, memoryview(body), header.incarnation)

    def check_with(change: int) -> CheckReport:
        changed = table.EntryTable()
        for number in range(len(entries) - change):
            changed.append(entries.entry(number), entries.scopes[entries.scope[number]])
        if not change:
            changed.position[1] += 1
        _, data = table.encode(changed, blocks, trailer.data_end, header.life, header.incarnation)
        forged = copy_of(device)
        forged.memory.view[place(blocks) - len(data) : place(blocks)] = data
        return check(forged)

    report = check_with(1)
    assert only_problem(report)[2:] == (KEYS[-1].hex(), "in a record, but not in the table")
    segment, _, key, what = only_problem(check_with(0))
    assert (segment, key, what) == (0, KEYS[1].hex(), "table and record disagree")


def test_a_write_that_had_not_ended_is_a_note() -> None:
    device = stored(sealed=False)
    device.memory.view[place(4) : place(6)] = bytes(2 * BLOCK_BYTES)
    report = check(device)
    assert report.ok
    assert report.chunks == 5
    assert KEYS[1].hex() in {note.key for note in report.notes}
    # A start keeps what is proven and writes the table; the torn write stays a note.
    driver = Driver(device)
    assert [driver.get(key) is not None for key in KEYS] == [True, False, True, True, True, False]
    driver.close()
    report = check(device)
    assert (report.ok, report.chunks, report.note_count) == (True, 5, 1)


def test_lives_are_unique() -> None:
    device = stored()
    found = segment_header.decode(
        bytes(device.memory.view[place(0) : place(1)]), bytes(device.memory.view[32:48]), 0
    )
    other = segment_header.SegmentHeader(found.device_id, 3, b"another life----", found.life, 1, 0)
    device.memory.view[place(0, 3) : place(1, 3)] = segment_header.encode(other)
    assert "same life" in only_problem(check(device))[3]


def test_problems_are_counted_but_not_all_named() -> None:
    device = device_of(32)
    driver = Driver(device)
    for number in range(4):
        driver.put([b"%d %d" % (number, n) for n in range(50)], (100,))
    driver.close()
    for segment in range(4):
        for block in range(5, 50):
            flip(device, place(block, segment) + 50)
    report = check(device)
    assert report.problem_count > FINDINGS_MAX
    assert "more" in str(report)


class BadDevice(MemoryDevice):
    """Blocks that cannot be read."""

    bad: frozenset[int] = frozenset()

    def _perform(self, transfer: Transfer) -> int:
        blocks = range(transfer.offset // BLOCK_BYTES, (transfer.offset + transfer.length) // BLOCK_BYTES)
        if transfer.op == Op.READ and self.bad.intersection(blocks):
            return -errno.EIO
        return super()._perform(transfer)


@pytest.mark.parametrize(
    ("block", "chunks", "segments"),
    [
        (place(6), 5, "sealed"),
        (place(0), 0, "unreadable"),
        (0, 6, "sealed"),
        (place(LAST_BLOCK), 6, "unsealed"),
    ],
)
def test_blocks_that_cannot_be_read(block: int, chunks: int, segments: str) -> None:
    whole = stored()
    device = BadDevice(whole.size_bytes, memory=whole.memory)
    device.bad = frozenset({block // BLOCK_BYTES})
    report = check_device(device)
    assert not report.ok
    assert any("cannot be read" in problem.what for problem in report.problems)
    assert report.chunks == chunks
    assert getattr(report, f"segments_{segments}") == 1


@pytest.mark.parametrize("size", [1 << 20, DATA_OFFSET + 16 * SEGMENT_BYTES])
def test_a_device_without_a_store(size: int) -> None:
    report = check(MemoryDevice(size))
    assert not report.ok
    assert (report.store_id, report.segments_total) == ("", 0)


def test_a_truncated_device() -> None:
    device = stored()
    short = MemoryDevice(device.size_bytes - BLOCK_BYTES)
    short.memory.view[:] = device.memory.view[: short.size_bytes]
    assert "truncated" in only_problem(check(short))[3]


# -- files ---------------------------------------------------------------------------------------


def files_of(folder: Path, *devices: MemoryDevice) -> list[str]:
    paths = []
    for number, device in enumerate(devices):
        path = folder / f"device{number}"
        path.write_bytes(device.memory.view)
        paths.append(str(path))
    return paths


def test_all_devices_of_a_store(tmp_path: Path) -> None:
    devices = device_of(name="one"), device_of(name="two")
    driver = Driver(*devices)
    driver.put(KEYS)
    driver.close()
    paths = files_of(tmp_path, *devices)
    seen: list[tuple[int, int]] = []
    found = check_devices(paths, lambda done, total: seen.append((done, total)))
    assert found.ok, str(found)
    assert sum(report.chunks for report in found.devices) == len(KEYS)
    assert seen == [(number, 32) for number in range(1, 33)]
    msgspec.json.decode(msgspec.json.encode(found), type=StoreCheck)
    one = check_devices(paths[:1])
    assert not one.ok
    assert "1 of the store's 2 devices" in str(one)
    (tmp_path / "twin").mkdir()
    (twin,) = files_of(tmp_path / "twin", devices[0])
    double = check_devices([paths[0], twin])
    assert not double.ok


def test_what_check_cannot_open(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        check_devices([str(tmp_path / "missing")])
    with pytest.raises(InvalidArgument):
        check_devices(["memory:64MiB"])
    (path,) = files_of(tmp_path, device_of())
    with pytest.raises(Unavailable):
        check_devices([path, path], lock_wait_s=0.0)
