"""The device for where io_uring is not to be had: ``preadv`` and ``pwritev`` in threads."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mezzo.errors import DeviceFailed
from mezzo_server.blockstore.devices.base import TRANSFERS_MAX, check_room, check_transfers
from mezzo_server.blockstore.devices.descriptor import Descriptor
from mezzo_server.blockstore.io import Device, Op, Transfer
from mezzo_server.mailbox import Mailbox

THREADS = 16
"""Transfers in the kernel at once: each holds a thread."""

SPANS_PER_CALL_MAX = 1024
"""IOV_MAX of Linux."""

RETRIES_MAX = 64
"""EAGAIN of one transfer; the interpreter retries EINTR by itself (PEP 475)."""


class ThreadsDevice(Device):
    """A preallocated file or a block device behind ``threads`` threads.

    Owner of its descriptor.  Belongs to one thread at a time.
    """

    def __init__(
        self, descriptor: Descriptor, *, threads: int = THREADS, transfers_max: int = TRANSFERS_MAX
    ) -> None:
        """Take ``descriptor`` over."""
        self._descriptor: Descriptor | None = descriptor
        self._fd = descriptor.fd
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="mezzo-device")
        self._mailbox: Mailbox[Transfer] = Mailbox()
        self._transfers_max = transfers_max
        self.name = descriptor.name
        self.size_bytes = descriptor.size_bytes
        self.block_bytes = descriptor.block_bytes
        self.memory_align_bytes = descriptor.memory_align_bytes
        self.direct = descriptor.direct

    def submit(self, transfers: Sequence[Transfer]) -> None:
        """Begin all of them, or none; see `Device.submit`."""
        if self._descriptor is None:
            raise DeviceFailed(f"device {self.name} is closed")
        check_room(self.name, self.in_flight, len(transfers), self._transfers_max)
        check_transfers(transfers, self.block_bytes, self.memory_align_bytes)
        self._mailbox.expect(len(transfers))
        for transfer in transfers:
            self._executor.submit(self._run, transfer)

    def reap(self) -> list[Transfer]:
        """Those that ended since."""
        return self._mailbox.take()

    def wait(self, timeout_s: float | None = None) -> None:
        """See `Device.wait`."""
        self._mailbox.wait(timeout_s)

    @property
    def in_flight(self) -> int:
        """Transfers submitted and not reaped."""
        return self._mailbox.expected

    @property
    def event_fd(self) -> int | None:
        """An eventfd; only `reap` reads it. None once closed."""
        return self._mailbox.event_fd

    def grow(self, size_bytes: int = 0) -> None:
        """See `Device.grow`."""
        if self._descriptor is None:
            raise DeviceFailed(f"device {self.name} is closed")
        self._descriptor = self._descriptor.grown(size_bytes)
        self.size_bytes = self._descriptor.size_bytes

    def close(self) -> None:
        """Wait for what is in flight (it may still be reaped), then unlock and close."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._executor.shutdown(wait=True)
            self._mailbox.close()
            descriptor.release()

    def _run(self, transfer: Transfer) -> None:
        try:
            transfer.result = self._perform(transfer)
        except OSError as error:
            transfer.result = -(error.errno or errno.EIO)
        except BaseException:
            # Whatever it was (no memory, a span closed in flight): a transfer always comes back.
            transfer.result = -errno.EIO
        self._mailbox.put(transfer)

    def _perform(self, transfer: Transfer) -> int:
        if transfer.op == Op.FLUSH:
            os.fdatasync(self._fd)
            return 0
        if transfer.offset + transfer.length > self.size_bytes:
            return -errno.EIO
        move = os.preadv if transfer.op == Op.READ else os.pwritev
        views = deque(span.view for span in transfer.spans if span.length)
        moved = retries = 0
        while views:
            batch = [views[index] for index in range(min(len(views), SPANS_PER_CALL_MAX))]
            try:
                count = move(self._fd, batch, transfer.offset + moved)
            except BlockingIOError:
                retries += 1
                if retries > RETRIES_MAX:
                    raise
                continue
            if not count:
                return -errno.EIO
            moved += count
            while count:
                view = views.popleft()
                if count < len(view):
                    views.appendleft(view[count:])
                count -= min(count, len(view))
        return moved
