"""Addresses that stand for several shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from mezzo.cli.shards import one_shard, shards_at
from mezzo.errors import InvalidArgument


def test_numbered_sockets_are_the_shards_of_a_node(tmp_path: Path) -> None:
    base = tmp_path / "mezzo[1].sock"
    address = f"unix://{base}"
    assert shards_at(address) == [address]
    for number in (10, 2, 0):
        Path(f"{base}.{number}").touch()
    Path(f"{base}.lock").touch()
    assert shards_at(address) == [f"{address}.0", f"{address}.2", f"{address}.10"]
    assert one_shard(f"{address}.2") == f"{address}.2"
    with pytest.raises(InvalidArgument, match=r"\.0 .*\.10\); or else"):
        one_shard(address, "or else")
    base.touch()  # one shard listens there
    assert one_shard(address) == address


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:7700", "grpc://h:1"])
def test_other_addresses_are_what_they_are(address: str) -> None:
    assert shards_at(address) == [address]
