"""Which shards an address stands for: where a node has several, their sockets are numbered behind its name."""

from __future__ import annotations

import glob
import os

from mezzo.errors import InvalidArgument


def shards_at(address: str) -> list[str]:
    """The shards of the node whose socket would be at ``address``, in order; ``address`` itself for all else."""
    path = address.removeprefix("unix://")
    if path == address or os.path.exists(path):
        return [address]
    suffixes = [name.rpartition(".")[2] for name in glob.glob(f"{glob.escape(path)}.*")]
    numbers = sorted(int(suffix) for suffix in suffixes if suffix.isdecimal())
    return [f"{address}.{number}" for number in numbers] or [address]


def one_shard(address: str, instead: str = "") -> str:
    """``address``, if it stands for one shard. Raises InvalidArgument: names those that there are, and ``instead``."""
    found = shards_at(address)
    if found == [address]:
        return address
    said = f"; {instead}" if instead else ""
    raise InvalidArgument(
        f"nothing is at {address}, but shards of a node that has several: give one of them, --server {found[0]} "
        f"(they end with {found[-1]}){said}"
    )
