"""``mezzo check``: offline, read-only verification of devices.

Reads every segment that has a life: its header, each record, each payload's checksums, its table, and
compares table and records.  Memory is bounded by one segment; nothing is ever written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec

from mezzo.errors import FormatError, InvalidArgument
from mezzo_server.blockstore import sync
from mezzo_server.blockstore.check_segment import Finding, Findings, SegmentCheck
from mezzo_server.blockstore.devices.descriptor import LOCK_WAIT_S
from mezzo_server.blockstore.devices.opening import open_device
from mezzo_server.blockstore.format import superblock
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.superblock import COPY_OFFSETS, Superblock
from mezzo_server.blockstore.io import Device
from mezzo_server.memory import Memory

Progress = Callable[[int, int], None]
"""Called with segments done and segments in all."""


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of one device found."""

    device: str
    ok: bool
    """no problem was found"""
    store_id: str = ""
    """in hex; empty: there is no superblock"""
    device_id: str = ""
    members: tuple[str, ...] = ()
    """ids of the devices of the set"""
    set_generation: int = 0
    segments_total: int = 0
    segments_free: int = 0
    segments_sealed: int = 0
    segments_unsealed: int = 0
    segments_retired: int = 0
    segments_unreadable: int = 0
    records: int = 0
    chunks: int = 0
    """copies on the device that verify; outdated ones, which a restart would not show, included"""
    tombstones: int = 0
    chunk_bytes: int = 0
    """payload bytes of those chunks"""
    problem_count: int = 0
    problems: tuple[Finding, ...] = ()
    """the first of them"""
    note_count: int = 0
    notes: tuple[Finding, ...] = ()
    """the first of them: what a crash may leave, and what is good to know"""

    def __str__(self) -> str:
        states = ("free", "sealed", "unsealed", "retired", "unreadable")
        segments = ", ".join(f"{getattr(self, f'segments_{state}')} {state}" for state in states)
        lines = [
            f"{self.device}: {'ok' if self.ok else f'{self.problem_count} problems'}",
            f"  {self.segments_total} segments: {segments}",
            f"  {self.records} records, {self.tombstones} tombstones",
            f"  {self.chunks} chunks with {self.chunk_bytes} bytes",
        ]
        lines += _listed("problem", self.problems, self.problem_count)
        lines += _listed("note", self.notes, self.note_count)
        return "\n".join(lines)


class StoreCheck(msgspec.Struct, frozen=True):
    """What a check of the devices of a store found."""

    ok: bool
    """no problem on any device, and the devices belong together"""
    devices: tuple[CheckReport, ...]
    problems: tuple[str, ...] = ()
    """between the devices"""

    def __str__(self) -> str:
        return "\n".join([*map(str, self.devices), *(f"problem: {problem}" for problem in self.problems)])


def _listed(word: str, findings: Sequence[Finding], count: int) -> list[str]:
    lines = [f"  {word}: {finding}" for finding in findings]
    if count > len(findings):
        lines.append(f"  and {count - len(findings)} {word}s more")
    return lines


def check_devices(
    paths: Sequence[str], progress: Progress | None = None, *, lock_wait_s: float = LOCK_WAIT_S
) -> StoreCheck:
    """Check files or block devices, which must be all devices of one store.

    Raises:
        InvalidArgument: a path names no file or block device.
        Unavailable: a device is in use, also after ``lock_wait_s``.
        DeviceFailed: a device hangs.
    """
    if any(path.startswith(("memory:", "null:")) for path in paths):
        raise InvalidArgument("memory and null devices keep nothing that could be checked")
    with ExitStack() as stack:
        devices = []
        for path in paths:
            device = open_device(path, create=False, lock_wait_s=lock_wait_s)
            stack.callback(device.close)
            devices.append(device)
        blocks = [_read_superblock(device, Findings()) for device in devices]
        total = sum(block.segment_count for block in blocks if block is not None)
        done = 0
        reports = []
        for device, block in zip(devices, blocks, strict=True):

            def told(segments: int, _: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + segments, total)

            reports.append(check_device(device, told))
            done += block.segment_count if block is not None else 0
    between = _check_set(reports)
    return StoreCheck(not between and all(report.ok for report in reports), tuple(reports), tuple(between))


def check_device(device: Device, progress: Progress | None = None) -> CheckReport:
    """Check one device. What is wrong is in the report; DeviceFailed only if the device hangs."""
    findings = Findings()
    block = _read_superblock(device, findings)
    if block is None:
        return _report(device, findings, None, None)
    segments = SegmentCheck(device, block, findings)
    try:
        for number in range(block.segment_count):
            segments.check(number)
            if progress is not None:
                progress(number + 1, block.segment_count)
    finally:
        segments.close()
    return _report(device, findings, block, segments)


def _report(
    device: Device, findings: Findings, block: Superblock | None, segments: SegmentCheck | None
) -> CheckReport:
    report = CheckReport(
        device=device.name,
        ok=not findings.problem_count,
        problem_count=findings.problem_count,
        problems=tuple(findings.problems),
        note_count=findings.note_count,
        notes=tuple(findings.notes),
    )
    if block is None or segments is None:
        return report
    return msgspec.structs.replace(
        report,
        store_id=block.store_id.hex(),
        device_id=block.device_id.hex(),
        members=tuple(member.hex() for member in block.members),
        set_generation=block.set_generation,
        segments_total=block.segment_count,
        **segments.counts,
    )


def _read_superblock(device: Device, findings: Findings) -> Superblock | None:
    """The superblock that counts; None, and a problem, if the rest cannot be checked."""
    if device.size_bytes < COPY_OFFSETS[-1] + BLOCK_BYTES or BLOCK_BYTES % device.block_bytes:
        findings.problem(
            f"{device.size_bytes} bytes in blocks of {device.block_bytes} hold no store of this format"
        )
        return None
    copies = []
    memory = Memory.anonymous(BLOCK_BYTES)
    for offset in COPY_OFFSETS:
        result = sync.read(device, offset, memory.span(0, BLOCK_BYTES))
        copies.append(bytes(memory.view[:BLOCK_BYTES]) if result >= 0 else b"")
        block = offset // BLOCK_BYTES
        if result < 0:
            findings.problem(f"a superblock copy cannot be read: {os.strerror(-result)}", block=block)
            continue
        try:
            superblock.decode(copies[-1])
        except FormatError as error:
            findings.problem(f"a superblock copy is no good: {error}", block=block)
    memory.close()
    try:
        newest = superblock.newest(copies)
    except superblock.Unsupported:
        return None  # said already, of the copy
    if newest is None:
        return None
    if copies[0] != copies[1] and not findings.problem_count:
        findings.note("the superblock copies differ: one is outdated, the next start renews it")
    if newest.device_bytes > device.size_bytes:
        findings.problem(
            f"the device has {device.size_bytes} bytes, its superblock says {newest.device_bytes}: it was truncated"
        )
        return None
    if not newest.set_generation:
        findings.note("formatting was interrupted: the next start begins it anew")
    return newest


def _check_set(reports: Sequence[CheckReport]) -> list[str]:
    """What is wrong between devices."""
    known = [report for report in reports if report.store_id]
    if not known:
        return []
    if len({report.store_id for report in known}) > 1:
        return ["the devices belong to different stores: check those of each shard by themselves"]
    problems = []
    if len({report.device_id for report in known}) < len(known):
        problems.append("two of the devices are copies of one")
    newest = max(known, key=lambda report: report.set_generation)
    problems += [
        f"{report.device} was given up when the store started without it"
        for report in known
        if report.device_id not in newest.members
    ]
    here = {report.device_id for report in known}
    missing = sum(member not in here for member in newest.members)
    if missing:
        problems.append(f"{missing} of the store's {len(newest.members)} devices are not here")
    return problems
