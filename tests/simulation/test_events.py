"""Whoever replays a namespace's events onto a set has the present keys, at every cursor, unless told of a gap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mezzo.protocol.messages import EventKind, GapReason
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.devices.faults import Fault, FaultKind
from mezzo_server.events.hub import EventHub
from mezzo_server.events.log import EventLog
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig
from tests.simulation.seeds import repeatable, seeds
from tests.simulation.world import World, options

WINDOW = 10


class Reader:
    """A set that follows a namespace; after a gap it lists the namespace, part by part, and goes on."""

    def __init__(self, world: Watched, scope: Scope) -> None:
        self.world = world
        self.scope = scope
        self.incarnation = b""
        self.after = 0
        self.present: set[bytes] = set()
        self.parts_left: list[int] = []
        self.exact_from = 0
        self.gaps: Counter[GapReason] = Counter()
        self.kinds: Counter[EventKind] = Counter()

    def read(self) -> None:
        log = self.world.hub.log(self.scope)
        batch = log.read(self.incarnation, self.after, 7)
        self.after = batch.next
        if batch.gap:
            self.gaps[batch.gap] += 1
            self.incarnation = log.incarnation
            self.present.clear()
            self.parts_left = list(range(4))
        for kind, key in zip(batch.kinds, batch.keys, strict=True):
            self.kinds[EventKind(kind)] += 1
            (self.present.add if kind == EventKind.STORED else self.present.discard)(key)

    def list_one(self) -> None:
        part = self.parts_left.pop()
        self.present.update(key for key, _ in self.world.store.list_part(self.scope, part, 4, 1 << 20) or ())
        self.exact_from = self.world.hub.log(self.scope).last

    def catch_up(self) -> None:
        while True:
            self.read()
            while self.parts_left:
                self.list_one()
            if self.after == self.world.hub.log(self.scope).last:
                return

    def check(self) -> None:
        """A reader that is at the end of the log has what the index has."""
        log = self.world.hub.log(self.scope)
        if self.parts_left or self.incarnation != log.incarnation or self.after != log.last:
            return
        context = audit.context_of(self.world.store)
        index = context.index.peek(self.scope)
        here = {key for shard in index.shards for key in shard}
        # What is over its time, or on a device that has failed, is a miss some turns before it leaves the index.
        served = {key for key in here if context.find(index, key) is not None}
        assert served <= self.present <= here, f"step {self.world.step}"


class Watched(World):
    """A world in which every namespace is followed by one who reads at once, and one who dawdles."""

    lives = 0

    def open(self) -> None:
        super().open()
        type(self).lives += 1
        self.hub = EventHub(
            self.store.watch,
            incarnation=b"life %d" % self.lives,
            events_max=WINDOW,
            bytes_max=1 << 20,
            logs_max=100,
            readers_max=10,
            idle_s=1e9,
            now=lambda: self.time,
        )
        if not hasattr(self, "readers"):
            scopes = dict.fromkeys(key.scope for key in self.keys)
            self.readers = [Reader(self, scope) for scope in scopes]
            self.lazy = [Reader(self, scope) for scope in scopes]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            super().run(1)
            for reader in self.readers:
                reader.catch_up()
                reader.check()
            for reader in self.lazy:
                if reader.parts_left and self.random.random() < 0.3:
                    reader.list_one()
                elif self.random.random() < 0.02:
                    reader.read()
                reader.check()

    def settle(self) -> None:
        super().settle()
        for reader in self.readers + self.lazy:
            reader.catch_up()
            reader.check()


def totals(readers: Iterable[Reader]) -> tuple[Counter[GapReason], Counter[EventKind]]:
    gaps: Counter[GapReason] = Counter()
    kinds: Counter[EventKind] = Counter()
    for reader in readers:
        gaps += reader.gaps
        kinds += reader.kinds
    return gaps, kinds


def test_replayed_events_are_the_present_keys() -> None:
    gaps: Counter[GapReason] = Counter()
    kinds: Counter[EventKind] = Counter()
    chosen = list(seeds(6))
    for seed in chosen:
        with repeatable(seed):
            world = Watched(seed, devices=1 + seed % 2, segments=8 + seed % 3, churn=seed % 3 == 0)
            for _ in range(3):
                world.run(80)
                if seed % 2:
                    world.restart(cut=seed % 4 == 1)
                world.settle()
            world.close()
            lazy, _ = totals(world.lazy)
            _, told = totals(world.readers)
            gaps, kinds = gaps + lazy, kinds + told
    if len(chosen) > 1:  # or it has not seen what it is to prove
        assert min(gaps[reason] for reason in GapReason if reason) > 0
        told_of = (EventKind.STORED, EventKind.DELETED, EventKind.EVICTED, EventKind.EXPIRED)
        assert min(kinds[kind] for kind in told_of) > 0


def test_what_a_device_loses_is_told() -> None:
    """One that rots, and one that fails whole: chunk by chunk, and each once."""
    rig = Rig(devices=2, options=options(io_errors_max=1000))
    log = watched(rig)
    keys = rig.fill("k", 12, 20_000)
    rig.drain()
    victim = audit.context_of(rig.store).logs[0]
    assert rig.delete(keys[0])[0] == [True]
    victim.fence("for this test")
    rig.drain()
    batch = log.read(log.incarnation, 0, 1000)
    told = dict(zip(batch.keys, batch.kinds, strict=True))
    assert told[keys[0]] == EventKind.DELETED
    for key in keys[1:]:
        assert told[key] == (EventKind.STORED if rig.has(key) else EventKind.LOST), key
    assert EventKind.LOST in batch.kinds
    assert len(batch.kinds) == len(keys) + sum(not rig.has(key) for key in keys)


def test_a_chunk_that_rotted_is_told_when_it_is_seen() -> None:
    rig = Rig(faults=[Fault(FaultKind.ROTTEN_WRITE, probability=1.0, within=(2 << 20, 1 << 40))])
    log = watched(rig)
    rig.put(b"a", 20_000)
    assert rig.get(b"a") is None
    rig.drain()
    assert log.read(log.incarnation, 0, 10).kinds == bytes([EventKind.STORED, EventKind.LOST])


def watched(rig: Rig) -> EventLog:
    log = EventLog(b"i" * 16, events_max=10_000, bytes_max=1 << 30, now=0.0)
    rig.store.watch(SCOPE, log)
    return log


def test_what_moves_is_no_event() -> None:
    rig = Rig(segments=8, options=options(policy="lru"))
    log = watched(rig)
    keys = rig.fill("kept", 3, 60_000)
    for key in keys:
        assert rig.store.pin(SCOPE, key)
    rig.fill("passing", 60, 60_000)
    rig.drain()
    assert rig.counters["chunks_rewritten"] > 0
    batch = log.read(log.incarnation, 0, 10_000)
    told = Counter(zip(batch.keys, batch.kinds, strict=True))
    assert all(told[key, EventKind.STORED] == 1 for key in keys)
    assert set(told.values()) == {1}
    assert rig.counters["chunks_evicted"] == batch.kinds.count(EventKind.EVICTED)


def test_a_namespace_that_becomes_empty_and_is_made_anew_goes_on_telling() -> None:
    rig = Rig(options=options(namespaces_max=1))
    log = watched(rig)
    other = Scope(b"t" * 16, b"o" * 16)
    for number in range(3):
        rig.put(b"a", 5000)
        rig.delete(b"a")
        rig.drain()
        rig.put(b"b", 5000, other)
        rig.delete(b"b", scope=other)
        rig.drain()
        assert log.last == 2 * (number + 1)


def test_what_expires_is_told_when_it_leaves_the_index() -> None:
    rig = Rig()
    log = watched(rig)
    rig.put(b"a", 5000, ttl_s=10)
    rig.put(b"b", 5000)
    rig.time += 12
    rig.drain()
    batch = log.read(log.incarnation, 0, 10)
    assert list(zip(batch.keys, batch.kinds, strict=True))[2:] == [(b"a", EventKind.EXPIRED)]


def test_an_erased_namespace_ends_its_log() -> None:
    rig = Rig()
    log = watched(rig)
    woken: list[bool] = []
    rig.put(b"a", 5000)
    log.wait(lambda: woken.append(log.over))
    rig.erase()
    rig.drain()
    assert woken == [True]
    assert log.last == 1
