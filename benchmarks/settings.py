"""How long and where to measure: one value, made once from the command line."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from benchmarks.harness import Skipped

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class Settings(Struct, frozen=True, kw_only=True):
    """What all benchmarks go by."""

    quick: bool = False
    """only see that it works: few and short samples, small files; the figures mean little"""
    pairs: int = 15
    sample_s: float = 1.0
    """aim for one sample; bounded by bytes too"""
    disk: Path = Path()
    """a folder on the disk to measure"""
    tmpfs: Path = Path("/dev/shm")
    device_bytes: int = 2 * GIB
    """of a device file"""
    chunks: int = 1_000_000
    """for the restart"""


def quick(settings: Settings) -> Settings:
    """The same, small."""
    return Settings(
        quick=True,
        pairs=3,
        sample_s=0.3,
        disk=settings.disk,
        tmpfs=settings.tmpfs,
        device_bytes=GIB,
        chunks=50_000,
    )


@contextmanager
def folder(parent: Path, need_bytes: int) -> Iterator[Path]:
    """A fresh folder for ``need_bytes`` of files, removed at the end. Skipped if they do not fit."""
    if not parent.is_dir():
        raise Skipped(f"{parent} is no folder")
    free = shutil.disk_usage(parent).free
    if free < need_bytes + need_bytes // 4:
        raise Skipped(f"{parent} has {free / GIB:.1f} GiB free; {1.25 * need_bytes / GIB:.1f} are needed")
    with tempfile.TemporaryDirectory(prefix="mezzo-bench-", dir=parent) as path:
        yield Path(path).resolve()


def prewritten(path: Path, size_bytes: int) -> Path:
    """A file of ``size_bytes`` whose blocks were all written: what a device is after its first round.

    A filesystem pays extra for the first write into preallocated space; a cache that is full never
    does, so neither the reference nor ours shall.
    """
    block = _block()
    with path.open("wb", buffering=0) as file:
        for _ in range(size_bytes // len(block)):
            file.write(block)
        os.fsync(file.fileno())
    return path


def wiped(path: Path) -> Path:
    """The file without the store that it held (both superblocks go): the next shard formats it."""
    with path.open("r+b", buffering=0) as file:
        file.write(_block() * 2)
        os.fsync(file.fileno())
    return path


def _block() -> bytes:
    return bytes(range(256)) * (4 * KIB)


def size_name(size_bytes: int) -> str:
    """``64 KiB``, ``4 MiB``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} B"
