"""What is at the paths of devices: just enough to know which shard each belongs to. Nothing is locked or written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mezzo.errors import FormatError
from mezzo_server.blockstore.format import superblock
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.config import NodeConfig
from mezzo_server.config.schema import SHARDS_MAX
from mezzo_server.machine.cores import node_of_device, numa_nodes, siblings
from mezzo_server.machine.host import Host
from mezzo_server.supervisor.cores import Cores, deal_cores
from mezzo_server.supervisor.devices import NOT_SEEN, Dealt, Kind, Sight, check_single, deal


def look(host: Host, path: str) -> Sight:
    """What is at a path. What cannot be read holds nothing, as far as this goes: the shard says what is wrong."""
    found = host.kind(path)
    if found is None:
        return NOT_SEEN
    kind = Kind.FILE if found == "file" else Kind.OTHER
    if found not in ("file", "block device"):
        return Sight(kind)
    copies = [host.sample(path, offset, BLOCK_BYTES) or b"" for offset in superblock.COPY_OFFSETS]
    try:
        block = superblock.newest(copies)
    except FormatError:
        return Sight(kind)
    if block is None:
        return Sight(kind)
    nbytes = block.segment_count * block.segment_bytes
    return Sight(kind, block.store_id, nbytes, finished=block.set_generation > 0)


def devices_of(config: NodeConfig, host: Host) -> Dealt | None:
    """The devices of each shard of the node; None: there is one, and it has all.

    Raises:
        InvalidArgument: they do not fit the number of shards.
    """
    shard, count = config.shard, config.supervisor.shards

    def seen(path: str) -> Sight:
        return look(host, path)

    if count == 1:
        check_single(shard.devices, seen)
        return None
    # In a pod a new shard takes its slots step by step, and their former owners are asked for what they have.
    may_grow = shard.format or config.pod.enabled
    return deal(shard.devices, count, seen, count_max=SHARDS_MAX, accept_loss=may_grow)


def cores_of(
    config: NodeConfig, devices: Sequence[Sequence[str]], host: Host, usable: Iterable[int]
) -> list[Cores | None]:
    """The cores of each shard that has these ``devices``, of those that may be used; None: all."""
    homes = [
        next((node for device in own if (node := node_of_device(host, device)) is not None), None)
        for own in devices
    ]
    return deal_cores(config.supervisor.pin, homes, numa_nodes(host), siblings(host, usable))
