"""The entries of one segment, in columns: what the index points into and what a table stores.

One entry costs about 50 bytes here, plus its key (shared with the index).  The columns are plain
arrays, so a table of a sealed segment loads at memory speed.  Owner: the segment.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.format.record import Entry

ENTRY_BITS = 24
ENTRY_MASK = (1 << ENTRY_BITS) - 1
SEALED = 0x80
"""The flag of an entry whose parts are encrypted (`blockstore.sealing`): the highest of all."""


class EntryTable:
    """Columns by entry number. ``parts[n] == 0`` marks a tombstone.

    ``checksum[n]`` is the checksum of the only part or, with several, the row of its first part in
    ``part_length`` and ``part_checksum``.
    """

    __slots__ = (
        "_scope_numbers",
        "block",
        "checksum",
        "expiry_ms",
        "flags",
        "has_sealed",
        "key_blob",
        "key_lengths",
        "keys",
        "length",
        "live_bytes",
        "part_checksum",
        "part_length",
        "parts",
        "position",
        "scope",
        "scopes",
        "sequence",
        "tombstones",
        "touched",
    )

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.block = array("I")
        self.length = array("I")
        self.sequence = array("Q")
        self.checksum = array("Q")
        self.parts = array("H")
        self.scope = array("H")
        self.position = array("I")
        self.expiry_ms = array("Q")
        self.flags = array("B")
        self.touched = array("I")
        """policy's stamp of the last read, 0: never; not stored"""
        self.part_length = array("I")
        self.part_checksum = array("Q")
        self.scopes: list[Scope] = []
        self.live_bytes: list[int] = []
        """of the visible chunks of each scope, in whole blocks; not stored"""
        self.tombstones = 0
        self.has_sealed = False
        """some of the chunks are encrypted"""
        self.key_blob: bytearray | None = bytearray()
        self.key_lengths = bytearray()
        """keys as the table stores them, kept while the segment is open: joining 60,000 keys when it is
        sealed would hold the loop for milliseconds"""
        self._scope_numbers: dict[Scope, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def scope_number(self, scope: Scope) -> int:
        """Number of a scope in ``scopes``, adding it if new."""
        number = self._scope_numbers.get(scope)
        if number is None:
            number = self._scope_numbers[scope] = len(self.scopes)
            self.scopes.append(scope)
            self.live_bytes.append(0)
        return number

    def append(self, entry: Entry, scope: Scope) -> int:
        """Add an entry; its number."""
        number = len(self.keys)
        count = len(entry.parts)
        self.keys.append(entry.key)
        if self.key_blob is not None:
            self.key_blob += entry.key
            self.key_lengths.append(len(entry.key))
        self.block.append(entry.block)
        self.sequence.append(entry.sequence)
        self.parts.append(count)
        self.scope.append(self.scope_number(scope))
        self.position.append(entry.position)
        self.expiry_ms.append(entry.expiry_ms)
        self.flags.append(entry.flags)
        self.has_sealed |= entry.flags >= SEALED
        self.touched.append(0)
        if count == 1:
            self.length.append(entry.parts[0])
            self.checksum.append(entry.checksums[0])
        else:
            self.length.append(sum(entry.parts))
            self.checksum.append(len(self.part_length))
            self.part_length.extend(entry.parts)
            self.part_checksum.extend(entry.checksums)
            self.tombstones += not count
        return number

    def freeze(self) -> None:
        """No more entries come: give back what only `table.encode` needs."""
        self.key_blob = None
        self.key_lengths = bytearray()

    def part_lengths(self, number: int) -> Sequence[int]:
        """Lengths of the parts of an entry, bytes."""
        count = self.parts[number]
        if count == 1:
            return (self.length[number],)
        row = self.checksum[number]
        return self.part_length[row : row + count]

    def part_checksums(self, number: int) -> Sequence[int]:
        """Checksums of the parts of an entry."""
        count = self.parts[number]
        if count == 1:
            return (self.checksum[number],)
        row = self.checksum[number]
        return self.part_checksum[row : row + count]

    def entry(self, number: int) -> Entry:
        """One entry as a record describes it."""
        return Entry(
            self.keys[number],
            self.sequence[number],
            tuple(self.part_lengths(number)),
            tuple(self.part_checksums(number)),
            self.position[number],
            self.expiry_ms[number],
            self.flags[number],
            self.block[number],
        )
