"""Which shard gets which devices, at the first start and at later ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mezzo.errors import InvalidArgument
from mezzo_server.blockstore.format import superblock
from mezzo_server.machine.host import Host
from mezzo_server.supervisor.devices import NOT_SEEN, Dealt, Kind, Sight, check_single, deal, part_bytes
from mezzo_server.supervisor.looking import look

GIB = 1 << 30


class Disk:
    """Paths, and what is there."""

    def __init__(self, **stores: str | None) -> None:
        self.sights = {
            "/" + path.replace("__", "."): Sight(Kind.FILE, (store or "").encode())
            for path, store in stores.items()
        }

    def __call__(self, path: str) -> Sight:
        return self.sights.get(path, NOT_SEEN)


def dealt(count: int, specs: str, disk: Disk | None = None, *, accept_loss: bool = False) -> Dealt:
    return deal(specs.split(), count, disk or Disk(), count_max=8, accept_loss=accept_loss)


def devices(count: int, specs: str, disk: Disk | None = None, *, accept_loss: bool = False) -> list[str]:
    return [" ".join(each) for each in dealt(count, specs, disk, accept_loss=accept_loss).devices]


def test_new_devices_go_round():
    assert devices(2, "/a /b /c /d /e") == ["/a /c /e", "/b /d"]
    assert not dealt(2, "/a /b").divided


def test_fewer_devices_are_divided():
    assert devices(2, "/a") == ["/a.0", "/a.1"]
    assert devices(3, "/a /b") == ["/a.0 /b.0", "/a.1 /b.1", "/a.2 /b.2"]
    assert dealt(3, "/a /b").divided
    assert devices(2, "memory:1GiB") == [f"memory:{GIB // 2}"] * 2
    assert devices(2, "memory:1GiB null:1GiB") == ["memory:1GiB", "null:1GiB"]
    assert part_bytes(10 * GIB, 3) * 3 <= 10 * GIB


def test_a_shard_finds_its_devices_in_whatever_order_they_are_named():
    disk = Disk(a="x", b="y", c="x", d="y")
    assert devices(2, "/a /b /c /d", disk) == ["/a /c", "/b /d"]
    assert devices(2, "/d /c /b /a", disk) == ["/d /b", "/c /a"]


def test_parts_stay_with_their_number_and_bring_what_joined_them():
    disk = Disk(a__0="x", a__1="y", b="y")
    assert devices(2, "/a", disk) == ["/a.0", "/a.1"]
    assert devices(2, "/b /a", disk) == ["/a.0", "/b /a.1"]
    assert devices(2, "/a.1 /a.0", disk) == ["/a.1", "/a.0"]  # named one by one


def test_what_is_known_of_each_store():
    disk = Disk(a="x", c="x", b="y")
    disk.sights["/a"] = Sight(Kind.FILE, b"x", 5)
    disk.sights["/c"] = Sight(Kind.FILE, b"x", 7)
    assert dealt(2, "/a /b /c", disk).stores == ((b"x", 12), (b"y", 0))
    assert dealt(2, "/p /q").stores == ((b"", 0), (b"", 0))


def test_what_was_not_formatted_to_the_end_is_as_good_as_new():
    disk = Disk(a="x")
    disk.sights["/b"] = Sight(Kind.FILE, b"y", finished=False)
    disk.sights["/a"] = Sight(Kind.FILE, b"x", finished=False)
    assert devices(2, "/a /b", disk) == ["/a", "/b"]


def test_a_device_that_was_about_to_join_a_store_goes_with_it():
    disk = Disk(a="x", b="y")
    disk.sights["/c"] = Sight(Kind.FILE, b"y", finished=False)
    assert devices(2, "/a /c /b", disk) == ["/a", "/c /b"]


@pytest.mark.parametrize(
    ("count", "specs", "disk", "words"),
    [
        (2, "/a /b /c", Disk(a="x", b="y", c="z"), "stores of 3 shards, and supervisor.shards is 2"),
        (2, "/a", Disk(a__0="x", a__1="y", a__2="z"), "divided for 3 shards, and supervisor.shards is 2"),
        (4, "/a", Disk(a__0="x", a__1="y"), "of 4 parts (supervisor.shards) these hold no store: /a.2, /a.3"),
        (3, "/a", Disk(a__0="x", a__2="y"), "these hold no store: /a.1"),
        (3, "/a /b /c", Disk(a="x", b="y"), "(/c holds no store). Set it to 2"),
        (2, "/a", Disk(a="x"), "no device for shard 1"),
        (2, "/a /b", Disk(a="x", b="x"), "no device for shard 1"),
        (2, "/a", Disk(a=None), "there already, and would be divided into /a.0 to /a.1"),
        (2, "memory:1MiB", Disk(), "too small"),
    ],
)
def test_numbers_of_shards_that_would_lose_chunks_are_refused(count, specs, disk, words):
    with pytest.raises(InvalidArgument) as refusal:
        devices(count, specs, disk)
    assert words in str(refusal.value)


def test_a_loss_may_be_accepted():
    assert devices(3, "/a /b /c", Disk(a="x", b="y"), accept_loss=True) == ["/a", "/b", "/c"]
    two = Disk(a__0="x", a__1="y")
    assert devices(3, "/a", two, accept_loss=True) == ["/a.0", "/a.1", "/a.2"]
    with pytest.raises(
        InvalidArgument
    ):  # shards that nobody runs are no loss to accept: their space is gone too
        devices(1, "/a.0 /a.1", two, accept_loss=True)


def test_a_block_device_is_not_divided():
    disk = Disk()
    disk.sights["/dev/x"] = Sight(Kind.OTHER)
    with pytest.raises(InvalidArgument, match="name 2 block devices or partitions"):
        devices(2, "/dev/x", disk)


def test_one_shard_does_not_begin_anew_beside_the_parts_of_several():
    check_single(["/a", "memory:1GiB"], Disk(a="x", a__0="y"))
    check_single(["/b"], Disk(a__0="y"))
    with pytest.raises(InvalidArgument, match=r"/a\.0 holds a shard of several"):
        check_single(["/a"], Disk(a__0="y"))


def test_what_is_seen_of_a_device(tmp_path: Path):
    block = superblock.Superblock(b"s" * 16, b"d" * 16, (b"d" * 16,), 1, 1 << 30, 1 << 20, 100, 0)
    for name, data in {
        "store": superblock.encode(block),
        "unfinished": superblock.encode(replace(block, set_generation=0)),
        "blank": bytes(4096),
        "foreign": b"\x7fELF" * 2000,
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
    host = Host()

    def seen(name: str) -> Sight:
        return look(host, str(tmp_path / name))

    assert seen("store") == Sight(Kind.FILE, b"s" * 16, 100 << 20)
    assert seen("unfinished") == Sight(Kind.FILE, b"s" * 16, 100 << 20, finished=False)
    assert {seen(name) for name in ("blank", "foreign", "empty")} == {Sight(Kind.FILE)}
    assert seen("absent") == NOT_SEEN
    assert look(host, str(tmp_path)) == Sight(Kind.OTHER)
