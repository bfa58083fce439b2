"""Time that deadlines of chunks are measured by: monotonic, and anchored to the wall clock where that must be.

    running, and across restarts on one boot    the machine's own count since it booted, suspension included
    after a reboot                              the wall clock, but never before what was written down last

The wall clock is looked at once, at the first start after a boot, so that it may jump while the store runs
and nothing comes of it.  An *anchor* says what our time was at a moment of a boot; it is kept in the
superblocks.  After a reboot time goes on `AHEAD_MS` after the last anchor at the earliest, and an anchor is
never older than that while deadlines matter: so time never goes back, whatever the wall clock says, and
what has expired stays expired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

AHEAD_MS = 60_000
"""How much later than its last anchor the store may be when the machine fails."""
BOOT_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class MachineClock:
    """What a machine says of time, in milliseconds."""

    boot_ms: Callable[[], int]
    """since it booted, suspension included; never goes back"""
    wall_ms: Callable[[], int]
    """Unix time; may jump"""
    boot_id: bytes
    """names the boot, `BOOT_ID_BYTES` long"""


def machine_of(now: Callable[[], float]) -> MachineClock:
    """A machine that knows nothing but ``now``, in seconds, and has always been running."""

    def count() -> int:
        return int(now() * 1000)

    return MachineClock(count, count, bytes(BOOT_ID_BYTES))


@dataclass(frozen=True, slots=True)
class Anchor:
    """What our time was at a moment of a boot."""

    time_ms: int
    """our time, near Unix time"""
    boot_ms: int
    boot_id: bytes


class Clock:
    """Our time. Owner of what was written down of it last."""

    def __init__(self, machine: MachineClock, anchors: Iterable[Anchor] = ()) -> None:
        """``anchors``: all that were found, of any boot."""
        self._machine = machine
        boot = machine.boot_ms()
        here: list[int] = []
        before: list[int] = []
        for anchor in anchors:
            if anchor.boot_id == machine.boot_id and anchor.boot_ms <= boot:
                here.append(anchor.time_ms + boot - anchor.boot_ms)
            else:
                before.append(anchor.time_ms + AHEAD_MS)
        start = max([*here, *before] if here else [machine.wall_ms(), *before])
        self._offset = start - boot
        self._anchored_ms: int | None = None

    def now_ms(self) -> int:
        """Milliseconds; near Unix time, and never less than ever before."""
        return self._machine.boot_ms() + self._offset

    def anchor(self) -> Anchor:
        """This moment, to be written down."""
        boot = self._machine.boot_ms()
        return Anchor(boot + self._offset, boot, self._machine.boot_id)

    def anchored(self, anchor: Anchor) -> None:
        """It was written down, durably."""
        self._anchored_ms = anchor.time_ms

    @property
    def anchor_age_ms(self) -> int:
        """Since the last anchor that was written down; -1: none was since the start."""
        return -1 if self._anchored_ms is None else self.now_ms() - self._anchored_ms

    @property
    def due(self) -> bool:
        """Whether another anchor should be written down, if there are deadlines."""
        return not 0 <= self.anchor_age_ms < AHEAD_MS // 2
