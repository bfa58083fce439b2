"""A store on faulty devices for tests of one thing at a time: each call runs until it was answered."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from mezzo_server.blockstore.api import GetChunk, GetOutcome, PutChunk, PutOutcome, PutStatus, Scope
from mezzo_server.blockstore.clock import MachineClock
from mezzo_server.blockstore.devices.faults import Fault
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.blockstore.format.superblock import DATA_OFFSET
from mezzo_server.blockstore.io import Workers
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.put import PutTicket
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.hot.arena import AnonymousArena
from mezzo_server.hot.tier import HotTier
from mezzo_server.memory import Memory, Span
from mezzo_server.staging import StagingPool
from mezzo_server.workers import InlineWorkers
from tests.simulation import audit
from tests.simulation.model import Generations, payload
from tests.simulation.world import OPTIONS, SEGMENT_BYTES

SCOPE = Scope(b"t" * 16, b"n" * 16)
TURNS_MAX = 20_000


class Rig:
    """See the module. ``faults`` strike after formatting, unless ``from_start``."""

    hot_options: dict[str, object] | None = None
    generations = Generations()
    clock: MachineClock | None = None
    keys: Mapping[bytes, bytes] = {}
    ciphers: Workers | None = None

    def __init__(
        self,
        *,
        segments: int = 10,
        devices: int = 1,
        options: StoreOptions = OPTIONS,
        faults: Iterable[Fault] = (),
        seed: int = 0,
        in_order: bool = True,
        hot: dict[str, object] | None = None,
        keys: Mapping[bytes, bytes] | None = None,
        clock: MachineClock | None = None,
        ciphers: Workers | None = None,
    ) -> None:
        """``hot``: of the hot tier, if there is to be one. ``keys``: of tenants whose chunks are encrypted.

        ``ciphers``: who encrypts, if not the rig's own.  ``clock``: of the machine that it runs on; by default one with the rig's own time and no reboots.
        """
        self.clock = clock
        self.keys = dict(keys or {})
        self.ciphers = ciphers or (InlineWorkers() if self.keys else None)
        self.options = options
        self.hot_options = hot
        self.generations = Generations()
        self.time = 0.0
        self.random = random.Random(seed)
        size = DATA_OFFSET + segments * SEGMENT_BYTES
        self.devices = [
            FaultyDevice(size, seed=seed + n, faults=faults, name=f"d{n}", in_order=in_order)
            for n in range(devices)
        ]
        self.open()

    def open(self, options: StoreOptions | None = None) -> None:
        if options is not None:
            self.options = options
        self.staging = StagingPool(self.options.staging_bytes, now=lambda: self.time)
        self.hot = None
        if self.hot_options is not None:
            chosen = {"bytes_max": 1 << 20, "arena_bytes": 256 << 10, "new_arena": AnonymousArena}
            self.hot = HotTier(**{**chosen, **self.hot_options})  # type: ignore[arg-type]
        self.store = BlockStore.open(
            self.devices,
            InlineWorkers(),
            self.staging,
            self.options,
            now=lambda: self.time,
            entropy=self.random.randbytes,
            hot=self.hot,
            ciphers=self.ciphers,
            standing=self.generations.standing(),
            clock=self.clock,
        )
        self.store.set_tenant_keys(self.keys)

    def restart(
        self,
        how: str = "kill",
        *,
        seed: int | None = None,
        faults: Iterable[Fault] = (),
        options: StoreOptions | None = None,
    ) -> None:
        """``kill``, ``cut`` the power, or ``close`` properly; then start again."""
        if how == "close":
            self.store.close()
            audit.check_rest(self.store)
        cut = how == "cut"
        self.devices = [
            device.power_cut(seed, faults=faults) if cut else device.kill(seed=seed, faults=faults)
            for device in self.devices
        ]
        self.open(options)

    @property
    def counters(self) -> Counter[str]:
        return audit.counters(self.store)

    # -- running

    def until(self, reached: Callable[[], bool]) -> None:
        """Pump until a condition holds."""
        for _ in range(TURNS_MAX):
            if reached():
                return
            self.store.pump()
        raise AssertionError("it never happens")

    def drain(self, *, ticks: int = 3) -> None:
        """Let everything that is under way come to its end, reclaim and scrub too."""
        for _ in range(ticks):
            self.store.tick()
            for _ in range(TURNS_MAX):
                moved = self.store.pump()
                if not moved and not self.store.busy:
                    break
            else:
                raise AssertionError("the store does not come to rest")
        audit.check_rest(self.store)

    # -- calls

    def begin_put(
        self, chunks: Sequence[PutChunk], scope: Scope = SCOPE, **more: float
    ) -> tuple[list[PutOutcome], PutTicket]:
        outcomes: list[PutOutcome] = []
        return outcomes, self.store.put(scope, chunks, outcomes.append, **more)

    def put_chunks(self, chunks: Sequence[PutChunk], scope: Scope = SCOPE) -> PutOutcome:
        outcomes, _ = self.begin_put(chunks, scope)
        self.until(lambda: bool(outcomes))
        assert len(outcomes) == 1
        return outcomes[0]

    def put(self, key: bytes, data: bytes | int, scope: Scope = SCOPE, ttl_s: float = 0) -> PutStatus:
        """Put one chunk; of the key's own bytes if only a length is given."""
        if isinstance(data, int):
            data = content(key, data)
        one = chunk(key, data)
        if ttl_s:
            one.expiry_ms = self.store.now_ms + round(ttl_s * 1000)
        return self.put_chunks([one], scope).statuses[0]

    def fill(self, name: str, count: int, length: int, scope: Scope = SCOPE, ttl_s: float = 0) -> list[bytes]:
        """Put so many chunks, one request each; their keys. Reclaim may run."""
        keys = [b"%s-%d" % (name.encode(), number) for number in range(count)]
        for key in keys:
            assert self.put(key, length, scope, ttl_s) is not PutStatus.FAILED
        return keys

    def fill_with_leases(self, length: int) -> list[PutOutcome]:
        """Put and lease until a put waits for space; that put's outcomes, to come."""
        for number in range(10_000):
            key = b"leased-%d" % number
            outcomes, _ = self.begin_put([chunk(key, content(key, length))])
            for _ in range(400):
                if outcomes:
                    break
                self.store.pump()
            else:
                return outcomes
            assert outcomes[0].statuses == [PutStatus.STORED]
            assert self.store.pin(SCOPE, key)
        raise AssertionError("it is never full")

    def get_outcome(
        self, chunks: Sequence[GetChunk], scope: Scope = SCOPE, first_part: int = 0, part_count: int = 0
    ) -> GetOutcome:
        outcomes: list[GetOutcome] = []
        self.store.get(scope, chunks, outcomes.append, first_part=first_part, part_count=part_count)
        self.until(lambda: bool(outcomes))
        assert len(outcomes) == 1
        return outcomes[0]

    def get(
        self,
        key: bytes,
        scope: Scope = SCOPE,
        room: int = 256 << 10,
        first_part: int = 0,
        part_count: int = 0,
    ) -> bytes | None:
        """The bytes, or None for a miss."""
        memory = Memory.anonymous(room)
        wanted = [GetChunk(key, (memory.span(0, room),))]
        length = self.get_outcome(wanted, scope, first_part, part_count).lengths[0]
        return None if length < 0 else bytes(memory.view[:length])

    def stream(self, key: bytes, scope: Scope = SCOPE) -> bytes | None:
        """The bytes through a stream; None for a miss or a mismatch."""
        stream = self.store.stream(scope, key)
        if stream is None:
            return None
        data = bytearray()
        while len(data) < stream.length:
            came: list[Span | None] = []
            stream.next(came.append)
            self.until(lambda: bool(came))  # noqa: B023
            if came[0] is None:
                break
            data += came[0].view
            stream.drop(came[0])
        return bytes(data) if stream.finish() else None

    def delete(self, *keys: bytes, scope: Scope = SCOPE) -> tuple[list[bool], Exception | None]:
        answers: list[tuple[list[bool], Exception | None]] = []
        self.store.delete(scope, keys, lambda deleted, error: answers.append((deleted, error)))
        self.until(lambda: bool(answers))
        assert len(answers) == 1
        return answers[0]

    def erase(self, scope: Scope = SCOPE, *, tenant: bool = False, deleted: bool = False) -> Scope:
        """Raise the generation of a namespace, or of its tenant; the scope that sessions have from now on."""
        self.generations.erase(scope, tenant=tenant, deleted=deleted)
        self.store.heed(self.generations.standing())
        return self.generations.scope(scope)

    def has(self, key: bytes, scope: Scope = SCOPE) -> bool:
        return self.store.info(scope, key) is not None


def content(key: bytes, length: int) -> bytes:
    """The bytes that `Rig.put` stores under a key."""
    return payload(key.decode(), length)


def chunk(key: bytes, data: bytes, parts: tuple[int, ...] | None = None, shift: int = 0) -> PutChunk:
    """A chunk to put, from memory of its own, ``shift`` bytes off a page boundary."""
    memory = Memory.anonymous(len(data) + shift)
    source = memory.span(shift, len(data))
    source.view[:] = data
    return PutChunk(key, parts or (len(data),), (source,))
