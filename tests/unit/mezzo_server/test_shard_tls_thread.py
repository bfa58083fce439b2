"""A thread for TLS and its connections, over socket pairs: what the loop gave is the thread's until it says so."""

from __future__ import annotations

import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mezzo_server.config import TlsConfig
from mezzo_server.shard.tls_pipe import TlsPipe
from mezzo_server.shard.tls_thread import CipherThread
from mezzo_server.tls.certificates import read_identity, server_context
from tests.contract.certificates import Authority
from tests.patience import PATIENCE_S

MIB = 1 << 20


class Lab:
    """The loop's side by hand: what threads tell waits here to be called."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        files = authority.issue("lab")
        config = TlsConfig(certificate=files.certificate, key=files.key)
        self.context = server_context(config, read_identity(config, time.time()))
        self.client_context = ssl.create_default_context(cafile=authority.ca)
        self.told: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.now = 0.0
        self.thread = CipherThread(0, self.told.put, lambda: self.now)
        self.thread.start()
        self.sockets: list[socket.socket] = []
        self.pipes: list[TlsPipe] = []

    def turn(self) -> None:
        """Call the next thing that was told."""
        self.told.get(timeout=PATIENCE_S)()

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.turn()

    def pipe(self, shaken: Callable[[TlsPipe], None] = lambda pipe: None) -> tuple[TlsPipe, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(PATIENCE_S)
        self.sockets.append(theirs)
        pipe = TlsPipe(self.thread, ours, "peer", self.context, 10.0, shaken)
        self.pipes.append(pipe)
        self.thread.add(pipe)
        return pipe, theirs

    def connected(self) -> tuple[TlsPipe, ssl.SSLSocket]:
        done: list[TlsPipe] = []
        pipe, theirs = self.pipe(done.append)
        wrapped = self.client_context.wrap_socket(theirs, server_hostname="localhost")
        self.sockets.append(wrapped)
        self.until(lambda: bool(done))
        assert pipe.failure == ""
        return pipe, wrapped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture
def lab(folder: Path) -> Iterator[Lab]:
    lab = Lab(folder)
    yield lab
    lab.thread.stop()
    for pipe in lab.pipes:
        pipe.close(lambda: None)
    for sock in lab.sockets:
        sock.close()


def test_what_is_sent_arrives_and_is_counted(lab: Lab) -> None:
    pipe, client = lab.connected()
    data = bytes(range(256)) * (4 * MIB // 256)
    view = memoryview(data)
    received = bytearray()
    reader = threading.Thread(target=lambda: received.extend(read(client, len(data))))
    reader.start()
    sent = 0

    def moved() -> None:
        nonlocal sent
        sent += pipe.take()[0]

    pipe.moved = moved
    for start in range(0, len(data), MIB):
        pipe.send([view[start : start + 10], view[start + 10 : start + MIB]])
    lab.until(lambda: sent == len(data))
    reader.join(PATIENCE_S)
    assert received == data


def read(sock: socket.socket, count: int) -> bytes:
    pieces = []
    while count:
        piece = sock.recv(min(count, MIB))
        assert piece
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def test_memory_for_a_payload_is_filled_whole_and_other_room_only_once(lab: Lab) -> None:
    pipe, client = lab.connected()
    room = memoryview(bytearray(100_000))
    arrived = 0

    def moved() -> None:
        nonlocal arrived
        arrived += pipe.take()[1]

    pipe.moved = moved
    pipe.receive_into(room, whole=True)
    client.sendall(b"a" * 70_000)
    lab.until(lambda: arrived == 70_000)
    client.sendall(b"b" * 40_000)
    lab.until(lambda: arrived == 100_000)
    assert bytes(room) == b"a" * 70_000 + b"b" * 30_000
    small = memoryview(bytearray(20_000))
    pipe.receive_into(small, whole=False)
    lab.until(lambda: arrived == 110_000)
    client.sendall(b"c" * 100)
    # Nobody asked for more: it waits in the socket.
    pipe.receive_into(memoryview(bytearray(100)), whole=False)
    lab.until(lambda: arrived == 110_100)
    assert bytes(small) == b"b" * 10_000 + bytes(10_000)


def test_memory_is_taken_back_before_it_may_be_used_again(lab: Lab) -> None:
    pipe, client = lab.connected()
    room = memoryview(bytearray(50_000))
    pipe.receive_into(room, whole=True)
    back: list[str] = []
    pipe.recall(lambda: back.append("recalled"))
    lab.until(lambda: bool(back))
    before = bytes(room)
    client.sendall(b"x" * 40_000)
    pipe.close(lambda: back.append("closed"))
    lab.until(lambda: len(back) == 2)
    assert bytes(room) == before


def test_a_peer_that_reads_nothing_does_not_hold_the_close_up(lab: Lab) -> None:
    pipe, _ = lab.connected()
    data = memoryview(bytes(8 * MIB))
    pipe.send([data])
    closed: list[bool] = []
    pipe.close(lambda: closed.append(True))
    lab.until(lambda: bool(closed))
    data.release()  # nobody has a view of it any more


def test_the_end_of_the_stream_is_told_once_all_has_come(lab: Lab) -> None:
    pipe, client = lab.connected()
    seen: list[tuple[int, bool]] = []
    pipe.moved = lambda: seen.append(pipe.take()[1:])
    client.sendall(b"last")
    client.close()
    pipe.receive_into(memoryview(bytearray(100)), whole=True)
    lab.until(lambda: any(ended for _, ended in seen))
    assert sum(arrived for arrived, _ in seen) == 4


def test_a_handshake_has_its_time(lab: Lab) -> None:
    done: list[TlsPipe] = []
    pipe, client = lab.pipe(done.append)
    client.send(b"\x16\x03")
    lab.now = 11.0
    lab.until(lambda: bool(done))
    assert pipe.failure == "timeout"
    assert client.recv(1) == b""


def test_who_is_not_heard_out_is_told_why_before_it_is_closed(lab: Lab) -> None:
    done: list[TlsPipe] = []
    pipe, client = lab.pipe(done.append)
    client.sendall(b"POST /v1 HTTP/1.1\r\n\r\n" + bytes(100_000))
    answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400")
    assert done == []  # it may still be sending
    client.close()
    lab.until(lambda: bool(done))
    assert pipe.failure == "plain"


def test_a_stop_lets_go_of_everything_at_once(lab: Lab) -> None:
    pipe, _ = lab.connected()
    shaking: list[TlsPipe] = []
    lab.pipe(shaking.append)
    data = memoryview(bytearray(8 * MIB))
    pipe.send([data])
    pipe.receive_into(memoryview(bytearray(10)), whole=True)
    lab.thread.stop()
    closed: list[bool] = []
    pipe.close(lambda: closed.append(True))
    assert closed == [True]  # at once, in this thread
    while not lab.told.empty():
        lab.turn()
    assert [each.failure for each in shaking] == ["lost"]
    data.release()


def test_one_that_the_kernel_does_not_watch_ends_and_the_others_go_on(lab: Lab) -> None:
    class Full:
        def __init__(self, real: select.epoll) -> None:
            self._real = real

        def register(self, fd: int, events: int) -> None:
            lab.thread._epoll = self._real  # type: ignore[assignment]
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    failed: list[TlsPipe] = []
    lab.thread._epoll = Full(lab.thread._epoll)  # type: ignore[assignment]
    pipe, theirs = lab.pipe(failed.append)
    lab.until(lambda: bool(failed))
    assert (pipe.failure, theirs.recv(1)) == ("other", b"")
    assert lab.connected()[0].failure == ""
