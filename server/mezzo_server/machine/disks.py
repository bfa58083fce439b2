"""Block devices, and whether anybody uses them; what a file or device holds."""

from __future__ import annotations

from dataclasses import dataclass

from mezzo_server.blockstore.format.superblock import COPY_OFFSETS, MAGIC
from mezzo_server.machine.filesystems import mounts
from mezzo_server.machine.host import Host

SAMPLES = 64
"""places looked at between the beginning and the end of a device"""
SAMPLE_BYTES = 4096
EDGE_BYTES = 2 * 1024**2
"""looked at whole at both ends: partition tables, filesystems and RAID members are there"""
VIRTUAL = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "drbd", "bcache")

EMPTY, OURS, FOREIGN, UNREADABLE = "empty", "a Mezzo store", "other data", "unreadable"


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole block device."""

    path: str
    size_bytes: int
    rotational: bool
    model: str
    use: str
    """what keeps others off it; empty: nobody uses it"""


def disks(host: Host) -> list[Disk]:
    """Block devices of this machine, without what other devices are made into."""
    mounted = {mount.device: mount.point for mount in mounts(host)}
    swaps = {line.split()[0] for line in (host.read("/proc/swaps") or "").splitlines()[1:] if line.split()}
    found = []
    for name in host.names("/sys/block"):
        base = f"/sys/block/{name}"
        sectors = host.read(f"{base}/size") or "0"
        if name.startswith(VIRTUAL) or not sectors.isdecimal() or not int(sectors):
            continue
        found.append(
            Disk(
                path=f"/dev/{name}",
                size_bytes=int(sectors) * 512,
                rotational=host.read(f"{base}/queue/rotational") == "1",
                model=host.read(f"{base}/device/model") or "",
                use=_use(host, name, mounted, swaps),
            )
        )
    return found


def held(host: Host, path: str) -> str:
    """What a file or block device holds: `EMPTY`, `OURS`, `FOREIGN`, or `UNREADABLE`.

    Both ends are read whole and places between them in samples; where any byte is not zero somebody's
    data may be.
    """
    size_bytes = host.size_bytes(path)
    if size_bytes is None:
        return UNREADABLE
    for offset in COPY_OFFSETS:
        sample = host.sample(path, offset, len(MAGIC))
        if sample is None:
            return UNREADABLE
        if sample == MAGIC:
            return OURS
    places = [(0, EDGE_BYTES), (max(0, size_bytes - EDGE_BYTES), EDGE_BYTES)]
    places += [(size_bytes * step // SAMPLES, SAMPLE_BYTES) for step in range(1, SAMPLES)]
    for offset, length in places:
        sample = host.sample(path, offset, length)
        if sample is None:
            return UNREADABLE
        if sample.strip(b"\0"):
            return FOREIGN
    return EMPTY


def _use(host: Host, name: str, mounted: dict[str, str], swaps: set[str]) -> str:
    base = f"/sys/block/{name}"
    if host.read(f"{base}/ro") == "1":
        return "read-only"
    if host.read(f"{base}/removable") == "1":
        return "removable"
    parts = [part for part in host.names(base) if host.read(f"{base}/{part}/partition") is not None]
    for folder in (base, *(f"{base}/{part}" for part in parts)):
        if holders := host.names(f"{folder}/holders"):
            return f"part of {holders[0]}"
        if (number := host.read(f"{folder}/dev")) in mounted:
            return f"mounted at {mounted[number or '']}"
        if f"/dev/{folder.rpartition('/')[2]}" in swaps:
            return "swap"
    return "has partitions" if parts else ""
