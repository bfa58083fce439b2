"""A log whose segments hold one chunk each, so that a policy on it is the published algorithm itself."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

from mezzo_server.blockstore.api import PutChunk, Scope
from mezzo_server.blockstore.format.record import Entry
from mezzo_server.blockstore.policies import ReclaimPolicy
from mezzo_server.blockstore.policies.base import STAMP_MAX
from mezzo_server.blockstore.policies.rewrites import RewriteBudget
from mezzo_server.blockstore.segment import Purpose, Segment

SCOPE = Scope(b"t" * 16, b"n" * 16)


class Log:
    """As much of a device's log as a segment knows of."""

    def __init__(self) -> None:
        self.superblock = SimpleNamespace(segment_offset=lambda number: number, segment_bytes=1 << 20)
        self.tenant_bytes: Counter[bytes] = Counter()
        self.namespace_bytes: Counter[bytes] = Counter()


class Ring:
    """Room for ``capacity`` chunks; there is no limit to what is rewritten."""

    def __init__(self, policy: ReclaimPolicy, capacity: int) -> None:
        self.policy = policy
        self.capacity = capacity
        self.log = Log()
        self.life = 0
        self.segments: list[Segment] = []
        policy.begin(capacity << 20, [], RewriteBudget(2.0, 4 << 20))

    @property
    def keys(self) -> set[bytes]:
        return {segment.table.keys[0] for segment in self.segments}

    def ask(self, key: bytes) -> bool:
        """One request for one chunk: whether it was there; if not, it is put."""
        for segment in self.segments:
            if segment.table.keys[0] == key:
                self.policy.request()
                self.policy.used(segment, 0)
                return True
        while len(self.segments) >= self.capacity:
            self.reclaim()
        marks = self.policy.arriving(7, [PutChunk(key, (1,), ())], [0])
        lane = 0 if marks is None else self.policy.lane(marks[0])
        segment = self._open(Purpose.CHUNKS, lane, key)
        self.policy.stored(segment, range(1), None if marks is None else [marks[0] & STAMP_MAX])
        self._appears(segment)
        return False

    def reclaim(self) -> None:
        victim = self.policy.victim(self.segments, self.segments)
        key = victim.table.keys[0]
        if self.policy.survivors(victim, [0], self.segments):
            copy = self._open(Purpose.SURVIVORS, 0, key)
            self.policy.rewritten(victim, 0, copy, 0)
            self._appears(copy)
        else:
            self.policy.evicted(victim, 0, 7)
        self.segments.remove(victim)

    def _open(self, purpose: Purpose, lane: int, key: bytes) -> Segment:
        self.life += 1
        segment = Segment(self.log, self.life, self.life, b"", 0, purpose, lane=lane)  # type: ignore[arg-type]
        segment.table.append(Entry(key, self.life, (1,), (0,)), SCOPE)
        self.policy.opened(segment)
        return segment

    def _appears(self, segment: Segment) -> None:
        segment.account(0, +1)
        self.segments.append(segment)
