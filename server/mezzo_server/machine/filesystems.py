"""Which filesystem a path is on, and what it is good for."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mezzo_server.machine.host import Host

LOCAL = ("ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs")
MEMORY = ("tmpfs", "ramfs", "hugetlbfs")
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "9p", "virtiofs", "glusterfs", "beegfs")
LAYERED = ("overlay", "aufs", "fuse-overlayfs")

_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of ``/proc/self/mountinfo``."""

    point: str
    kind: str
    source: str
    device: str
    """major:minor"""
    read_only: bool


def mounts(host: Host) -> list[Mount]:
    """All mounts, the later of two at one point last."""
    found = []
    for line in (host.read("/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, ends = left.split(), right.split()
        if len(fields) < 6 or len(ends) < 2:
            continue
        options = set(fields[5].split(",")) | set(ends[2].split(",") if len(ends) > 2 else ())
        found.append(Mount(_plain(fields[4]), ends[0], _plain(ends[1]), fields[2], "ro" in options))
    return found


def mount_of(host: Host, path: str) -> Mount | None:
    """The mount that a path, or the nearest folder above it that exists, lies on."""
    real = os.path.normpath(path)
    best = None
    for mount in mounts(host):
        point = mount.point.rstrip("/")
        inside = real == mount.point or real.startswith(point + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def worry(kind: str) -> str | None:
    """Why a filesystem of this kind is no good place for a device; None if it is one."""
    if kind in MEMORY:
        return f"{kind} is memory: what is stored there is gone with the machine, and no faster for it"
    if kind in NETWORK or kind.startswith("fuse"):
        return f"{kind} goes over the network or through another process: take a local disk"
    if kind in LAYERED:
        return (
            f"{kind} is a container's layer, without direct I/O and gone with the container: mount a volume"
        )
    return None


def _plain(text: str) -> str:
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text
