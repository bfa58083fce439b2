"""A store over memory for tests of what lies on its devices: deterministic, one call at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from mezzo_server.blockstore.api import DeleteDone, GetChunk, GetOutcome, PutChunk, PutOutcome, Scope
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.format.superblock import DATA_OFFSET
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.memory import Memory
from mezzo_server.staging import StagingPool
from mezzo_server.workers import InlineWorkers

SEGMENT_BYTES = 256 << 10
SCOPE = Scope(b"tenant----------", b"namespace-------", 1, 2)


def device_of(segments: int = 16, name: str = "memory") -> MemoryDevice:
    return MemoryDevice(DATA_OFFSET + segments * SEGMENT_BYTES, name=name)


def copy_of(device: MemoryDevice) -> MemoryDevice:
    """The same bytes in memory of its own."""
    copy = MemoryDevice(device.size_bytes, name=device.name)
    copy.memory.view[:] = device.memory.view
    return copy


def seeded(seed: str) -> Callable[[int], bytes]:
    """A source of bytes that are always the same ones."""
    count = 0

    def draw(length: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_128(f"{seed} {count}".encode()).digest(length)

    return draw


def payload_of(key: bytes, length: int) -> bytes:
    """Bytes that depend on the key; they repeat, so that an image of them is small."""
    return (hashlib.sha256(key).digest() * (length // 32 + 1))[:length]


class Driver:
    """Opens a store on devices and drives it until each call is answered."""

    def __init__(
        self,
        *devices: MemoryDevice,
        seed: str = "driver",
        format_foreign: bool = False,
        allow_missing: bool = False,
    ) -> None:
        options = StoreOptions(
            segment_bytes=SEGMENT_BYTES,
            staging_bytes=4 << 20,
            chunk_bytes_max=1 << 20,
            scrub_bytes_per_s=0,
            allow_missing_devices=allow_missing,
        )
        self.clock = 0.0
        self.staging = StagingPool(options.staging_bytes, now=lambda: self.clock)
        self.memory = Memory.anonymous(1 << 20)
        self.store = BlockStore.open(
            [device.restarted() for device in devices],
            InlineWorkers(),
            self.staging,
            options,
            now=lambda: self.clock,
            entropy=seeded(seed),
            created_s=1_700_000_000,
            format_foreign=format_foreign,
        )

    def settle(self, *, tick: bool = True) -> None:
        """Pump until nothing moves: with ``tick``, also what time brings (reclaim) has ended."""
        if tick:
            self.store.tick()
        while self.store.busy:
            self.store.pump()

    def put(
        self,
        keys: Iterable[bytes],
        parts: Sequence[int] = (8192,),
        *,
        scope: Scope = SCOPE,
        payload: Callable[[bytes, int], bytes] = payload_of,
        position: int = 0,
    ) -> PutOutcome:
        length = sum(parts)
        chunks = []
        at = 0
        for number, key in enumerate(keys):
            self.memory.view[at : at + length] = payload(key, length)
            span = self.memory.span(at, length)
            chunks.append(PutChunk(key, tuple(parts), (span,), position + number))
            at += -(-length // 4096) * 4096
        outcomes: list[PutOutcome] = []
        self.store.put(scope, chunks, outcomes.append)
        self.settle()
        assert len(outcomes) == 1
        return outcomes[0]

    def get(self, key: bytes, scope: Scope = SCOPE) -> bytes | None:
        """The payload; None: a miss."""
        outcomes: list[GetOutcome] = []
        self.store.get(scope, [GetChunk(key, (self.memory.span(),))], outcomes.append)
        self.settle(tick=False)
        (length,) = outcomes[0].lengths
        return None if length < 0 else bytes(self.memory.view[:length])

    def delete(self, keys: Sequence[bytes], scope: Scope = SCOPE) -> list[bool]:
        answers: list[list[bool]] = []
        done: DeleteDone = lambda found, error: answers.append(found if error is None else [])  # noqa: E731
        self.store.delete(scope, keys, done)
        self.settle()
        return answers[0]

    def close(self) -> None:
        self.store.close()
