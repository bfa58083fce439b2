"""A store on faulty devices, the model beside it, and seeded traffic: no threads, no clock, no sleeps.

    world.run(200)            operations in flight, completions in any order, checks after each step
    world.settle()            nothing under way; every counter is recomputed
    world.restart(cut=...)    the process or the power ends at this moment; recovery; all is compared

The operations are those of `Traffic`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.devices.faults import Fault
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.blockstore.format.superblock import DATA_OFFSET
from mezzo_server.blockstore.io import Job
from mezzo_server.blockstore.options import Durability, StoreOptions
from mezzo_server.blockstore.segment import Purpose, State
from mezzo_server.blockstore.shares import Shares
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.hot.arena import AnonymousArena
from mezzo_server.hot.tier import HotTier
from mezzo_server.staging import StagingPool
from mezzo_server.workers import InlineWorkers
from tests.simulation import audit
from tests.simulation.model import Fate, Key
from tests.simulation.traffic import Traffic

SEGMENT_BYTES = 256 << 10
LENGTHS = (1, 100, 4095, 4096, 4097, 8192, 12_000, 20_000, 40_000, 65_536, 150_001)
CHURN_LENGTHS = (4097, 40_000, 65_536, 100_000, 150_001)
OPTIONS = StoreOptions(
    segment_bytes=SEGMENT_BYTES,
    chunk_bytes_max=1 << 20,
    staging_bytes=1 << 20,
    put_wait_s=2.0,
    inline_bytes=8 << 10,
    scrub_bytes_per_s=0,
    open_segments_max=3,
)
STEPS_TO_REST = 20_000
JOBS_BYTES = 40_000
"""given to worker threads at a time in some worlds, and one job"""


class ShuffledWorkers(InlineWorkers):
    """Jobs come back in a seeded order, some of them late."""

    def __init__(self, randomness: random.Random) -> None:
        super().__init__()
        self._random = randomness

    def reap(self) -> list[Job]:
        if not self._ended:
            return []
        count = self._random.randint(1, len(self._ended))
        chosen = self._random.sample(self._ended, count)
        self._ended = [job for job in self._ended if job not in chosen]
        return chosen


class Capped(Shares):
    """Every tenant may have so much."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes

    def capacity_bytes_max(self, tenant: bytes) -> int:
        return self._capacity_bytes


class World(Traffic):
    """See the module. ``perfect``: devices neither lie nor fail, so what was acknowledged is binding."""

    def __init__(
        self,
        seed: int,
        *,
        devices: int = 1,
        segments: int = 10,
        options: StoreOptions = OPTIONS,
        faults: Iterable[Fault] = (),
        keys: int = 40,
        tenants: int = 2,
        lengths: Sequence[int] = LENGTHS,
        perfect: bool = True,
        deletes: bool = True,
        churn: bool = False,
        hot_bytes: int | None = None,
        capacity_bytes: int = 0,
    ) -> None:
        """``churn``: large chunks and many deletes, so that reclaim never rests.

        ``hot_bytes``: of the hot tier; by default every second seed has a small one.  Every third seed encrypts
        the chunks of one tenant.

        ``capacity_bytes``: the most that each tenant may have; 0: no limit.

        ``deletes`` are binding: what holds tombstones neither lies nor loses them.
        """
        self.seed = seed
        self.options = options
        size = DATA_OFFSET + segments * SEGMENT_BYTES
        self.devices = [
            FaultyDevice(size, seed=seed * 31 + n, faults=faults, name=f"d{n}") for n in range(devices)
        ]
        scopes = [Scope(bytes([1 + n % tenants]) * 16, bytes([n]) * 16) for n in range(tenants + 1)]
        randomness = random.Random(seed)
        chosen = [Key(randomness.choice(scopes), b"key-%d" % n) for n in range(keys)]
        super().__init__(randomness, chosen, perfect=perfect, binding_deletes=deletes)
        self.lengths = lengths
        self.hot_bytes = hot_bytes if hot_bytes is not None else (1 << 20) * (seed % 2)
        self.tenant_keys = {bytes([1]) * 16: self.random.randbytes(32)} if seed % 3 == 1 else {}
        self.capacity_bytes = capacity_bytes
        self.found_bytes = 0
        """that a tenant had at most after the last start, which finds again what was trimmed"""
        self.power_failed = False
        self.weights = {
            self.put: 30,
            self.get: 20,
            self.stream: 6,
            self.delete: 10,
            self.pin: 4,
            self.unpin: 4,
            self.look: 10,
            self.abandon: 2,
            self.pass_time: 10,
            self.erase: 1,
            self.haunt: 2,
        }
        if self.hot_bytes:
            self.weights.update({self.hold: 6, self.let_go: 6, self.warm: 2, self.rot: 0 if perfect else 3})
        if churn:
            self.lengths = CHURN_LENGTHS
            self.weights.update({self.put: 40, self.delete: 25, self.get: 8})
        self.open()

    def open(self) -> None:
        self.workers = ShuffledWorkers(self.random)
        ciphers = ShuffledWorkers(self.random)
        self.staging = StagingPool(self.options.staging_bytes, now=lambda: self.time)
        self.hot = None
        if self.hot_bytes:
            self.hot = HotTier(
                bytes_max=self.hot_bytes,
                arena_bytes=256 << 10,
                new_arena=AnonymousArena,
                fill_puts=self.seed % 4 == 1,
            )
        self.held.clear()
        self.store = BlockStore.open(
            self.devices,
            self.workers,
            self.staging,
            self.options,
            now=lambda: self.time,
            entropy=self.random.randbytes,
            hot=self.hot,
            ciphers=ciphers,
            standing=self.generations.standing(),
        )
        self.store.set_tenant_keys(self.tenant_keys)
        if self.seed % 3 == 0:
            for queue in self.store._context.job_queues:
                queue.schedule.outstanding_max = JOBS_BYTES  # so that jobs wait for their turn
        if self.capacity_bytes:
            self.store.shares = Capped(self.capacity_bytes)
            space = self.store.space
            self.found_bytes = max(map(space.live_bytes, space.tenants()), default=0)
        if not any("fenced" in device.state for device in self.store.report().devices):
            audit.check_rest(self.store)

    def run(self, steps: int) -> None:
        """So many operations, with the store pumped now and then, and everything checked."""
        operations, weights = list(self.weights), list(self.weights.values())
        for _ in range(steps):
            self.step += 1
            self.random.choices(operations, weights)[0]()
            if self.random.random() < 0.7:
                self.store.pump()
            audit.check_space(self.store)
            if self.capacity_bytes:
                most = max(self.capacity_bytes, self.found_bytes)
                space = self.store.space
                assert all(space.used_bytes(tenant) <= most for tenant in space.tenants())
            if self.step % 16 == 0:
                audit.check_counts(self.store)
                audit.check_hot(self.store)

    def settle(self) -> None:
        """Until nothing is under way; then every count must be right."""
        for _ in range(STEPS_TO_REST):
            self.store.pump()
            if not (self.pending or self.streams or self.store.busy) and self._idle():
                break
            self.time += 0.02
            if self.random.random() < 0.2:
                self.store.tick()
        else:
            raise AssertionError(
                f"after {STEPS_TO_REST} steps {self.pending} requests, {self.streams} streams are under way"
            )
        audit.check_rest(self.store)
        if self.perfect and not self.power_failed:
            # a mismatch always means corruption, never a race with reclaim
            assert not audit.counters(self.store)["mismatches_seen"], f"step {self.step}: a mismatch"
            assert not audit.counters(self.store)["hot_mismatches"], f"step {self.step}: a slot was reused"
            assert not audit.counters(self.store)["chunks_lost"], f"step {self.step}: a chunk was lost"

    def _idle(self) -> bool:
        context = audit.context_of(self.store)
        reclaiming = any(reclaim.running for reclaim in self.store._reclaims)
        sealing = any(
            segment.state in (State.SEALING, State.RECLAIMING)
            for log in context.logs
            if log.fenced is None
            for segment in log.segments.values()
        )
        return not (reclaiming or sealing)

    def close(self) -> None:
        self.store.close()
        audit.check_rest(self.store)
        assert not self.pending

    def visible(self) -> dict[int, int]:
        """Sequences of the keys that are visible now, by the key's place in ``keys``."""
        found = {}
        for number, key in enumerate(self.keys):
            info = self.store.info(key.scope, key.key)
            if info is not None:
                found[number] = info.sequence
        return found

    def lasting(self, *, cut: bool) -> dict[int, int]:
        """Visible keys that the end of the process (or of the power: ``cut``) must not take."""
        if not cut or self.options.durability is Durability.POWER:
            return self.visible()
        context = audit.context_of(self.store)
        found = {}
        for number, sequence in self.visible().items():
            key = self.keys[number]
            place = context.find(context.index.namespace(key.scope), key.key)
            assert place is not None
            segment = place[0]
            if segment.state in (State.SEALED, State.RECLAIMING) or segment.purpose is Purpose.SURVIVORS:
                found[number] = sequence
        return found

    def restart(self, *, cut: bool = False, interrupt: int = 0, faults: Iterable[Fault] = ()) -> None:
        """End the process (or the power) now, ``interrupt`` times more during recovery, and go on."""
        lasting = self.lasting(cut=cut)
        self._end(cut, faults)
        for _ in range(interrupt):
            # a recovery that ends in the middle of its own writes, and is begun again
            limited = [_Limited(device, self.random.randint(1, 60)) for device in self.devices]
            try:
                BlockStore.open(
                    limited,
                    InlineWorkers(),
                    StagingPool(self.options.staging_bytes, now=lambda: self.time),
                    self.options,
                    now=lambda: self.time,
                    entropy=self.random.randbytes,
                    standing=self.generations.standing(),
                )
            except _Ended:
                pass
            self.devices = [one.inner for one in limited]
            self._end(cut, faults)
        self.open()
        self.compare(lasting)

    def _end(self, cut: bool, faults: Iterable[Fault]) -> None:
        self.power_failed |= cut
        self.devices = [
            device.power_cut(faults=faults) if cut else device.kill(faults=faults) for device in self.devices
        ]
        self.pending = self.streams = 0
        self.rotten = False
        self.answers += 1  # answers of the former life count no more
        self.tickets.clear()
        for key in self.keys:
            key.pins = key.deletes = 0
            key.restarts += 1
            for version in key.versions:
                if version.fate is Fate.PENDING:
                    version.fate = Fate.FAILED  # may have been written whole

    def compare(self, lasting: dict[int, int]) -> None:
        """Read everything: what lasts is there, what is dead is not, and no byte is wrong."""
        if self.perfect:
            for number, sequence in lasting.items():
                key = self.keys[number]
                info = self.store.info(key.scope, key.key)
                assert info is not None, f"{key.key!r} was acknowledged and is lost"
                assert info.sequence == sequence, f"{key.key!r} has {info.sequence}, not {sequence}"
        for key in self.keys:
            self.read(key)
        for scope, name in self.ghosts:
            assert self.store.info(scope, name) is None, f"{name!r} of an erased scope came back"
        self.settle()


class _Ended(BaseException):
    """The process ends here. Not an Exception: nothing may catch it."""


class _Limited:
    """A device under a process that ends after so many transfers."""

    def __init__(self, inner: FaultyDevice, transfers: int) -> None:
        self.inner = inner
        self._left = transfers

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def submit(self, transfers: Sequence[object]) -> None:
        self._left -= len(transfers)
        self.inner.submit(transfers)  # type: ignore[arg-type]
        if self._left < 0:
            raise _Ended


def options(**changes: object) -> StoreOptions:
    """The options of these worlds, with changes."""
    return replace(OPTIONS, **changes)  # type: ignore[arg-type]
