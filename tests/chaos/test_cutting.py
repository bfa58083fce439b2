"""The proxy that cuts: what passes, what is held, and in which direction."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.cutting import Cutter, Link, cutting
from tests.held import descriptors
from tests.patience import PATIENCE_S, eventually

HELD_S = 0.1
"""Nothing can be waited for where nothing comes: too short a look passes wrongly, never fails wrongly."""


@contextmanager
def echoing() -> Iterator[tuple[int, list[bytes]]]:
    """A port that sends back what it is sent; and all that it was sent."""
    heard: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                try:
                    while data := sock.recv(1 << 16):
                        heard.append(data)
                        sock.sendall(data)
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], heard
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_S)


@pytest.fixture
def way() -> Iterator[tuple[Link, list[bytes]]]:
    with echoing() as (port, heard), cutting() as cutter:
        yield cutter.link(port), heard


def connected(link: Link) -> socket.socket:
    return socket.create_connection((link.host, link.port), PATIENCE_S)


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        assert more, "the connection ended"
        data += more
    return data


def is_silent(sock: socket.socket) -> bool:
    sock.settimeout(HELD_S)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(PATIENCE_S)
    return False


def test_all_passes_both_ways(way):
    link, _ = way
    data = bytes(range(256)) * 4096
    with connected(link) as sock:
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        assert exactly(sock, len(data)) == data
        sender.join(PATIENCE_S)
        eventually(lambda: link.passed_bytes == 2 * len(data), "all is counted, a moment after it passed")


@pytest.mark.parametrize(("cut", "arrives"), [("there", False), ("back", True), ("both", False)])
def test_a_cut_holds_its_direction_until_it_is_healed(way, cut, arrives):
    link, heard = way
    with connected(link) as sock:
        sock.sendall(b"a")
        assert exactly(sock, 1) == b"a"
        link.cut(cut)
        sock.sendall(b"b")
        if arrives:
            eventually(lambda: b"b" in heard, "the other direction is open")
        assert is_silent(sock)
        assert (b"b" in heard) == arrives
        link.heal()
        assert exactly(sock, 1) == b"b"


def test_a_cut_in_the_midst_of_a_frame(way):
    link, heard = way
    with connected(link) as sock:
        link.cut("there", after_bytes=3)
        sock.sendall(b"frames")
        assert exactly(sock, 3) == b"fra"
        assert is_silent(sock)
        assert b"".join(heard) == b"fra"
        link.heal()
        assert exactly(sock, 3) == b"mes"


def test_connections_of_a_healed_link_may_be_reset(way):
    link, _ = way
    with connected(link) as sock:
        link.cut()
        sock.sendall(b"a")
        with connected(link) as late:
            late.sendall(b"b")
            assert is_silent(late)
            link.heal(reset=True)
            for each in (sock, late):
                with pytest.raises(ConnectionError):
                    assert each.recv(1)
    with connected(link) as sock:
        sock.sendall(b"c")
        assert exactly(sock, 1) == b"c"


def test_what_is_delayed_comes_later_and_whole(way):
    link, _ = way
    with connected(link) as sock:
        link.delay(HELD_S / 4)
        sock.sendall(b"slow")
        assert exactly(sock, 4) == b"slow"


def test_ends_pass_and_a_target_that_is_not_there_is_a_refusal(way):
    link, _ = way
    with connected(link) as sock:
        sock.sendall(b"a")
        sock.shutdown(socket.SHUT_WR)
        assert exactly(sock, 1) == b"a"
        assert sock.recv(1) == b""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # It may come before the connection is used at all.
    with cutting() as cutter, pytest.raises(ConnectionError), connected(cutter.link(port)) as sock:
        assert sock.recv(1)


def test_nothing_stays_behind():
    before = descriptors()
    with echoing() as (port, _):
        cutter = Cutter()
        link = cutter.link(port)
        with connected(link) as sock:
            link.cut()
            sock.sendall(b"a")
            cutter.close()
    assert {what for _, what in descriptors()} - {what for _, what in before} == set()
