"""Limits of a simulated shard, looked at after each of its steps: nothing has more than it may, at any moment.

Space on the device, memory for what is in transit, bytes of puts that wait, leases, what is to be moved here, what is
remembered so that it is not: each has a number that it never exceeds.  Those of one connection (its requests, its part
of the memory, what it has to send) are looked at whenever something was received or sent there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mezzo_server.blockstore.lifetime import open_max
from mezzo_server.pod.moving import ABSENT_KEYS_MAX, BATCH_KEYS_MAX, PULLS_MAX, SOURCES_MAX
from mezzo_server.testing.simulation.violation import Violation

if TYPE_CHECKING:
    from mezzo_server.pod.moving import Moves
    from mezzo_server.shard.service import Service
    from mezzo_server.shard.session import Session

OTHER_OPEN_MAX = 2
"""Segments open for survivors and for tombstones: one each."""


class Caps:
    """Of one life of a shard."""

    def __init__(
        self, name: str, service: Service, moves: Moves, queue_keys_max: int, forgotten_max: int
    ) -> None:
        """``queue_keys_max`` and ``forgotten_max``: as `Moves` was told."""
        self._name = name
        self._leases = service.leases
        self._limits = service.limits
        self._staging = service.staging
        self._store_staging = service.store.staging
        self._puts = service.store._puts
        self._puts_max = service.store._context.options.waiting_bytes_max
        log = self._log = service.store._context.logs[0]
        self._segments_max = log.superblock.segment_count
        self._open_max = open_max(log) + OTHER_OPEN_MAX
        self._sessions = service.sessions
        self._moves = moves
        self._copies = service.copies
        self._parts = (
            self._leases, self._staging, self._store_staging, log, moves, self._puts, service.copies
        )  # fmt: skip
        self._queue_max = queue_keys_max
        self._known_max = queue_keys_max + PULLS_MAX * BATCH_KEYS_MAX
        self._forgotten_max = forgotten_max

    def check(self) -> None:
        """Raises Violation. Called after each step, so no more than comparisons; `each` has their names."""
        leases, staging, store_staging, log, moves, puts, copies = self._parts
        if (
            len(log.segments) + len(log.free) > self._segments_max
            or len(log.open) > self._open_max
            or (puts.waiting_bytes > self._puts_max and puts.in_flight > 1)
            or staging._waiting > staging.waiting_max
            or store_staging._waiting > store_staging.waiting_max
            or leases.bytes_leased > leases.bytes_max
            or leases.chunks_leased > leases.chunks_max
            or len(leases._leases) + len(leases._overdue) > leases.leases_max
            or len(self._sessions) > self._limits.connections_max
            or moves._queued > self._queue_max
            or (moves._queued > self._queue_max // 2 and self._queued_most() > self._queue_max // 2)
            or len(moves._known) > self._known_max
            or len(moves._under_way) > PULLS_MAX
            or len(moves._forgotten._order) > self._forgotten_max
            or len(moves._absent._order) > ABSENT_KEYS_MAX
            or len(moves._sources) > SOURCES_MAX
            or (copies is not None and copies._kept_bytes > copies._popular_bytes)
        ):
            self._tell()

    def each(self) -> Iterator[tuple[str, int, int]]:
        """What is limited, how much there is, and how much there may be."""
        leases, staging, store_staging = self._leases, self._staging, self._store_staging
        log, moves, puts, copies = self._log, self._moves, self._puts, self._copies
        yield "segments of the device", len(log.segments) + len(log.free), self._segments_max
        yield "open segments", len(log.open), self._open_max
        # A put is taken, however long it is, if no other waits.
        yield "bytes of puts that wait", puts.waiting_bytes * (puts.in_flight > 1), self._puts_max
        yield "requests that wait for memory", staging._waiting, staging.waiting_max
        yield "of the store's that wait for memory", store_staging._waiting, store_staging.waiting_max
        yield "leased bytes", leases.bytes_leased, leases.bytes_max
        yield "leased chunks", leases.chunks_leased, leases.chunks_max
        yield "leases", len(leases._leases) + len(leases._overdue), leases.leases_max
        yield "sessions", len(self._sessions), self._limits.connections_max
        yield "keys that are to be moved", moves._queued, self._queue_max
        yield "keys of one tenant that are to be moved", self._queued_most(), self._queue_max // 2
        yield "keys that are to be moved or are moving", len(moves._known), self._known_max
        yield "pulls", len(moves._under_way), PULLS_MAX
        yield "deleted keys that are remembered", len(moves._forgotten._order), self._forgotten_max
        yield "absent keys that are remembered", len(moves._absent._order), ABSENT_KEYS_MAX
        yield "sources that failed", len(moves._sources), SOURCES_MAX
        if copies is not None:
            yield "bytes of popular copies", copies._kept_bytes, copies._popular_bytes

    def _queued_most(self) -> int:
        return max(self._moves._queued_of.values(), default=0)

    def _tell(self) -> None:
        for what, count, most in self.each():
            if count > most:
                raise Violation(f"{self._name} has {count} {what}; {most} are the most")
        raise Violation(f"{self._name} has more of something than it may")


def check_session(name: str, session: Session) -> None:
    """What one connection has. Raises Violation."""
    limits, share = session.limits, session.share
    if len(session.requests) > limits.requests_max:
        raise Violation(f"{name}: {len(session.requests)} requests; {limits.requests_max} are the most")
    if share.bytes_held > share.bytes_max:
        raise Violation(f"{name}: {share.bytes_held} bytes of memory; {share.bytes_max} are the most")
    if session._window_used > limits.in_flight_bytes_max:
        raise Violation(
            f"{name}: {session._window_used} bytes in flight; {limits.in_flight_bytes_max} are the most"
        )
