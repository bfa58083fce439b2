"""Operations on a store and the model beside it: each is begun at random, and every answer is checked as it comes.

Every callback must come exactly once; those of a former life of the store count no more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import xxhash

from mezzo.checksum import part_seed
from mezzo.errors import Busy, Gone, MezzoError, TooLarge
from mezzo_server.blockstore.api import GetChunk, GetOutcome, PutChunk, PutOutcome, PutStatus, Scope
from mezzo_server.blockstore.put import PutTicket
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.blockstore.stream import ChunkStream
from mezzo_server.blockstore.streams import Stream
from mezzo_server.hot.slots import Slot
from mezzo_server.memory import Memory, Span
from tests.simulation import audit
from tests.simulation.model import Fate, Generations, Key, Version

TTLS_MS = (1, 300, 5_000, 60_000)


class Traffic:
    """See the module. ``perfect``: what was acknowledged is binding. ``binding_deletes``: so are deletes."""

    store: BlockStore

    def __init__(
        self, randomness: random.Random, keys: Sequence[Key], *, perfect: bool, binding_deletes: bool
    ) -> None:
        self.random = randomness
        self.keys = keys
        self.perfect = perfect
        self.binding_deletes = binding_deletes
        self.lengths: Sequence[int] = ()
        """what chunks may have"""
        self.time = 0.0
        self.step = 0
        self.generations = Generations()
        self.ghosts: list[tuple[Scope, bytes]] = []
        """what was erased, by the names that it had"""
        self.held: list[_Held] = []
        self.rotten = False
        """memory of the hot tier changed by itself"""
        self.pending = 0
        self.streams = 0
        self.answers = 0
        """lives of the store"""
        self.tickets: list[PutTicket] = []

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
        self, traffic: Traffic, key: Key, stream: Stream, first: int, count: int, dead: set[int]
    ) -> None:
        self.traffic, self.key, self.stream, self.dead = traffic, key, stream, dead
        self.parts = (first, count)
        self.data = bytearray()
        self.life = traffic.answers
        self.erasures = key.erasures
        traffic.streams += 1
        self.go_on()

    def go_on(self) -> None:
        if len(self.data) < self.stream.length and self.traffic.random.random() > 0.05:
            self.stream.next(self.ready)
        else:
            self.finish()

    def ready(self, span: Span | None) -> None:
        if self.life != self.traffic.answers:
            return
        if span is None:
            self.finish()
            return
        self.data += span.view
        self.stream.drop(span)
        self.go_on()

    def finish(self) -> None:
        self.traffic.streams -= 1
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
                assert self.traffic.rotten, "a hot chunk has wrong bytes"
                return False
        return True


@dataclass
class _Held:
    """A chunk that a client uses in place."""

    key: Key
    slot: Slot
    generation: int
    data: bytes


def _fill(spans: Sequence[Span], data: bytes) -> None:
    at = 0
    for span in spans:
        span.view[:] = data[at : at + span.length]
        at += span.length


def _bytes(spans: Sequence[Span]) -> bytes:
    return b"".join(bytes(span.view) for span in spans)
