"""mezzo setup on machines that are made up: what it proposes, and what it never does."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument
from mezzo.sizes import parse_size
from mezzo_server.config import NodeConfig, load
from mezzo_server.machine.host import Room
from mezzo_server.machine.uring import UringProbe
from mezzo_server.setup import Proposal, Wishes, propose, write_toml
from mezzo_server.setup.places import nice_floor, reserve_bytes
from tests.unit.mezzo_server.played_host import GIB, Blob, PlayedHost


def written(host: PlayedHost, **wishes: object) -> dict[str, dict[str, object]]:
    return tomllib.loads(write_toml(propose(host, Wishes(**wishes))))


def refused(host: PlayedHost, **wishes: object) -> str:
    with pytest.raises(InvalidArgument) as raised:
        propose(host, Wishes(**wishes))
    return str(raised.value)


def with_disk(**facts: str) -> tuple[PlayedHost, Blob]:
    host, disk = PlayedHost(user=0), Blob(1024 * GIB)
    host.add_disk("nvme1n1", disk, **facts)
    return host, disk


def test_an_ordinary_user() -> None:
    host = PlayedHost()
    config = written(host)
    assert config == {
        "shard": {
            "listen": ["unix:///tmp/mezzo.sock"],
            "devices": ["/home/me/.local/state/mezzo.chunks"],
            "capacity_bytes": "224GiB",
            "workers": 4,
            "hot": {"bytes": "16GiB"},
        }
    }


def test_root() -> None:
    host = PlayedHost(user=0)
    assert written(host)["shard"]["devices"] == ["/var/lib/mezzo.chunks"]
    host.folders.add("/var/lib/mezzo")
    host.writable.add("/var/lib/mezzo")
    assert written(host)["shard"]["devices"] == ["/var/lib/mezzo/chunks"]


def test_the_file_is_valid_and_says_why(tmp_path: Path) -> None:
    text = write_toml(propose(PlayedHost(), Wishes(listen=("unix:///tmp/a.sock", "tcp://10.0.0.1:7700"))))
    path = tmp_path / "mezzo.toml"
    path.write_text(text)
    config = load(path)
    assert config.shard.insecure
    assert config.shard.hot.bytes == 16 * GIB
    lines = text.splitlines()
    for index, line in enumerate(lines):
        assert len(line) < 80 or not line.startswith("#")
        if "=" in line and not line.startswith("#"):
            assert lines[index - 1].startswith("# "), f"no reason for {line}"


def test_only_what_differs_from_the_defaults() -> None:
    config = written(PlayedHost())
    defaults = NodeConfig()
    for key, value in config["shard"].items():
        assert key == "listen" or value != getattr(defaults.shard, key)
    assert set(config) == {"shard"}


def test_the_same_before_and_after_the_node_ran() -> None:
    host = PlayedHost()
    first = propose(host, Wishes())
    capacity = first.devices[0].bytes
    host.blobs[first.devices[0].path] = Blob(capacity, {0: b"MEZZO-SB"})
    host.rooms["/"] = Room(1024 * GIB, 600 * GIB - capacity)
    host.add_memory(64, 45)
    again = propose(host, Wishes())
    assert again.devices == first.devices
    values = [(choice.key, choice.value) for choice in first.choices]
    assert [(choice.key, choice.value) for choice in again.choices] == values


def test_a_little_more_or_less_free_changes_nothing() -> None:
    host = PlayedHost()
    text = write_toml(propose(host, Wishes()))
    host.rooms["/"] = Room(1024 * GIB, 597 * GIB)
    host.add_memory(64, 55)
    assert write_toml(propose(host, Wishes())) == text


def test_a_place_for_metadata() -> None:
    host = PlayedHost()
    assert written(host, metadata=True)["metadata"] == {
        "engine": "sqlite:///home/me/.local/state/mezzo.metadata.db"
    }
    host.folders.add("/home/me/.local/state/mezzo")
    host.writable.add("/home/me/.local/state/mezzo")
    config = written(host, metadata=True)
    assert config["metadata"] == {"engine": "sqlite:///home/me/.local/state/mezzo/metadata.db"}
    assert config["shard"]["devices"] == ["/home/me/.local/state/mezzo/chunks"]
    # What is asked of a disk is not asked of it.
    host, _ = with_disk()
    assert written(host, metadata=True)["metadata"] == {"engine": "sqlite:///var/lib/mezzo.metadata.db"}


# Devices


def test_an_unused_disk_is_taken() -> None:
    host, disk = with_disk()
    config = written(host)
    assert config["shard"]["devices"] == ["/dev/nvme1n1"]
    assert "capacity_bytes" not in config["shard"]
    disk.data[0] = b"MEZZO-SB"
    assert written(host) == config


@settings(max_examples=25)  # it reads megabytes
@given(st.integers(0, 511), st.binary(min_size=1, max_size=7).filter(lambda data: data.strip(b"\0")))
def test_a_disk_that_holds_data_never_is(sector: int, data: bytes) -> None:
    """Wherever partition tables, filesystems and RAID members put their marks."""
    host, disk = with_disk()
    for offset in (sector * 4096, disk.size - 2 * 2**20 + sector * 2048):
        disk.data = {offset: data}
        proposal = propose(host, Wishes())
        assert [device.path for device in proposal.devices] == ["/var/lib/mezzo.chunks"]
        assert any("holds data" in note for note in proposal.notes)
        assert "other data" in refused(host, devices=("/dev/nvme1n1",))


@pytest.mark.parametrize(
    "facts",
    [
        {"ro": "1"}, {"removable": "1"}, {"nvme1n1p1/partition": "1"}, {"holders/dm-0": ""},
        {"nvme1n1p1/partition": "1", "nvme1n1p1/holders/md0": ""}, {"dev": "259:1"},
    ],
)  # fmt: skip
def test_a_disk_that_is_in_use_never_is(facts: dict[str, str]) -> None:
    host, _ = with_disk(**facts)
    assert propose(host, Wishes()).devices[0].kind == "file"
    assert "in use" in refused(host, devices=("/dev/nvme1n1",))


def test_swap_is_in_use() -> None:
    host, _ = with_disk()
    host.files["/proc/swaps"] = "Filename Type Size Used Priority\n/dev/nvme1n1 partition 1 0 -2"
    assert propose(host, Wishes()).devices[0].kind == "file"


@pytest.mark.parametrize("name", ["loop0", "zram0", "ram1", "dm-1", "md0", "sr0"])
def test_what_is_no_disk_never_is(name: str) -> None:
    host = PlayedHost(user=0, disks={name: Blob(1024 * GIB)})
    assert propose(host, Wishes()).devices[0].kind == "file"


def test_a_disk_that_this_user_may_not_use_is_named() -> None:
    host = PlayedHost(disks={"nvme1n1": Blob(1024 * GIB, mine=False, readable=False)})
    proposal = propose(host, Wishes())
    assert proposal.devices[0].kind == "file"
    assert any("/dev/nvme1n1" in note and "user 1000" in note for note in proposal.notes)


def test_disks_without_moving_parts_come_first() -> None:
    host, _ = with_disk()
    host.add_disk("sda", Blob(8192 * GIB), **{"queue/rotational": "1", "dev": "8:0"})
    assert [device.path for device in propose(host, Wishes()).devices] == ["/dev/nvme1n1"]


def test_a_store_is_not_mixed_with_new_disks() -> None:
    host, disk = with_disk()
    disk.data[0] = b"MEZZO-SB"
    host.add_disk("nvme2n1", Blob(1024 * GIB))
    proposal = propose(host, Wishes())
    assert [device.path for device in proposal.devices] == ["/dev/nvme1n1"]
    assert any("/dev/nvme2n1" in note for note in proposal.notes)


@given(st.integers(1, 1 << 44), st.floats(0, 1))
def test_space_is_always_left(total_bytes: int, share: float) -> None:
    host = PlayedHost()
    room = host.rooms["/"] = Room(total_bytes, int(total_bytes * share))
    try:
        [device] = propose(host, Wishes()).devices
    except InvalidArgument:
        assert room.free_bytes - reserve_bytes(total_bytes) < GIB
    else:
        assert device.bytes <= room.free_bytes - reserve_bytes(total_bytes)


def test_no_room_is_said() -> None:
    host = PlayedHost()
    host.rooms["/"] = Room(10 * GIB, 2 * GIB)
    assert "--device" in refused(host)
    assert "no room on ext4 at /: a tenth" in refused(host, devices=("/home/me/x",))
    host.writable.clear()
    assert "no folder" in refused(host)


def test_a_name_that_is_taken_is_left_alone() -> None:
    host = PlayedHost()
    host.blobs["/home/me/.local/state/mezzo.chunks"] = Blob(4096, {100: b"mine"})
    assert propose(host, Wishes()).devices[0].path == "/home/me/.local/state/mezzo.chunks-2"


def test_memory_and_networks_come_last() -> None:
    host = PlayedHost()
    host.files["/proc/self/mountinfo"] += "30 22 0:40 / /home rw - nfs4 server:/home rw\n"
    assert propose(host, Wishes()).devices[0].path == "/var/tmp/mezzo.chunks"
    host.writable.discard("/var/tmp")
    proposal = propose(host, Wishes())
    assert proposal.devices[0].path == "/home/me/.local/state/mezzo.chunks"
    assert any("network" in note for note in proposal.notes)


# Wishes


def test_wishes_are_granted() -> None:
    host = PlayedHost()
    config = written(host, devices=("/home/me",), capacity_bytes=10 * GIB, hot_bytes=0)
    assert config["shard"]["devices"] == ["/home/me/mezzo.chunks"]
    assert config["shard"]["capacity_bytes"] == "10GiB"
    assert "hot" not in config["shard"]
    assert written(host, hot_bytes=GIB)["shard"]["hot"] == {"bytes": "1GiB"}
    two = written(host, devices=("/home/me/a", "/home/me/b"))["shard"]
    assert parse_size(two["capacity_bytes"]) == 112 * GIB


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"capacity_bytes": 900 * GIB}, "leaves 448 GiB"),
        ({"capacity_bytes": 1}, "at least 256MiB"),
        ({"devices": ("/none/x",)}, "mkdir -p /none"),
        ({"devices": ("/var/lib/x",)}, "may not write"),
        ({"devices": ("/home/me/a", "/home/me/a")}, "twice"),
        ({"hot_bytes": 65 * GIB}, "64.0 GiB of memory"),
        ({"hot_bytes": 1}, "one arena"),
        ({"listen": ("http://x",)}, "http://x"),
    ],
)
def test_wishes_that_cannot_be(wishes: dict[str, object], told: str) -> None:
    assert told in refused(PlayedHost(), **wishes)


def test_a_new_device_beside_a_store_needs_its_room() -> None:
    host = PlayedHost()
    host.blobs["/home/me/x"] = Blob(500 * GIB, {0: b"MEZZO-SB"})
    assert "/home/me/y has no room" in refused(host, devices=("/home/me/x", "/home/me/y"))
    host.blobs["/home/me/x"].size = 100 * GIB
    assert written(host, devices=("/home/me/x", "/home/me/y"))["shard"]["capacity_bytes"] == "100GiB"


def test_a_store_keeps_its_size() -> None:
    host = PlayedHost()
    host.blobs["/home/me/x"] = Blob(4 * GIB, {0: b"MEZZO-SB"})
    assert "keeps its size" in refused(host, devices=("/home/me/x",), capacity_bytes=8 * GIB)
    assert written(host, devices=("/home/me/x",))["shard"]["capacity_bytes"] == "4GiB"


# The rest


@pytest.mark.parametrize(("gib", "hot"), [(0.1, None), (1, "256MiB"), (24, "6GiB"), (2048, "64GiB")])
def test_the_hot_tier_is_a_quarter_of_memory_and_bounded(gib: float, hot: str | None) -> None:
    host = PlayedHost()
    host.add_memory(gib)
    assert written(host)["shard"].get("hot", {}).get("bytes") == hot


def test_the_hot_tier_leaves_others_their_memory() -> None:
    host = PlayedHost()
    host.add_memory(64, 8)
    assert written(host)["shard"]["hot"]["bytes"] == "2GiB"
    host.add_memory(64)
    host.files["/proc/self/cgroup"] = "0::/\n"
    host.files["/sys/fs/cgroup/memory.max"] = str(8 * GIB)
    assert written(host)["shard"]["hot"]["bytes"] == "2GiB"


def test_a_socket_of_another_user_is_not_ours() -> None:
    host = PlayedHost()
    host.owners["/tmp/mezzo.sock"] = 1001
    assert written(host)["shard"]["listen"] == ["unix:///run/user/1000/mezzo.sock"]
    host.owners["/tmp/mezzo.sock"] = 1000
    assert written(host)["shard"]["listen"] == ["unix:///tmp/mezzo.sock"]


def test_without_grpc_there_is_no_frontend() -> None:
    host = PlayedHost()
    host.absent = {"grpc"}
    assert written(host)["frontend"] == {"enabled": False}


def test_without_io_uring_there_is_a_note() -> None:
    host = PlayedHost()
    host.ring = UringProbe(error=1)
    assert any("mezzo doctor" in note for note in propose(host, Wishes()).notes)


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and max(text) < "\ud800"))
def test_any_path_can_be_written(name: str) -> None:
    host = PlayedHost()
    path = "/home/me/_" + name.replace("/", "_")  # alone, a dot would be the folder
    proposal: Proposal = propose(host, Wishes(devices=(path,)))
    assert tomllib.loads(write_toml(proposal))["shard"]["devices"] == [path]


@given(st.integers(4, 1 << 50))
def test_round_sizes(nbytes: int) -> None:
    round_bytes = nice_floor(nbytes)
    assert nbytes * 3 // 4 <= round_bytes <= nbytes
    assert nice_floor(round_bytes) == round_bytes
