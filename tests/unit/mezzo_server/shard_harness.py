"""A shard's service over a real block store in memory, with clients that are lists of frames."""

from __future__ import annotations

import fcntl
import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from mezzo.checksum import chunk_seed, part_checksum
from mezzo.errors import MezzoError
from mezzo.protocol.bitmap import unpack
from mezzo.protocol.frame import FROM_SERVER, Frame, FrameReader, PayloadDone
from mezzo.protocol.messages import (
    Body,
    ErrorReply,
    Get,
    Got,
    Hello,
    Kind,
    Put,
    PutData,
    PutDone,
    PutGrant,
    RegionAdd,
    RegionAdded,
    Welcome,
)
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.config import Limits
from mezzo_server.hot.arena import Arena
from mezzo_server.hot.tier import HotTier
from mezzo_server.shard.descriptor_passing import close_in
from mezzo_server.shard.output import OutputQueue
from mezzo_server.shard.regions import run_here
from mezzo_server.shard.service import Service
from mezzo_server.shard.session import Session
from mezzo_server.shard.tcp_get import TcpGet
from mezzo_server.staging import StagingPool
from mezzo_server.workers import InlineWorkers

MIB = 1 << 20
B = TypeVar("B", bound=Body)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shard:
    """Everything of a shard but sockets and loop. Nothing moves but in `settle`."""

    def __init__(
        self,
        *,
        device_bytes: int = 96 * MIB,
        limits: Limits | None = None,
        hot_bytes: int = 0,
        incarnation: bytes = bytes(16),
        device: Callable[[Clock], MemoryDevice] | None = None,
        store_staging_bytes: int = 16 * MIB,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.limits = limits or Limits(
            staging_bytes=16 * MIB, staging_connection_bytes_max=8 * MIB, chunk_bytes_max=4 * MIB
        )
        self.device = MemoryDevice(device_bytes) if device is None else device(self.clock)
        self.workers = InlineWorkers()
        self.store_staging = StagingPool(store_staging_bytes, now=self.clock)
        self.staging = StagingPool(self.limits.staging_bytes, now=self.clock)
        self.hot = (
            HotTier(bytes_max=hot_bytes, arena_bytes=hot_bytes // 4, new_arena=Arena, held_fraction=1.0)
            if hot_bytes
            else None
        )
        self.store = BlockStore.open(
            [self.device],
            self.workers,
            self.store_staging,
            StoreOptions(
                chunk_bytes_max=self.limits.chunk_bytes_max, scrub_bytes_per_s=0, segment_bytes=8 * MIB
            ),
            now=self.clock,
            hot=self.hot,
        )
        self.pokes = 0
        self.service = Service(
            self.store,
            self.staging,
            self.limits,
            block_bytes=4096,
            incarnation=incarnation,
            now=self.clock,
            poke=self.poked,
            discard=partial(close_in, run_here),
        )
        self.clients: list[FakeClient] = []

    def poked(self) -> None:
        self.pokes += 1

    def client(
        self, *, shm: bool = True, namespace: str = "default", ticket: bytes = b"", version: int = 1
    ) -> FakeClient:
        client = FakeClient(self, shm=shm)
        self.clients.append(client)
        client.hello(namespace, ticket, version)
        return client

    def settle(self) -> None:
        """Run everything that is under way to its end."""
        for _ in range(10_000):
            moved = self.store.pump()
            for client in self.clients:
                moved += client.turn()
            if not moved and not self.store.eager:
                return
        raise AssertionError("it never settles")

    def idle(self) -> bool:
        """Nothing is held by anybody."""
        return (
            not self.store.busy
            and self.staging.pieces_taken == 0
            and self.store_staging.pieces_taken == 0
            and self.service.regions.lingering == 0
        )

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.settle()
        self.store.close()
        if self.hot is not None:
            self.hot.close()
        self.staging.close()
        self.store_staging.close()


class _Socket:
    """What an output queue asks of a socket."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client

    def send(self, view: memoryview) -> int:
        return self._client._take(view)

    def sendmsg(self, views: Sequence[memoryview]) -> int:
        return sum(self._client._take(view) for view in views)


class FakeClient:
    """A client whose frames go straight to a session; implements `Link`."""

    def __init__(self, shard: Shard, *, shm: bool) -> None:
        self.shard = shard
        self.session = Session(shard.service, self, shm=shm)
        self.refused: MezzoError | None = None
        self.frames: list[Frame] = []
        self.payloads: dict[tuple[int, int], bytes] = {}
        self.descriptors: deque[int] = deque()
        self.steps: deque[Callable[[], None]] = deque()
        self.gets: deque[TcpGet] = deque()
        self.output = OutputQueue()
        self.reads = True
        self.closed = False
        self.owner = True
        self.is_in = False
        self._next_id = 1
        self._reader = FrameReader(FROM_SERVER, body_bytes_max=1 << 24, payload_bytes_max=1 << 30)
        self._payload: tuple[int, int, bytearray] | None = None

    # Link

    def peer_is_owner(self) -> bool:
        return self.owner

    def send(self, frame: bytes) -> None:
        self.output.add_frame(frame)

    def send_payloads(self, get: TcpGet) -> None:
        self.gets.append(get)

    def output_ready(self) -> None:
        pass

    def later(self, step: Callable[[], None]) -> None:
        self.steps.append(step)

    def take_descriptor(self) -> int | None:
        return self.descriptors.popleft() if self.descriptors else None

    def let_in(self) -> None:
        self.is_in = True

    def refuse(self, error: MezzoError) -> None:
        self.refused = error
        self.close()

    # driving

    def turn(self) -> int:
        moved = 0
        for _ in range(len(self.steps)):
            self.steps.popleft()()
            moved += 1
        if self.closed:
            return moved
        while self.gets and self.gets[0].fill(self.output):
            self.gets.popleft()
            moved += 1
        if self.reads:
            moved += self._receive()
        return moved

    def _receive(self) -> int:
        moved = 0
        while self.output:
            moved += self.output.send(_Socket(self))  # type: ignore[arg-type]
        return moved

    def _take(self, view: memoryview) -> int:
        total = len(view)
        while len(view):
            buffer = self._reader.buffer()
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            self._reader.received(count)
            view = view[count:]
            while (event := self._reader.next_event()) is not None:
                self._event(event)
        return total

    def _event(self, event: Frame | PayloadDone) -> None:
        if isinstance(event, PayloadDone):
            assert self._payload is not None
            request_id, index, data = self._payload
            self.payloads[request_id, index] = bytes(data)
            return
        self.frames.append(event)
        if event.payload_bytes:
            data = bytearray(event.payload_bytes)
            self._payload = (event.request_id, event.body.index, data)  # type: ignore[attr-defined]
            self._reader.deliver_into([memoryview(data)])

    # what tests say

    def hello(self, namespace: str, ticket: bytes = b"", version: int = 1) -> Welcome:
        self.session.receive(Frame(Kind.HELLO, 0, Hello(1, version, "test", namespace, ticket)))
        self.turn()
        return self.answer(0, Welcome)

    def start(self, kind: Kind, body: Body, *, request_id: int | None = None) -> int:
        """Send a request; its id."""
        if request_id is None:
            request_id = self._next_id
            self._next_id += 1
        self.session.receive(Frame(kind, request_id, body))
        self.session.turn_ended()
        return request_id

    def ask(self, kind: Kind, body: Body, expected: type[B]) -> B:
        """Send a request, let everything settle, and return its answer."""
        request_id = self.start(kind, body)
        self.shard.settle()
        return self.answer(request_id, expected)

    def fails(self, kind: Kind, body: Body) -> ErrorReply:
        return self.ask(kind, body, ErrorReply)

    def answers(self, request_id: int) -> list[Body]:
        return [frame.body for frame in self.frames if frame.request_id == request_id]

    def answer(self, request_id: int, expected: type[B]) -> B:
        """The one frame of this type that came for a request; it is taken away."""
        for number, frame in enumerate(self.frames):
            if frame.request_id == request_id and isinstance(frame.body, expected):
                del self.frames[number]
                return frame.body
        raise AssertionError(f"no {expected.__name__} for {request_id}: {self.answers(request_id)}")

    def region(self, number: int, nbytes: int, *, sealed: bool = True) -> ClientRegion:
        """Register a region of its own memory; a `ClientRegion`."""
        region = ClientRegion(nbytes, sealed=sealed)
        self.descriptors.append(os.dup(region.fd))
        added = self.ask(Kind.REGION_ADD, RegionAdd(number, 0, nbytes), RegionAdded)
        assert added.mapped is sealed
        return region

    def put_payload(
        self, request_id: int, body: Put, index: int, data: bytes, *, wrong: bool = False
    ) -> None:
        """Send the payload of one chunk of a put over tcp."""
        scope = self.session.scope
        seed = chunk_seed(scope.tenant + scope.namespace, body.keys[index])
        parts = body.parts[index if len(body.parts) > 1 else 0] if body.parts else [len(data)]
        sums, at = [], 0
        for part, length in enumerate(parts):
            sums.append(part_checksum(seed, part, [data[at : at + length]]) ^ wrong)
            at += length
        sink = self.session.receive(Frame(Kind.PUT_DATA, request_id, PutData(index, sums), len(data)))
        assert sink is not None
        half = len(data) // 2
        sink.view[:half] = data[:half]
        sink.advance(half)
        sink.view[half:] = data[half:]
        sink.complete()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.output.close()
        self.gets.clear()
        self.session.close()
        while self.descriptors:
            os.close(self.descriptors.popleft())


class ClientRegion:
    """Shared memory of a client."""

    def __init__(self, nbytes: int, *, sealed: bool) -> None:
        self.fd = os.memfd_create("client", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.ftruncate(self.fd, nbytes)
        if sealed:
            fcntl.fcntl(
                self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            )

    def write(self, offset: int, data: bytes) -> None:
        assert os.pwrite(self.fd, data, offset) == len(data)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def truncate(self, nbytes: int) -> None:
        os.ftruncate(self.fd, nbytes)

    def close(self) -> None:
        os.close(self.fd)


@contextmanager
def left_idle(shard: Shard) -> Iterator[Shard]:
    """A shard of which nobody holds anything when its clients have gone."""
    yield shard
    for client in shard.clients:
        client.reads = True
        client.close()
    shard.settle()
    assert shard.idle()
    shard.close()


def data_of(key: bytes, length: int) -> bytes:
    """Bytes that no other key has."""
    return random.Random(key).randbytes(length)


def put_shm(
    client: FakeClient, region: ClientRegion, number: int, chunks: dict[bytes, bytes], **more: object
) -> PutDone:
    """Put out of the region that has this number."""
    sources, at = [], 0
    for data in chunks.values():
        region.write(at, data)
        sources.append([at, len(data)])
        at += len(data)
    body = Put(list(chunks), [len(data) for data in chunks.values()], region=number, sources=sources, **more)  # type: ignore[arg-type]
    return client.ask(Kind.PUT, body, PutDone)


def put_tcp(client: FakeClient, chunks: dict[bytes, bytes], **more: object) -> PutDone:
    """Put, with payload against grants."""
    body = Put(list(chunks), [len(data) for data in chunks.values()], **more)  # type: ignore[arg-type]
    data = list(chunks.values())
    request_id = client.start(Kind.PUT, body)
    for _ in range(1000):
        client.shard.settle()
        grants = [body for body in client.answers(request_id) if isinstance(body, PutGrant)]
        if not grants:
            break
        client.answer(request_id, PutGrant)
        for index in grants[0].indexes:
            client.put_payload(request_id, body, index, data[index])
        client.session.turn_ended()
    return client.answer(request_id, PutDone)


def get_tcp(client: FakeClient, keys: list[bytes], **more: object) -> list[bytes | None]:
    """The chunks that are there; None for the others."""
    request_id = client.start(Kind.GET, Get(keys, **more))  # type: ignore[arg-type]
    client.shard.settle()
    got = client.answer(request_id, Got)
    found = unpack(got.found, len(keys))
    assert got.count == sum(found)
    return [client.payloads.get((request_id, index)) if there else None for index, there in enumerate(found)]
