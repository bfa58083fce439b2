"""The logs of all namespaces that somebody reads. No I/O, no clock.

A log exists from the first question about its namespace until nobody has asked for ``idle_s``; a namespace
that nobody reads has none, and costs nothing but the look whether it has.  The memory of all logs together
is bounded: each gets an equal share, and what it has beyond that when shares become smaller goes by and by.  No tenant has more than half of the logs, or of the places to wait.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable

from mezzo.errors import Busy
from mezzo_server.blockstore.api import EventSink, Scope
from mezzo_server.events.log import EventLog
from mezzo_server.quota.account import half

SHARES_MIN = 4
"""A log gets at most this part of all the memory, so that the first few are not cut down by the next one."""
SWEEP_S = 1.0
TRIM_STEP = 2048
"""Events given up in one turn when the logs' shares have become smaller: half a millisecond."""


class EventHub:
    """Logs by namespace. Owner of them, and of the count of who waits."""

    def __init__(
        self,
        watch: Callable[[Scope, EventSink | None], None],
        *,
        incarnation: bytes,
        events_max: int,
        bytes_max: int,
        logs_max: int,
        readers_max: int,
        idle_s: float,
        now: Callable[[], float],
    ) -> None:
        """``watch`` has the store tell a namespace's events to a log from now on, or to nobody."""
        self._watch = watch
        self._incarnation = incarnation
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._logs_max = logs_max
        self._readers_max = readers_max
        self._idle_s = idle_s
        self._now = now
        self._logs: dict[Scope, EventLog] = {}
        self._drawn = 0
        self._readers: Counter[bytes] = Counter()
        self._swept_at = now()
        self._shrinking: list[EventLog] = []
        """logs that may have more than their share, since that became smaller"""
        self.gaps = 0
        """answers that had to tell of a gap other than at a reader's start"""

    def __len__(self) -> int:
        """Namespaces with a log."""
        return len(self._logs)

    @property
    def readers(self) -> int:
        """Requests that wait for an event."""
        return self._readers.total()

    @property
    def bytes_kept(self) -> int:
        """Memory of all logs, about."""
        return sum(log.bytes_kept for log in self._logs.values())

    def log(self, scope: Scope) -> EventLog:
        """The log of a namespace, begun now if there was none.

        Raises:
            Busy: too many namespaces are read, of all tenants or of this one.
        """
        now = self._now()
        log = self._logs.get(scope)
        if log is not None and log.over:
            self.close(scope)
            log = None
        if log is None:
            self._check_room(scope.tenant)
            self._drawn += 1
            name = hashlib.blake2b(self._incarnation + self._drawn.to_bytes(8, "big"), digest_size=16)
            log = EventLog(name.digest(), events_max=self._events_max, bytes_max=0, now=now)
            self._logs[scope] = log
            self._share()
            self._watch(scope, log)
        log.read_at = now
        return log

    def begin_waiting(self, tenant: bytes) -> None:
        """One more request waits. Busy if too many do, of all tenants or of this one."""
        if self.readers >= self._readers_max or self._readers[tenant] >= half(self._readers_max):
            raise Busy(
                "too many requests wait for events (events_readers_max, half of it for one tenant)", 1.0
            )
        self._readers[tenant] += 1

    def end_waiting(self, tenant: bytes) -> None:
        """Undo `begin_waiting`."""
        self._readers[tenant] -= 1
        if not self._readers[tenant]:
            del self._readers[tenant]

    def close(self, scope: Scope) -> None:
        """Keep nothing for it any more: whoever reads it is told of a gap."""
        log = self._logs.pop(scope, None)
        if log is not None:
            self._watch(scope, None)
            log.wake()
            self._share()

    def tick(self) -> None:
        """Give up what is over the logs' shares, some of it at a time, and the logs that nobody has read for long."""
        left = TRIM_STEP
        while self._shrinking:
            left -= self._shrinking[-1].trim(left)
            if not left:
                break
            self._shrinking.pop()
        now = self._now()
        if now - self._swept_at < SWEEP_S:
            return
        self._swept_at = now
        for scope, log in list(self._logs.items()):
            if log.over or (not log.waiting and now - log.read_at >= self._idle_s):
                self.close(scope)

    def _check_room(self, tenant: bytes) -> None:
        own = sum(scope.tenant == tenant for scope in self._logs)
        if len(self._logs) >= self._logs_max or own >= half(self._logs_max):
            raise Busy(
                "the events of too many namespaces are read (events_namespaces_max, half of it for one tenant)",
                1.0,
            )

    def _share(self) -> None:
        share = self._bytes_max // max(SHARES_MIN, len(self._logs))
        for log in self._logs.values():
            log.bytes_max = share
        self._shrinking = [log for log in self._logs.values() if log.bytes_kept > share]
