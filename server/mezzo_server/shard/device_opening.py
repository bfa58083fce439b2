"""Devices as the configuration and the one who looks after them name them: found, opened, refused."""

from __future__ import annotations

import os
import stat

import structlog

from mezzo.errors import CallerError, FormatError, InvalidArgument, MezzoError, Unavailable
from mezzo_server.blockstore.devices.opening import open_device
from mezzo_server.blockstore.format import superblock
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.io import Device
from mezzo_server.config import ShardConfig

log = structlog.get_logger("mezzo.devices")


def is_path(spec: str) -> bool:
    """Whether a line of configuration names a file or block device."""
    return not spec.startswith(("memory:", "null:"))


def open_configured(spec: str, config: ShardConfig, capacity_bytes: int = 0) -> Device:
    """The device, opened and locked; blocks, for as long as preallocating a file takes.

    A file that is made has ``capacity_bytes``, or what the configuration says.  A file that holds a
    store's superblock is as large as that says: devices are added and grown while serving, each to its
    own size.

    Raises:
        InvalidArgument: it cannot be what was asked for.
        Unavailable: another process holds it, or there is no room for it.
    """
    wanted = capacity_bytes or config.capacity_bytes
    stored = stored_bytes(spec) if is_path(spec) else 0
    if stored and config.capacity_bytes > stored and not capacity_bytes:
        log.warning(
            "device is smaller than capacity_bytes; mezzo device grow enlarges it", device=spec, bytes=stored
        )
    # Memory has its size in its own name; `capacity_bytes` is for files.
    size_bytes = (stored or wanted) if is_path(spec) and wanted else None
    try:
        return open_device(spec, size_bytes=size_bytes, kind=config.io, depth=config.depth)
    except CallerError as error:
        raise InvalidArgument(f"device {spec}: {error}") from None
    except MezzoError:
        raise
    except OSError as error:
        raise Unavailable(f"device {spec}: {error.strerror or error}") from None


def stored_bytes(path: str) -> int:
    """Bytes of the device that a file's superblock names; 0: it has none, or is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return 0
        block = superblock.newest([os.pread(fd, BLOCK_BYTES, offset) for offset in superblock.COPY_OFFSETS])
    except (FormatError, OSError):
        return 0  # opening it says what is wrong
    finally:
        os.close(fd)
    return 0 if block is None else block.device_bytes


def same_device(one: str, other: str) -> bool:
    """Whether two lines of configuration name the same file or block device."""
    if one == other:
        return True
    if not (is_path(one) and is_path(other)):
        return False
    try:
        first, second = os.stat(one), os.stat(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)
    if stat.S_ISBLK(first.st_mode) and stat.S_ISBLK(second.st_mode):
        return first.st_rdev == second.st_rdev
    return os.path.samestat(first, second)
