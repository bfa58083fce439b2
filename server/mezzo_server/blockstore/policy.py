"""Which segment is reclaimed next, and which of its chunks live on.

A log frees nothing by forgetting a chunk: a policy chooses segments and survivors.  Leased chunks
survive whatever a policy says; that is not its business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from mezzo.errors import InvalidArgument
from mezzo_server.blockstore.segment import Segment

_STAMP_MAX = 2**32 - 1


class ReclaimPolicy(ABC):
    """Decides by what segments know: age, live entries, stamps of reads.

    Stamps are 32-bit numbers in ``segment.table.touched``; what they mean is the policy's own.
    Each call is O(1) for an entry and O(segments) for a victim.
    """

    name: str

    @abstractmethod
    def written(self) -> int:
        """Stamp of a chunk that is stored now."""

    @abstractmethod
    def read(self) -> int:
        """Stamp of a chunk that is read now."""

    @abstractmethod
    def rewritten(self, stamp: int) -> int:
        """Stamp of a survivor that had ``stamp`` in its former place."""

    @abstractmethod
    def rank(self, segment: Segment) -> float:
        """How gladly a sealed segment is kept: the lowest goes first."""

    @abstractmethod
    def survivors(self, victim: Segment, live: Sequence[int], sealed: Sequence[Segment]) -> list[int]:
        """Those of the victim's live entries that should live on, the most worthy first."""


class FifoReinsertion(ReclaimPolicy):
    """The oldest segment goes; what was read since it was written is written once more.

    CLOCK with a log for the ring, after Corbató 1968; as good as LRU on cache traces at a fraction of
    the state: Yang et al., "FIFO can be Better than LRU", HotOS 2023.
    """

    name = "fifo"

    def written(self) -> int:
        return 0

    def read(self) -> int:
        return 1

    def rewritten(self, stamp: int) -> int:
        return 0

    def rank(self, segment: Segment) -> float:
        return segment.life

    def survivors(self, victim: Segment, live: Sequence[int], sealed: Sequence[Segment]) -> list[int]:
        touched = victim.table.touched
        return [number for number in live if touched[number]]


class Lru(ReclaimPolicy):
    """The segment whose live chunks were used longest ago on average goes.

    Those of its chunks live on that were used later than the average chunk of the device.  An
    approximation: exact LRU would rewrite nearly every segment, since uses are spread over all.
    """

    name = "lru"

    def __init__(self) -> None:
        self._clock = 0

    def written(self) -> int:
        return self._clock

    def read(self) -> int:
        self._clock = min(self._clock + 1, _STAMP_MAX)
        return self._clock

    def rewritten(self, stamp: int) -> int:
        return stamp

    def rank(self, segment: Segment) -> float:
        return segment.touched_sum / max(segment.live_count, 1)

    def survivors(self, victim: Segment, live: Sequence[int], sealed: Sequence[Segment]) -> list[int]:
        count = sum(segment.live_count for segment in sealed)
        mean = sum(segment.touched_sum for segment in sealed) / max(count, 1)
        touched = victim.table.touched
        return sorted((number for number in live if touched[number] > mean), key=lambda n: -touched[n])


_POLICIES: dict[str, Callable[[], ReclaimPolicy]] = {"fifo": FifoReinsertion, "lru": Lru}


def policy(name: str) -> ReclaimPolicy:
    """The policy of that name. InvalidArgument names those there are."""
    try:
        return _POLICIES[name]()
    except KeyError:
        raise InvalidArgument(
            f"policy {name!r} is unknown; there are {', '.join(sorted(_POLICIES))}"
        ) from None
