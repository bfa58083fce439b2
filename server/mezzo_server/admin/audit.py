"""The audit log: who did what, when, from where, and how it ended. Lines of JSON, by structlog.

One line for each change, and for each attempt that was refused.  Names, ids and numbers are in it, never
a token, a hash or a key.  Each line is written whole to the end of the file, and to the device before the
caller is answered.  The file is opened for every line, so whoever rotates logs may take it away; by itself it
is bounded: over ``bytes_max`` it becomes ``.1``, that ``.2`` and so on, and the oldest goes.

A change is refused if the file cannot be opened: nothing is done that could not be told.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog

from mezzo.errors import Unavailable

STANDARD_ERROR = "-"
MODE = 0o600
TEXT_CHARACTERS_MAX = 512
"""of one value in a line: some come from who is refused"""


class Outcome(StrEnum):
    """How an action ended."""

    DONE = "done"
    REFUSED = "refused"
    """nothing was done: it is not allowed, or cannot be"""
    FAILED = "failed"
    """it is not known whether something was done"""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts."""

    who: str
    """id of the credential, or the user of this machine; empty: nobody who is known"""
    source: str
    """address of the peer, or ``local``"""


class AuditFile:
    """Where the lines go. Several processes may write to one."""

    def __init__(self, path: Path, *, bytes_max: int, files: int) -> None:
        """``files``: how many older ones are kept."""
        self._path = path
        self._bytes_max = bytes_max
        self._files = files

    def check(self) -> None:
        """Raises Unavailable unless a line can be written."""
        try:
            os.close(self._open())
        except OSError as error:
            raise Unavailable(f"the audit log {self._path} cannot be written: {error.strerror}") from None

    def write(self, line: str) -> None:
        """Write one line, to the device. Raises OSError."""
        fd = self._lock()
        try:
            self._append(fd, line.encode("utf-8", "backslashreplace") + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)

    def _append(self, fd: int, data: bytes) -> None:
        end = os.fstat(fd).st_size
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            # The disk is full, say: half a line would spoil the next one as well.
            os.ftruncate(fd, end)
            raise

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._path, flags, MODE)

    def _lock(self) -> int:
        """The file, locked, with room for a line."""
        while True:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if self._is_there(fd):
                    if os.fstat(fd).st_size < self._bytes_max:
                        return fd
                    self._rotate()
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _is_there(self, fd: int) -> bool:
        """Whether the file is still the one of this name: another process may have rotated meanwhile."""
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        for number in range(self._files, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            with suppress(FileNotFoundError):
                os.replace(newer, older)
        if not self._files:
            os.unlink(self._path)


class StandardErrorLines:
    """Lines to standard error, for who collects what processes say."""

    def check(self) -> None:
        """It can always be tried."""

    def write(self, line: str) -> None:
        """Write one line. Raises OSError."""
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class Audit:
    """Writes the records, and counts them."""

    def __init__(self, sink: AuditFile | StandardErrorLines) -> None:
        self._sink = sink
        self.counts: dict[str, int] = {outcome.value: 0 for outcome in Outcome}
        """records by outcome"""
        self.lost = 0
        """records that could not be written, after what they tell of had been done"""
        self._log: Any = structlog.wrap_logger(
            _Lines(sink.write),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                _first,
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.BoundLogger,
        )

    def check(self) -> None:
        """Before a change: raises Unavailable if it could not be told."""
        self._sink.check()

    def record(self, actor: Actor, action: str, outcome: Outcome, **about: object) -> None:
        """Write what happened. What cannot be written is counted, and told to the log of the process."""
        self.counts[outcome.value] += 1
        shown = {name: _shown(value) for name, value in about.items() if value is not None}
        try:
            self._log.msg(action, who=actor.who, source=actor.source, outcome=outcome.value, **shown)
        except OSError as error:
            self.lost += 1
            structlog.get_logger("mezzo.audit").error(
                "an audit record was lost", action=action, outcome=outcome.value, error=str(error)
            )


def _first(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What every line has comes first, for people who read them."""
    first = ("time", "event", "outcome", "who", "source")
    return {**{name: event[name] for name in first if name in event}, **event}


class _Lines:
    """What structlog writes to."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def msg(self, line: str) -> None:
        """One line."""
        self._write(line)


def _shown(value: object) -> object:
    if isinstance(value, str):
        return value[:TEXT_CHARACTERS_MAX]
    if isinstance(value, bytes):
        return value.hex()[:TEXT_CHARACTERS_MAX]
    if isinstance(value, dict):
        return {name: _shown(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:TEXT_CHARACTERS_MAX]


def make_audit(setting: str, beside: Path | None, *, bytes_max: int, files: int) -> Audit:
    """The audit log of a setting: a path, ``-``, or empty for ``audit.jsonl`` in the folder ``beside``."""
    if setting == STANDARD_ERROR or (not setting and beside is None):
        return Audit(StandardErrorLines())
    path = Path(setting) if setting else (beside or Path()) / "audit.jsonl"
    return Audit(AuditFile(path, bytes_max=bytes_max, files=files))
