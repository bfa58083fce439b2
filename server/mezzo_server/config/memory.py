"""The memory that a node's settings let its processes take, shard by shard. No I/O.

What is listed is taken from the start or as it is needed, and never given back, so there must be room for all of
it.  Beside it there are about `INDEX_BYTES` for each chunk that is stored, which no setting says, and
leases (`shard.limits.leased_chunks_max`).
"""

from __future__ import annotations

from dataclasses import dataclass

from mezzo.errors import InvalidArgument
from mezzo.sizes import about_size
from mezzo_server.blockstore.sealed_stream import staging_bytes_max
from mezzo_server.config.schema import NodeConfig, ShardConfig
from mezzo_server.config.several import shard_settings
from mezzo_server.machine.memory import MemorySeen
from mezzo_server.staging import bytes_for_piece

INDEX_BYTES = 140
"""of memory for each chunk (``python -m benchmarks restart``)"""
PROCESS_BYTES = 96 << 20
"""an interpreter with what a process of ours imports, and its threads, rounded up"""
STAGING_EXTRA_BYTES = 8 << 20
"""Staging beyond what the stream of the longest encrypted chunk needs, so that others find some meanwhile."""


@dataclass(frozen=True, slots=True)
class ShardMemory:
    """Of one shard, in bytes."""

    hot_bytes: int
    """whole arenas"""
    staging_bytes: int
    """of the connections"""
    store_bytes: int
    """staging of the block store"""
    events_bytes: int

    @property
    def registered_bytes(self) -> int:
        """What is registered with the ring, and locked with it; clients' regions come to that."""
        return self.hot_bytes + self.staging_bytes + self.store_bytes

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.registered_bytes + self.events_bytes + PROCESS_BYTES


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """Of all processes of a node, in bytes."""

    shards: tuple[ShardMemory, ...]
    others_bytes: int
    """of the front-end and the supervisor"""

    @property
    def registered_bytes(self) -> int:
        """Of all shards: the system counts them together where they are of one user."""
        return sum(shard.registered_bytes for shard in self.shards)

    @property
    def total_bytes(self) -> int:
        """Of all processes."""
        return sum(shard.total_bytes for shard in self.shards) + self.others_bytes


def store_staging_bytes(shard: ShardConfig) -> int:
    """Staging of a shard's block store: as the settings say, but enough for the longest chunk, encrypted."""
    longest = bytes_for_piece(staging_bytes_max(shard.limits.chunk_bytes_max))
    return max(shard.store_staging_bytes, longest + STAGING_EXTRA_BYTES)


def check_hot(hot_bytes: int, memory: MemorySeen) -> None:
    """Raise InvalidArgument if the hot tiers, together, are more than there is: they are allocated for good, and the
    kernel would end processes.
    """
    if hot_bytes > memory.usable_bytes > 0:
        whose = (
            "this machine has" if memory.limit_bytes is None else "this machine or its control group gives"
        )
        raise InvalidArgument(
            f"shard.hot.bytes: {hot_bytes} bytes are more memory than {whose} ({memory.usable_bytes})"
        )


def shard_memory(shard: ShardConfig) -> ShardMemory:
    """By the settings of one shard, after what is the node's has been divided."""
    hot = shard.hot
    return ShardMemory(
        hot.bytes // hot.arena_bytes * hot.arena_bytes,
        shard.limits.staging_bytes,
        store_staging_bytes(shard),
        shard.limits.events_bytes_max,
    )


def node_memory(config: NodeConfig) -> NodeMemory:
    """By the settings of a node."""
    shards = [shard_memory(shard_settings(config, n).shard) for n in range(config.supervisor.shards)]
    frontend = config.frontend.staging_bytes + PROCESS_BYTES if config.frontend.enabled else 0
    return NodeMemory(tuple(shards), PROCESS_BYTES + frontend)


def told(memory: NodeMemory) -> str:
    """In one line, for people."""
    one = memory.shards[0]
    parts = [("hot", one.hot_bytes), ("staging", one.staging_bytes), ("store", one.store_bytes)]
    each = ", ".join(f"{name} {about_size(size)}" for name, size in [*parts, ("events", one.events_bytes)])
    shards = f"each of {len(memory.shards)} shards" if len(memory.shards) > 1 else "the shard"
    return (
        f"{shards} {about_size(one.total_bytes)} ({each}), the node {about_size(memory.total_bytes)} at most, "
        f"and {INDEX_BYTES} bytes for each chunk"
    )
