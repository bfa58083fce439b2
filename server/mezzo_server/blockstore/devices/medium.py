"""A storage medium with a volatile cache in front, in memory.

Invariant: ``_versions`` has an entry for each atom that was written since it was last made durable:
first the durable bytes, then every version since, oldest first, each with the number of the write
that brought it.  The last one is what reads see.

Only atoms that were ever written take memory, and a copy shares them: they are never changed, but replaced.
"""

from __future__ import annotations

import random

_ZEROS = bytes(256 << 10)
DURABLE = -1
"""Number in place of a write's, of bytes that no power cut takes."""


class Medium:
    """Bytes, and what a power cut may make of them; ``atom_bytes`` land or are lost together."""

    def __init__(
        self, contents: int | bytes | bytearray, atom_bytes: int, *, keep_former: bool = False
    ) -> None:
        """``contents``: size in bytes (zeros), or the bytes. ``keep_former``: remember what each atom held before
        its last write (`former`).
        """
        self.size_bytes = contents if isinstance(contents, int) else len(contents)
        self.atom_bytes = atom_bytes
        self._zeros = bytes(atom_bytes)
        self._atoms: dict[int, bytes] = {}
        """by their offset; those that are not here are zeros"""
        self._versions: dict[int, list[tuple[int, bytes]]] = {}
        self._former: dict[int, bytes] | None = {} if keep_former else None
        if not isinstance(contents, int):
            for at in range(0, len(contents), atom_bytes):
                self._atoms[at] = bytes(contents[at : at + atom_bytes])

    def keep_former(self, wanted: bool) -> None:
        """Begin, go on or stop to remember for `former`."""
        if not wanted:
            self._former = None
        elif self._former is None:
            self._former = {}

    def read(self, offset: int, length: int) -> bytes:
        """What is there now."""
        step, zeros, get = self.atom_bytes, self._zeros, self._atoms.get
        skip = offset % step
        data = b"".join([get(at, zeros) for at in range(offset - skip, offset + length, step)])
        return data if not skip and len(data) == length else data[skip : skip + length]

    def read_into(self, offset: int, view: memoryview) -> None:
        """What is there now, from an atom's beginning on, for as many bytes as ``view`` has: whole atoms."""
        step, atoms, length = self.atom_bytes, self._atoms, len(view)
        if length < len(_ZEROS):
            for at in range(0, length, step):
                view[at : at + step] = atoms.get(offset + at, self._zeros)
            return
        for at in range(0, length, len(_ZEROS)):
            zeros = _ZEROS[: length - at]
            if bytes(view[at : at + len(_ZEROS)]) != zeros:  # memory that nobody has written yet stays so
                view[at : at + len(_ZEROS)] = zeros
        end = offset + length
        written = atoms if len(atoms) < length // step else range(offset, end, step)
        for place in written:
            if offset <= place < end and place in atoms:
                view[place - offset : place - offset + step] = atoms[place]

    def former(self, offset: int, length: int) -> bytes:
        """What was there before each atom's last write; atoms never rewritten are as they are."""
        data = bytearray(self.read(offset, length))
        for at in range(offset, offset + length, self.atom_bytes):
            if self._former is not None and at in self._former:
                data[at - offset : at - offset + self.atom_bytes] = self._former[at]
        return bytes(data)

    def land(self, offset: int, data: bytes, write: int) -> None:
        """Atoms reach the cache, as part of write number ``write``."""
        step, atoms = self.atom_bytes, self._atoms
        for at in range(offset, offset + len(data), step):
            before = atoms.get(at, self._zeros)
            after = atoms[at] = data[at - offset : at - offset + step]
            versions = self._versions.get(at)
            if versions is None:
                versions = self._versions[at] = [(DURABLE, before)]
            versions.append((write, after))
            if self._former is not None:
                self._former[at] = before

    def flush(self, writes: frozenset[int]) -> None:
        """Make durable what the numbered writes brought; later versions stay volatile."""
        for at in list(self._versions):
            versions = self._versions[at]
            for index in range(len(versions) - 1, 0, -1):
                if versions[index][0] in writes:
                    versions[:index] = []
                    versions[0] = (DURABLE, versions[0][1])
                    break
            if len(versions) == 1:
                del self._versions[at]

    @property
    def unflushed_bytes(self) -> int:
        """Bytes that a power cut may take."""
        return len(self._versions) * self.atom_bytes

    def poke(self, offset: int, data: bytes) -> None:
        """Change bytes at rest: durable at once, and in every version that covers them."""
        step = self.atom_bytes
        begin = offset - offset % step
        end = -(-(offset + len(data)) // step) * step
        around = bytearray(self.read(begin, end - begin))
        around[offset - begin : offset - begin + len(data)] = data
        for at in range(begin, end, step):
            atom = self._atoms[at] = bytes(around[at - begin : at - begin + step])
            if at in self._versions:
                self._versions[at] = [(DURABLE, atom)]

    def copy(self) -> Medium:
        """The same bytes and the same versions, apart from this one."""
        other = self._same()
        other._versions = {at: list(versions) for at, versions in self._versions.items()}
        if self._former is not None:
            other._former = dict(self._former)
        return other

    def power_cut(self, randomness: random.Random) -> Medium:
        """What is left: of each atom any version since the durable one, whatever their order was."""
        other = self._same()
        for at in sorted(self._versions):
            _, other._atoms[at] = randomness.choice(self._versions[at])
        return other

    def _same(self) -> Medium:
        other = Medium(self.size_bytes, self.atom_bytes, keep_former=self._former is not None)
        other._atoms = dict(self._atoms)
        return other
