"""From the setting ``metadata.engine`` to an engine."""

from __future__ import annotations

import time
from pathlib import Path

from mezzo.errors import InvalidArgument
from mezzo_server.metadata.engine import Engine
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.metadata.sqlite import SqliteEngine

SQLITE = "sqlite://"
MEMORY = "memory:"


def check_url(url: str) -> None:
    """Raises InvalidArgument: ``url`` names no engine; the message says what would."""
    if url == MEMORY:
        return
    if not url.startswith(SQLITE):
        raise InvalidArgument(f"{url!r} names no metadata engine: sqlite:///path/to/file or {MEMORY}")
    path = url.removeprefix(SQLITE)
    if not path.startswith("/") or path.endswith("/") or "?" in path or "#" in path:
        raise InvalidArgument(
            f"{url!r}: after sqlite:// comes the whole path of a file, as in sqlite:///var/lib/mezzo/metadata.db"
        )


def make_engine(url: str, *, create: bool = True) -> Engine:
    """The engine that ``url`` names; its first call reaches it, and makes the file if ``create``.

    Raises:
        InvalidArgument: it names none.
    """
    check_url(url)
    if url == MEMORY:
        return MemoryEngine(time.monotonic)
    return SqliteEngine(Path(url.removeprefix(SQLITE)), time.time, create=create)
