"""The file of the SQLite engine: opened with care, checked, brought to this release's schema.

What is in it: docs/metadata.md.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from pathlib import Path

import structlog

from mezzo.errors import FormatError, MezzoError, Unavailable, Unsupported
from mezzo_server.metadata.schema import APPLICATION_ID, MIGRATIONS, VERSION

BUSY_S = 2.0
"""how long a call waits for another process's"""
RETRY_S = 0.02
PAGES_MAX = 1 << 20
"""4 GiB with SQLite's pages of 4 KiB"""

log = structlog.get_logger("mezzo.metadata")


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """A connection to the file, which is checked and has this release's schema.

    Raises:
        Unavailable: it is not there, cannot be reached, or is held by others.
        Unsupported: a newer release wrote it.
        FormatError: it is damaged, or no metadata of ours.
    """
    _prepare(path, create=create)
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return _connect(path)
        except sqlite3.Error as error:
            # SQLite does not wait itself where two who make the file could wait for each other.
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise translate(path, error, opening=True) from None
        time.sleep(RETRY_S)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _settings(connection, path)
        _check(connection, path)
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translate(path: Path, error: sqlite3.Error, *, opening: bool = False) -> MezzoError:
    """SQLite's error as one of ours; the one place that does so. Damage found late is an outage."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        message = _damaged(path, str(error))
        return FormatError(message) if opening else Unavailable(message)
    if _is_busy(error):
        return Unavailable(f"{path}: other processes held the metadata for {BUSY_S:g} s")
    if primary == sqlite3.SQLITE_FULL:
        return Unavailable(f"{path}: no room for metadata is left on its file system (or over 4 GiB)")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return Unavailable(f"{path}: this user cannot write the file, or make files beside it ({error})")
    return Unavailable(f"{path}: the metadata cannot be reached: {error}")


def _prepare(path: Path, *, create: bool) -> None:
    """See to it that the file is there, and that only its owner reads it: SQLite's other files do as it does."""
    try:
        if create:
            try:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                return
            except FileExistsError:
                pass
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise FormatError(f"{path} is no file; metadata.engine names a file for metadata")
        if state.st_mode & 0o077:
            path.chmod(0o600)
            log.warning("others could read the metadata; not any more", path=str(path))
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from None


def _settings(connection: sqlite3.Connection, path: Path) -> None:
    for pragma in (
        "cell_size_check = ON",
        "trusted_schema = OFF",
        f"max_page_count = {PAGES_MAX}",
        "secure_delete = ON",
        "synchronous = FULL",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise Unavailable(
            f"{path}: its file system gives no shared memory, so that processes cannot share it "
            f"(journal mode {mode} in place of wal); metadata belong on a local file system"
        )


def _check(connection: sqlite3.Connection, path: Path) -> None:
    # As of one moment: another process may be making the file.
    connection.execute("BEGIN")
    (ours,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    connection.execute("COMMIT")
    if ours != APPLICATION_ID and (tables or version):
        raise FormatError(f"{path} is a SQLite database of something else; name another file")
    if version > VERSION:
        raise Unsupported(
            f"{path} was written by a newer release (schema {version}, this one knows up to {VERSION}); "
            "run that release, or restore a backup from before"
        )
    problems = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    if problems != ["ok"]:
        raise FormatError(_damaged(path, "; ".join(problems)))


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
            log.info("metadata schema", path=str(path), version=number)
        connection.execute("COMMIT")
    except sqlite3.Error:
        # After some errors SQLite has done so by itself, and what went wrong is what is to be told.
        if connection.in_transaction:
            connection.rollback()
        raise


def _damaged(path: Path, what: str) -> str:
    return (
        f"{path} is damaged ({'; '.join(what.split(chr(10)))}): stop what uses it, and restore a backup; without one, "
        f"`sqlite3 {path} .recover` saves what can be read"
    )
