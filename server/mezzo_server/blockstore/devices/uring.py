"""The device that io_uring drives: the default. ImportError where the native module was not built."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from mezzo.errors import DeviceFailed
from mezzo_server._native.ring import Ring, probe
from mezzo_server.blockstore.devices.base import DEPTH, PINNED_BYTES_MAX, TRANSFERS_MAX
from mezzo_server.blockstore.devices.descriptor import Descriptor
from mezzo_server.blockstore.devices.pinning import Pinner
from mezzo_server.blockstore.io import Device, Transfer
from mezzo_server.memory import Memory


class UringDevice(Device):
    """A preallocated file or a block device behind one io_uring.

    Owner of its descriptor.  Belongs to one thread at a time; a forked child must not use it, and
    holds the device's lock for as long as it lives unless it closes the descriptor (exec does).
    """

    def __init__(
        self,
        descriptor: Descriptor,
        *,
        depth: int = DEPTH,
        pinned_bytes_max: int = PINNED_BYTES_MAX,
        transfers_max: int = TRANSFERS_MAX,
    ) -> None:
        """Take ``descriptor`` over; OSError, and it is still the caller's, if there can be no ring."""
        self._ring = Ring(
            descriptor.fd,
            depth,
            size_bytes=descriptor.size_bytes,
            block_bytes=descriptor.block_bytes,
            memory_align_bytes=descriptor.memory_align_bytes,
            transfers_max=transfers_max,
            # Through the page cache a read that finds its pages would copy within the submitting call.
            asynchronous=not descriptor.direct,
        )
        self._pinner = Pinner(self._ring, pinned_bytes_max)
        self._descriptor: Descriptor | None = descriptor
        self.name = descriptor.name
        self.size_bytes = descriptor.size_bytes
        self.block_bytes = descriptor.block_bytes
        self.memory_align_bytes = descriptor.memory_align_bytes
        self.direct = descriptor.direct
        self.depth = depth

    def submit(self, transfers: Sequence[Transfer]) -> None:
        """Begin all of them: one system call for what the ring has room for, the rest queues."""
        self._ring.submit(transfers)

    def reap(self) -> list[Transfer]:
        """Those that ended since; refills the ring from the queue."""
        return self._ring.reap()

    def wait(self, timeout_s: float | None = None) -> None:
        """See `Device.wait`; the interpreter lock is released meanwhile."""
        self._ring.wait(timeout_s)

    @property
    def in_flight(self) -> int:
        """Transfers submitted and not reaped."""
        return self._ring.in_flight

    @property
    def event_fd(self) -> int | None:
        """An eventfd of the device's own; only `reap` and `wait` read it."""
        return self._ring.event_fd

    def register(self, memory: Memory) -> bool:
        """Begin to pin ``memory``: one-span transfers in it will skip the page walk.

        A thread does it, slice by slice; until then, and across slices, transfers go by address.
        False over ``pinned_bytes_max`` or RLIMIT_MEMLOCK, and for what the kernel does not pin
        (mappings of files on disk).
        """
        return self._pinner.register(memory)

    def unregister(self, memory: Memory) -> None:
        """Stop using ``memory`` by number; nothing of it is in flight. Its mapping may be closed then."""
        self._pinner.unregister(memory)

    def wait_pinned(self) -> None:
        """Until what was registered and unregistered before is so; for tests and benchmarks."""
        self._pinner.wait()

    @property
    def pinned_bytes(self) -> int:
        """Memory pinned, being pinned or being let go now."""
        return self._pinner.pinned_bytes

    @property
    def retried(self) -> int:
        """Transfers that were short or interrupted and went on, since the device was opened."""
        return self._ring.retried

    @property
    def fixed_transfers(self) -> int:
        """Transfers that went through registered memory, since the device was opened."""
        return self._ring.fixed_transfers

    def grow(self, size_bytes: int = 0) -> None:
        """See `Device.grow`."""
        if self._descriptor is None:
            raise DeviceFailed(f"device {self.name} is closed")
        self._descriptor = self._descriptor.grown(size_bytes)
        self._ring.grow(self._descriptor.size_bytes)
        self.size_bytes = self._descriptor.size_bytes

    def close(self) -> None:
        """Wait for what is in flight (it may still be reaped), then unlock and close."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._pinner.close()
            self._ring.close()
            descriptor.release()


def why_unavailable() -> str | None:
    """Why there can be no ring on this host, in half a sentence; None if there can be one."""
    code, _ = probe()
    if not code:
        return None
    name = errno.errorcode.get(code, str(code))
    if code == errno.EPERM:
        return f"io_uring is blocked here by a seccomp profile or kernel.io_uring_disabled ({name})"
    if code == errno.ENOSYS:
        return f"this kernel has no io_uring, or one from before Linux 5.5 ({name})"
    return f"io_uring cannot be set up: {os.strerror(code)} ({name})"
