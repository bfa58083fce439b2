"""The interface of reclaim policies.

A log frees nothing by forgetting a chunk: a policy chooses segments and survivors.  What must survive
whatever a policy says (leased chunks, those of a tenant within its quota), and how much may be rewritten,
is reclaim's business and not the policy's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import xxhash

from mezzo_server.blockstore.api import PutChunk
from mezzo_server.blockstore.policies.rewrites import RewriteBudget
from mezzo_server.blockstore.segment import Segment

STAMP_BITS = 32
STAMP_MAX = (1 << STAMP_BITS) - 1


class ReclaimPolicy(ABC):
    """Decides by what segments know and by one stamp for each chunk.

    Stamps are 32-bit numbers in ``segment.table.touched``; what they mean is the policy's own.  0 is what
    chunks have after a restart, and what is left of the stamp of one that is not live any more.  Each call
    is O(1) for a chunk and O(segments) for a victim; what a policy remembers beside the stamps has a fixed
    bound.

    A *mark* is what a policy says of a chunk that arrives: its stamp, and above that its lane.  Chunks of
    one lane share segments, those of different lanes do not.
    """

    name: ClassVar[str]

    def begin(self, capacity_bytes: int, segments: Sequence[Segment], budget: RewriteBudget) -> None:
        """The store was opened: its capacity, the segments that it found, oldest first, and what may be rewritten."""

    def resized(self, capacity_bytes: int) -> None:
        """Devices came, left or grew."""

    def opened(self, segment: Segment) -> None:
        """A segment was opened; ``segment.lane`` is set."""

    def arriving(self, salt: int, chunks: Sequence[PutChunk], fresh: Sequence[int]) -> Sequence[int] | None:
        """Marks for those of a request's chunks that are not stored yet, whose numbers are ``fresh``.

        ``salt`` tells namespaces apart.  None: all of them have mark 0.
        """
        return None

    def stored(self, segment: Segment, numbers: range, marks: Sequence[int] | None) -> None:
        """Entries that `arriving` gave these marks were written; they are not live yet."""

    def request(self) -> None:
        """A request begins that uses chunks: `used` follows for each, in order."""

    @abstractmethod
    def used(self, segment: Segment, number: int) -> None:
        """A live chunk is read, or somebody wanted to put it again.

        Whoever changes a stamp changes ``segment.touched_sum`` with it.
        """

    def rewritten(self, segment: Segment, number: int, target: Segment, copy: int) -> None:
        """A survivor was written anew as entry ``copy`` of ``target``, which is not live yet."""

    def evicted(self, segment: Segment, number: int, salt: int) -> None:
        """A live chunk is about to go because its segment is reclaimed."""

    @abstractmethod
    def victim(self, candidates: Sequence[Segment], log_segments: Sequence[Segment]) -> Segment:
        """Which of the ``candidates`` (sealed, of one device, at least one) is reclaimed.

        ``log_segments`` are all segments of the device.
        """

    @abstractmethod
    def survivors(self, victim: Segment, live: Sequence[int], sealed: Sequence[Segment]) -> list[int]:
        """Those of the victim's live entries that should live on, the most worthy first."""

    def lane(self, mark: int) -> int:
        """The lane of a mark."""
        return mark >> STAMP_BITS


def set_stamp(segment: Segment, number: int, stamp: int) -> None:
    """Change the stamp of a live entry."""
    touched = segment.table.touched
    segment.touched_sum += stamp - touched[number]
    touched[number] = stamp


def key_hash(salt: int, key: bytes) -> int:
    """What bounded memories keep of a key: 64 bits, apart for each namespace."""
    return xxhash.xxh3_64_intdigest(key, salt)
