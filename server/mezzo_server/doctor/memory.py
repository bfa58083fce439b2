"""Whether the memory that the settings of a node let its shards take is there: as a whole, near to their cores, to be locked."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator, Sequence

from mezzo.sizes import about_size
from mezzo_server.config import NodeConfig
from mezzo_server.config.memory import ShardMemory, node_memory, told
from mezzo_server.doctor.finding import Finding, State
from mezzo_server.doctor.limits import locked_memory
from mezzo_server.machine import Host
from mezzo_server.machine.cores import numa_nodes
from mezzo_server.machine.memory import memory_seen
from mezzo_server.supervisor.looking import cores_of

NAME = "memory of the node"
LESS = (
    "lower shard.hot.bytes, shard.limits.staging_bytes or shard.limits.chunk_bytes_max, or supervisor.shards"
)
TIGHT = 0.9
"""Of what can be used: beyond it there is little left for the index, and for everything else."""


def examine_memory(host: Host, config: NodeConfig, devices: Sequence[Sequence[str]]) -> Iterator[Finding]:
    """``devices``: those of each shard, by which its cores are chosen; none: there is one shard."""
    budget = node_memory(config)
    usable_bytes = memory_seen(host).usable_bytes
    reserved_bytes = _reserved_bytes(host.read("/proc/meminfo") or "")
    usable_bytes -= reserved_bytes
    seen = told(budget)
    if reserved_bytes:
        seen += f"; {about_size(reserved_bytes)} are set aside as huge pages (vm.nr_hugepages), of which no shard takes any"
    if not usable_bytes:
        return  # the system does not say
    if budget.total_bytes > usable_bytes:
        yield Finding(
            NAME, State.BROKEN, f"{seen}: there are {about_size(max(0, usable_bytes))} for it", LESS
        )
    elif budget.total_bytes > TIGHT * usable_bytes:
        left = f"{seen}: little is left of {about_size(usable_bytes)} for the index"
        yield Finding(NAME, State.BETTER, left, LESS)
    else:
        yield Finding(NAME, State.GOOD, f"{seen}; there are {about_size(usable_bytes)}")
    yield from _locked(host, budget.registered_bytes, len(budget.shards))
    if len(devices) > 1:
        yield from _near(host, config, devices, budget.shards)


def _locked(host: Host, registered_bytes: int, count: int) -> Iterator[Finding]:
    if count == 1 or locked_memory(host).state is not State.GOOD:
        return  # the limit is told of as such
    soft, _ = host.limit(resource.RLIMIT_MEMLOCK)
    if 0 <= soft < registered_bytes and "CAP_IPC_LOCK" not in locked_memory(host).seen:
        seen = (
            f"{count} shards register {about_size(registered_bytes)}, counted together where they are of one user, "
            f"and {about_size(soft)} may be locked: what is over it is not registered"
        )
        yield Finding("locked memory of the node", State.BETTER, seen, "systemd: LimitMEMLOCK=infinity")


def _near(
    host: Host, config: NodeConfig, devices: Sequence[Sequence[str]], shards: Sequence[ShardMemory]
) -> Iterator[Finding]:
    """Of each node of memory whose cores shards are pinned to."""
    wanted: dict[int, list[int]] = {}
    near = numa_nodes(host)
    cores = cores_of(config, devices, host, frozenset().union(*near.values()))
    for own, shard in zip(cores, shards, strict=True):
        home = next((number for number, there in near.items() if own is not None and own <= there), None)
        if home is not None:
            wanted.setdefault(home, []).append(shard.total_bytes)
    for number, each in sorted(wanted.items()):
        text = host.read(f"/sys/devices/system/node/node{number}/meminfo") or ""
        match = re.search(r"MemTotal:\s*(\d+) kB", text)
        if match is None:
            continue
        there_bytes = int(match[1]) * 1024
        name = f"memory of NUMA node {number}"
        seen = (
            f"{len(each)} shards run there and take {about_size(sum(each))}; it has {about_size(there_bytes)}"
        )
        if sum(each) > there_bytes:
            yield Finding(name, State.BETTER, f"{seen}: some of it will be far from them", LESS)
        else:
            yield Finding(name, State.GOOD, seen)


def _reserved_bytes(meminfo: str) -> int:
    """Memory that was set aside for huge pages which programs must ask for by name: ours never do."""
    count = re.search(r"^HugePages_Total:\s*(\d+)", meminfo, re.MULTILINE)
    size = re.search(r"^Hugepagesize:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(count[1]) * int(size[1]) * 1024 if count and size else 0
