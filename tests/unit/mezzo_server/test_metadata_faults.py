"""The metadata engine in a SQLite file whose disk fails: at every statement, in every way that SQLite tells it.

SQLite itself is real; between it and the engine stands a connection that fails on demand.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mezzo.errors import Unavailable
from mezzo_server.metadata import sqlite, sqlite_file
from mezzo_server.metadata.engine import Compacted, Write
from mezzo_server.metadata.sqlite import SqliteEngine
from tests.contract.metadata import put, take


class FailingConnection(sqlite3.Connection):
    """Fails at the statement of a number, once, with an error of a code.

    Some errors end the transaction by themselves (https://www.sqlite.org/lang_transaction.html), others do not.
    """

    at = -1
    code = 0
    ends = False
    seen: list[str] = []  # noqa: RUF012 - of the class, as is the rest

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        kind = type(self)
        kind.seen.append(statement)
        kind.at -= 1
        if kind.at == 0:
            if kind.ends and self.in_transaction:
                super().rollback()
            error = sqlite3.OperationalError(f"the disk fails at {statement}")
            error.sqlite_errorcode = kind.code
            raise error
        return super().execute(statement, *values)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite_file.sqlite3,
        "connect",
        lambda *arguments, **named: connect(*arguments, factory=FailingConnection, **named),
    )
    FailingConnection.at = -1
    yield Path(folder) / "metadata.db"
    FailingConnection.at = -1
    shutil.rmtree(folder)


def make(path: Path) -> SqliteEngine:
    return SqliteEngine(path, lambda: 1_700_000_000.0)


FAILURES = [
    (sqlite3.SQLITE_IOERR, True),
    (sqlite3.SQLITE_IOERR, False),
    (sqlite3.SQLITE_FULL, True),
    (sqlite3.SQLITE_FULL, False),
    (sqlite3.SQLITE_BUSY, False),
    (sqlite3.SQLITE_CORRUPT, False),
]


@pytest.mark.parametrize(("code", "ends"), FAILURES)
def test_a_disk_that_fails_costs_one_call_and_never_half_a_change(path: Path, code: int, ends: bool) -> None:
    async def main() -> None:
        engine = make(path)
        await put(engine, "count", b"0")
        at = 0
        while True:
            at += 1
            before = (await engine.scan("")).revision
            FailingConnection.seen.clear()
            FailingConnection.at, FailingConnection.code, FailingConnection.ends = at, code, ends
            text = b"%d" % at
            told = ""
            try:
                await engine.transact(
                    [], [Write("count", text), Write("last", text), Write(f"no/{at}", None)]
                )
            except Unavailable as error:
                told = str(error)
            reached, FailingConnection.at = FailingConnection.at <= 0, -1
            scan = await engine.scan("")
            values = {entry.key: entry.value for entry in scan.entries}
            assert values["count"] == values.get("last", b"0"), "both or neither"
            made = values["count"] == text
            assert scan.revision == before + made
            if not told:
                assert made
            elif code == sqlite3.SQLITE_FULL:
                assert "no room" in told
            elif code == sqlite3.SQLITE_CORRUPT:
                assert "is damaged" in told
            elif code == sqlite3.SQLITE_IOERR:
                assert "the disk fails" in told
            if not reached:
                break
        assert at > 10
        await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize(("code", "ends"), FAILURES)
def test_a_disk_that_fails_is_told_when_reading(path: Path, code: int, ends: bool) -> None:
    async def main() -> None:
        engine = make(path)
        await put(engine, "a", b"1")
        for at in range(1, 10):
            FailingConnection.at, FailingConnection.code, FailingConnection.ends = at, code, ends
            told = ""
            try:
                assert len((await engine.scan("")).entries) == 1
            except Unavailable as error:
                told = str(error)
            if told and code == sqlite3.SQLITE_IOERR:
                assert "the disk fails" in told, "and not what came of it"
            FailingConnection.at = -1
            assert len((await engine.scan("")).entries) == 1
        await engine.close()

    asyncio.run(main())


def test_a_watch_over_a_failing_disk_skips_nothing(path: Path) -> None:
    async def main() -> None:
        engine = make(path)
        other = make(path)
        after = await put(other, "a", b"0")
        for at in range(1, 9):
            watch = engine.watch("", after)
            value = b"%d" % at
            FailingConnection.at, FailingConnection.code = -1, sqlite3.SQLITE_IOERR
            revision = await put(other, "a", value)
            FailingConnection.at = at
            try:
                [change] = await take(watch, 1)
            except (Unavailable, Compacted):  # it is begun again, from what was seen last
                FailingConnection.at = -1
                [change] = await take(engine.watch("", after), 1)
            assert (change.value, change.revision) == (value, revision)
            after = revision
        await engine.close()
        await other.close()

    asyncio.run(main())


def test_a_disk_without_room_is_told_as_one_from_the_first_statement_on(path: Path) -> None:
    FailingConnection.code, FailingConnection.ends = sqlite3.SQLITE_FULL, True

    async def opened() -> str:
        engine = make(path)
        try:
            await engine.scan("")
        except Unavailable as error:
            return str(error)
        finally:
            await engine.close()
        return ""

    FailingConnection.seen.clear()
    asyncio.run(opened())
    count = len(FailingConnection.seen)
    for at in range(1, count + 1):
        for old in path.parent.iterdir():
            old.unlink()
        FailingConnection.at = at
        told = asyncio.run(opened())
        FailingConnection.at = -1
        assert "no room" in told or not told, at
        assert asyncio.run(opened()) == "", "what is there of a file is finished by the next"


def test_a_disk_that_is_really_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as SQLite's own limit goes, which it takes for a full disk."""
    monkeypatch.setattr(sqlite_file, "PAGES_MAX", 24)

    async def main() -> None:
        engine = make(path)
        stored, told = 0, ""
        while not told:
            try:
                await put(engine, f"{stored:04}", bytes(3000))
                stored += 1
            except Unavailable as error:
                told = str(error)
        assert "no room" in told
        assert 0 < stored < 24
        scan = await engine.scan("")
        assert len(scan.entries) == scan.revision == stored
        await engine.transact([], [Write("0000", None), Write("0001", None), Write("0002", None)])
        await put(engine, "again", bytes(100))
        await engine.close()

    asyncio.run(main())


def test_what_cannot_be_wiped_yet_is_wiped_later(path: Path) -> None:
    """A removal that is durable is done, whatever becomes of wiping; which is tried again."""

    async def main() -> None:
        engine = make(path)
        await put(engine, "key", b"very-secret-bytes")
        for code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            await put(engine, "key", b"very-secret-bytes")
            FailingConnection.code = code
            fail_at(engine, "wal_checkpoint")
            assert (await engine.transact([], [Write("key", None)])).done
            assert waits(engine) == int(sqlite.BUSY_S * 1000)
            await put(engine, "other")
            assert not any(b"very-secret-bytes" in p.read_bytes() for p in path.parent.iterdir())
        await engine.close()

    def fail_at(engine: SqliteEngine, part: str) -> None:
        real = engine._sql
        failed = []

        def sql(statement: str, *values: object) -> sqlite3.Cursor:
            if part in statement and not failed:
                failed.append(statement)
                FailingConnection.at = 1
            return real(statement, *values)

        engine._sql = sql  # type: ignore[method-assign]

    def waits(engine: SqliteEngine) -> int:
        assert engine._connection is not None
        return int(engine._connection.execute("PRAGMA busy_timeout").fetchone()[0])

    asyncio.run(main())


def test_what_a_killed_process_left_is_wiped_by_the_next(path: Path) -> None:
    async def main() -> None:
        engine = make(path)
        await put(engine, "key", b"very-secret-bytes")
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM entries").fetchall()
        await engine.transact([], [Write("key", None)])
        # As a process leaves it that is killed now.
        left = path.parent / "left"
        left.mkdir()
        for one in path.parent.glob("metadata.db*"):
            shutil.copy(one, left)
        reader.close()
        await engine.close()
        assert any(b"very-secret-bytes" in p.read_bytes() for p in left.iterdir())
        heir = make(left / path.name)
        other = make(left / path.name)
        await heir.get("x")
        await other.get("x")
        await put(heir, "other")
        assert not any(b"very-secret-bytes" in p.read_bytes() for p in left.iterdir())
        await heir.close()
        await other.close()

    asyncio.run(main())


def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would go on with a file that has no name any more, and all that it writes would be lost."""
    new = path.with_suffix(".new")

    async def main() -> None:
        for place, name in ((path, "old"), (new, "new")):
            made = make(place)
            await put(made, name)
            await made.close()
        connect = sqlite.connect

        def slow(place: Path, *, create: bool) -> sqlite3.Connection:
            connection = connect(place, create=create)
            if new.exists():
                new.rename(place)
            return connection

        monkeypatch.setattr(sqlite, "connect", slow)
        engine = make(path)
        with pytest.raises(Unavailable, match="was replaced"):
            await engine.scan("")
        assert [entry.key for entry in (await engine.scan("")).entries] == ["new"]
        await engine.close()

    asyncio.run(main())
