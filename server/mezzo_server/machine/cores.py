"""Cores of this machine: which belong together, and which memory is near to them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mezzo_server.machine.host import Host

_NODES = "/sys/devices/system/node"
_CPUS = "/sys/devices/system/cpu"


def numa_nodes(host: Host) -> dict[int, frozenset[int]]:
    """The cores of each node of memory that has any, by the node's number; empty: the kernel does not tell."""
    found = {}
    for name in host.names(_NODES):
        match = re.fullmatch(r"node(\d+)", name)
        cores = parse_cores(host.read(f"{_NODES}/{name}/cpulist") or "") if match else frozenset()
        if match and cores:
            found[int(match[1])] = cores
    return found


def siblings(host: Host, cores: Iterable[int]) -> list[frozenset[int]]:
    """Cores in groups that share one physical core, in order; each by itself where the kernel does not tell."""
    groups: dict[frozenset[int], None] = {}
    usable = frozenset(cores)
    for core in sorted(usable):
        told = parse_cores(host.read(f"{_CPUS}/cpu{core}/topology/thread_siblings_list") or "")
        groups[(told | {core}) & usable] = None
    return list(groups)


def node_of_device(host: Host, path: str) -> int | None:
    """The node of memory that a file or block device is near to; None: not known, or the same for all."""
    base = host.sysfs(path)
    while base is not None and base.startswith("/sys/devices/"):
        text = host.read(f"{base}/numa_node") or host.read(f"{base}/device/numa_node")
        if text is not None and text.isdecimal():
            return int(text)
        base = base.rpartition("/")[0]
    return None


def parse_cores(text: str) -> frozenset[int]:
    """Numbers of a list as the kernel writes it: ``0-3,8``."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal():
            found.update(range(int(first), int(last) + 1 if last.isdecimal() else int(first) + 1))
    return frozenset(found)


def format_cores(cores: Iterable[int]) -> str:
    """As the kernel writes it, for `parse_cores`."""
    return ",".join(map(str, sorted(cores)))
