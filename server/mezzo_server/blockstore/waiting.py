"""Records that wait for space on a device: in order within a tenant, by weight between tenants.

Start-time fair queueing as in schedule.py, by blocks: space that comes free goes to who had the least of it for
his weight, so that one tenant's flood of puts does not stand before another's put.  Tombstones are tried before
all, in the order in which they came: a delete makes space.  One that finds none holds up only other tombstones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mezzo_server.blockstore.schedule import BACKGROUND, BEHIND_WEIGHT
from mezzo_server.blockstore.segment import Purpose
from mezzo_server.blockstore.shares import Shares

if TYPE_CHECKING:
    from mezzo_server.blockstore.writer import RecordWrite

HEADS_MAX = 32
"""Tenants whose first record is tried when space has come, those first that had the least."""


class _Line:
    """One tenant's records that wait."""

    __slots__ = ("finish", "start", "writes")

    def __init__(self) -> None:
        self.writes: deque[RecordWrite] = deque()
        self.start = 0.0
        """tag of the first of them"""
        self.finish = 0.0
        """tag of the one that went last"""


class Waiting:
    """All records that wait for space. Owned by the `Writer`."""

    def __init__(self, shares: Callable[[], Shares]) -> None:
        self._shares = shares
        self._tombstones: deque[RecordWrite] = deque()
        self._lines: dict[bytes, _Line] = {}
        self._virtual = 0.0
        self._count = 0

    def __len__(self) -> int:
        return self._count + len(self._tombstones)

    def add(self, write: RecordWrite) -> bool:
        """One more waits. Whether it is its tenant's first: it may be the next to go."""
        if write.purpose is Purpose.TOMBSTONES:
            self._tombstones.append(write)
            return False
        line = self._lines.setdefault(write.tenant or BACKGROUND, _Line())
        if not line.writes:
            line.start = max(self._virtual, line.finish)
        line.writes.append(write)
        self._count += 1
        return len(line.writes) == 1

    def heads(self) -> list[RecordWrite]:
        """Those to try when space has come, in order; nobody is passed by his own."""
        lines = sorted((line for line in self._lines.values() if line.writes), key=lambda line: line.start)
        first = [self._tombstones[0]] if self._tombstones else []
        return first + [line.writes[0] for line in lines[:HEADS_MAX]]

    def went(self, write: RecordWrite) -> None:
        """One of the heads has found space."""
        if write.purpose is Purpose.TOMBSTONES:
            self._tombstones.popleft()
            return
        tenant = write.tenant or BACKGROUND
        line = self._lines[tenant]
        line.writes.popleft()
        self._count -= 1
        shares = self._shares()
        weight = 1.0
        if tenant != BACKGROUND:
            weight = shares.weight(tenant) * (BEHIND_WEIGHT if shares.behind(tenant) else 1.0)
        self._virtual = max(self._virtual, line.start)
        line.finish = line.start + write.blocks / weight
        line.start = line.finish
        if not self._count:
            # Nobody waits: all begin anew, whatever they had.
            self._lines.clear()
            self._virtual = 0.0

    def remove(self, write: RecordWrite) -> bool:
        """Take one back; False: it does not wait."""
        for writes in (self._tombstones, *(line.writes for line in self._lines.values())):
            if write in writes:
                writes.remove(write)
                self._count -= writes is not self._tombstones
                return True
        return False

    def take_late(self, now: float) -> list[RecordWrite]:
        """Take out those whose deadline has passed."""
        late = [write for write in self if write.deadline <= now]
        for write in late:
            self.remove(write)
        return late

    def __iter__(self) -> Iterator[RecordWrite]:
        yield from tuple(self._tombstones)
        for line in tuple(self._lines.values()):
            yield from tuple(line.writes)
