"""Which chunks a shard pulls from others, when, and how fast: decided here, done by `shard.puller`. No I/O, no clock.

A chunk is *wanted* when a read missed it that a former owner may have (`Why.READ`), or when this shard is to have a
second copy (`Why.COPY`).  Nobody waits for it: what was asked for was a miss, and is one until the chunk has come.

- Bounded: so many keys in the queue (one tenant has half of it), so many pulls under way, so many bytes and keys a second.
  Over the first a key is dropped; a key that is asked for again is wanted again.
- Fair: tenants take turns, and so do the sources of each.
- A source that failed is left alone for a while, longer each time, and has little of the queue: what waits for it holds
  up nothing that others have.
- A delete is final: the key is not pulled for `FORGET_S` afterwards, and what is under way is not committed.  If a
  tenant deletes so many that they cannot be told apart, nothing of its is pulled for that time.
- What the source does not have is not asked for again for `ABSENT_S`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from mezzo.backoff import Backoff
from mezzo_server.blockstore.api import Scope
from mezzo_server.pod.refusals import Refusals
from mezzo_server.quota.bucket import Bucket

if TYPE_CHECKING:
    from mezzo_server.pod.provenance import Tenure

QUEUE_KEYS_MAX = 8192
BATCH_KEYS_MAX = 32
BATCH_LOOKED_MAX = 256
"""Keys that wait for one source that are looked at for those that go with the first."""
FAILED_KEYS_MAX = 8 * BATCH_KEYS_MAX
"""Keys of one tenant that may wait for a source that failed last."""
KEYS_PER_S = 5000.0
"""Keys that sources are asked for, at most: 15 us of the loop for each, so less than a tenth of it, however many are read
that nobody has."""
PULLS_MAX = 4
"""Under way at a time."""
PULLS_OF_SOURCE_MAX = 2
LATE_S = 30.0
"""What has waited for so long is dropped: who wanted it has computed it by now."""
FORGET_S = 300.0
"""Longer than any call may still be under way that deletes a chunk here and at its former owner."""
FORGOTTEN_KEYS_MAX = 32768
ABSENT_S = 60.0
ABSENT_KEYS_MAX = 16384
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.1, 10.0
BANDWIDTH_S_MAX = 20.0
"""Who would wait longer for bandwidth is dropped."""
BURST_S = 0.5
"""Of the rate, that may be used at once."""
SOURCES_MAX = 1024
"""Sources whose failures are remembered."""

KeyId = tuple[bytes, bytes, bytes]
"""Tenant, namespace and key."""


class Why(StrEnum):
    """What a chunk is wanted for."""

    READ = "read"
    """a read missed it, and the slot's former owner may have it"""
    COPY = "copy"
    """this shard is to have a second copy"""
    POPULAR = "popular"
    """this shard is to have a second copy for a while, since the chunk is got often"""


class Drop(StrEnum):
    """Why a chunk that was wanted does not come."""

    FULL = "full"
    """too many are wanted already"""
    LATE = "late"
    """it waited too long"""
    ABSENT = "absent"
    """the source does not have it"""
    THERE = "there"
    """somebody put it meanwhile"""
    SAME = "same"
    """what was here already is the same, and may be given from now on"""
    DELETED = "deleted"
    """it was deleted here, just now or lately"""
    ERASED = "erased"
    """its namespace or tenant was erased or deleted"""
    LOST = "lost"
    """this shard is not to have it any more, or serves nothing"""
    QUOTA = "quota"
    """the tenant has no room, or no rate, left for it"""
    DECLINED = "declined"
    """not worth the device's writes"""
    FAILED = "failed"
    """the source was not reached, refused, or sent something else; or it could not be stored"""


NOTHING_MOVED: Mapping[str, int | float] = {
    **{f"pod_moved_chunks_{why}": 0 for why in Why},
    **{f"pod_moved_bytes_{why}": 0 for why in Why},
    **{f"pod_moves_dropped_{drop}": 0 for drop in Drop},
    **dict.fromkeys(
        (
            "pod_moves_wanted",
            "pod_moves_queued",
            "pod_moves_in_flight",
            "pod_moves_wait_us",
            "pod_moves_forgotten",
            "pod_pulled_chunks",
            "pod_pulled_bytes",
        ),
        0,
    ),
}
"""The numbers of a shard to which nothing moved, and from which nothing did."""


class Wanted:
    """One chunk that is wanted. Made by `Moves.want`, and its own until `Moves.settled`."""

    __slots__ = ("_cancelled", "key", "lives_ms", "scope", "since", "source", "tenure", "why")

    def __init__(
        self, scope: Scope, key: bytes, source: bytes, why: Why, since: float, lives_ms: int = 0
    ) -> None:
        self.scope = scope
        """with the generations of when it was wanted"""
        self.key = key
        self.source = source
        """the shard to pull it from"""
        self.why = why
        self.since = since
        self.lives_ms = lives_ms
        """and is the first to go; 0: as at the source"""
        self.tenure: Tenure | None = None
        """in which the source is asked for it; None: it is not for a second copy"""
        self._cancelled: Drop | None = None

    def __repr__(self) -> str:
        return f"<Wanted {self.key.hex()} of {self.source.hex()[:8]} for {self.why}>"

    @property
    def id(self) -> KeyId:
        """Which chunk."""
        return self.scope.tenant, self.scope.namespace, self.key


class Pull:
    """Chunks of one namespace that are pulled from one source together."""

    __slots__ = ("scope", "source", "wanted")

    def __init__(self, source: bytes, scope: Scope, wanted: Sequence[Wanted]) -> None:
        self.source = source
        self.scope = scope
        self.wanted = tuple(wanted)


class Moves:
    """Owner of what is wanted, of what is refused, and of the bandwidth. Used by one thread."""

    def __init__(
        self,
        bytes_per_s: float,
        random: Callable[[], float],
        now: float,
        *,
        queue_keys_max: int = QUEUE_KEYS_MAX,
        forgotten_keys_max: int = FORGOTTEN_KEYS_MAX,
    ) -> None:
        self._random = random
        self._bucket = Bucket(bytes_per_s, max(1.0, bytes_per_s * BURST_S), now)
        self._asked = Bucket(KEYS_PER_S, KEYS_PER_S * BURST_S, now)
        self._queue_keys_max = queue_keys_max
        self._queues: OrderedDict[bytes, OrderedDict[bytes, deque[Wanted]]] = OrderedDict()
        """by tenant and source; the first has its turn. None is empty"""
        self._queued_of: dict[bytes, int] = {}
        """keys by tenant"""
        self._queued_from: dict[bytes, int] = {}
        """keys by source"""
        self._known: dict[KeyId, Wanted] = {}
        """wanted or under way"""
        self._queued = 0
        self._pulls: dict[bytes, int] = {}
        """how many are under way, by source"""
        self._under_way: dict[Pull, None] = {}
        self._sources: dict[bytes, Backoff] = {}
        """those that failed last"""
        self._forgotten = Refusals(FORGET_S, forgotten_keys_max)
        self._absent = Refusals(ABSENT_S, ABSENT_KEYS_MAX)
        self._numbers = dict(NOTHING_MOVED)

    # -- what is wanted

    def want(
        self,
        scope: Scope,
        keys: Iterable[bytes],
        source: bytes,
        why: Why,
        now: float,
        *,
        told: bool = False,
        lives_ms: int = 0,
    ) -> int:
        """Chunks of a scope are to be pulled from ``source``; how many of them are wanted from now on.

        Those that are wanted already, were deleted lately or are not there are left out; ``told``: the source says
        that they are.  ``lives_ms``: as of `Wanted`.
        """
        taken = 0
        for key in keys:
            wanted = Wanted(scope, key, source, why, now, lives_ms)
            name, tenant = wanted.id, scope.tenant
            if name in self._known:
                continue
            if self._forgotten.refuses(tenant, name, now):
                self._drop(Drop.DELETED)
                continue
            # Were all refused, then for want of memory only: one question in vain is no harm.
            refused = not told and self._absent.refuses(tenant, (source, *name), now)
            if refused and not self._absent.all_refused(tenant, now):
                continue
            if not self._queue(wanted):
                self._drop(Drop.FULL)
                continue
            self._known[name] = wanted
            taken += 1
        self._numbers["pod_moves_wanted"] += taken
        return taken

    def next(self, now: float) -> Pull | None:
        """What is to be pulled now; None: nothing, see `wait_s`. To be ended with `ended`."""
        if len(self._under_way) >= PULLS_MAX or self._asked.wait_s(BATCH_KEYS_MAX, now) > 0:
            return None
        if not any(self._ready(source, now) for source in self._queued_from):
            return None
        for tenant in tuple(self._queues):
            pull = self._next_of(tenant, now)
            if pull is not None:
                self._pulls[pull.source] = self._pulls.get(pull.source, 0) + 1
                self._under_way[pull] = None
                self._asked.take(len(pull.wanted), now)
                return pull
        return None

    def wait_s(self, now: float) -> float | None:
        """When to ask `next` again although nothing has happened, seconds; None: not before something does."""
        if not self._queued or len(self._under_way) >= PULLS_MAX:
            return None
        asked_s = self._asked.wait_s(BATCH_KEYS_MAX, now)
        if asked_s > 0:
            return asked_s
        waits = [backoff.not_before - now for backoff in self._sources.values() if backoff.not_before > now]
        return min([*waits, LATE_S])

    def ended(self, pull: Pull, now: float, *, failed: bool) -> bool:
        """A pull has ended; each of its chunks was `settled`. ``failed``: the source was not reached, or refused.

        True: it is the first failure of this source after it was well, or was not known: worth a word.
        """
        self._under_way.pop(pull, None)
        left = self._pulls.pop(pull.source) - 1
        if left:
            self._pulls[pull.source] = left
        if not failed:
            self._sources.pop(pull.source, None)
            return False
        backoff = self._sources.get(pull.source)
        first = backoff is None
        if backoff is None:
            if len(self._sources) >= SOURCES_MAX:
                self._sources.pop(next(iter(self._sources)))
            backoff = Backoff(self._random, first_s=BACKOFF_S_MIN, max_s=BACKOFF_S_MAX)
            self._sources[pull.source] = backoff
        backoff.failed(now)
        return first

    def settled(self, wanted: Wanted, outcome: Drop | int, now: float) -> None:
        """What became of one chunk of a pull: bytes that came, or why none did."""
        if self._known.get(wanted.id) is wanted:
            del self._known[wanted.id]
        if isinstance(outcome, Drop):
            self._drop(outcome)
            if outcome is Drop.ABSENT:
                self._absent.note(wanted.scope.tenant, (wanted.source, *wanted.id), now)
            return
        self._numbers[f"pod_moved_chunks_{wanted.why}"] += 1
        self._numbers[f"pod_moved_bytes_{wanted.why}"] += outcome

    # -- how fast

    def take(self, nbytes: int, now: float) -> float | None:
        """Bytes are about to be moved: seconds to wait before. None: more than `BANDWIDTH_S_MAX`, and none are taken."""
        wait_s = self._bucket.wait_s(nbytes, now)
        if wait_s > BANDWIDTH_S_MAX:
            return None
        self._bucket.take(nbytes, now)
        self._numbers["pod_moves_wait_us"] += round(wait_s * 1e6)
        return wait_s

    def give_back(self, nbytes: int, now: float) -> None:
        """They were not moved."""
        self._bucket.take(-nbytes, now)

    # -- what ends it

    def objection(self, wanted: Wanted, now: float) -> Drop | None:
        """Why a chunk must not be committed now, as far as is known here; None: nothing is against it."""
        if wanted._cancelled is not None:
            return wanted._cancelled
        forgotten = self._forgotten.refuses(wanted.scope.tenant, wanted.id, now)
        if forgotten or self._known.get(wanted.id) is not wanted:
            return Drop.DELETED
        return None

    def forget(self, scope: Scope, keys: Iterable[bytes], now: float) -> None:
        """These are being deleted here: nothing that comes from another shard may bring them back."""
        for key in keys:
            name = (scope.tenant, scope.namespace, key)
            self._forgotten.note(scope.tenant, name, now)
            wanted = self._known.get(name)
            if wanted is not None:
                wanted._cancelled = Drop.DELETED

    def withdraw(self, scope: Scope, keys: Iterable[bytes]) -> None:
        """These are at their source no more: what is under way is not to be committed, what is wanted later may come."""
        names = {(scope.tenant, scope.namespace, key) for key in keys}
        self.cancel(Drop.ABSENT, lambda wanted: wanted.id in names)

    def cancel(self, why: Drop, concerns: Callable[[Wanted], bool]) -> None:
        """None of those under way that ``concerns`` says yes to is to be committed, whatever is true later.

        Those that are queued are looked at when it is their turn: there may be thousands.
        """
        for pull in self._under_way:
            for wanted in pull.wanted:
                if wanted._cancelled is None and concerns(wanted):
                    wanted._cancelled = why

    def sent(self, chunks: int, nbytes: int) -> None:
        """Others pulled so many from here."""
        self._numbers["pod_pulled_chunks"] += chunks
        self._numbers["pod_pulled_bytes"] += nbytes

    def numbers(self) -> Mapping[str, int | float]:
        """How it fares; docs/metrics.md lists them."""
        return {
            **self._numbers,
            "pod_moves_queued": self._queued,
            "pod_moves_in_flight": len(self._known) - self._queued,
            "pod_moves_forgotten": len(self._forgotten),
        }

    # -- within

    def _drop(self, why: Drop) -> None:
        self._numbers[f"pod_moves_dropped_{why}"] += 1

    def _queue(self, wanted: Wanted) -> bool:
        """Let it wait for its turn; whether there is room for it."""
        tenant, source = wanted.scope.tenant, wanted.source
        queued = self._queued_of.get(tenant, 0)
        if self._queued >= self._queue_keys_max or queued >= self._queue_keys_max // 2:
            return False
        lines = self._queues.get(tenant) or OrderedDict()
        line = lines.get(source) or deque()
        if len(line) >= FAILED_KEYS_MAX and source in self._sources:
            return False
        line.append(wanted)
        lines[source] = line
        self._queues[tenant] = lines
        self._queued += 1
        self._queued_of[tenant] = queued + 1
        self._queued_from[source] = self._queued_from.get(source, 0) + 1
        return True

    def _unqueued(self, tenant: bytes, source: bytes, count: int) -> None:
        """So many do not wait any more."""
        self._queued -= count
        for counts, name in ((self._queued_of, tenant), (self._queued_from, source)):
            counts[name] -= count
            if not counts[name]:
                del counts[name]

    def _leave(self, wanted: Wanted, why: Drop) -> None:
        """One that was queued is not wanted any more."""
        self._unqueued(wanted.scope.tenant, wanted.source, 1)
        del self._known[wanted.id]
        self._drop(why)

    def _drop_late(self, line: deque[Wanted], now: float) -> None:
        while line and (line[0]._cancelled is not None or now - line[0].since >= LATE_S):
            wanted = line.popleft()
            self._leave(wanted, wanted._cancelled or Drop.LATE)

    def _ready(self, source: bytes, now: float) -> bool:
        backoff = self._sources.get(source)
        if backoff is not None and now < backoff.not_before:
            return False
        return self._pulls.get(source, 0) < (PULLS_OF_SOURCE_MAX if backoff is None else 1)

    def _next_of(self, tenant: bytes, now: float) -> Pull | None:
        """Of the first of a tenant's sources that is ready; the tenant, and this source, are the last from then on."""
        lines, pull = self._queues[tenant], None
        for source in tuple(lines):
            line = lines[source]
            self._drop_late(line, now)
            if line and self._ready(source, now):
                pull = self._batch(line)
            if not line:
                del lines[source]
            elif pull is not None:
                lines.move_to_end(source)
            if pull is not None:
                break
        if not lines:
            del self._queues[tenant]
        elif pull is not None:
            self._queues.move_to_end(tenant)
        return pull

    def _batch(self, line: deque[Wanted]) -> Pull | None:
        """The first that waits for a source, and others of its scope."""
        chosen: list[Wanted] = []
        passed: list[Wanted] = []
        for _ in range(min(len(line), BATCH_LOOKED_MAX)):
            wanted = line.popleft()
            if wanted._cancelled is not None:
                self._leave(wanted, wanted._cancelled)
            elif chosen and wanted.scope != chosen[0].scope:
                passed.append(wanted)
            else:
                chosen.append(wanted)
                if len(chosen) == BATCH_KEYS_MAX:
                    break
        line.extendleft(reversed(passed))
        if not chosen:
            return None
        first = chosen[0]
        self._unqueued(first.scope.tenant, first.source, len(chosen))
        return Pull(first.source, first.scope, chosen)
