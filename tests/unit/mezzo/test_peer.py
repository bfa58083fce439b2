"""What is known of the process at the other end of a Unix socket."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from mezzo import peer
from mezzo.peer import Peer
from tests.held import descriptors

LISTENS = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("machines", [peer._MACHINES, ()], ids=["by descriptor", "by number"])
def test_it_is_known_when_the_process_has_ended(tmp_path, monkeypatch, machines):
    monkeypatch.setattr(peer, "_MACHINES", machines)
    monkeypatch.chdir(tmp_path)  # a path that is short enough
    with subprocess.Popen(
        [sys.executable, "-c", LISTENS, "sock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("sock")
            there = Peer.of(sock)
            assert there is not None
            assert not there.gone()
            process.kill()
            process.wait()
            assert there.gone()


def test_nothing_is_known_of_other_hosts():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        sock.connect(listener.getsockname())
        assert Peer.of(sock) is None


def test_its_descriptor_is_given_back():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = descriptors()
        there = Peer.of(ours)
        assert there is not None
        assert not there.gone(), "it is this process"
        del there
        assert descriptors() == before
