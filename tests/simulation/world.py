"""A store on faulty devices, the model beside it, and seeded traffic: no threads, no clock, no sleeps.

    world.run(200)            operations in flight, completions in any order, checks after each step
    world.settle()            nothing under way; every counter is recomputed
    world.restart(cut=...)    the process or the power ends at this moment; recovery; all is compared

Every answer is checked as it comes; every callback must come exactly once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import xxhash

from mezzo.checksum import part_seed
from mezzo.errors import Busy, Gone, MezzoError, TooLarge
from mezzo_server.blockstore.api import GetChunk, GetOutcome, PutChunk, PutOutcome, PutStatus, Scope
from mezzo_server.blockstore.devices.faults import Fault
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.blockstore.format.superblock import DATA_OFFSET
from mezzo_server.blockstore.io import Job
from mezzo_server.blockstore.options import Durability, StoreOptions
from mezzo_server.blockstore.put import PutTicket
from mezzo_server.blockstore.segment import Purpose, State
from mezzo_server.blockstore.shares import Shares
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.blockstore.stream import ChunkStream
from mezzo_server.blockstore.streams import Stream
from mezzo_server.hot.arena import AnonymousArena
from mezzo_server.hot.slots import Slot
from mezzo_server.hot.tier import HotTier
from mezzo_server.memory import Memory, Span
from mezzo_server.staging import StagingPool
from mezzo_server.workers import InlineWorkers
from tests.simulation import audit
from tests.simulation.model import Fate, Generations, Key, Version, cut

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
TTLS_MS = (1, 300, 5_000, 60_000)
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


class World:
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
        self.random = random.Random(seed)
        self.options = options
        self.perfect = perfect
        self.binding_deletes = deletes
        self.lengths = lengths
        self.time = 0.0
        self.step = 0
        size = DATA_OFFSET + segments * SEGMENT_BYTES
        self.devices = [
            FaultyDevice(size, seed=seed * 31 + n, faults=faults, name=f"d{n}") for n in range(devices)
        ]
        scopes = [Scope(bytes([1 + n % tenants]) * 16, bytes([n]) * 16) for n in range(tenants + 1)]
        self.keys = [Key(self.random.choice(scopes), b"key-%d" % n) for n in range(keys)]
        self.hot_bytes = hot_bytes if hot_bytes is not None else (1 << 20) * (seed % 2)
        self.tenant_keys = {bytes([1]) * 16: self.random.randbytes(32)} if seed % 3 == 1 else {}
        self.generations = Generations()
        self.capacity_bytes = capacity_bytes
        self.found_bytes = 0
        """that a tenant had at most after the last start, which finds again what was trimmed"""
        self.ghosts: list[tuple[Scope, bytes]] = []
        """what was erased, by the names that it had"""
        self.held: list[_Held] = []
        self.rotten = False
        """memory of the hot tier changed by itself"""
        self.power_failed = False
        self.pending = 0
        self.streams = 0
        self.answers = 0
        self.tickets: list[PutTicket] = []
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

    # -- life --------------------------------------------------------------------------------

    def open(self) -> None:
        self.workers = ShuffledWorkers(self.random)
        ciphers = ShuffledWorkers(self.random)
        self.staging = StagingPool(self.options.staging_bytes)
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
                    StagingPool(self.options.staging_bytes),
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

    # -- operations --------------------------------------------------------------------------

    def put(self) -> None:
        chunks, versions = [], []
        for key in self.random.choices(self.keys, k=self.random.choice((1, 1, 2, 3, 6))):
            length = self.random.choice(self.lengths)
            ttl_ms = self.random.choice((0, 0, 0, *TTLS_MS))
            version = key.put(self._parts(length), self.store.now_ms + ttl_ms if ttl_ms else 0)
            source = self._spans(length)
            _fill(source, version.data)
            versions.append((key, version, source))
            more = {"expiry_ms": version.expiry_ms, "priority": version.number % 8}
            chunks.append(PutChunk(key.key, version.parts, source, position=version.number, **more))
        scope = versions[0][0].scope
        mine = [(key, version, chunk) for (key, version, _), chunk in zip(versions, chunks, strict=True)]
        self.put_chunks(scope, [one for one in mine if one[0].scope == scope])
        for key, version, _ in mine:
            if key.scope != scope:
                version.fate = Fate.EXISTS  # never put

    def put_chunks(self, scope: Scope, items: Sequence[tuple[Key, Version, PutChunk]]) -> None:
        def done(outcome: PutOutcome) -> None:
            assert len(outcome.statuses) == len(items)
            for (key, version, _), status in zip(items, outcome.statuses, strict=True):
                self._put_ended(key, version, status)
            if PutStatus.FAILED in outcome.statuses:
                assert isinstance(outcome.error, MezzoError), outcome.error

        try:
            ticket = self.store.put(scope, [chunk for _, _, chunk in items], self._once(done))
        except (Busy, TooLarge):
            self.pending -= 1
            for _, version, _ in items:
                version.fate = Fate.EXISTS
        else:
            self.tickets = [*self.tickets[-20:], ticket]

    def _put_ended(self, key: Key, version: Version, status: PutStatus) -> None:
        if version.fate is Fate.PENDING:
            version.fate = {
                PutStatus.STORED: Fate.STORED,
                PutStatus.EXISTS: Fate.EXISTS,
                PutStatus.FAILED: Fate.FAILED,
            }[status]

    def get(self) -> None:
        key = self.random.choice(self.keys)
        keys = [key]
        keys += [
            k for k in self.random.choices(self.keys, k=self.random.randint(0, 6)) if k.scope == key.scope
        ]
        parts = self.random.choice(((0, 0), (0, 0), (0, 1), (1, 0), (1, 2), (2, 1)))
        self.get_keys(keys, *parts)

    def read(self, key: Key) -> None:
        """One whole chunk."""
        self.get_keys([key], 0, 0)

    def get_keys(self, keys: Sequence[Key], first_part: int, part_count: int) -> None:
        scope = keys[0].scope
        room = max(self.lengths)
        targets = [self._spans(room) for _ in keys]
        for target in targets:
            _fill(target, b"\xee" * room)
        dead = [self._dead(key) for key in keys]
        pinned = [self._must_hit(key) for key in keys]
        begun = [key.deletes_begun for key in keys]
        erasures = keys[0].erasures

        def done(outcome: GetOutcome) -> None:
            assert len(outcome.lengths) == len(keys)
            for number, (key, length) in enumerate(zip(keys, outcome.lengths, strict=True)):
                data = _bytes(targets[number])
                if key.erasures != erasures:
                    assert length < 0, f"step {self.step}: {key.key!r} was erased while it was read"
                elif length >= 0:
                    assert key.legal(data[:length], first_part, part_count, dead[number]), (
                        f"step {self.step}: wrong bytes for {key.key!r}"
                    )
                    assert data[length:] == b"\xee" * (room - length), "wrote beyond the chunk"
                elif (
                    self.store.now_ms < pinned[number]
                    and key.deletes_begun == begun[number]
                    and not (first_part or part_count)
                ):
                    raise AssertionError(f"step {self.step}: {key.key!r} must be there")

        chunks = [GetChunk(key.key, target) for key, target in zip(keys, targets, strict=True)]
        self.store.get(scope, chunks, self._once(done), first_part=first_part, part_count=part_count)

    def hold(self) -> None:
        """Use a chunk in place."""
        key = self.random.choice(self.keys)
        slot = self.store.hold(key.scope, key.key)
        if slot is not None:
            held = _Held(key, slot, slot.generation, bytes(slot.span().view))
            self.held.append(held)
            if not self.rotten:
                assert key.legal(held.data, 0, 0, self._dead(key)), "wrong bytes in place"

    def let_go(self) -> None:
        """What was used in place is what it was, or its generation says that it may not be."""
        if not self.held:
            return
        held = self.held.pop(self.random.randrange(len(self.held)))
        slot = held.slot
        now = bytes(slot.span(0, len(held.data)).view)
        assert self.store.hot is not None
        arena = self.store.hot.arena(slot.arena)
        if arena.generation(slot.page) == held.generation and not self.rotten:
            assert now == held.data, "a held slot was written to"
        self.store.let_go(slot)

    def warm(self) -> None:
        scope = self.random.choice(self.keys).scope
        keys = [key.key for key in self.keys if key.scope == scope and self.random.random() < 0.3]
        self.store.warm(scope, keys, self._once(lambda: None))

    def rot(self) -> None:
        """A bit of the hot tier's memory flips."""
        slots = [slot for slot in audit.slots_of(self.store.hot) if slot.length]  # type: ignore[arg-type]
        if slots:
            slot = self.random.choice(slots)
            slot.span().view[self.random.randrange(slot.length)] ^= 1 << self.random.randrange(8)
            self.rotten = True

    def _must_hit(self, key: Key) -> float:
        """Until when a miss is wrong, by the store's clock: as long as it is leased, and its time not over."""
        info = self.store.info(key.scope, key.key)
        if not self.perfect or key.deletes or info is None or not key.pins:
            return 0
        return info.expiry_ms or float("inf")

    def stream(self) -> None:
        key = self.random.choice(self.keys)
        first_part, part_count = self.random.choice(((0, 0), (0, 1), (1, 1)))
        dead = self._dead(key)
        stream = self.store.stream(key.scope, key.key, first_part=first_part, part_count=part_count)
        if stream is not None:
            _Reading(self, key, stream, first_part, part_count, dead)

    def delete(self) -> None:
        first = self.random.choice(self.keys)
        keys = [first]
        keys += [
            k for k in self.random.choices(self.keys, k=self.random.randint(0, 3)) if k.scope == first.scope
        ]
        self.delete_keys(keys)

    def delete_keys(self, keys: Sequence[Key]) -> None:
        doomed = [version for key in keys for version in key.doomed()]
        for key in keys:
            key.deletes += 1
            key.deletes_begun += 1

        def done(deleted: list[bool], error: Exception | None) -> None:
            assert len(deleted) == len(keys)
            for key in keys:
                key.deletes -= 1
            if error is None:
                for version in doomed:
                    version.fate = Fate.DEAD
            else:
                assert isinstance(error, MezzoError), error

        self.store.delete(keys[0].scope, [key.key for key in keys], self._once(done))

    def pin(self) -> None:
        key = self.random.choice(self.keys)
        held = sum(max(self.lengths) for other in self.keys if other.pins)
        capacity = self.store.capacity_bytes
        if held < capacity / 4 and not key.deletes and self.store.pin(key.scope, key.key):
            key.pins += 1

    def unpin(self) -> None:
        pinned = [key for key in self.keys if key.pins]
        if pinned:
            key = self.random.choice(pinned)
            key.pins -= 1
            self.store.unpin(key.scope, key.key)

    def erase(self) -> None:
        """Purge a namespace, or all that a tenant has."""
        victim = self.random.choice(self.keys).scope
        self.generations.erase(victim, tenant=self.random.random() < 0.3)
        self.store.heed(self.generations.standing())
        for key in self.keys:
            now = self.generations.scope(key.scope)
            if now != key.scope:
                self.ghosts = [*self.ghosts[-200:], (key.scope, key.key)]
                key.erase(now)

    def haunt(self) -> None:
        """Somebody whose session is from before an erasure."""
        if not self.ghosts:
            return
        scope, name = self.random.choice(self.ghosts)
        assert self.store.prefix(scope, [name]) == (0, 0)
        assert self.store.stream(scope, name) is None
        assert self.store.hold(scope, name) is None
        answers: list[int] = []
        self.store.get(scope, [GetChunk(name, self._spans(1))], lambda got: answers.extend(got.lengths))
        assert answers == [-1]
        try:
            self.store.put(scope, [PutChunk(name, (1,), self._spans(1))], lambda outcome: None)
        except Gone:
            return
        raise AssertionError("an erased scope takes a chunk")

    def look(self) -> None:
        key = self.random.choice(self.keys)
        count, size = self.store.prefix(key.scope, [key.key])
        info = self.store.info(key.scope, key.key)
        assert (count, size) == ((1, info.length) if info else (0, 0))
        if info is not None:
            assert info.leased == (key.pins > 0)
            loose = key.deletes or not self.binding_deletes
            over = key.over(self.store.now_ms)
            alive = [v for v in key.versions if (v.fate is not Fate.DEAD or loose) and v.number not in over]
            assert any(v.parts == info.parts for v in alive), f"{key.key!r} is visible, and none is alive"

    def _dead(self, key: Key) -> set[int]:
        over = key.over(self.store.now_ms)
        return key.dead() | over if self.binding_deletes else over

    def abandon(self) -> None:
        if self.tickets:
            self.random.choice(self.tickets).abandon()

    def pass_time(self) -> None:
        self.time += self.random.choice((0.001, 0.02, 0.3))
        self.store.tick()

    # -- help --------------------------------------------------------------------------------

    def _once(self, done: Callable[..., None]) -> Callable[..., None]:
        """Counts a callback, refuses a second one, ignores those of a former life."""
        self.pending += 1
        life = self.answers
        called = False

        def once(*arguments: object) -> None:
            nonlocal called
            if life != self.answers:
                return
            assert not called, "called back twice"
            called = True
            self.pending -= 1
            done(*arguments)

        return once

    def _parts(self, length: int) -> tuple[int, ...]:
        count = min(self.random.choice((1, 1, 1, 2, 5)), length)
        if count == 1:
            return (length,)
        cuts = sorted(self.random.sample(range(1, length), count - 1))
        return tuple(b - a for a, b in zip([0, *cuts], [*cuts, length], strict=True))

    def _spans(self, length: int) -> tuple[Span, ...]:
        """Memory for so many bytes: in one piece or in several, aligned or not."""
        kind = self.random.randrange(4)
        if kind == 0 or length < 8192:
            shift = self.random.choice((0, 0, 512, 17))
            return (Memory.anonymous(length + shift).span(shift, length),)
        if kind == 1:
            half = length // 2 // 4096 * 4096
        else:
            half = length // 2
        memory = Memory.anonymous(length + 3 * 4096)
        second = half + 4096 + self.random.choice((0, 0, 512, 3))
        second = second if kind != 1 else -(-second // 4096) * 4096
        return (memory.span(0, half), memory.span(second, length - half))


class _Reading:
    """Somebody who reads a stream at his own pace."""

    def __init__(
        self, world: World, key: Key, stream: Stream, first: int, count: int, dead: set[int]
    ) -> None:
        self.world, self.key, self.stream, self.dead = world, key, stream, dead
        self.parts = (first, count)
        self.data = bytearray()
        self.life = world.answers
        self.erasures = key.erasures
        world.streams += 1
        self.go_on()

    def go_on(self) -> None:
        if len(self.data) < self.stream.length and self.world.random.random() > 0.05:
            self.stream.next(self.ready)
        else:
            self.finish()

    def ready(self, span: Span | None) -> None:
        if self.life != self.world.answers:
            return
        if span is None:
            self.finish()
            return
        self.data += span.view
        self.stream.drop(span)
        self.go_on()

    def finish(self) -> None:
        self.world.streams -= 1
        if self.stream.finish() and self._matches():
            assert self.erasures == self.key.erasures, "a stream outlived an erasure"
            assert len(self.data) == self.stream.length
            assert self.key.legal(bytes(self.data), *self.parts, self.dead), "a stream gave wrong bytes"

    def _matches(self) -> bool:
        """What a receiver does: a hot chunk is sent without being hashed."""
        if isinstance(self.stream, ChunkStream):
            return True
        at = 0
        for part, (length, checksum) in enumerate(
            zip(self.stream.part_lengths, self.stream.checksums, strict=True), self.parts[0]
        ):
            data = bytes(self.data[at : at + length])
            at += length
            if xxhash.xxh3_64_intdigest(data, part_seed(self.stream.seed, part)) != checksum:
                assert self.world.rotten, "a hot chunk has wrong bytes"
                return False
        return True


@dataclass
class _Held:
    """A chunk that a client uses in place."""

    key: Key
    slot: Slot
    generation: int
    data: bytes


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


def _fill(spans: Sequence[Span], data: bytes) -> None:
    at = 0
    for span in spans:
        span.view[:] = data[at : at + span.length]
        at += span.length


def _bytes(spans: Sequence[Span]) -> bytes:
    return b"".join(bytes(span.view) for span in spans)


def options(**changes: object) -> StoreOptions:
    """The options of these worlds, with changes."""
    return replace(OPTIONS, **changes)  # type: ignore[arg-type]


__all__ = ["LENGTHS", "OPTIONS", "SEGMENT_BYTES", "World", "cut", "options"]
