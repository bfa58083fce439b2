"""What the parts of one block store share: clocks, counters, lives, sequences, work queues.

Owner of every piece of mutable state that more than one part touches.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mezzo.checksum import chunk_seed
from mezzo.protocol.messages import EventKind
from mezzo_server.blockstore.admission.admission import Admission
from mezzo_server.blockstore.api import Guard
from mezzo_server.blockstore.clock import Clock
from mezzo_server.blockstore.counters import counters
from mezzo_server.blockstore.erasure import Erasure
from mezzo_server.blockstore.expiry import Expiry
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.index import Index, NamespaceIndex
from mezzo_server.blockstore.io import Workers
from mezzo_server.blockstore.jobs import JobQueue
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.payloads import Payloads
from mezzo_server.blockstore.policies import ReclaimPolicy, policy
from mezzo_server.blockstore.policies.rewrites import BURST_SEGMENTS, RewriteBudget
from mezzo_server.blockstore.sealing import RUN_BYTES, Sealer, plain_length
from mezzo_server.blockstore.segment import Segment, life_of, number_of
from mezzo_server.blockstore.shares import Shares
from mezzo_server.blockstore.tasks import Event, Later
from mezzo_server.blockstore.tasks import Task as Coro
from mezzo_server.hot.slots import Slot, State
from mezzo_server.hot.tier import HotTier
from mezzo_server.staging import StagingPool

if TYPE_CHECKING:
    from mezzo_server.blockstore.device_log import DeviceLog
    from mezzo_server.blockstore.streams import Stream

T = TypeVar("T")


class Context(Payloads):
    """Shared state of one store. Owner: `BlockStore`."""

    def __init__(
        self,
        options: StoreOptions,
        workers: Workers,
        staging: StagingPool,
        now: Callable[[], float],
        entropy: Callable[[int], bytes],
        clock: Clock,
        ciphers: Workers | None = None,
    ) -> None:
        self.options = options
        self.workers = workers
        self.staging = staging
        self.now = now
        self.entropy = entropy
        self.policy: ReclaimPolicy = policy(options.policy)
        self.rewrites = RewriteBudget(options.write_amplification, 0.0)
        self.admission = Admission(options.admission, 0, lambda: 0, now)
        self.index = Index(options.namespaces_max)
        self.clock = clock
        """what deadlines of chunks are measured by"""
        self.erasure = Erasure(self)
        self.expiry = Expiry(self)
        self.streams: dict[Stream, None] = {}
        """those that are not finished, in the order in which they were opened"""
        self.logs: list[DeviceLog] = []
        self.hot: HotTier | None = None
        """chunks that are in memory as well"""
        self.lives: dict[int, Segment] = {}
        """segments that the index may point into"""
        self.shares = Shares()
        """what is known of the tenants"""
        self.trimmed: dict[bytes, set[int]] = {}
        """by tenant, lives that a restart could find chunks of its in that are none of the index, and not known one
        by one: it had too much, or nobody knew it at the start"""
        self.on_disk: set[int] = set()
        """lives whose header a restart could find"""
        self.next_sequence = 1
        self.next_life = 1
        self.later = Later()
        self.jobs = JobQueue(workers, options, now())
        self.ciphers = ciphers
        """what encrypts and decrypts large parts; None: the loop does"""
        self.cipher_jobs = None if ciphers is None else JobQueue(ciphers, options, now())
        self.job_queues = [queue for queue in (self.jobs, self.cipher_jobs) if queue is not None]
        self.guard: Guard | None = None
        """wants to know what leaves the index"""
        self.sealer = Sealer(entropy(RUN_BYTES))
        self.left_blocks = 0
        """of records that were written to devices that have left"""
        self.inline_left = options.inline_bytes
        self.inline_small = options.inline_bytes // 2
        """payload bytes that may still be worked on in this turn, in the loop"""
        self.counters = counters()
        self.failures: list[Exception] = []
        self.closing = False
        self.changes = 0
        """raised by whatever may let a reclaim gain space that could not before"""

    @property
    def all_workers(self) -> Sequence[Workers]:
        """All that run jobs."""
        return (self.workers,) if self.ciphers is None else (self.workers, self.ciphers)

    @property
    def in_flight(self) -> bool:
        """Whether devices or workers have something under way."""
        return any(log.device.in_flight for log in self.logs) or any(
            workers.in_flight for workers in self.all_workers
        )

    def begin_policy(self) -> None:
        """Logs and segments are known: tell the policy, and give reclaim its budget."""
        logs, capacity = self.logs, _capacity_bytes(self.logs)
        segment_bytes = max(log.superblock.segment_bytes for log in logs)
        self.rewrites = RewriteBudget(self.options.write_amplification, BURST_SEGMENTS * segment_bytes)
        self.admission = Admission(self.options.admission, capacity, self.written_bytes, self.now)
        found = [segment for log in logs for segment in log.segments.values()]
        self.policy.begin(capacity, sorted(found, key=lambda segment: segment.life), self.rewrites)

    def resized(self) -> None:
        """Devices came, left or grew: tell who reckons with the capacity."""
        capacity = _capacity_bytes([log for log in self.logs if log.takes_chunks])
        if capacity:
            self.policy.resized(capacity)
            self.admission.resize(capacity)

    def written_bytes(self) -> int:
        """Bytes of records written since the store was opened, to devices that have left too."""
        return (self.left_blocks + sum([log.written_blocks for log in self.logs])) * BLOCK_BYTES

    def draw_sequence(self) -> int:
        """A sequence for one put or delete."""
        self.next_sequence += 1
        return self.next_sequence - 1

    def draw_life(self) -> int:
        """A number for a segment's new life."""
        self.next_life += 1
        return self.next_life - 1

    def start(self, coroutine: Coroutine[Event[Any], None, object]) -> Coro:
        """Run background work. What it raises is kept for `BlockStore.pump` to raise."""
        return Coro(coroutine, self.failures.append)

    @property
    def segment_bytes_min(self) -> int:
        """Smallest segment of any device: what every record must fit into."""
        return min([log.superblock.segment_bytes for log in self.logs])

    def call(self, done: Callable[[T], None], outcome: T) -> None:
        """Answer a caller. What he raises is his fault: kept for `BlockStore.pump`, not let in here."""
        try:
            done(outcome)
        except Exception as error:
            self.failures.append(error)

    def log_for_tombstones(self) -> DeviceLog:
        """Where a tombstone goes that need not lie beside a copy: a device that stays, if any serves."""
        serving = [log for log in self.logs if log.fenced is None]
        return next((log for log in serving if log.takes_chunks), serving[0] if serving else self.logs[0])

    def still_there(self, log: DeviceLog) -> DeviceLog:
        """Where a tombstone goes that was meant for ``log``: elsewhere if it has left meanwhile."""
        return log if log in self.logs and not log.left else self.log_for_tombstones()

    def limbo(self) -> frozenset[int]:
        """Lives whose evicted chunks a restart could find again."""
        return frozenset().union(*(log.limbo for log in self.logs))

    def find(self, namespace: NamespaceIndex, key: bytes) -> tuple[Segment, int] | None:
        """Segment and entry number of a visible chunk, whose time is not over, on a device that serves."""
        location = namespace.get(key)
        if location is None:
            return None
        segment, number = self.lives[life_of(location)], number_of(location)
        if segment.log.fenced is not None or (segment.expires_ms and self.is_over(segment, number)):
            return None
        return segment, number

    def find_again(self, namespace: NamespaceIndex, key: bytes, sequence: int) -> tuple[Segment, int] | None:
        """`find` for who has found this very chunk before: where it lies now."""
        place = self.find(namespace, key)
        return place if place is not None and place[0].table.sequence[place[1]] == sequence else None

    def is_over(self, segment: Segment, number: int) -> bool:
        """Whether a chunk's deadline has come, whatever the index still says."""
        return 0 < segment.table.expiry_ms[number] <= self.clock.now_ms()

    def prefix(self, namespace: NamespaceIndex, keys: Sequence[bytes]) -> tuple[int, int]:
        """(how many keys from the first on are visible, their bytes): `find` for many, in one loop."""
        if self.sealer.without and namespace.scope.tenant in self.sealer.without:
            return 0, 0
        found = namespace.get_all(keys)
        first = found[0] if found else None
        if first is None:
            return 0, 0
        # All there, and put together, so one run of one segment's entries, as prefixes mostly are?
        last = first + len(found)
        run = found[-1] == last - 1 and found == list(range(first, last))
        locations: Sequence[int] = range(first, last)
        if not run:
            present = [location for location in found if location is not None]
            if len(present) < len(found):
                del present[found.index(None) :]
                last = present[-1] + 1
                run = last - first == len(present) and present == list(range(first, last))
            locations = present
        segment = self.lives[life_of(first)]
        now_ms = self.clock.now_ms() if segment.expires_ms or not run else 0
        all_last = not segment.expires_ms or segment.expires_ms > now_ms
        if run and segment.log.fenced is None and not segment.table.has_sealed and all_last:
            number = number_of(first)
            return len(locations), sum(segment.table.length[number : number + len(locations)])
        size, now_ms = 0, now_ms or self.clock.now_ms()
        for count, location in enumerate(locations):
            segment, number = self.lives[life_of(location)], number_of(location)
            if segment.log.fenced is not None or 0 < segment.table.expiry_ms[number] <= now_ms:
                return count, size
            size += plain_length(segment.table, number)
        return len(locations), size

    def forget(
        self,
        namespace: NamespaceIndex,
        key: bytes,
        segment: Segment,
        number: int,
        *,
        why: EventKind = EventKind.LOST,
        moves: bool = False,
    ) -> bool:
        """Make a chunk invisible if the index still has it at this place; ``why`` is told to who wants to know.

        It is hot no more, unless it ``moves``: the caller lets it appear elsewhere at once.
        """
        if namespace.get(key) != segment.base + number:
            return False
        namespace.remove(key)
        if self.hot is not None and not moves:
            slot = namespace.hot.get(key)
            if slot is not None:
                self.hot.drop(slot)
        segment.account(number, -1)
        pins = namespace.pins.get(key)
        if pins:
            segment.pinned_bytes -= segment.table.length[number]
        if namespace.events is not None and not moves:
            namespace.events.add(why, key, plain_length(segment.table, number))
        if self.guard is not None and not moves:
            self.guard.left(namespace.scope, key, why)
        return True

    def make_way(self, namespace: NamespaceIndex, key: bytes) -> None:
        """A key that `find` does not find is put anew: what the index still has of it goes.

        A copy on a fenced device is remembered; one whose time is over needs not be.
        """
        location = namespace.get(key)
        if location is not None:
            segment, number = self.lives[life_of(location)], number_of(location)
            if segment.log.fenced is None:
                self.expiry.end(namespace, segment, number)
            else:
                self.forget(namespace, key, segment, number)
                namespace.shade(key, segment.life)

    def appear(
        self, namespace: NamespaceIndex, key: bytes, segment: Segment, number: int, *, moves: bool = False
    ) -> None:
        """Make a chunk visible at a place; it ``moves`` if it was visible at another just now."""
        namespace.set(key, segment.base + number)
        segment.account(number, +1)
        if segment.table.expiry_ms[number]:
            self.expiry.watch(segment, number)
        if key in namespace.pins:
            segment.pinned_bytes += segment.table.length[number]
        if namespace.events is not None and not moves:
            namespace.events.add(EventKind.STORED, key, plain_length(segment.table, number))

    def ready_slot(self, namespace: NamespaceIndex, key: bytes, segment: Segment, number: int) -> Slot | None:
        """The slot that holds this visible chunk; None: it is not hot, or not yet."""
        slot = namespace.hot.get(key)
        if slot is None or slot.state is not State.READY or slot.sequence != segment.table.sequence[number]:
            return None
        return slot

    @staticmethod
    def seed(namespace: NamespaceIndex, key: bytes) -> int:
        """Seed of a chunk's checksums."""
        scope = namespace.scope
        return chunk_seed(scope.tenant + scope.namespace, key)


def _capacity_bytes(logs: Sequence[DeviceLog]) -> int:
    return sum([log.superblock.segment_count * log.superblock.segment_bytes for log in logs])
