"""What doctor says of the file of the metadata."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from mezzo_server.config import MetadataConfig
from mezzo_server.doctor.finding import Finding, State
from mezzo_server.doctor.metadata import APPLICATION, USER_VERSION, examine_metadata
from mezzo_server.machine import Host
from mezzo_server.metadata.sqlite import SqliteEngine
from tests.unit.mezzo_server.played_host import PlayedHost


def found(path: Path | str, host: Host | None = None) -> list[Finding]:
    return list(examine_metadata(host or Host(), MetadataConfig(engine=f"sqlite://{path}")))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    async def main() -> None:
        engine = SqliteEngine(tmp_path / "metadata.db", time.time)
        await engine.scan("")
        await engine.close()

    asyncio.run(main())
    return tmp_path / "metadata.db"


def test_a_file_of_ours_is_good_and_left_alone(file: Path) -> None:
    before = file.read_bytes()
    last = found(file)[-1]
    assert last.state is State.GOOD
    assert str(file) in last.seen
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_one_that_is_not_there_is_made(tmp_path: Path) -> None:
    last = found(tmp_path / "metadata.db")[-1]
    assert (last.state, "is made by" in last.seen) == (State.GOOD, True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty.db").touch()
    assert found(tmp_path / "empty.db")[-1].state is State.GOOD


def test_what_is_wrong_is_said(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    for place, value, words in (
        (slice(0, 4), b"text", "damaged, or something else"),
        (APPLICATION, b"\0\0\0\x09", "something else"),
        (USER_VERSION, b"\0\0\0\x63", "newer release (schema 99"),
    ):
        wrong = data[:]
        wrong[place] = value
        file.write_bytes(wrong)
        last = found(file)[-1]
        assert last.state is State.BROKEN
        assert words in last.seen
        assert last.advice
    assert found(tmp_path)[-1].state is State.BROKEN
    (only,) = found(tmp_path / "none" / "metadata.db")
    assert (only.state, only.advice) == (State.BROKEN, f"mkdir -m 700 -p {tmp_path}/none")


def test_a_folder_of_others_and_a_disk_that_is_none() -> None:
    (only,) = found("/var/lib/metadata.db", PlayedHost())
    assert only.state is State.BROKEN
    assert "may not write" in only.seen
    host = PlayedHost(user=0)
    host.files["/proc/self/mountinfo"] += "\n40 1 0:40 / /srv rw - nfs4 server:/srv rw"
    host.folders.add("/srv")
    host.writable.add("/srv")
    first, last = found("/srv/metadata.db", host)
    assert (first.state, last.state) == (State.BETTER, State.GOOD)
    assert "network" in first.seen


def test_without_metadata_there_is_nothing_to_say() -> None:
    assert list(examine_metadata(Host(), MetadataConfig())) == []
