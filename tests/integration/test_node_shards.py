"""A node of several shards: chunks are spread over them, each may end by itself, and all come back with what they had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mezzo import Client
from mezzo_server.testing import RunningNode, running_node
from tests.integration.chunks import chunks, reads_back
from tests.integration.nursery import run_mezzo
from tests.patience import eventually

SHARDS = 2
COUNT = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[RunningNode]:
    with running_node(
        devices=[str(folder / "chunks")],
        capacity="128MiB",
        listen=[f"unix://{folder}/s", "tcp://127.0.0.1:0"],
        arguments=["--shards", str(SHARDS)],
    ) as made:
        yield made


def told(folder: Path) -> list[int]:
    """Chunks of each shard."""
    answer = msgspec.json.decode(run_mezzo("stat", "--server", f"unix://{folder}/s", "--json").stdout)
    assert list(answer) == [f"unix://{folder}/s.{number}" for number in range(SHARDS)]
    return [int(numbers["chunks"]) for numbers in answer.values()]


def test_chunks_are_spread_over_the_shards_and_found_by_whatever_way(node: RunningNode, folder: Path) -> None:
    before, stored = told(folder), chunks(1, COUNT, 5000)
    with Client(node.grpc, via="direct") as client:
        client.put(list(stored), list(stored.values()))
        assert reads_back(client, stored) == COUNT
    with Client(node.grpc, via="proxy") as client:
        assert reads_back(client, stored) == COUNT
    added = [now - was for now, was in zip(told(folder), before, strict=True)]
    assert sum(added) == COUNT
    assert min(added) > COUNT // 4


def test_a_shard_that_ends_is_misses_until_it_is_back_with_what_it_had(
    node: RunningNode, folder: Path
) -> None:
    stored = chunks(2, COUNT, 5000)
    with Client(node.grpc, via="direct") as client:
        client.put(list(stored), list(stored.values()))
        pids = [shard["pid"] for shard in node.shards]
        assert node.kill_shard(1) == pids[1]
        assert 0 < reads_back(client, stored) <= COUNT
        node.wait_until_ready()
        assert node.shard_pid == pids[0]  # the other one has noticed nothing
        eventually(lambda: reads_back(client, stored) == COUNT, "everything is found again")


def test_a_node_that_starts_again_has_all_and_refuses_another_number_of_shards(
    node: RunningNode, folder: Path
) -> None:
    stored = chunks(3, COUNT, 5000)
    with Client(node.grpc) as client:
        client.put(list(stored), list(stored.values()))
    node.stop()
    device = ("--device", str(folder / "chunks"), "--capacity", "128MiB")
    for count, words in (("3", "these hold no store"), ("1", "a shard of several")):
        done = run_mezzo("serve", "--shards", count, *device)
        assert done.returncode == 2
        assert words in done.stderr
    # A shard that cannot start now is misses; the others do not wait for it.
    in_the_way = folder / "s.1"
    in_the_way.mkdir()
    node.start()
    assert node.shards[1] == {}
    with Client(node.grpc) as client:
        assert 0 < reads_back(client, stored) < COUNT
        in_the_way.rmdir()
        eventually(lambda: reads_back(client, stored) == COUNT, "everything is found again")


def test_the_command_line_names_the_shards(node: RunningNode, folder: Path) -> None:
    server = ("--server", f"unix://{folder}/s")
    done = run_mezzo("top", "--once", *server)
    assert done.returncode == 2
    assert f"unix://{folder}/s.1" in done.stderr
    devices = msgspec.json.decode(run_mezzo("device", "list", "--json", *server).stdout)
    assert [(one["name"], one["shard"]) for one in devices] == [
        (f"{folder}/chunks.{number}", f"unix://{folder}/s.{number}") for number in range(SHARDS)
    ]
