"""What the system lets a process of ours have: memory, locked memory, descriptors, large pages."""

from __future__ import annotations

import re
import resource

from mezzo.sizes import about_size
from mezzo_server.doctor.finding import Finding, State
from mezzo_server.machine import Host
from mezzo_server.machine.memory import memory_seen

MEMLOCK_BYTES = 1 << 30
"""enough for the staging memory and the regions of some clients"""
DESCRIPTORS = 65536
"""as many as a shard raises its limit to"""
MEMORY_BYTES_MIN = 1 << 30
"""for a shard and a front-end with their default limits"""
SHM_BYTES_MIN = 1 << 30
CAP_IPC_LOCK = 14
SHM = "/dev/shm"  # noqa: S108  looked at, never written to

_THP = "/sys/kernel/mm/transparent_hugepage"


def memory(host: Host) -> Finding:
    """Of the machine, or of the control group."""
    seen = memory_seen(host)
    text = f"{about_size(seen.machine_bytes)}, {about_size(seen.available_bytes)} available"
    if seen.limit_bytes is not None and seen.limit_bytes < seen.machine_bytes:
        text += f"; the control group is given {about_size(seen.limit_bytes)}"
    if seen.usable_bytes < MEMORY_BYTES_MIN:
        return Finding(
            "memory", State.BETTER, text, "give it 1 GiB or more, or lower shard.limits.staging_bytes"
        )
    return Finding("memory", State.GOOD, text)


def locked_memory(host: Host) -> Finding:
    """RLIMIT_MEMLOCK."""
    name = "RLIMIT_MEMLOCK"
    soft, _ = host.limit(resource.RLIMIT_MEMLOCK)
    if soft < 0:
        return Finding(name, State.GOOD, "unlimited")
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", host.read("/proc/self/status") or "", re.MULTILINE)
    if match and int(match[1], 16) >> CAP_IPC_LOCK & 1:
        return Finding(name, State.GOOD, f"{about_size(soft)}, and CAP_IPC_LOCK goes beyond it")
    if soft >= MEMLOCK_BYTES:
        return Finding(name, State.GOOD, about_size(soft))
    seen = f"{about_size(soft)}: regions over that are not registered, at some microseconds more per transfer"
    advice = "systemd: LimitMEMLOCK=infinity; docker: --ulimit memlock=-1; a shell: ulimit -l unlimited"
    return Finding(name, State.BETTER, seen, advice)


def descriptors(host: Host) -> Finding:
    """RLIMIT_NOFILE; a shard raises the soft limit itself."""
    _, hard = host.limit(resource.RLIMIT_NOFILE)
    if hard < 0 or hard >= DESCRIPTORS:
        return Finding("RLIMIT_NOFILE", State.GOOD, "unlimited" if hard < 0 else f"{hard:,} at most")
    seen = f"{hard:,} at most: connections and regions of all clients together"
    advice = f"systemd: LimitNOFILE={DESCRIPTORS}; docker: --ulimit nofile={DESCRIPTORS}"
    return Finding(
        "RLIMIT_NOFILE", State.BETTER if hard < 4096 else State.GOOD, seen, advice if hard < 4096 else ""
    )


def huge_pages(host: Host) -> Finding:
    """Transparent huge pages, for staging memory and for regions."""
    chosen = {name: _chosen(host.read(f"{_THP}/{name}")) for name in ("enabled", "shmem_enabled")}
    if chosen["enabled"] is None:
        return Finding("huge pages", State.BETTER, "this kernel has no transparent huge pages")
    seen = ", ".join(f"{name} {value}" for name, value in chosen.items() if value is not None)
    if chosen["enabled"] == "never":
        advice = f"echo madvise > {_THP}/enabled"
        return Finding("huge pages", State.BETTER, f"{seen}: staging memory is made of small pages", advice)
    if chosen["shmem_enabled"] in ("never", "deny"):
        advice = f"echo within_size > {_THP}/shmem_enabled"
        return Finding("huge pages", State.BETTER, f"{seen}: regions are made of small pages", advice)
    return Finding("huge pages", State.GOOD, seen)


def shared_memory(host: Host) -> Finding:
    """Where engines keep memory that a client adopts."""
    room = host.room(SHM)
    if room is None:
        seen = "there is none; regions of the SDK need none, but an engine's own shared memory does"
        return Finding(SHM, State.MISSING, seen, f"mount -t tmpfs tmpfs {SHM}")
    seen = about_size(room.total_bytes)
    if room.total_bytes < SHM_BYTES_MIN:
        seen += ": too small for an engine's memory, if one shares it here (regions of the SDK are not in it)"
        advice = f"docker run --shm-size=8g; Kubernetes: an emptyDir with medium: Memory at {SHM}"
        return Finding(SHM, State.BETTER, seen, advice)
    return Finding(SHM, State.GOOD, seen)


def _chosen(text: str | None) -> str | None:
    match = re.search(r"\[(\w+)\]", text or "")
    return match[1] if match else None


CHECKS = (memory, locked_memory, descriptors, huge_pages, shared_memory)
