"""Cores, their memory, their clocks; whether this is a container."""

from __future__ import annotations

import re

from mezzo_server.doctor.finding import Finding, State
from mezzo_server.machine import Host
from mezzo_server.machine.container import container
from mezzo_server.machine.groups import readings

CORES_MIN = 2
"""one for the loop, one for checksums, copies and the front-end"""
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies")

_CLOCK = "/sys/devices/system/clocksource/clocksource0"


def cores(host: Host) -> Finding:
    """Those that this process may use."""
    usable, there = host.cores(), host.cores_of_machine()
    seen = f"{usable} of {there}" if usable < there else f"{there}"
    seen += f" ({host.architecture()})"
    quota = _quota(host)
    if quota is not None and quota < usable:
        seen += f"; the control group may use {quota:.1f} of them"
        usable = int(quota)
    if usable < CORES_MIN:
        return Finding("cores", State.BETTER, seen, f"give it {CORES_MIN} cores or more")
    return Finding("cores", State.GOOD, seen)


def numa(host: Host) -> Finding:
    """Nodes of memory."""
    nodes = [name for name in host.names("/sys/devices/system/node") if re.fullmatch(r"node\d+", name)]
    if len(nodes) < 2:
        return Finding("NUMA", State.GOOD, "one node")
    advice = (
        f"mezzo serve --shards {len(nodes)} runs each beside its devices; or numactl --cpunodebind=N --preferred=N "
        "mezzo shard ..., N being the node of its devices"
    )
    return Finding("NUMA", State.GOOD, f"{len(nodes)} nodes: run a shard beside its devices", advice)


def governor(host: Host) -> Finding:
    """Who chooses the frequency."""
    chosen = host.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if chosen is None:
        return Finding("frequency", State.GOOD, "not chosen here (a virtual machine, or firmware does it)")
    if chosen in ("performance", "schedutil"):
        return Finding("frequency", State.GOOD, f"governor {chosen}")
    seen = f"governor {chosen}: the first requests after a pause are slow"
    return Finding("frequency", State.BETTER, seen, "cpupower frequency-set -g performance")


def clock(host: Host) -> Finding:
    """Whether the time can be read without a system call."""
    source = host.read(f"{_CLOCK}/current_clocksource")
    if source is None:
        return Finding("clock", State.GOOD, "the clock source is not told here")
    if source not in SLOW_CLOCKS:
        return Finding("clock", State.GOOD, source)
    others = (host.read(f"{_CLOCK}/available_clocksource") or "").split()
    better = [name for name in others if name not in SLOW_CLOCKS]
    advice = f"echo {better[0]} > {_CLOCK}/current_clocksource" if better else ""
    return Finding("clock", State.BETTER, f"{source}: each reading costs a system call", advice)


def in_container(host: Host) -> Finding:
    """A fact that explains others."""
    runtime = container(host)
    return Finding("container", State.GOOD, "none seen" if runtime is None else f"yes, {runtime}")


def _quota(host: Host) -> float | None:
    """Cores that the control group may use at a time; None: all."""
    quotas = []
    for text in readings(host, "cpu", "cpu.max"):
        words = text.split()
        if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


CHECKS = (cores, numa, governor, clock, in_container)
