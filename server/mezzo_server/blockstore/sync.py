"""Device transfers for who may block: opening, recovery, offline checks."""

from __future__ import annotations

from collections.abc import Sequence

from mezzo.errors import DeviceFailed
from mezzo_server.blockstore.io import Device, Op, Transfer
from mezzo_server.memory import Memory, Span


def run(device: Device, transfers: Sequence[Transfer]) -> None:
    """Do all of them; results are in the transfers. DeviceFailed if the device hangs."""
    device.submit(transfers)
    left = len(transfers)
    while left:
        device.wait(60.0)
        ended = device.reap()
        if not ended:
            raise DeviceFailed(f"device {device.name} did not answer for a minute")
        left -= len(ended)


def read(device: Device, offset: int, span: Span) -> int:
    """Read into ``span``; bytes, or ``-errno``."""
    transfer = Transfer(Op.READ, offset, (span,))
    run(device, [transfer])
    return transfer.result


def write(device: Device, offset: int, data: bytes) -> int:
    """Write whole blocks; bytes, or ``-errno``."""
    memory = Memory.anonymous(len(data))
    memory.view[: len(data)] = data
    transfer = Transfer(Op.WRITE, offset, (memory.span(0, len(data)),))
    run(device, [transfer])
    memory.close()
    return transfer.result


def flush(device: Device) -> int:
    """Make durable; 0 or more, or ``-errno``."""
    transfer = Transfer(Op.FLUSH)
    run(device, [transfer])
    return transfer.result
