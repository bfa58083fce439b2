"""What all devices share: the check before a transfer begins, and devices that end on submit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from mezzo.errors import Busy, DeviceFailed, InvalidArgument
from mezzo_server.blockstore.io import Device, Op, Transfer

BLOCK_BYTES = 4096
"""`Device.block_bytes` unless the medium has larger logical blocks: a page, and what SSDs map by."""

MEMORY_ALIGN_BYTES = 512
"""`Device.memory_align_bytes` where the kernel does not say: the smallest logical block there is."""

DEPTH = 128
"""Transfers of one device in the kernel at once: NVMe drives are saturated below it."""

PINNED_BYTES_MAX = 8 << 30
"""Memory registered with one ring; over it memory works unregistered."""

TRANSFERS_MAX = 65536
"""Transfers submitted and not yet reaped, of one device; over it ``submit`` raises Busy."""


def check_transfers(transfers: Iterable[Transfer], block_bytes: int, memory_align_bytes: int) -> None:
    """InvalidArgument (a ValueError) for the first transfer that breaks the contract of `Transfer`.

    A range beyond the device's end is not checked here: it is ``-EIO`` when it comes back.
    """
    for transfer in transfers:
        if transfer.op == Op.FLUSH:
            continue
        length = transfer.length
        if transfer.offset < 0 or transfer.offset % block_bytes or length % block_bytes or not length:
            raise InvalidArgument(
                f"{transfer.op!r} at {transfer.offset}+{length} is not in whole blocks of {block_bytes} bytes"
            )
        total = 0
        for span in transfer.spans:
            total += span.length
            if span.offset < 0 or span.length < 0 or span.offset + span.length > span.memory.length:
                raise InvalidArgument(f"span {span.offset}+{span.length} is outside of its memory")
            if span.address % memory_align_bytes or span.length % memory_align_bytes:
                raise InvalidArgument(
                    f"memory at {span.address:#x}+{span.length} is not aligned to {memory_align_bytes} bytes"
                )
        if total != length:
            raise InvalidArgument(
                f"{transfer.op!r} at {transfer.offset}: spans were changed after it was made"
            )


def check_room(name: str, in_flight: int, count: int, transfers_max: int = TRANSFERS_MAX) -> None:
    """Busy if ``count`` transfers more than ``in_flight`` are over ``transfers_max``."""
    if in_flight + count > transfers_max:
        raise Busy(f"device {name} has {in_flight} transfers in flight; at most {transfers_max}")


class ImmediateDevice(Device):
    """A device whose transfers are over before ``submit`` returns; subclasses say what they do."""

    def __init__(self, name: str, size_bytes: int, block_bytes: int, memory_align_bytes: int) -> None:
        if size_bytes <= 0 or size_bytes % block_bytes:
            raise InvalidArgument(f"device {name}: {size_bytes} bytes are not whole blocks of {block_bytes}")
        self.name = name
        self.size_bytes = size_bytes
        self.block_bytes = block_bytes
        self.memory_align_bytes = memory_align_bytes
        self._ended: list[Transfer] = []
        self._closed = False

    @abstractmethod
    def _perform(self, transfer: Transfer) -> int:
        """Do it at once; the transfer's result."""

    def submit(self, transfers: Sequence[Transfer]) -> None:
        """Do all of them now; see `Device.submit`."""
        if self._closed:
            raise DeviceFailed(f"device {self.name} is closed")
        check_room(self.name, len(self._ended), len(transfers))
        check_transfers(transfers, self.block_bytes, self.memory_align_bytes)
        for transfer in transfers:
            transfer.result = self._perform(transfer)
        self._ended.extend(transfers)

    def reap(self) -> list[Transfer]:
        """All that were submitted since the last reap."""
        ended, self._ended = self._ended, []
        return ended

    def wait(self, timeout_s: float | None = None) -> None:
        """Return at once: whatever was submitted has ended."""

    @property
    def in_flight(self) -> int:
        """Transfers not reaped yet."""
        return len(self._ended)

    def close(self) -> None:
        """Refuse further transfers. What ended may still be reaped."""
        self._closed = True
