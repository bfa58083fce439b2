"""How much memory there is for a node: the machine's, or what its control group is given."""

from __future__ import annotations

from dataclasses import dataclass

from mezzo_server.machine.groups import readings
from mezzo_server.machine.host import Host

_UNLIMITED_BYTES = 1 << 60
"""Version 1 of control groups writes a number near 2**63 for no limit"""


@dataclass(frozen=True, slots=True)
class MemorySeen:
    """Bytes of memory."""

    machine_bytes: int
    available_bytes: int
    """what could be taken now without swapping"""
    limit_bytes: int | None
    """of the control group; None: there is none"""

    @property
    def usable_bytes(self) -> int:
        """What a node can count on, whatever runs at this moment."""
        return self.machine_bytes if self.limit_bytes is None else min(self.limit_bytes, self.machine_bytes)


def memory_seen(host: Host) -> MemorySeen:
    """Memory of the machine and of the control group."""
    numbers = {}
    for line in (host.read("/proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            numbers[name] = int(words[0]) * (1024 if words[-1] == "kB" else 1)
    machine_bytes = numbers.get("MemTotal", 0)
    return MemorySeen(machine_bytes, numbers.get("MemAvailable", machine_bytes), _limit_bytes(host))


def _limit_bytes(host: Host) -> int | None:
    """The smallest limit on the way from our control group up to the root."""
    texts = readings(host, "memory", "memory.max", "memory.limit_in_bytes")
    limits = [int(text) for text in texts if text.isdecimal()]
    return min((limit for limit in limits if limit < _UNLIMITED_BYTES), default=None)
