"""Clients that misbehave, stop or vanish: nobody else notices, and nothing of them stays behind."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mezzo import Client
from mezzo.checksum import chunk_seed, part_checksum
from mezzo.errors import ErrorCode
from mezzo.protocol.bitmap import unpack
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import (
    Acquire,
    Acquired,
    ErrorReply,
    Get,
    Got,
    Hello,
    Kind,
    Lookup,
    Ping,
    Pong,
    Put,
    PutData,
    PutDone,
    PutGrant,
    Refuse,
    RegionAdd,
    RegionAdded,
    RegionRemove,
    RegionRemoved,
)
from mezzo_server.testing import RunningShard
from tests.integration.shard_wire import LOOPS, Wire, key_of, nothing_stays_behind, numbers, shard_on, stored
from tests.patience import eventually

MIB = 1 << 20
CONFIG = """
[shard]
scrub_bytes_per_s = 0
[shard.limits]
connections_max = 20
staging_bytes = "32MiB"
staging_connection_bytes_max = "8MiB"
chunk_bytes_max = "4MiB"
"""


@pytest.fixture(scope="module", params=LOOPS)
def shard(request: pytest.FixtureRequest) -> Iterator[RunningShard]:
    with shard_on(request.param, CONFIG) as shard:
        yield shard


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, shard: RunningShard) -> str:
    return shard.unix if request.param == "unix" else shard.tcp


@pytest.fixture(autouse=True)
def _nothing_stays_behind(shard: RunningShard) -> Iterator[None]:
    with nothing_stays_behind(shard):
        yield


def memfd(size: int, *, sealed: bool) -> int:
    fd = os.memfd_create("wire", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def checksum_of(wire: Wire, key: bytes, data: bytes) -> int:
    scope = wire.welcome.tenant_id + wire.welcome.namespace_id
    return part_checksum(chunk_seed(scope, key), 0, [data])


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        random.Random(1).randbytes(100_000),
        encode(Kind.HELLO, 0, Hello(1, 1))[:20] + bytes(500),
        encode(Kind.PING, 1, Ping()),
        encode(Kind.HELLO, 0, Hello(7, 9)),
        encode(Kind.WELCOME, 0, Ping()),
    ],
    ids=["http", "tls", "random", "garbled", "no-hello", "versions", "wrong-direction"],
)
def test_garbage_is_refused_with_a_reason(address: str, garbage: bytes) -> None:
    with Wire(address, hello=False) as wire:
        wire.sock.sendall(garbage)
        if garbage.startswith(b"GET"):
            assert wire.sock.recv(4096).startswith(b"HTTP/1.1 400")
        else:
            assert wire.expect(Refuse).message
        assert wire.ended()


def test_garbage_behind_good_frames_answers_those_first(address: str) -> None:
    with Wire(address) as wire:
        wire.sock.sendall(encode(Kind.PING, 1, Ping()) + encode(Kind.PING, 2, Ping()) + bytes(100))
        wire.expect(Pong)
        wire.expect(Pong)
        wire.expect(Refuse)
        assert wire.ended()


def test_frames_that_come_byte_by_byte(address: str) -> None:
    with Wire(address) as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for byte in encode(Kind.LOOKUP, 1, Lookup([b"a", b"b"])):
            wire.sock.sendall(bytes([byte]))
        assert wire.frame() is not None


def test_too_many_connections_are_told_so(shard: RunningShard, address: str) -> None:
    wires = [Wire(shard.unix) for _ in range(20)]
    with Wire(address, hello=False) as late:
        assert late.expect(Refuse).code == ErrorCode.BUSY
        assert late.ended()
    for wire in wires:
        wire.send(Kind.PING, 1, Ping())
        wire.expect(Pong)
        wire.sock.close()


CHILD = """
import sys, random, threading
import mezzo
address, kind, size, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].encode()
client = mezzo.Client(address, timeout_s=60)
keys = [first + b"-%d" % n for n in range(8)]
region = client.region(8 * size)
extents = [region[n * size:(n + 1) * size] for n in range(8)]
if kind == "get":
    client.put(keys, extents)
print("ready", flush=True)
number = 0
while True:
    if kind == "get":
        client.get(keys, extents)
    else:
        number += 1
        client.put([key + b"/%d" % number for key in keys], extents)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("kind", ["get", "put"])
def test_a_client_killed_or_stopped_in_the_middle(
    shard: RunningShard, address: str, kind: str, end: signal.Signals
) -> None:
    chunks = stored(address, MIB, 100_001)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, address, kind, str(MIB), key_of("child").decode()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        busy = numbers(shard.unix)["requests"]
        eventually(lambda: numbers(shard.unix)["requests"] > busy + 20, "the child is at work")
        child.send_signal(end)
        with Client(address) as client:
            outs = [bytearray(len(data)) for data in chunks.values()]
            for _ in range(20):
                assert client.get(list(chunks), outs).count == 2
                assert outs == list(chunks.values())
            fresh = key_of("fresh")
            assert client.put([fresh], [b"x" * MIB]).stored == 1
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def test_leases_end_with_the_connection(shard: RunningShard, address: str) -> None:
    chunks = stored(address, 5000)
    wire = Wire(address)
    wire.send(Kind.ACQUIRE, 1, Acquire(list(chunks), 600_000))
    assert wire.expect(Acquired).lease
    assert numbers(shard.unix)["leased_bytes"] == 5000
    wire.sock.close()
    eventually(lambda: numbers(shard.unix)["leases"] == 0, "the lease ends")


def test_descriptors_that_do_not_belong_are_refused_and_closed(shard: RunningShard) -> None:
    fd = memfd(MIB, sealed=True)
    with Wire(shard.unix) as wire:
        wire.send_with(Kind.PING, 1, Ping(), [fd])
        wire.expect(Pong)
        assert "descriptor" in wire.expect(Refuse).message
    with Wire(shard.unix) as wire:
        wire.send_with(Kind.REGION_ADD, 1, RegionAdd(1, 0, MIB), [fd, fd])
        wire.expect(RegionAdded)
        assert "descriptor" in wire.expect(Refuse).message
    with Wire(shard.unix) as wire:
        wire.send_with(Kind.REGION_ADD, 1, RegionAdd(1, 0, MIB), [fd] * 50)
        wire.expect(Refuse)
        assert wire.ended()
    with Wire(shard.unix) as wire:
        wire.send(Kind.REGION_ADD, 1, RegionAdd(1, 0, MIB))
        assert "descriptor" in wire.expect(Refuse).message
    with Wire(shard.tcp) as wire:
        assert not wire.welcome.shm
        wire.send(Kind.REGION_ADD, 1, RegionAdd(1, 0, MIB))
        wire.expect(Refuse)
    os.close(fd)


def test_a_descriptor_that_comes_before_the_rest_of_its_frame(shard: RunningShard) -> None:
    fd = memfd(MIB, sealed=True)
    frame = encode(Kind.REGION_ADD, 1, RegionAdd(1, 0, MIB))
    with Wire(shard.unix) as wire:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
        wire.sock.sendmsg([frame[:10]], rights)
        wire.sock.sendall(frame[10:])
        assert wire.expect(RegionAdded).mapped
    os.close(fd)


@pytest.mark.parametrize("sealed", [True, False], ids=["mapped", "descriptor"])
def test_a_region_that_is_removed_under_its_transfers(shard: RunningShard, sealed: bool) -> None:
    chunks = stored(shard.tcp, *[MIB] * 8)
    fd = memfd(8 * MIB, sealed=sealed)
    with Wire(shard.unix) as wire:
        assert wire.region(1, fd, 8 * MIB).mapped is sealed
        wire.send(Kind.GET, 1, Get(list(chunks), 1, [[n * MIB, MIB] for n in range(8)]))
        wire.send(Kind.REGION_REMOVE, 2, RegionRemove(1))
        assert wire.expect(Got).count == 8
        wire.expect(RegionRemoved)
        assert os.pread(fd, 8 * MIB, 0) == b"".join(chunks.values())
        wire.send(Kind.GET, 3, Get(list(chunks)[:1], 1, [[0, MIB]]))
        assert wire.expect(ErrorReply).code == ErrorCode.REGION
    os.close(fd)


def test_a_region_truncated_under_its_transfers(shard: RunningShard) -> None:
    """A file that may shrink shrinks again and again while it is read into and written from."""
    chunks = stored(shard.tcp, *[MIB] * 4)
    fd = memfd(4 * MIB, sealed=False)
    stop = threading.Event()

    def shrink() -> None:
        while not stop.is_set():
            os.ftruncate(fd, 0)
            os.ftruncate(fd, 4 * MIB)

    thread = threading.Thread(target=shrink)
    thread.start()
    try:
        with Wire(shard.unix) as wire:
            request_id = 0
            outcomes = set()
            extents = [[n * MIB, MIB] for n in range(4)]
            wire.send_with(Kind.REGION_ADD, 7777, RegionAdd(1, 0, 4 * MIB), [fd])
            added = wire.frame()
            while added is not None and not isinstance(added.body, RegionAdded):
                wire.send_with(Kind.REGION_ADD, 7777, RegionAdd(1, 0, 4 * MIB), [fd])
                added = wire.frame()
            for _ in range(100):
                request_id += 1
                wire.send(Kind.GET, request_id, Get(list(chunks), 1, extents))
                answer = wire.frame()
                assert answer is not None
                assert isinstance(answer.body, (Got, ErrorReply)), answer.body
                outcomes.add(type(answer.body))
                request_id += 1
                keys = [key_of("shrunk") for _ in range(4)]
                wire.send(Kind.PUT, request_id, Put(keys, [MIB] * 4, region=1, sources=extents))
                answer = wire.frame()
                assert answer is not None
                assert isinstance(answer.body, (PutDone, ErrorReply)), answer.body
            assert outcomes
    finally:
        stop.set()
        thread.join()
        os.close(fd)
    with Client(shard.tcp) as client:
        out = bytearray(MIB)
        for key, data in chunks.items():
            assert client.get([key], [out]).count == 1
            assert out == data


def test_holes_punched_into_a_mapped_region(shard: RunningShard) -> None:
    """Sealed memory can still lose its pages: zeros, no fault."""
    chunks = stored(shard.tcp, MIB)
    fd = memfd(MIB, sealed=True)
    libc_punch = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with Wire(shard.unix) as wire:
        wire.region(1, fd, MIB)
        for request_id in range(1, 20):
            wire.send(Kind.GET, request_id, Get(list(chunks), 1, [[0, MIB]]))
            libc.fallocate(fd, libc_punch, ctypes.c_long(0), ctypes.c_long(MIB))
            wire.expect(Got)
    os.close(fd)


def test_a_client_that_scribbles_harms_itself_only(shard: RunningShard) -> None:
    """It writes over its region while gets land there and puts leave from there."""
    chunks = stored(shard.tcp, *[MIB] * 4)
    fd = memfd(8 * MIB, sealed=True)
    stop = threading.Event()

    def scribble() -> None:
        rubbish = os.urandom(4096)
        place = random.Random(2)
        while not stop.is_set():
            os.pwrite(fd, rubbish, place.randrange(0, 8 * MIB - 4096))

    thread = threading.Thread(target=scribble)
    thread.start()
    mine = []
    try:
        with Wire(shard.unix) as wire:
            wire.region(1, fd, 8 * MIB)
            for round_ in range(30):
                keys = [key_of("scribbled") for _ in range(4)]
                wire.send(
                    Kind.PUT,
                    2 * round_ + 1,
                    Put(keys, [MIB] * 4, region=1, sources=[[n * MIB, MIB] for n in range(4, 8)]),
                )
                wire.expect(PutDone)
                mine += keys
                wire.send(Kind.GET, 2 * round_ + 2, Get(list(chunks), 1, [[n * MIB, MIB] for n in range(4)]))
                wire.expect(Got)
    finally:
        stop.set()
        thread.join()
    with Client(shard.unix) as client:
        region = client.region(4 * MIB)
        got = client.get(list(chunks), [region[n * MIB : (n + 1) * MIB] for n in range(4)])
        assert got.count == 4
        assert bytes(region.view) == b"".join(chunks.values())
        # What it put is what it stored or a miss, and nothing is given up for it.
        client.get(mine[:4], [region[n * MIB : (n + 1) * MIB] for n in range(4)])
    assert numbers(shard.unix)["segments_retired"] == 0
    os.close(fd)


def test_wrong_payload_over_the_wire_is_not_stored(address: str) -> None:
    good, bad = key_of("good"), key_of("bad")
    data = random.randbytes(300_000)
    with Wire(address) as wire:
        wire.send(Kind.PUT, 1, Put([bad, good], [len(data)] * 2))
        assert wire.expect(PutGrant).indexes == [0, 1]
        wire.send(Kind.PUT_DATA, 1, PutData(0, [checksum_of(wire, bad, data) ^ 1]), len(data))
        wire.sock.sendall(data)
        wire.send(Kind.PUT_DATA, 1, PutData(1, [checksum_of(wire, good, data)]), len(data))
        wire.sock.sendall(data)
        assert unpack(wire.expect(PutDone).stored, 2) == (False, True)
        wire.send(Kind.GET, 2, Get([bad, good]))
        while not isinstance((frame := wire.frame()).body, Got):  # type: ignore[union-attr]
            pass
        assert unpack(frame.body.found, 2) == (False, True)  # type: ignore[union-attr]
        assert wire.payloads == [data]


def test_many_clients_come_and_go(shard: RunningShard) -> None:
    def visit(number: int) -> None:
        for turn in range(5):
            address = shard.unix if (number + turn) % 2 else shard.tcp
            with Client(address, timeout_s=30) as client:
                key = key_of(f"visit{number}")
                data = random.randbytes(200_000)
                out = bytearray(len(data))
                assert client.put([key], [data]).stored == 1
                assert client.get([key], [out]).count == 1
                assert out == data

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
