"""What the kernel offers: its release, io_uring, sealed memory."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from mezzo_server.doctor.finding import Finding, State
from mezzo_server.machine import Host
from mezzo_server.machine.container import container
from mezzo_server.machine.uring import FEATURES, FEATURES_NEEDED, FLAGS, OPERATIONS

RELEASE = (5, 15)
"""that Mezzo is meant for; what is older lacks features one by one, see docs/devices.md"""
DISABLED = "/proc/sys/kernel/io_uring_disabled"


def release(host: Host) -> Finding:
    """Old enough to have everything?"""
    text = host.kernel()
    match = re.match(r"(\d+)\.(\d+)", text)
    wanted = ".".join(map(str, RELEASE))
    if match is None:
        return Finding("kernel", State.BETTER, f"{text} is no Linux release that is known here")
    if (int(match[1]), int(match[2])) < RELEASE:
        seen = f"Linux {text}; Mezzo is meant for {wanted} and later"
        return Finding("kernel", State.BETTER, seen, f"boot Linux {wanted} or later")
    return Finding("kernel", State.GOOD, f"Linux {text}")


def io_uring(host: Host) -> Iterator[Finding]:
    """Whether there can be a ring, and what it knows."""
    probe = host.uring()
    if probe.error:
        name = errno.errorcode.get(probe.error, str(probe.error))
        why, advice = _why_not(host, probe.error)
        yield Finding("io_uring", State.MISSING, f"{name}: {why}; threads do the I/O, at more CPU", advice)
        return
    lacking = [name for name in FEATURES_NEEDED if name not in probe.features]
    lacking += [name for name in OPERATIONS if name not in probe.operations]
    if lacking:
        seen = f"a ring can be made, but lacks {', '.join(lacking)}; threads do the I/O"
        yield Finding("io_uring", State.MISSING, seen, "boot Linux 5.15 or later")
        return
    yield Finding(
        "io_uring", State.GOOD, f"allowed; all {len(OPERATIONS)} operations that are used are there"
    )
    fewer = [name for name in FEATURES if name not in probe.features]
    fewer += [name for name in FLAGS if name not in probe.flags]
    if fewer:
        seen = f"without {', '.join(fewer)}: more system calls and interrupts for the same work"
        yield Finding("io_uring features", State.BETTER, seen, "boot Linux 5.19 or later")
    else:
        yield Finding("io_uring features", State.GOOD, ", ".join([*FEATURES, *FLAGS]))
    if probe.buffers_error:
        seen = f"a buffer of 64 KiB: {os.strerror(probe.buffers_error)}; transfers walk the page tables each time"
        yield Finding("registered buffers", State.BETTER, seen, "raise RLIMIT_MEMLOCK: ulimit -l unlimited")
    else:
        yield Finding("registered buffers", State.GOOD, "memory can be registered")


def _why_not(host: Host, code: int) -> tuple[str, str]:
    """Half a sentence, and what to do."""
    if code == errno.ENOSYS:
        return "this kernel has no io_uring", "boot Linux 5.15 or later, built with CONFIG_IO_URING"
    if code == errno.ENOMEM:
        return "no memory may be locked for a ring", "ulimit -l unlimited"
    if code != errno.EPERM:
        return os.strerror(code), "dmesg | tail"
    disabled = host.read(DISABLED)
    if disabled == "2":
        return "kernel.io_uring_disabled is 2, for all", "sysctl -w kernel.io_uring_disabled=0"
    if disabled == "1":
        return (
            "kernel.io_uring_disabled is 1, for all but kernel.io_uring_group and CAP_SYS_ADMIN",
            "sysctl -w kernel.io_uring_group=$(id -g)",
        )
    if _seccomp(host):
        runtime = container(host)
        if runtime == "Kubernetes":
            return (
                "a seccomp profile blocks it",
                "securityContext: {seccompProfile: {type: Unconfined}}, or a profile that allows io_uring_*",
            )
        return (
            "a seccomp profile blocks it",
            "docker run --security-opt seccomp=unconfined, or a profile that allows io_uring_*",
        )
    return "not permitted, by a security module perhaps", "dmesg | grep -i -e denied -e avc"


def _seccomp(host: Host) -> bool:
    return re.search(r"^Seccomp:\s*2", host.read("/proc/self/status") or "", re.MULTILINE) is not None


def sealed_memory(host: Host) -> Finding:
    """What chunks in place need: memory that a client can map and never write."""
    why = host.seal()
    if why is not None:
        seen = f"no F_SEAL_FUTURE_WRITE ({why}): the hot tier cannot be used in place"
        return Finding("memfd seals", State.MISSING, seen, "boot Linux 5.15 or later")
    return Finding("memfd seals", State.GOOD, "F_SEAL_FUTURE_WRITE works")


CHECKS = (release, io_uring, sealed_memory)
