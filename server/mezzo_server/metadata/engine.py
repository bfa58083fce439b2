"""What a metadata engine is: keys and values under one revision, transactions, leases, watches.

To who implements it: every write raises the revision by one, whatever number of keys it changes, unless it
changes none; a watch that begins at revision r yields every change after r, in order, or raises `Compacted`,
and never skips one silently.  Values are opaque.  A removed key's values are destroyed: nothing that the
engine keeps has them any more (a watch that had not come to them yet gets `Compacted`).  Any event loop may
call, and several may.  The contract suite is tests/contract/metadata.py.

The shape is etcd's (https://etcd.io/docs/v3.5/learning/api/), since a pod uses that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from mezzo.errors import InvalidArgument, Unavailable

KEY_CHARACTERS_MAX = 512
VALUE_BYTES_MAX = 1 << 20
OPERATIONS_MAX = 128
"""checks and writes of one transaction, each"""
ENTRIES_MAX = 1 << 20
LEASES_MAX = 4096
LEASE_S_MAX = 86_400.0


class Compacted(Unavailable):
    """A watch asked for changes that are not kept any more, or of a revision that never was.

    Scan, and watch from the scan's revision on.
    """


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and what it holds."""

    key: str
    value: bytes
    revision: int
    """of the write that this value is from"""


@dataclass(frozen=True, slots=True)
class Scan:
    """All entries under a prefix, as of one revision."""

    entries: Sequence[Entry]
    """in the order of their keys"""
    revision: int


@dataclass(frozen=True, slots=True)
class Check:
    """A transaction's condition: the key's `Entry.revision` is this; 0: there is no such key."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Write:
    """A transaction's effect: the key holds this value; None: it is removed."""

    key: str
    value: bytes | None
    lease: int = 0
    """the lease with which the key goes; 0: none"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transaction ended."""

    done: bool
    """all checks held, and all writes were made"""
    revision: int
    """of the writes; of the engine if nothing was written"""


@dataclass(frozen=True, slots=True)
class Change:
    """One key that a write changed; ``value`` None: it was removed."""

    key: str
    value: bytes | None
    revision: int


def check_key(key: str) -> None:
    """Raises InvalidArgument: it is no key."""
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX:
        raise InvalidArgument(f"a key has 1 to {KEY_CHARACTERS_MAX} characters, not {len(key)}")
    if "\0" in key or not key.isprintable():
        raise InvalidArgument(f"a key has printable characters only: {key!r}")


def check_prefix(prefix: str) -> None:
    """Raises InvalidArgument: no key begins so."""
    if prefix:
        check_key(prefix)


def check_transaction(checks: Sequence[Check], writes: Sequence[Write]) -> None:
    """Raises InvalidArgument: over a limit, or a key twice."""
    for what, count in (("checks", len(checks)), ("writes", len(writes))):
        if count > OPERATIONS_MAX:
            raise InvalidArgument(f"{count} {what} in a transaction; at most {OPERATIONS_MAX}")
    for keys in ([check.key for check in checks], [write.key for write in writes]):
        for key in keys:
            check_key(key)
        if len(set(keys)) < len(keys):
            raise InvalidArgument("a key stands twice in a transaction")
    for write in writes:
        if write.value is not None and len(write.value) > VALUE_BYTES_MAX:
            raise InvalidArgument(
                f"{write.key}: {len(write.value)} bytes; a value has at most {VALUE_BYTES_MAX}"
            )
        if write.value is None and write.lease:
            raise InvalidArgument(f"{write.key}: what is removed has no lease")


def check_ttl(ttl_s: float) -> None:
    """Raises InvalidArgument: no lease lasts so long."""
    if not 0 < ttl_s <= LEASE_S_MAX:
        raise InvalidArgument(f"a lease lasts more than 0 and at most {LEASE_S_MAX:g} s, not {ttl_s:g}")


class Engine(ABC):
    """A metadata engine.

    All calls may raise `Unavailable`, and may then be tried again; a transaction may have been made.  The
    first may also raise `Unsupported` or `FormatError`: somebody must look after what is stored.  What is no
    key or prefix (`check_key`) is refused with `InvalidArgument`.
    """

    @abstractmethod
    async def get(self, key: str) -> Entry | None:
        """What a key holds; None: there is no such key."""

    @abstractmethod
    async def scan(self, prefix: str) -> Scan:
        """All keys that begin with ``prefix``, as of one revision."""

    @abstractmethod
    async def transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        """If all ``checks`` hold make all ``writes``, else none; durable when it returns.

        Raises:
            InvalidArgument: over a limit, a key twice, or a lease that is not held.
        """

    @abstractmethod
    async def grant(self, ttl_s: float) -> int:
        """A new lease: unless it is kept, it ends after ``ttl_s`` and the keys written with it go.

        Raises:
            InvalidArgument: ``ttl_s`` is out of range.
            Busy: there are `LEASES_MAX`.
        """

    @abstractmethod
    async def keep(self, lease: int) -> bool:
        """Let a lease begin anew; False: it has ended."""

    @abstractmethod
    async def revoke(self, lease: int) -> None:
        """End a lease now; without effect on one that has ended."""

    @abstractmethod
    def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Change]]:
        """Changes of keys that begin with ``prefix``, of revisions over ``after``.

        Each batch is of one whole revision or more; it ends when the engine is closed.

        Raises:
            Compacted: some of them are not kept any more.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; watches end."""
