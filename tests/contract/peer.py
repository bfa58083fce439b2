"""A server whose every frame is written by hand: for tests of the clients, over a socket pair."""

from __future__ import annotations

import array
import os
import queue
import socket

from mezzo.checksum import chunk_seed, part_checksum, scope_of
from mezzo.connecting import Surroundings
from mezzo.protocol.connection import ServerConnection
from mezzo.protocol.frame import FROM_CLIENT, Frame, FrameReader, encode
from mezzo.protocol.messages import Kind, Welcome
from tests.patience import PATIENCE_S

TENANT, NAMESPACE = b"t" * 16, b"n" * 16
SCOPE = scope_of(TENANT, NAMESPACE)
UNIX = "unix:///shard"
LIMITS = {
    "version": 1,
    "server": "by hand",
    "shard_incarnation": bytes(16),
    "epoch": 0,
    "tenant_id": TENANT,
    "namespace_id": NAMESPACE,
    "keys_max": 64,
    "key_bytes_max": 64,
    "chunk_bytes_max": 1 << 24,
    "body_bytes_max": 1 << 20,
    "requests_max": 8,
    "regions_max": 8,
    "region_bytes_max": 1 << 30,
    "lease_ms_max": 60_000,
    "block_bytes": 4096,
    "shm": False,
}


def checksums(key: bytes, *parts: bytes) -> list[int]:
    """The checksums of a chunk's parts on a connection to a `Peer`."""
    seed = chunk_seed(SCOPE, key)
    return [part_checksum(seed, number, [part]) for number, part in enumerate(parts)]


class Peer:
    """One connection, seen from the server's side. It keeps the rules unless told otherwise."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        self.sock = sock
        self.descriptors: list[int] = []
        self._reader = FrameReader(FROM_CLIENT, body_bytes_max=1 << 22, payload_bytes_max=1 << 26)
        self._order = ServerConnection(1000)

    def receive(self) -> Frame:
        """The next frame of the client; its payload, if it has one, is in ``payload`` afterwards."""
        while True:
            event = self._reader.next_event()
            if isinstance(event, Frame):
                self._order.receive_event(event)
                if event.payload_bytes:
                    self.payload = bytearray(event.payload_bytes)
                    self._reader.deliver_into([memoryview(self.payload)])
                    while self._reader.next_event() is None:
                        self._more()
                return event
            self._more()

    def expect(self, kind: Kind) -> Frame:
        """The next frame, which must be of this kind."""
        frame = self.receive()
        if frame.kind is not kind:
            raise AssertionError(f"{frame} where {kind.name} was due")
        return frame

    def send(self, kind: Kind, request_id: int, body: object, payload: bytes = b"") -> None:
        """A frame, whatever it is."""
        self.sock.sendall(encode(kind, request_id, body, len(payload)) + payload)

    def grant(self, request_id: int, body: object) -> None:
        """PUT_GRANT, and remember it."""
        if not self._order.in_flight(request_id):
            self._order.begin(request_id, Kind.PUT)
        self._order.grant(request_id, body.indexes)
        self.send(Kind.PUT_GRANT, request_id, body)

    def welcome(self, **limits: object) -> Frame:
        """Take the hello and answer it."""
        hello = self.expect(Kind.HELLO)
        self.send(Kind.WELCOME, 0, Welcome(**{**LIMITS, **limits}))
        return hello

    def ended(self) -> bool:
        """Whether the client has closed its side (waits for it)."""
        try:
            return not self.sock.recv(1 << 16)
        except ConnectionError:
            return True

    def close(self) -> None:
        """Close the connection, and what was passed with it."""
        self.sock.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    def _more(self) -> None:
        room = self._reader.buffer()
        size = array.array("i").itemsize
        count, ancillary, _, _ = self.sock.recvmsg_into([room], socket.CMSG_SPACE(4 * size))
        for _, _, data in ancillary:
            self.descriptors.extend(array.array("i", data))
        if count == 0:
            raise ConnectionResetError("the client closed the connection")
        self._reader.received(count)


class Network:
    """Where clients connect to: gives the other end of each connection to the test."""

    def __init__(self) -> None:
        self._arrived: queue.Queue[Peer] = queue.Queue()
        self.refusal: OSError | None = None
        self.attempts = 0
        self.peers: list[Peer] = []

    def surroundings(self, **changes: object) -> Surroundings:
        """For a client: this network, and the real clock."""
        return Surroundings(open_socket=self._open)._replace(**changes)

    def accept(self, **limits: object) -> Peer:
        """The next connection, after the hello."""
        peer = self.arrived()
        peer.welcome(**limits)
        return peer

    def arrived(self) -> Peer:
        """The next connection, before the hello."""
        return self._arrived.get(timeout=PATIENCE_S)

    def close(self) -> None:
        """Close all connections."""
        for peer in self.peers:
            peer.close()

    def _open(self, address: object, timeout_s: float) -> socket.socket:
        self.attempts += 1
        if self.refusal is not None:
            raise self.refusal
        ours, theirs = socket.socketpair()
        peer = Peer(theirs)
        self.peers.append(peer)
        self._arrived.put(peer)
        return ours
