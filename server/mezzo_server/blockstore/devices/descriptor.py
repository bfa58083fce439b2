"""The descriptor under a device: found, locked, preallocated, and asked for its alignments.

The lock is ``flock`` on the very descriptor that does the I/O: the ring of a killed process may go on
writing for a moment after its death, and holds the descriptor, and thereby the lock, until it is done.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from mezzo.errors import InvalidArgument, Unavailable
from mezzo_server.blockstore.devices.base import BLOCK_BYTES, MEMORY_ALIGN_BYTES

LOCK_WAIT_S = 5.0
"""How long a second start waits for the ring of a killed process to let go."""

LOCK_STEP_S = 0.05

_BLKSSZGET = 0x1268
_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
_STATX_BYTES = 256
_STATX_DIO_MEM_ALIGN = 152  # offsets within struct statx, <linux/stat.h>
_STATX_DIO_OFFSET_ALIGN = 156


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An open, locked file or block device; whoever holds it closes it with `release`."""

    fd: int
    name: str
    """the path it was opened by"""
    size_bytes: int
    """what the device may use of it, in whole blocks"""
    block_bytes: int
    memory_align_bytes: int
    direct: bool
    """O_DIRECT is in force; False where the filesystem refuses it"""

    def grown(self, size_bytes: int = 0) -> Descriptor:
        """The same with more room: ``size_bytes``, or all that there is (0). A file is made as large as asked.

        InvalidArgument if that is less than now, or more than a block device has; Unavailable if there is
        no room for it.
        """
        is_file = stat.S_ISREG(os.fstat(self.fd).st_mode)
        room_bytes = os.lseek(self.fd, 0, os.SEEK_END)
        wanted_bytes = size_bytes or room_bytes
        wanted_bytes -= wanted_bytes % self.block_bytes
        if wanted_bytes < self.size_bytes:
            raise InvalidArgument(
                f"device {self.name} has {self.size_bytes} bytes; it cannot shrink to {wanted_bytes}"
            )
        if wanted_bytes > room_bytes:
            if not is_file:
                raise InvalidArgument(
                    f"block device {self.name} has {room_bytes} bytes, fewer than the {wanted_bytes} asked for"
                )
            _extend(self.fd, self.name, room_bytes, wanted_bytes)
        return replace(self, size_bytes=wanted_bytes)

    def release(self) -> None:
        """Unlock and close. The lock goes at once, even if a ring still has the file registered."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)


def open_descriptor(
    path: str,
    *,
    size_bytes: int | None = None,
    create: bool = True,
    direct: bool = True,
    lock_wait_s: float = LOCK_WAIT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Descriptor:
    """Open and lock ``path`` for a device of ``size_bytes`` (None: as large as it is).

    A missing file is made and preallocated if ``create``.  InvalidArgument if it is not there, is
    neither file nor block device, or is smaller than asked; Unavailable if another process holds it
    for longer than ``lock_wait_s``, if there is no room for it, or if it may not be opened.
    """
    fd, created = _open_locked(path, create and size_bytes is not None, lock_wait_s, sleep)
    try:
        room_bytes = os.lseek(fd, 0, os.SEEK_END)
        if size_bytes is not None and room_bytes == 0 and stat.S_ISREG(os.fstat(fd).st_mode):
            _preallocate(fd, path, size_bytes)
            room_bytes = size_bytes
        wanted_bytes = room_bytes if size_bytes is None else size_bytes
        if room_bytes < wanted_bytes:
            raise InvalidArgument(f"{path} has {room_bytes} bytes, fewer than the {wanted_bytes} asked for")
        direct = direct and _set_direct(fd, room_bytes)
        block_bytes, memory_align_bytes = _alignments(fd)
        wanted_bytes -= wanted_bytes % block_bytes
        if not wanted_bytes:
            raise InvalidArgument(f"{path} does not hold a single block of {block_bytes} bytes")
        return Descriptor(fd, path, wanted_bytes, block_bytes, memory_align_bytes, direct)
    except BaseException:
        if created:
            os.unlink(path)
        os.close(fd)
        raise


def _open_locked(
    path: str, create: bool, lock_wait_s: float, sleep: Callable[[float], None]
) -> tuple[int, bool]:
    waited_s = 0.0
    while True:
        try:
            fd, created = _open(path, create)
        except FileNotFoundError:
            raise InvalidArgument(f"{path} does not exist; it is made when a size is given") from None
        except OSError as error:
            # A block device that is mounted, or that another process has open like this (O_EXCL).
            if error.errno != errno.EBUSY:
                cause = InvalidArgument if error.errno in (errno.EISDIR, errno.ENOTDIR) else Unavailable
                raise cause(f"device {path} cannot be opened: {error.strerror}") from error
        else:
            try:
                mode = os.fstat(fd).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                    raise InvalidArgument(f"{path} is neither a file nor a block device")
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd, created
            except BlockingIOError:
                os.close(fd)
            except BaseException:
                os.close(fd)
                raise
        if waited_s >= lock_wait_s:
            raise Unavailable(f"device {path} is held by another process (waited {waited_s:.1f} s)")
        sleep(LOCK_STEP_S)
        waited_s += LOCK_STEP_S


def _open(path: str, create: bool) -> tuple[int, bool]:
    """The descriptor, and whether the file was made by this very call."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        # On a block device O_EXCL keeps filesystems and other stores off; on a file it means nothing.
        block = stat.S_ISBLK(os.stat(path).st_mode)
        return os.open(path, flags | (os.O_EXCL if block else 0)), False
    except FileNotFoundError:
        if not create:
            raise
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
    except FileExistsError:
        return os.open(path, flags), False  # another process was quicker: the lock decides


def _preallocate(fd: int, path: str, size_bytes: int) -> None:
    """Reserve the whole file: later writes find their space, or the start fails here."""
    if size_bytes <= 0:
        raise InvalidArgument(f"{path}: a device of {size_bytes} bytes")
    _extend(fd, path, 0, size_bytes)


def _extend(fd: int, path: str, from_bytes: int, to_bytes: int) -> None:
    """Reserve what is behind ``from_bytes``; without room the file is as large as it was."""
    size_bytes = to_bytes - from_bytes
    try:
        os.posix_fallocate(fd, from_bytes, size_bytes)
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        os.ftruncate(fd, from_bytes)
        free = os.fstatvfs(fd)
        raise Unavailable(
            f"{path}: no room for {size_bytes} bytes ({free.f_bavail * free.f_frsize} free): {error.strerror}"
        ) from None


def _set_direct(fd: int, room_bytes: int) -> bool:
    """Turn the page cache off. False where the filesystem refuses, at once or at the first read."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError:
        return False
    if room_bytes < BLOCK_BYTES:
        return True
    with mmap.mmap(-1, BLOCK_BYTES) as page:
        try:
            os.preadv(fd, [page], 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)
            return False
    return True


def _alignments(fd: int) -> tuple[int, int]:
    """Of places on the device and of memory, in bytes; where nobody says, what SSDs need."""
    memory_align, block = statx_alignments(fd)
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        logical = bytearray(4)
        fcntl.ioctl(fd, _BLKSSZGET, logical)
        block = max(block, int.from_bytes(logical, "little"))
    # A span's length is aligned like its address here, and lengths go by the device's blocks.
    return max(BLOCK_BYTES, block), max(MEMORY_ALIGN_BYTES, memory_align, block)


def statx_alignments(fd: int) -> tuple[int, int]:
    """Memory and offset alignment that direct I/O needs (Linux 6.1); zeros where it is not told."""
    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx is None or statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, answer):
        return 0, 0
    if not int.from_bytes(answer.raw[:4], "little") & _STATX_DIOALIGN:
        return 0, 0

    def field(offset: int) -> int:
        return int.from_bytes(answer.raw[offset : offset + 4], "little")

    return field(_STATX_DIO_MEM_ALIGN), field(_STATX_DIO_OFFSET_ALIGN)
