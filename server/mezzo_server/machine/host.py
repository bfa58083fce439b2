"""The eyes of `mezzo setup` and `mezzo doctor`: everything that they see of a machine, they see through `Host`.

Nothing here writes, except `Host.try_direct` where it is asked to, into a file without a name.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import mmap
import os
import platform
import resource
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mezzo_server.machine.uring import UringProbe, probe

Kind = Literal["file", "folder", "block device", "other"]

F_SEAL_FUTURE_WRITE = getattr(fcntl, "F_SEAL_FUTURE_WRITE", 0x10)
DIRECT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Room:
    """Space of a filesystem, in bytes."""

    total_bytes: int
    free_bytes: int
    """what this user may take"""


class Host:
    """This machine. A test plays another one by overriding the methods.

    Methods answer None where there is nothing to see; they raise OSError only where said.
    """

    environ: Mapping[str, str] = os.environ

    def read(self, path: str) -> str | None:
        """The text of a small file, stripped (``/proc``, ``/sys``, ``/etc``)."""
        try:
            return Path(path).read_text(errors="replace").strip()
        except OSError:
            return None

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none if it is not there."""
        try:
            return sorted(os.listdir(folder))
        except OSError:
            return []

    def kind(self, path: str) -> Kind | None:
        """What a path is."""
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return None
        if stat.S_ISREG(mode):
            return "file"
        if stat.S_ISBLK(mode):
            return "block device"
        return "folder" if stat.S_ISDIR(mode) else "other"

    def size_bytes(self, path: str) -> int | None:
        """Bytes of a file or block device, as far as it may be opened."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            return os.lseek(descriptor, 0, os.SEEK_END)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def owner(self, path: str) -> int | None:
        """User id of a path's owner."""
        try:
            return os.stat(path).st_uid
        except OSError:
            return None

    def sysfs(self, path: str) -> str | None:
        """The folder below ``/sys/devices`` of the block device that a path is, or that its file is (to be) on."""
        for there in (path, os.path.dirname(os.path.abspath(path))):
            try:
                status = os.stat(there)
            except OSError:
                continue
            number = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
            return os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
        return None

    def sample(self, path: str, offset: int, length: int) -> bytes | None:
        """Bytes of a file or device; None if they cannot be read, fewer at its end."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            return os.pread(descriptor, length, offset)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def may_write(self, path: str) -> bool:
        """Whether this user may write to a file, a device, or into a folder."""
        return os.access(path, os.W_OK)

    def room(self, path: str) -> Room | None:
        """Space of the filesystem that a path is on."""
        try:
            space = os.statvfs(path)
        except OSError:
            return None
        return Room(space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize)

    def kernel(self) -> str:
        """Release of the kernel."""
        return platform.release()

    def architecture(self) -> str:
        """Of the processor: x86_64, aarch64."""
        return platform.machine()

    def user(self) -> int:
        """Effective user id."""
        return os.geteuid()

    def cores(self) -> int:
        """Cores that this process may use."""
        return len(os.sched_getaffinity(0))

    def cores_of_machine(self) -> int:
        """Cores that there are."""
        return os.cpu_count() or 1

    def limit(self, number: int) -> tuple[int, int]:
        """Soft and hard limit of a resource; -1: none."""
        return resource.getrlimit(number)

    def module(self, name: str) -> str | None:
        """None if a module can be imported, else why not."""
        try:
            importlib.import_module(name)
        except (
            Exception
        ) as error:  # an import runs code of others, and a half-installed one fails in its own way
            return str(error) or type(error).__name__
        return None

    def version(self, distribution: str) -> str | None:
        """Version of an installed distribution."""
        # Late: it brings a reader of mails along.
        from importlib import metadata

        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return None

    def hash_variant(self) -> str | None:
        """Which of its checksums the native module chose for this processor; None: there is no native module."""
        try:
            from mezzo_server._native.pool import HASH_VARIANT
        except ImportError:
            return None
        return HASH_VARIANT

    def uring(self) -> UringProbe:
        """What io_uring offers here."""
        return probe()

    def seal(self) -> str | None:
        """None if a memfd can be sealed against writes of others, else why not."""
        try:
            descriptor = os.memfd_create("mezzo-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            return error.strerror
        try:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SHRINK)
        except OSError as error:
            return error.strerror
        finally:
            os.close(descriptor)
        return None

    def alignments(self, path: str) -> tuple[int, int] | None:
        """Alignment of memory and of offsets that direct I/O needs, if the kernel tells it."""
        from mezzo_server.blockstore.devices.descriptor import statx_alignments

        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            told = statx_alignments(descriptor)
        finally:
            os.close(descriptor)
        return told if all(told) else None

    def try_direct(self, path: str, *, write: bool) -> str | None:
        """None if O_DIRECT works on a file or device, or in a folder, else why not.

        A file is read; in a folder a file without a name is written and read, which only ``write`` allows.

        Raises:
            OSError: it may not be opened at all.
        """
        folder = os.path.isdir(path)
        if folder and not write:
            return "not tried"
        flags = os.O_TMPFILE | os.O_RDWR if folder else os.O_RDONLY
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            with mmap.mmap(-1, DIRECT_BYTES) as page:
                if folder:
                    os.write(descriptor, page)
                fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)
                if folder:
                    os.pwritev(descriptor, [page], 0)
                os.preadv(descriptor, [page], 0)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            return error.strerror
        finally:
            os.close(descriptor)
        return None
