"""Clients that move a byte now and then: a connection over a socket that is a list of bytes, in injected time."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Get, Hello, Kind, Put, PutData
from mezzo_server.shard.connection import Connection
from mezzo_server.shard.progress import STEP_BYTES, Progress
from mezzo_server.shard.turns import Turn
from tests.unit.mezzo_server.shard_harness import MIB, Shard, data_of, put_tcp
from tests.unit.mezzo_server.test_shard_slow_readers import Device

STALL_S = 20.0
LENGTH = 3 * MIB


class Wire:
    """The client's end: what it sent and the shard has not read, and how much it reads."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.sent = b""
        self.reads_bytes = 0
        self.closed = False

    def fileno(self) -> int:
        return 0

    def recv_into(self, buffer: memoryview) -> int:
        if not self.sent:
            raise BlockingIOError
        count = min(len(buffer), len(self.sent))
        buffer[:count] = self.sent[:count]
        self.sent = self.sent[count:]
        return count

    def send(self, view: memoryview) -> int:
        count = min(len(view), self.reads_bytes)
        if not count:
            raise BlockingIOError
        self.reads_bytes -= count
        return count

    def sendmsg(self, views: list[memoryview]) -> int:
        return self.send(memoryview(b"".join(views)))

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Runtime:
    """Calls a connection when there is something for it to read, or room for it to write."""

    def __init__(self, shard: Shard) -> None:
        self.service = shard.service
        self.shard = shard
        self.wire = Wire()
        self.steps: list[Callable[[], None]] = []
        self.turns: dict[str, Turn] = {}
        self.connection = Connection(cast("Any", self), cast("Any", self.wire), "test")
        self.send(encode(Kind.HELLO, 0, Hello(1, 1, "test", "default", b"")), reads_bytes=1 << 20)
        self.wire.reads_bytes = 0

    def later(self, step: Callable[[], None]) -> None:
        self.steps.append(step)

    def later_for(self, session: object, step: Callable[[], None]) -> None:
        self.steps.append(step)

    def watch_input(self, fd: int, turn: Turn) -> None:
        self.turns["in"] = turn

    def unwatch_input(self, fd: int) -> None:
        del self.turns["in"]

    def watch_output(self, fd: int, turn: Turn) -> None:
        self.turns["out"] = turn

    def unwatch_output(self, fd: int) -> None:
        del self.turns["out"]

    def forget(self, connection: Connection) -> None:
        pass

    def send(self, data: bytes = b"", *, reads_bytes: int = 0) -> None:
        """The client sends, and reads so much."""
        self.wire.sent += data
        self.wire.reads_bytes += reads_bytes
        for _ in range(200):
            steps, self.steps = self.steps, []
            for step in steps:
                step()
            if self.wire.sent and "in" in self.turns:
                self.turns["in"].callback()
            if self.wire.reads_bytes and "out" in self.turns:
                self.turns["out"].callback()
            self.shard.settle()

    def lasts(self, seconds: float, each_s: float, data: bytes = b"", reads_bytes: int = 0) -> float:
        """For how long the connection is kept if the client goes on so."""
        began = self.shard.clock.now
        while not self.ended and self.shard.clock.now - began < seconds:
            self.shard.clock.now += each_s
            self.send(data, reads_bytes=reads_bytes)
            self.connection.check_time(self.shard.clock.now)
        return self.shard.clock.now - began

    @property
    def ended(self) -> bool:
        return self.wire.closed or self.connection.session.closed


@pytest.fixture
def shard() -> Iterator[Shard]:
    shard = Shard(device=lambda clock: Device(96 * MIB))
    yield shard
    assert shard.staging.pieces_taken == shard.store_staging.pieces_taken == 0
    gc.collect()  # connections, whose readers had views of the memory
    shard.close()


def test_progress_is_a_step_in_each_time() -> None:
    progress = Progress(1.0)
    progress.begin(10 * MIB, 5.0)
    progress.moved(STEP_BYTES - 1, 9 * MIB, 6.0)
    assert progress.since == 5.0
    progress.moved(1, 9 * MIB, 7.0)
    assert progress.since == 7.0
    progress.begin(100, 8.0)  # all, if that is less
    progress.moved(99, 1 << 30, 9.0)
    assert progress.since == 8.0
    progress.moved(1, 1 << 30, 10.0)
    assert progress.since == 10.0


def test_who_reads_a_byte_now_and_then_holds_memory_no_longer_than_who_reads_none(shard: Shard) -> None:
    put_tcp(shard.client(), {b"k": data_of(b"k", LENGTH)})
    runtime = Runtime(shard)
    runtime.send(encode(Kind.GET, 1, Get([b"k"])))
    assert shard.store_staging.pieces_taken
    assert runtime.lasts(1000, 1.0, reads_bytes=100) <= STALL_S + 2
    shard.settle()
    assert shard.store_staging.pieces_taken == 0


def test_who_sends_a_byte_now_and_then_holds_memory_no_longer_than_who_sends_none(shard: Shard) -> None:
    runtime = Runtime(shard)
    runtime.send(encode(Kind.PUT, 1, Put([b"k"], [LENGTH])), reads_bytes=1 << 20)
    assert shard.staging.pieces_taken == 1
    runtime.send(encode(Kind.PUT_DATA, 1, PutData(0, [0]), LENGTH), reads_bytes=1 << 20)
    assert runtime.lasts(1000, 1.0, b"x" * 100, 1 << 20) <= STALL_S + 2
    shard.settle()
    assert shard.staging.pieces_taken == 0


def test_nor_does_who_sends_one_small_chunk_after_the_other(shard: Shard) -> None:
    count = 200
    runtime = Runtime(shard)
    keys = [b"k%d" % number for number in range(count)]
    runtime.send(encode(Kind.PUT, 1, Put(keys, [10] * count)), reads_bytes=1 << 20)
    began = shard.clock.now
    for index in range(count):
        if runtime.ended:
            break
        shard.clock.now += STALL_S - 1
        runtime.send(encode(Kind.PUT_DATA, 1, PutData(index, [0]), 10) + bytes(10), reads_bytes=1 << 20)
        runtime.connection.check_time(shard.clock.now)
    assert shard.clock.now - began <= 3 * STALL_S
    shard.settle()


@pytest.mark.parametrize("way", ["reads", "sends"])
def test_who_is_slow_but_moves_is_kept(shard: Shard, way: str) -> None:
    put_tcp(shard.client(), {b"k": data_of(b"k", LENGTH)})
    runtime = Runtime(shard)
    if way == "reads":
        runtime.send(encode(Kind.GET, 1, Get([b"k"])))
        assert runtime.lasts(60, 1.0, reads_bytes=LENGTH // 40) >= 60
    else:
        runtime.send(encode(Kind.PUT, 1, Put([b"new"], [LENGTH])), reads_bytes=1 << 20)
        runtime.send(encode(Kind.PUT_DATA, 1, PutData(0, [0]), LENGTH), reads_bytes=1 << 20)
        assert runtime.lasts(39, 1.0, bytes(LENGTH // 40), 1 << 20) >= 39
    assert not runtime.ended
    runtime.connection.close()
    shard.settle()
