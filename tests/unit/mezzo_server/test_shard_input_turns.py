"""How often a connection is looked at for what has come: requests of which each takes as long as a turn may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Kind, Ping
from mezzo_server.shard import connection
from tests.unit.mezzo_server.shard_harness import Shard
from tests.unit.mezzo_server.test_shard_progress import Runtime

ROOM = 1 << 20


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    monkeypatch.setattr(connection, "TURN_NS", -1)
    shard = Shard()
    yield Runtime(shard)
    shard.close()


def exchange(runtime: Runtime, data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How often the socket was read, and the bytes of the answers."""
    reads = 0
    receive = runtime.wire.recv_into

    def counted(buffer: memoryview) -> int:
        nonlocal reads
        reads += 1
        return receive(buffer)

    monkeypatch.setattr(runtime.wire, "recv_into", counted)
    runtime.wire.reads_bytes = 0
    runtime.send(data, reads_bytes=ROOM)
    return reads, ROOM - runtime.wire.reads_bytes


def test_a_request_that_came_alone_takes_one_turn(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, answered = exchange(runtime, encode(Kind.PING, 1, Ping()), monkeypatch)
    assert answered
    assert reads == 1


def test_what_came_with_it_has_its_turn_later(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    _, alone = exchange(runtime, encode(Kind.PING, 1, Ping()), monkeypatch)
    three = b"".join([encode(Kind.PING, number, Ping()) for number in (2, 3, 4)])
    _, answered = exchange(runtime, three + encode(Kind.PING, 5, Ping())[:20], monkeypatch)
    assert answered == 3 * alone
    _, answered = exchange(runtime, encode(Kind.PING, 5, Ping())[20:], monkeypatch)
    assert answered == alone
