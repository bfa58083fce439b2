"""The clocks of this machine, for the store's own time (`blockstore.clock`)."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from mezzo_server.blockstore.clock import BOOT_ID_BYTES, MachineClock

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_clock() -> MachineClock:
    """CLOCK_BOOTTIME, which goes on while the machine is suspended, the wall clock, and the boot's id.

    Where the kernel does not tell its boot's id every start counts as one after a reboot.
    """
    try:
        boot_id = uuid.UUID(BOOT_ID.read_text("ascii").strip()).bytes
    except (OSError, ValueError):
        boot_id = os.urandom(BOOT_ID_BYTES)

    def boot_ms() -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def wall_ms() -> int:
        return time.time_ns() // 1_000_000

    return MachineClock(boot_ms, wall_ms, boot_id)
