"""A metadata engine in memory: for tests, and for a node that need not remember."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mezzo.errors import Busy, InvalidArgument, Unavailable
from mezzo_server.metadata.engine import (
    ENTRIES_MAX,
    LEASES_MAX,
    Change,
    Check,
    Compacted,
    Entry,
    Outcome,
    Scan,
    Write,
    check_key,
    check_prefix,
    check_transaction,
    check_ttl,
)
from mezzo_server.metadata.polling import Look, PollingEngine

CHANGES_MAX = 10_000
"""changes that are kept for watches"""
BATCH_MAX = 64


@dataclass(slots=True)
class _Lease:
    ttl_s: float
    ends: float
    keys: set[str] = field(default_factory=set)


class MemoryEngine(PollingEngine):
    """Everything in dictionaries under one lock. ``now`` is a clock in seconds that does not jump back."""

    def __init__(self, now: Callable[[], float], changes_max: int = CHANGES_MAX) -> None:
        super().__init__()
        self._now = now
        self._changes_max = changes_max
        self._state = threading.Lock()
        self._revision = 0
        self._entries: dict[str, Entry] = {}
        self._lease_of: dict[str, int] = {}
        self._leases: dict[int, _Lease] = {}
        self._lease_last = 0
        self._changes: list[Change] = []
        self._compacted = 0
        """changes of this revision and before are not kept"""
        self._destroyed: dict[str, int] = {}
        """keys whose changes up to a revision have left the log, which still reaches back before them"""

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        with self._state:
            self._enter()
            return self._entries.get(key)

    async def scan(self, prefix: str) -> Scan:
        check_prefix(prefix)
        with self._state:
            self._enter()
            keys = sorted(key for key in self._entries if key.startswith(prefix))
            return Scan([self._entries[key] for key in keys], self._revision)

    async def transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        check_transaction(checks, writes)
        with self._state:
            self._enter()
            for write in writes:
                if write.lease and write.lease not in self._leases:
                    raise InvalidArgument(f"{write.key}: there is no lease {write.lease}")
            for check in checks:
                entry = self._entries.get(check.key)
                if (0 if entry is None else entry.revision) != check.revision:
                    return Outcome(False, self._revision)
            added = sum(write.value is not None and write.key not in self._entries for write in writes)
            if len(self._entries) + added > ENTRIES_MAX:
                raise InvalidArgument(f"over {ENTRIES_MAX} entries")
            changed = [w for w in writes if w.value is not None or w.key in self._entries]
            self._write(changed)
            outcome = Outcome(True, self._revision)
        if changed:
            self.wake()
        return outcome

    async def grant(self, ttl_s: float) -> int:
        check_ttl(ttl_s)
        with self._state:
            self._enter()
            if len(self._leases) >= LEASES_MAX:
                raise Busy(f"{LEASES_MAX} metadata leases are held", 1.0)
            self._lease_last += 1
            self._leases[self._lease_last] = _Lease(ttl_s, self._now() + ttl_s)
            return self._lease_last

    async def keep(self, lease: int) -> bool:
        with self._state:
            self._enter()
            held = self._leases.get(lease)
            if held is None:
                return False
            held.ends = self._now() + held.ttl_s
            return True

    async def revoke(self, lease: int) -> None:
        with self._state:
            self._enter()
            self._end(lease)
        self.wake()

    async def look(self, prefix: str, after: int, state: object, *, more: bool) -> Look | None:
        check_prefix(prefix)
        with self._state:
            self._enter()
            if state == self._revision and not more:
                return None
            if after < self._compacted or after > self._revision:
                raise Compacted(f"changes after revision {after} are not kept any more")
            if any(at > after and key.startswith(prefix) for key, at in self._destroyed.items()):
                raise Compacted(f"values after revision {after} were destroyed")
            first = bisect_right(self._changes, after, key=lambda change: change.revision)
            found: list[Change] = []
            for change in self._changes[first:]:
                if len(found) >= BATCH_MAX and change.revision != found[-1].revision:
                    return Look(found, found[-1].revision, self._revision)
                if change.key.startswith(prefix):
                    found.append(change)
            return Look(found, self._revision, self._revision)

    async def close(self) -> None:
        self.closed = True
        self.wake()

    def _enter(self) -> None:
        """Every call begins so, holding the lock."""
        if self.closed:
            raise Unavailable("the metadata engine was closed")
        now = self._now()
        for lease in [number for number, held in self._leases.items() if held.ends <= now]:
            self._end(lease)

    def _end(self, lease: int) -> None:
        held = self._leases.pop(lease, None)
        if held is not None:
            self._write([Write(key, None) for key in sorted(held.keys)])

    def _write(self, writes: Sequence[Write]) -> None:
        if not writes:
            return
        self._revision += 1
        for write in writes:
            was = self._leases.get(self._lease_of.pop(write.key, 0))
            if was is not None:
                was.keys.discard(write.key)
            if write.value is None:
                del self._entries[write.key]
                self._destroy(write.key)
            else:
                self._entries[write.key] = Entry(write.key, write.value, self._revision)
                if write.lease:
                    self._lease_of[write.key] = write.lease
                    self._leases[write.lease].keys.add(write.key)
            self._changes.append(Change(write.key, write.value, self._revision))
        over = len(self._changes) - self._changes_max
        if over > 0:
            self._compacted = self._changes[over - 1].revision
            keep = bisect_right(self._changes, self._compacted, key=lambda change: change.revision)
            del self._changes[:keep]
            self._destroyed = {key: at for key, at in self._destroyed.items() if at > self._compacted}

    def _destroy(self, key: str) -> None:
        """Forget what the log knows of a key that is removed."""
        last = max((c.revision for c in self._changes if c.key == key and c.value is not None), default=0)
        if last:
            self._changes = [c for c in self._changes if c.key != key or c.value is None]
            self._destroyed[key] = last
