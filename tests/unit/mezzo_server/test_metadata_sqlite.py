"""The metadata engine in a SQLite file: the contract, and what is the file's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from mezzo.errors import FormatError, InvalidArgument, Unavailable, Unsupported
from mezzo_server.metadata import sqlite_file
from mezzo_server.metadata.engine import Compacted, Engine, Write
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.metadata.opening import make_engine
from mezzo_server.metadata.sqlite import SqliteEngine
from tests.contract.metadata import MetadataContract, Rig, put, take


def new_folder() -> str:
    """Where syncing costs nothing, if there is such a place: the state machine commits thousands of times."""
    return tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


class SqliteRig(Rig):
    def __init__(self) -> None:
        self.folder = new_folder()

    def open(self, changes_max: int = 10_000) -> Engine:
        return SqliteEngine(Path(self.folder) / "metadata.db", self.clock, changes_max=changes_max)

    def close(self) -> None:
        shutil.rmtree(self.folder)


class TestSqliteEngine(MetadataContract):
    def make(self) -> Rig:
        return SqliteRig()


@pytest.fixture
def path():
    folder = new_folder()
    yield Path(folder) / "metadata.db"
    shutil.rmtree(folder)


def make(path: Path, *, create: bool = True) -> SqliteEngine:
    return SqliteEngine(path, lambda: 1_700_000_000.0, create=create)


def stored(path: Path, *entries: tuple[str, bytes]) -> None:
    async def main() -> None:
        engine = make(path)
        for key, value in entries:
            await put(engine, key, value)
        await engine.close()

    asyncio.run(main())


def opened(path: Path, *, create: bool = True) -> object:
    async def main() -> object:
        engine = make(path, create=create)
        try:
            return await engine.scan("")
        finally:
            await engine.close()

    return asyncio.run(main())


def test_what_was_written_is_there_after_a_restart(path):
    stored(path, ("a", b"1"), ("b", b"2"))
    scan = opened(path)
    assert [(e.key, e.value, e.revision) for e in scan.entries] == [("a", b"1", 1), ("b", b"2", 2)]
    assert scan.revision == 2


def test_only_its_owner_reads_it(path):
    path.touch(mode=0o644)
    asyncio.run(keep_open_and(path, lambda: None))
    assert path.stat().st_mode & 0o777 == 0o600


async def keep_open_and(path: Path, work) -> None:
    engine = make(path)
    await put(engine, "a")
    modes = {p.name: p.stat().st_mode & 0o777 for p in path.parent.iterdir()}
    assert set(modes) >= {"metadata.db", "metadata.db-wal", "metadata.db-shm"}
    assert set(modes.values()) == {0o600}
    work()
    await engine.close()


def test_removed_values_are_gone_from_the_files(path):
    secret = os.urandom(24)
    long_secret = os.urandom(60_000)

    def found(what: bytes) -> list[str]:
        return [p.name for p in path.parent.iterdir() if what in p.read_bytes()]

    async def main() -> None:
        engine, other = make(path), make(path)
        await other.scan("")
        for n in range(20):
            await put(engine, f"filler/{n}", bytes(500))
        await put(engine, "key/1", secret)
        await put(engine, "key/2", long_secret)
        await put(engine, "key/1", secret + b"again")
        assert found(secret)
        assert found(long_secret[-1000:])
        await engine.transact([], [Write("key/1", None), Write("key/2", None)])
        assert found(secret) == []
        assert found(long_secret[-1000:]) == []
        await engine.close()
        await other.close()

    asyncio.run(main())


def test_a_reader_delays_the_wiping_only(path):
    async def main() -> None:
        engine = make(path)
        await put(engine, "key", b"very-secret-bytes")
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM entries").fetchall()
        await engine.transact([], [Write("key", None)])
        reader.execute("COMMIT")
        reader.close()
        await put(engine, "other")
        assert not any(b"very-secret-bytes" in p.read_bytes() for p in path.parent.iterdir())
        await engine.close()

    asyncio.run(main())


def test_a_newer_file_is_refused(path):
    stored(path, ("a", b"1"))
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {sqlite_file.VERSION + 1}")
    connection.close()
    with pytest.raises(Unsupported, match=r"newer release \(schema 2"):
        opened(path)


def test_an_older_file_is_brought_up(path, monkeypatch):
    stored(path, ("a", b"1"))
    more = (*sqlite_file.MIGRATIONS, ("CREATE TABLE more (x)",))
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", more)
    monkeypatch.setattr(sqlite_file, "VERSION", len(more))
    assert [e.key for e in opened(path).entries] == ["a"]
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        connection.execute("SELECT x FROM more")
    connection.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    stored(path, ("a", b"1"))
    monkeypatch.setattr(
        sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, ("CREATE TABLE more (x)", "no SQL"))
    )
    with pytest.raises(Unavailable, match="syntax error"):
        opened(path)
    monkeypatch.undo()
    assert [e.key for e in opened(path).entries] == ["a"]


@pytest.mark.parametrize("damage", ["text", "page", "half"])
def test_a_damaged_file_is_refused(path, damage):
    stored(path, *((f"key/{n}", bytes(900)) for n in range(40)))
    data = bytearray(path.read_bytes())
    if damage == "text":
        data = bytearray(b"tenants = []\n" * 500)
    elif damage == "page":
        data[8192:12288] = b"\x5a" * 4096
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"is damaged .* restore a backup"):
        opened(path)


def test_another_database_is_refused(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(FormatError, match="something else"):
        opened(path)


def test_a_place_that_does_not_work_is_told(path, tmp_path):
    with pytest.raises(Unavailable, match="No such file"):
        opened(tmp_path / "none" / "metadata.db")
    with pytest.raises(Unavailable, match="No such file"):
        opened(path, create=False)
    with pytest.raises(FormatError, match="is no file"):
        opened(tmp_path)


def test_a_file_that_vanishes_is_an_outage_and_heals(path):
    away = path.with_suffix(".away")

    async def main() -> None:
        engine = make(path)
        await put(engine, "a")
        path.rename(away)
        for _ in range(2):
            with pytest.raises(Unavailable, match="No such file"):
                await engine.get("a")
            assert not path.exists(), "no new one is made in its place"
        away.rename(path)
        assert (await engine.get("a")).value == b"v"
        await engine.close()

    asyncio.run(main())


def test_a_file_that_was_replaced_is_noticed(path):
    """A backup was restored: watches must not take its revisions for those that they know."""

    async def main() -> None:
        engine = make(path)
        await put(engine, "a")
        watch = engine.watch("", 0)
        assert len(await take(watch, 1)) == 1
        shutil.copy(backup, path.with_suffix(".new"))
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
        path.with_suffix(".new").rename(path)
        with pytest.raises(Compacted):
            await take(watch, 1)
        assert [e.key for e in (await engine.scan("")).entries] == ["x", "y"]
        await engine.close()

    backup = path.with_suffix(".backup")
    stored(backup, ("x", b""), ("y", b""))
    asyncio.run(main())


def test_somebody_who_keeps_the_file_locked_is_an_outage(path, monkeypatch):
    monkeypatch.setattr(sqlite_file, "BUSY_S", 0.01)

    async def main() -> None:
        engine = make(path)
        await engine.scan("")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="other processes held the metadata"):
            await put(engine, "a")
        assert await engine.get("a") is None, "readers go on"
        other.execute("COMMIT")
        other.close()
        await put(engine, "a")
        await engine.close()

    asyncio.run(main())


def test_urls(tmp_path):
    assert isinstance(make_engine("memory:"), MemoryEngine)
    engine = make_engine(f"sqlite://{tmp_path}/x.db")
    assert isinstance(engine, SqliteEngine)
    assert engine.path == tmp_path / "x.db"
    for url in ("", "etcd://x", "sqlite:", "sqlite://x.db", "sqlite:///x/", "sqlite:///x?mode=ro", "/x.db"):
        with pytest.raises(InvalidArgument):
            make_engine(url)


def test_who_is_cancelled_as_the_answer_comes_ends(path, monkeypatch):
    async def main() -> None:
        engine = make(path)
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        with monkeypatch.context() as patched:
            patched.setattr(loop, "run_in_executor", lambda *_: answer)
            asking = asyncio.ensure_future(engine.get("a"))
            await asyncio.sleep(0)
            answer.set_result(None)
            asking.cancel()
            await asyncio.wait((asking,))
        await engine.close()
        assert asking.cancelled()

    asyncio.run(main())
