"""A metadata engine in one SQLite file, which the processes of a node share.

Each engine has one connection and one thread that uses it, so that no event loop waits for a disk.
Leases end by the wall clock, ended by whoever comes by next.  A watch looks at `PRAGMA data_version`, which
changes when another process writes, and reads the log of changes, which is bounded.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import structlog

from mezzo.errors import Busy, FormatError, InvalidArgument, Unavailable, Unsupported
from mezzo_server.metadata.engine import (
    ENTRIES_MAX,
    LEASES_MAX,
    Change,
    Check,
    Compacted,
    Entry,
    Outcome,
    Scan,
    Write,
    check_key,
    check_prefix,
    check_transaction,
    check_ttl,
)
from mezzo_server.metadata.polling import Look, PollingEngine
from mezzo_server.metadata.sqlite_file import BUSY_S, connect, translate

T = TypeVar("T")

CHANGES_MAX = 10_000
CHANGE_BYTES_MAX = 64 * 1024 * 1024
"""what is kept for watches"""
BATCH_MAX = 64
CALLS_MAX = 64
CALL_S_MAX = 2 * BUSY_S + 1
"""after so long a disk that does not answer is an outage"""
PREFIX_END = chr(0x10FFFF)

log = structlog.get_logger("mezzo.metadata")


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file has this name now; None: none."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino


class SqliteEngine(PollingEngine):
    """One connection. The file is made by the first call if ``create``, and never anew while this lives.

    ``now`` tells Unix time, seconds.
    """

    def __init__(
        self, path: Path, now: Callable[[], float], *, create: bool = True, changes_max: int = CHANGES_MAX
    ) -> None:
        super().__init__()
        self.path = path
        self._now = now
        self._create = create
        self._changes_max = changes_max
        self._thread = ThreadPoolExecutor(1, "mezzo-metadata")
        self._calls = 0
        # Of the thread:
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] = (0, 0)
        self._opened = 0
        self._written = 0
        self._residue = False
        """destroyed values may still be in the write-ahead log"""
        self._wiping_failed = False

    # -- calls

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        return await self._call(lambda: self._get(key))

    async def scan(self, prefix: str) -> Scan:
        check_prefix(prefix)
        return await self._call(lambda: self._scan(prefix))

    async def transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        check_transaction(checks, writes)
        outcome = await self._call(lambda: self._transact(checks, writes))
        self.wake()
        return outcome

    async def grant(self, ttl_s: float) -> int:
        check_ttl(ttl_s)
        return await self._call(lambda: self._grant(ttl_s))

    async def keep(self, lease: int) -> bool:
        return await self._call(lambda: self._keep(lease))

    async def revoke(self, lease: int) -> None:
        await self._call(lambda: self._revoke(lease))
        self.wake()

    async def look(self, prefix: str, after: int, state: object, *, more: bool) -> Look | None:
        check_prefix(prefix)
        if self.closed:
            return None
        return await self._call(lambda: self._look(prefix, after, state, more))

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.wake()
        ending = asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)
        try:
            async with asyncio.timeout(CALL_S_MAX):
                await ending
        except TimeoutError:
            pass  # a disk that does not answer; nothing is lost with the connection

    async def _call(self, work: Callable[[], T]) -> T:
        if self.closed:
            raise Unavailable("the metadata engine was closed")
        with self._lock:
            if self._calls >= CALLS_MAX:
                raise Unavailable(f"{CALLS_MAX} calls wait for {self.path}")
            self._calls += 1
        try:
            loop = asyncio.get_running_loop()
            # Not `wait_for`: until Python 3.12 that loses a cancellation that comes with the answer.
            async with asyncio.timeout(CALL_S_MAX):
                return await loop.run_in_executor(self._thread, self._translated, work)
        except TimeoutError:
            raise Unavailable(f"{self.path}: the metadata did not answer in {CALL_S_MAX:g} s") from None
        finally:
            with self._lock:
                self._calls -= 1

    # -- in the thread

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            self._connect()
            return work()
        except sqlite3.Error as error:
            translated = translate(self.path, error)
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL):
                # Whatever it was, a new connection checks the file and knows more.
                self._disconnect()
            raise translated from None

    def _connect(self) -> None:
        """See to it that there is a connection, and that it is to the file that has the name now."""
        if self._connection is not None:
            try:
                state = os.stat(self.path)
            except OSError as error:
                self._disconnect()
                raise Unavailable(f"{self.path}: {error.strerror}") from None
            if (state.st_dev, state.st_ino) == self._file:
                return
            self._disconnect()
        before = _file_at(self.path)
        try:
            connection = connect(self.path, create=self._create)
        except (FormatError, Unsupported) as error:
            if self._opened:
                raise Unavailable(str(error)) from None
            raise
        file = _file_at(self.path)
        if file is None or before not in (None, file):
            # Which of them it is connected to nobody knows.
            connection.close()
            raise Unavailable(f"{self.path}: the file was replaced while it was opened")
        self._connection, self._file = connection, file
        self._create = False
        self._opened += 1
        # Whoever removed a value may have been killed before he came to wipe it.
        self._residue = True

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass  # of no more use anyway

    def _sql(self, statement: str, *values: object) -> sqlite3.Cursor:
        if self._connection is None:
            raise Unavailable(f"{self.path}: not connected")
        return self._connection.execute(statement, values)

    def _reading(self, work: Callable[[], T]) -> T:
        """``work`` in one read transaction, after leases that have ended were ended."""
        if self._sql("SELECT 1 FROM leases WHERE ends_ms <= ? LIMIT 1", self._now_ms()).fetchone():
            self._writing(lambda: None)
        with self._transaction("BEGIN"):
            return work()

    def _writing(self, work: Callable[[], T]) -> T:
        """``work`` in one write transaction, which is durable afterwards, or nothing."""
        with self._transaction("BEGIN IMMEDIATE"):
            for (lease,) in self._sql(
                "SELECT id FROM leases WHERE ends_ms <= ? ORDER BY ends_ms, id", self._now_ms()
            ).fetchall():
                self._end(lease)
            result = work()
        self._written += 1
        self._wipe()
        return result

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._sql(begin)
        try:
            yield
            self._sql("COMMIT")
        finally:
            # After some errors SQLite has ended it by itself, and what went wrong is what is to be told.
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()

    def _wipe(self) -> None:
        """Destroyed values leave the file with the commit, and its write-ahead log with this."""
        if not self._residue:
            return
        # It does not work while somebody reads, or the disk is full. What the call was about is done or can be,
        # and the next one tries again.
        try:
            self._sql("PRAGMA busy_timeout = 0")
            (busy, _, _) = self._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._sql(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
        except sqlite3.Error as error:
            if not self._wiping_failed:
                log.warning("removed values could not be wiped yet", path=str(self.path), reason=str(error))
            self._wiping_failed = True
            self._sql(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
        else:
            self._residue, self._wiping_failed = bool(busy), False

    def _now_ms(self) -> int:
        return round(self._now() * 1000)

    def _get(self, key: str) -> Entry | None:
        row = self._reading(
            lambda: self._sql("SELECT key, value, revision FROM entries WHERE key = ?", key).fetchone()
        )
        return None if row is None else Entry(*row)

    def _scan(self, prefix: str) -> Scan:
        def work() -> Scan:
            rows = self._sql(
                "SELECT key, value, revision FROM entries WHERE key >= ? AND key < ? ORDER BY key",
                prefix,
                prefix + PREFIX_END,
            )
            return Scan([Entry(*row) for row in rows], self._revision())

        return self._reading(work)

    def _revision(self) -> int:
        (revision,) = self._sql("SELECT revision FROM state").fetchone()
        return int(revision)

    def _transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        def work() -> Outcome:
            for write in writes:
                if write.lease and not self._sql("SELECT 1 FROM leases WHERE id = ?", write.lease).fetchone():
                    raise InvalidArgument(f"{write.key}: there is no lease {write.lease}")
            for check in checks:
                row = self._sql("SELECT revision FROM entries WHERE key = ?", check.key).fetchone()
                if (0 if row is None else row[0]) != check.revision:
                    return Outcome(False, self._revision())
            return Outcome(True, self._write(writes))

        return self._writing(work)

    def _write(self, writes: Sequence[Write]) -> int:
        revision = self._revision() + 1
        added = changed = nbytes = 0
        for write in writes:
            had = self._sql("SELECT 1 FROM entries WHERE key = ?", write.key).fetchone() is not None
            if write.value is None:
                if not had:
                    continue
                self._sql("DELETE FROM entries WHERE key = ?", write.key)
                nbytes -= self._destroy(write.key)
                added -= 1
            else:
                self._sql(
                    "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                    "value = excluded.value, revision = excluded.revision, lease = excluded.lease",
                    write.key,
                    write.value,
                    revision,
                    write.lease,
                )
                added += not had
                nbytes += len(write.value)
            self._sql("INSERT INTO changes VALUES (?, ?, ?, 0)", revision, write.key, write.value)
            changed += 1
        if not changed:
            return revision - 1
        self._sql(
            "UPDATE state SET revision = ?, entries = entries + ?, changes = changes + ?, "
            "change_bytes = change_bytes + ?",
            revision,
            added,
            changed,
            nbytes,
        )
        self._trim()
        return revision

    def _destroy(self, key: str) -> int:
        """Forget what the log knows of a key that is removed; bytes that this frees."""
        (nbytes,) = self._sql(
            "SELECT ifnull(sum(length(value)), 0) FROM changes WHERE key = ?", key
        ).fetchone()
        self._sql("UPDATE changes SET value = NULL, destroyed = 1 WHERE key = ? AND value IS NOT NULL", key)
        self._residue = True
        return int(nbytes)

    def _trim(self) -> None:
        entries, changes, nbytes = self._sql("SELECT entries, changes, change_bytes FROM state").fetchone()
        if entries > ENTRIES_MAX:
            raise InvalidArgument(f"over {ENTRIES_MAX} entries")
        while changes > self._changes_max or nbytes > CHANGE_BYTES_MAX:
            (oldest,) = self._sql("SELECT min(revision) FROM changes").fetchone()
            (count, length) = self._sql(
                "SELECT count(*), ifnull(sum(length(value)), 0) FROM changes WHERE revision = ?", oldest
            ).fetchone()
            self._sql("DELETE FROM changes WHERE revision = ?", oldest)
            changes, nbytes = changes - count, nbytes - length
            self._sql(
                "UPDATE state SET compacted = ?, changes = ?, change_bytes = ?", oldest, changes, nbytes
            )

    def _grant(self, ttl_s: float) -> int:
        def work() -> int:
            (held,) = self._sql("SELECT count(*) FROM leases").fetchone()
            if held >= LEASES_MAX:
                raise Busy(f"{LEASES_MAX} metadata leases are held", 1.0)
            ttl_ms = max(1, round(ttl_s * 1000))
            cursor = self._sql(
                "INSERT INTO leases (ttl_ms, ends_ms) VALUES (?, ?)", ttl_ms, self._now_ms() + ttl_ms
            )
            return int(cursor.lastrowid or 0)

        return self._writing(work)

    def _keep(self, lease: int) -> bool:
        return (
            self._writing(
                lambda: self._sql(
                    "UPDATE leases SET ends_ms = ? + ttl_ms WHERE id = ?", self._now_ms(), lease
                )
            ).rowcount
            == 1
        )

    def _revoke(self, lease: int) -> None:
        self._writing(lambda: self._end(lease))

    def _end(self, lease: int) -> None:
        keys = self._sql("SELECT key FROM entries WHERE lease = ? AND lease <> 0 ORDER BY key", lease)
        self._write([Write(key, None) for (key,) in keys.fetchall()])
        self._sql("DELETE FROM leases WHERE id = ?", lease)

    def _look(self, prefix: str, after: int, state: object, more: bool) -> Look | None:
        self._wipe()
        if self._sql("SELECT 1 FROM leases WHERE ends_ms <= ? LIMIT 1", self._now_ms()).fetchone():
            self._writing(lambda: None)
        (version,) = self._sql("PRAGMA data_version").fetchone()
        state_now = (self._opened, version, self._written)
        if state == state_now and not more:
            return None
        if isinstance(state, tuple) and state[0] != self._opened:
            raise Compacted(f"{self.path} was opened anew, and may be another file")
        return self._reading(lambda: self._changes(prefix, after, state_now))

    def _changes(self, prefix: str, after: int, state: object) -> Look:
        (revision, compacted) = self._sql("SELECT revision, compacted FROM state").fetchone()
        if after < compacted or after > revision:
            raise Compacted(f"changes after revision {after} are not kept any more")
        bounds = (prefix, prefix + PREFIX_END)
        where = "FROM changes WHERE revision > ? AND key >= ? AND key < ? ORDER BY revision, key"
        last = self._sql(f"SELECT revision {where} LIMIT 1 OFFSET {BATCH_MAX - 1}", after, *bounds).fetchone()
        until = revision if last is None else last[0]
        found = []
        for at, key, value, destroyed in self._sql(
            f"SELECT revision, key, value, destroyed {where}", after, *bounds
        ):
            if at > until:
                break
            if destroyed:
                raise Compacted(f"values after revision {after} were destroyed")
            found.append(Change(key, value, at))
        return Look(found, until, state)
