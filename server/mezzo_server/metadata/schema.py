"""The tables of the SQLite engine's file, and the way from each version of them to the next."""

from __future__ import annotations

from collections.abc import Sequence

APPLICATION_ID = 0x4D455A4F  # "MEZO"

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        # One row: the revision, the last one whose changes are not kept, and counts that bound the rest.
        """CREATE TABLE state (
            revision INTEGER NOT NULL, compacted INTEGER NOT NULL,
            entries INTEGER NOT NULL, changes INTEGER NOT NULL, change_bytes INTEGER NOT NULL
        )""",
        "INSERT INTO state VALUES (0, 0, 0, 0, 0)",
        """CREATE TABLE entries (
            key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX entries_by_lease ON entries (lease) WHERE lease <> 0",
        # AUTOINCREMENT: the number of a lease is never used again.
        """CREATE TABLE leases (
            id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_ms INTEGER NOT NULL, ends_ms INTEGER NOT NULL
        )""",
        "CREATE INDEX leases_by_end ON leases (ends_ms)",
        # `destroyed`: there was a value, and its key was removed since.
        """CREATE TABLE changes (
            revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB, destroyed INTEGER NOT NULL,
            PRIMARY KEY (revision, key)
        ) WITHOUT ROWID""",
        "CREATE INDEX changes_by_key ON changes (key)",
    ),
)
"""What brings a file from one version of the schema to the next. Only ever appended to."""
VERSION = len(MIGRATIONS)
