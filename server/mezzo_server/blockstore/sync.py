"""Device transfers for who may block: opening, recovery, offline checks."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mezzo.errors import DeviceFailed
from mezzo_server.blockstore.io import Device, Op, Transfer
from mezzo_server.memory import Memory, Span

QUIET_S_MAX = 60.0


def run(device: Device, transfers: Sequence[Transfer]) -> None:
    """Do all of them; results are in the transfers. DeviceFailed if the device hangs."""
    device.submit(transfers)
    left = len(transfers)
    moved_at = time.monotonic()
    while left:
        device.wait(QUIET_S_MAX)
        ended = len(device.reap())
        left -= ended
        now = time.monotonic()
        if ended:
            moved_at = now
        elif now - moved_at >= QUIET_S_MAX:
            raise DeviceFailed(f"device {device.name} did not answer for {QUIET_S_MAX:g} s")


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
