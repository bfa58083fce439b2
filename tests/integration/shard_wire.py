"""A client of a real shard by hand: frames over a socket, and waiting for what the shard says of itself."""

from __future__ import annotations

import array
import os
import random
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self, TypeVar
from urllib.parse import urlsplit

from mezzo import Client
from mezzo.protocol.frame import FROM_SERVER, Frame, FrameReader, PayloadDone, encode
from mezzo.protocol.messages import Body, Hello, Kind, RegionAdd, RegionAdded, Welcome
from mezzo_server.testing import RunningShard, running_shard
from tests.held import descriptors
from tests.patience import PATIENCE_S, eventually

B = TypeVar("B", bound=Body)
LOOPS = ("uvloop", "asyncio")


class Wire:
    """One connection of which every byte is the test's."""

    def __init__(self, address: str, *, hello: bool = True) -> None:
        self.sock = self.connect(address)
        self.sock.settimeout(PATIENCE_S)
        self.payloads: list[bytes] = []
        self._reader = FrameReader(FROM_SERVER, body_bytes_max=1 << 24, payload_bytes_max=1 << 30)
        self._payload = bytearray()
        if hello:
            self.send(Kind.HELLO, 0, Hello(1, 1, "wire"))
            self.welcome = self.expect(Welcome)

    def connect(self, address: str) -> socket.socket:
        parts = urlsplit(address)
        if parts.scheme == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(parts.path)
            return sock
        return socket.create_connection((parts.hostname, parts.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, kind: Kind, request_id: int, body: Body, payload_bytes: int = 0) -> None:
        self.sock.sendall(encode(kind, request_id, body, payload_bytes))

    def send_with(self, kind: Kind, request_id: int, body: Body, fds: list[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]
        self.sock.sendmsg([encode(kind, request_id, body)], rights)

    def frame(self) -> Frame | None:
        """The next frame, its payload read as well; None at the end of the stream."""
        while True:
            event = self._reader.next_event()
            if isinstance(event, Frame):
                if event.payload_bytes:
                    self._payload = bytearray(event.payload_bytes)
                    self._reader.deliver_into([memoryview(self._payload)])
                return event
            if isinstance(event, PayloadDone):
                self.payloads.append(bytes(self._payload))
                continue
            count = self.sock.recv_into(self._reader.buffer())
            if count == 0:
                return None
            self._reader.received(count)

    def expect(self, expected: type[B]) -> B:
        """The body of the next frame, which is of this type."""
        frame = self.frame()
        assert frame is not None, "the connection ended"
        assert isinstance(frame.body, expected), frame.body
        return frame.body

    def ended(self) -> bool:
        """Read to the end of the stream; whether it came (a reset is an end too)."""
        try:
            while self.frame() is not None:
                pass
        except ConnectionError:
            pass
        return True

    def silent(self) -> bool:
        """Whether nothing has come that can be read now."""
        return not select.select([self.sock], [], [], 0)[0]

    def region(self, number: int, fd: int, length: int) -> RegionAdded:
        self.send_with(Kind.REGION_ADD, 900 + number, RegionAdd(number, 0, length), [fd])
        return self.expect(RegionAdded)


def numbers(address: str) -> dict[str, float]:
    """What the shard says of itself."""
    with Client(address) as client:
        return dict(client.shard_stat())


def at_rest(address: str) -> None:
    """Wait until the shard holds nothing of clients but of the one that asks."""

    def rests() -> bool:
        now = numbers(address)
        return (
            now["connections"] == 1
            and now["staging_free_bytes"] == now["staging_bytes"]
            and now["regions"] == now["regions_lingering"] == now["leases"] == 0
        )

    eventually(rests, "clients' staging, regions, leases and connections are given back")


@contextmanager
def shard_on(loop: str, config: str) -> Iterator[RunningShard]:
    """A shard with large segments in memory, on one of `LOOPS`."""
    arguments = ["--loop", loop, "--segment", "16MiB"]
    with running_shard(devices=["memory:512MiB"], config=config, arguments=arguments) as shard:
        yield shard


@contextmanager
def nothing_stays_behind(shard: RunningShard) -> Iterator[None]:
    """What clients do to it in between leaves nothing in it, and no fault."""
    at_rest(shard.unix)
    before = descriptors(shard.pid)
    yield
    at_rest(shard.unix)
    eventually(lambda: descriptors(shard.pid) <= before, "descriptors are closed")
    assert numbers(shard.unix)["faults"] == 0
    assert shard.is_alive()


def key_of(name: str) -> bytes:
    """A key that nobody else has."""
    return f"{name}-{os.getpid()}-{random.random()}".encode()


def stored(address: str, *sizes: int) -> dict[bytes, bytes]:
    """Chunks that were put, by key."""
    chunks = {key_of("stored"): random.randbytes(size) for size in sizes}
    with Client(address) as client:
        assert client.put(list(chunks), list(chunks.values())).stored == len(sizes)
    return chunks
