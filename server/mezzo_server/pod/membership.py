"""A shard's membership of its pod: registered under a metadata lease, kept, lost, and taken anew. No I/O, no clock.

A shard serves from the moment at which it is registered and has read the plan *after* that, until `MARGIN` of its
lease before the lease could end: counted from when the last renewal that came through was **sent**, by a clock
that goes on while the machine sleeps.  So it has stopped when another can be given what it had.

- An engine that is away for less changes nothing: the plan that was known is followed, and nobody can write another.
- A loop that has given no sign of life since the last renewal gets no other: its slots pass to others.
- A lease that has ended is no end: nothing is served, and the shard registers anew.
- A plan that cannot be read (one of a later release) ends the membership: who cannot follow must not hold up others.
- What the engine refuses under a lease that it keeps is sent again, more and more slowly; the lease is not given up for it.
- Who finds another process registered under its id takes the id over if that was on the same node, where a lock on the
  devices tells that it is dead; else it waits until that one's lease has ended. Who was registered and finds
  another in its place (its store was copied) serves nothing.

Invariant: the record says an epoch only after the loop has said that it follows it (`followed`); `planning` makes
no further plan before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from mezzo.backoff import Backoff
from mezzo.errors import FormatError, InvalidArgument, MezzoError
from mezzo_server.metadata.engine import Change, Check, Entry, Outcome, Scan, Write
from mezzo_server.pod.parts import Use, UsedRow, encode_use, part_of
from mezzo_server.pod.plan_format import decode_plan
from mezzo_server.pod.records import PARTS, PLAN, ROSTER, MemberRecord, decode, encode, member_key, use_key
from mezzo_server.pod.standing import NEVER, NOTHING, Share, Situation
from mezzo_server.pod.steps import Commit, End, Grant, Keep, Look, Revoke, Step, Wait, Watch
from mezzo_server.quota.part import NEWCOMER, Part

KEEP = 1 / 9
"""Of a lease: between two renewals. 10 s of 90."""
MARGIN = 1 / 15
"""Of a lease: so long before it could end nothing is served any more. 6 s of 90; clocks that differ by a thousandth
need 0.1 s of it, the rest is for a loop that is held up between looking at its clock and sending its answer."""
WAIT_S_MIN, WAIT_S_MAX = 0.1, 2.0
"""between attempts at an engine that is away"""


class Membership:
    """A `Machine`. Owner of the lease and of the record of one shard."""

    def __init__(
        self, shard: bytes, record: MemberRecord, lease_s: float, random: Callable[[], float]
    ) -> None:
        """``record``: what is told of the shard; its epoch is written here."""
        self._shard = shard
        self._key = member_key(shard)
        self._told = record
        self._lease_s = lease_s
        self._backoff = Backoff(random, first_s=WAIT_S_MIN, max_s=WAIT_S_MAX)
        self._refused = Backoff(random, first_s=WAIT_S_MIN, max_s=WAIT_S_MAX)
        """of writes that the engine answers, and does not make"""
        self._lease = 0
        """0: none is held"""
        self._sent = NEVER
        """when the last renewal was sent that came through"""
        self._keep_at = NEVER
        self._heard = NEVER
        """when the loop last gave a sign of life"""
        self._stored: MemberRecord | None = None
        """our record, under our lease; None: we are not registered"""
        self._stored_revision = 0
        self._writing: MemberRecord | None = None
        self._known_revision: int | None = None
        """of whatever lies under our key; None: it is to be looked at"""
        self._registered_once = False
        self._followed = 0
        self._share = NOTHING
        self._share_revision = 0
        """of the plan that it is of"""
        self._part: Part = NEWCOMER
        self._part_revision = 0
        """of the parts that it is of"""
        self._use = Use()
        """what the loop enforces and uses"""
        self._use_stored: Use | None = None
        """under our lease; None: nothing, or nobody knows"""
        self._use_writing: Use | None = None
        self._current = False
        """the plan was read since we registered"""
        self._watching: int | None = None
        """the plan is watched from this revision on; None: it is to be read"""
        self._confirm = False
        self._back_at = NEVER
        """nothing is tried before"""
        self._unfit = False
        """the plan cannot be read"""
        self._retiring = False
        self._leaving = False
        self._ended = False
        self._waits_because = "it has not registered with its pod yet"
        self.reason = ""
        """why it is no member, if somebody must look after that; empty: all is well, or a matter of time"""
        self.failures = 0
        self.losses = 0
        self.plans_read = 0

    # -- between thread and loop

    @property
    def situation(self) -> Situation:
        """What the loop is to be told."""
        if self._leaving or self._unfit or self._stored is None or not self._current:
            why = "it stops" if self._leaving else self._waits_because
            return Situation(self._share, NEVER, why, self._part)
        if self._share.epoch < self._followed:
            why = "the metadata were restored, and have no later map yet"
            return Situation(self._share, NEVER, why, self._part)
        return Situation(self._share, self._sent + self._lease_s * (1 - MARGIN), "", self._part)

    def followed(self, epoch: int) -> None:
        """The loop acts by the map of this epoch, and never again by an earlier one."""
        self._followed = max(self._followed, epoch)

    def enforces(self, mark: bytes) -> None:
        """The loop enforces these parts, and never again earlier ones."""
        self._use = msgspec.structs.replace(self._use, mark=mark)

    def uses(self, rows: Sequence[tuple[bytes, int, int, int]]) -> None:
        """What is to be told of tenants: for each limit of one, points used and wanted."""
        self._use = msgspec.structs.replace(self._use, rows=tuple([UsedRow(*row) for row in rows]))

    def heard(self, now: float) -> None:
        """The loop gave a sign of life, which it is asked for after each renewal (`renewed_at`)."""
        self._heard = now

    @property
    def renewed_at(self) -> float:
        """When the last renewal was sent that came through."""
        return self._sent

    def describe(self, record: MemberRecord) -> None:
        """The shard is another: its capacity, its addresses."""
        self._told = record

    def retire(self) -> None:
        """Say that the shard is about to stop. It goes on serving, and its slots become others' (`handover`)."""
        self._retiring = True

    def leave(self) -> None:
        """Give the membership up. The loop serves nothing any more when this is called."""
        self._leaving = True

    # -- Machine

    @property
    def watch(self) -> Watch | None:
        """See `Machine`."""
        return None if self._watching is None else Watch(PLAN, self._watching)

    def next_step(self, now: float, wall_s: float) -> Step:
        """See `Machine`."""
        if self._leaving:
            return Revoke(self._lease) if self._lease and not self._ended else End()
        not_before = max(self._backoff.not_before, self._refused.not_before)
        if not self._unfit or not self._lease:
            not_before = max(not_before, self._back_at)
        if not_before > now:
            return Wait(not_before - now)
        if self._unfit:
            return Revoke(self._lease) if self._lease else Look(PLAN)
        if not self._lease:
            return Grant(self._lease_s)
        # A loop that hangs serves nobody: others are to have its slots, so its lease is left to end.
        keeps = self._heard >= self._sent
        if now >= self._keep_at and keeps:
            return Keep(self._lease)
        if self._known_revision is None:
            return Look(self._key)
        if self._stored is None:
            return self._write(self._known_revision, Write(ROSTER, self._key.encode()))
        if self._watching is None:
            return Look(PLAN)
        if self._confirm:
            read = [Check(PLAN, self._share_revision), Check(PARTS, self._part_revision)]
            return Commit([Check(self._key, self._stored_revision), *read], [])
        if self._record() != self._stored:
            return self._write(self._stored_revision)
        if self._use != self._use_stored:
            self._use_writing = self._use
            ours = Check(self._key, self._stored_revision)
            return Commit([ours], [Write(use_key(self._shard), encode_use(self._use), self._lease)])
        return Wait(self._keep_at - now if keeps else None)

    def granted(self, lease: int, sent: float, now: float) -> None:
        """See `Machine`."""
        self._backoff.succeeded()
        self._forget()
        self._lease = lease
        self._renewed(sent)

    def kept(self, alive: bool, sent: float, now: float) -> None:
        """See `Machine`."""
        self._backoff.succeeded()
        if alive:
            self._renewed(sent)
            self._confirm = self._stored is not None
        else:
            self._lost()

    def looked(self, scan: Scan, now: float) -> None:
        """See `Machine`."""
        self._backoff.succeeded()
        entries = {entry.key: entry for entry in scan.entries}
        if self._known_revision is None and self._lease:
            self._seen(entries.get(self._key), now)
            return
        for key in (PLAN, PARTS):
            entry = entries.get(key)
            self._take(key, None if entry is None else entry.value, 0 if entry is None else entry.revision)
        self._unfit = False
        if self._lease:
            self._watching = scan.revision
            self._current = True

    def changed(self, changes: Sequence[Change], now: float) -> None:
        """See `Machine`."""
        seen = self._watching
        if seen is None:
            return
        for change in changes:
            if change.revision > seen and change.key in (PLAN, PARTS):
                self._take(change.key, change.value, change.revision if change.value else 0)
                self._watching = change.revision

    def committed(self, outcome: Outcome, now: float) -> None:
        """See `Machine`."""
        self._backoff.succeeded()
        self._confirm = False
        writing, self._writing = self._writing, None
        use, self._use_writing = self._use_writing, None
        if not outcome.done:
            # The watch is behind, somebody took our place, or an earlier write was made and its answer lost.
            self._known_revision = self._watching = None
        elif writing is not None:
            self._stored, self._stored_revision = writing, outcome.revision
            self._known_revision = outcome.revision
            self._registered_once = True
            self._refused.succeeded()
        elif use is not None:
            self._use_stored = use
            self._refused.succeeded()

    def revoked(self, now: float) -> None:
        """See `Machine`."""
        self._backoff.succeeded()
        self._forget()
        self._ended = self._leaving

    def watch_ended(self, now: float) -> None:
        """See `Machine`."""
        self._watching = None

    def failed(self, error: MezzoError, now: float) -> None:
        """See `Machine`."""
        self.failures += 1
        self._writing = self._use_writing = self._use_stored = None
        self._watching = None
        if self._leaving:
            self._ended = True  # the lease ends by itself
        elif isinstance(error, FormatError):
            if self._unfit:
                self._backoff.failed(now)
            self._unfit = True
            self._waits_because = self.reason = str(error)
            self._back_at = now + self._lease_s * KEEP
        elif isinstance(error, InvalidArgument):
            # The lease has ended, or the engine does not take what was written: to renew it tells.
            self._known_revision, self._keep_at = None, NEVER
            self._refused.failed(now)
        else:
            self._known_revision = None  # what was being written may have been written
            self._backoff.failed(now)

    def numbers(self, now: float) -> Mapping[str, int | float]:
        """How it fares; docs/metrics.md lists them."""
        return {
            "pod_lease_age_s": max(0.0, now - self._sent) if self._lease else -1.0,
            "pod_failures": self.failures,
            "pod_memberships_lost": self.losses,
            "pod_plans_read": self.plans_read,
        }

    # -- within

    def _record(self) -> MemberRecord:
        return msgspec.structs.replace(self._told, epoch=self._followed, leaving=self._retiring)

    def _write(self, revision: int, *more: Write) -> Step:
        self._writing = self._record()
        own = Write(self._key, encode(self._writing), self._lease)
        return Commit([Check(self._key, revision)], [own, *more])

    def _renewed(self, sent: float) -> None:
        self._sent = sent
        self._keep_at = sent + self._lease_s * KEEP

    def _seen(self, entry: Entry | None, now: float) -> None:
        """What lies under our key."""
        other = None
        if entry is not None:
            try:
                other = decode(MemberRecord, entry.key, entry.value)
            except FormatError as error:
                self._stand_back(f"what is registered as this shard cannot be read: {error}", now)
                return
        if other is not None and other.incarnation != self._told.incarnation:
            if self._registered_once or other.node != self._told.node:
                self._stand_back(f"another process is registered as this shard, on node {other.node}", now)
                return
        elif other is not None and entry is not None and self._stored is not None:
            self._stored, self._stored_revision = other, entry.revision
        else:
            self._stored, self._current = None, False
        self._known_revision = 0 if entry is None else entry.revision
        self.reason = ""

    def _stand_back(self, reason: str, now: float) -> None:
        self._stored, self._current = None, False
        self._waits_because = self.reason = reason
        self._back_at = now + self._lease_s * KEEP

    def _take(self, key: str, value: bytes | None, revision: int) -> None:
        """The plan, or the parts, are these. Raises FormatError."""
        if key == PARTS:
            if value is None:
                self._part = NEWCOMER
            elif revision != self._part_revision:
                self._part = part_of(value, self._shard)
            self._part_revision = revision
            return
        if value is None:
            self._share = NOTHING
        elif revision != self._share_revision:
            self._share = Share.of(decode_plan(value).pod_map, self._shard, self._share)
            self.plans_read += 1
        self._share_revision = revision

    def _lost(self) -> None:
        self.losses += bool(self._lease)
        self._waits_because = "its membership of the pod had ended"
        self._forget()

    def _forget(self) -> None:
        self._lease, self._sent, self._keep_at = 0, NEVER, NEVER
        self._stored, self._known_revision, self._use_stored = None, None, None
        self._watching, self._current, self._confirm = None, False, False
