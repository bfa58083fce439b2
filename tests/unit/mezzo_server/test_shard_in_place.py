"""Acquire in place and the passing of arenas, through a session, over a real store with a hot tier."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator

import pytest

from mezzo.errors import ErrorCode, Gone, MezzoError, ProtocolError
from mezzo.protocol.messages import (
    Acquire,
    Acquired,
    ArenaOpen,
    ArenaOpened,
    Cancel,
    Cancelled,
    Delete,
    Deleted,
    ErrorReply,
    InPlace,
    Kind,
    Put,
    PutDone,
    Release,
    Released,
    ShardStat,
    ShardStated,
)
from tests.held import descriptors
from tests.unit.mezzo_server.shard_harness import MIB, FakeClient, Shard

CHUNK = 64 * 1024
HOT, LOAD = InPlace.HOT, InPlace.LOAD


@pytest.fixture
def shard() -> Iterator[Shard]:
    shard = Shard(hot_bytes=4 * MIB)
    yield shard
    shard.close()


@pytest.fixture
def client(shard: Shard) -> FakeClient:
    return shard.client()


def names(count: int, prefix: str = "k") -> list[bytes]:
    return [f"{prefix}{number}".encode() for number in range(count)]


def put(client: FakeClient, keys: list[bytes], region: int = 1) -> None:
    memory = client.region(region, len(keys) * CHUNK)
    for number, key in enumerate(keys):
        memory.write(number * CHUNK, key * (CHUNK // len(key)))
    extents = [[number * CHUNK, CHUNK] for number in range(len(keys))]
    done = client.ask(Kind.PUT, Put(keys, [CHUNK] * len(keys), [], region, extents), PutDone)
    assert done.stored_count == len(keys)
    memory.close()


def acquire(client: FakeClient, keys: list[bytes], wish: int = HOT, lease_ms: int = 5000) -> Acquired:
    return client.ask(Kind.ACQUIRE, Acquire(keys, lease_ms, wish), Acquired)


def release(client: FakeClient, lease: int) -> bool:
    return client.ask(Kind.RELEASE, Release(lease), Released).held


def numbers(client: FakeClient) -> dict[str, int | float]:
    return client.ask(Kind.SHARD_STAT, ShardStat(), ShardStated).numbers


def why_refused(client: FakeClient) -> MezzoError | None:
    return client.refused


def hot(acquired: Acquired) -> int:
    return sum(generation > 0 for generation in acquired.places[3::4])


def open_arena(client: FakeClient, arena: int) -> tuple[ArenaOpened, int]:
    """The answer, and the descriptor that came."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client.descriptors.append(os.dup(theirs.fileno()))
        opened = client.ask(Kind.ARENA_OPEN, ArenaOpen(arena), ArenaOpened)
        _, fds, _, _ = socket.recv_fds(ours, 1, 4)
        assert len(fds) == 1
        return opened, fds[0]


def test_places_name_the_bytes(client: FakeClient) -> None:
    keys = names(5)
    put(client, keys)
    acquired = acquire(client, [*keys, b"absent"])
    assert (acquired.prefix, acquired.bytes, hot(acquired)) == (5, 5 * CHUNK, 5)
    for number, key in enumerate(keys):
        arena, page, length, generation = acquired.places[4 * number : 4 * number + 4]
        opened, fd = open_arena(client, arena)
        assert os.pread(fd, length, opened.data_offset + page * opened.page_bytes) == key * (
            CHUNK // len(key)
        )
        assert int.from_bytes(os.pread(fd, 8, 8 * page), "little") == generation
        assert os.fstat(fd).st_size == opened.bytes
        os.close(fd)
    assert numbers(client)["hot_bytes_held"] == 5 * CHUNK
    assert release(client, acquired.lease)
    assert numbers(client)["hot_bytes_held"] == 0


def test_a_plain_acquire_says_nothing_of_places(client: FakeClient) -> None:
    put(client, names(2))
    acquired = acquire(client, names(2), InPlace.NO)
    assert (acquired.prefix, acquired.places) == (2, [])
    assert numbers(client)["hot_bytes_held"] == 0


def test_without_a_hot_tier_nothing_is_hot() -> None:
    shard = Shard()
    client = shard.client()
    put(client, names(2))
    for wish in (HOT, LOAD):
        assert acquire(client, names(2), wish).places == [0] * 8
    shard.close()


def test_loading_makes_hot_what_was_evicted(client: FakeClient) -> None:
    first = names(20)
    put(client, first)
    for turn in range(6):
        put(client, names(16, f"other{turn}-"), region=10 + turn)
    cold = acquire(client, first)
    assert cold.prefix == 20
    assert hot(cold) < 20
    release(client, cold.lease)
    loaded = acquire(client, first, LOAD)
    assert hot(loaded) == 20
    assert release(client, loaded.lease)


def test_loading_what_is_not_there(client: FakeClient) -> None:
    assert acquire(client, [b"absent"], LOAD) == Acquired(0, 0, 0, 0, 0, [])


def test_a_load_that_is_cancelled_leaves_no_lease(shard: Shard, client: FakeClient) -> None:
    put(client, names(20))
    for turn in range(6):
        put(client, names(16, f"other{turn}-"), region=10 + turn)
    request = client.start(Kind.ACQUIRE, Acquire(names(20), 5000, LOAD))
    client.start(Kind.CANCEL, Cancel(), request_id=request)
    shard.settle()
    client.answer(request, Cancelled)
    assert client.answers(request) == []
    told = numbers(client)
    assert (told["leases"], told["hot_bytes_held"]) == (0, 0)


def test_a_client_that_goes_while_it_loads(shard: Shard, client: FakeClient) -> None:
    put(client, names(20))
    for turn in range(6):
        put(client, names(16, f"other{turn}-"), region=10 + turn)
    client.start(Kind.ACQUIRE, Acquire(names(20), 5000, LOAD))
    client.close()
    shard.settle()
    assert len(shard.service.leases) == 0
    assert shard.hot is not None
    assert shard.hot.held_bytes == 0


def test_a_deleted_chunk_changes_its_generation_but_keeps_its_slot(client: FakeClient) -> None:
    put(client, names(1))
    acquired = acquire(client, names(1))
    arena, page, length, generation = acquired.places
    opened, fd = open_arena(client, arena)
    client.ask(Kind.DELETE, Delete(names(1)), Deleted)
    assert int.from_bytes(os.pread(fd, 8, 8 * page), "little") > generation
    put(client, names(16, "other"), region=2)
    at = opened.data_offset + page * opened.page_bytes
    assert os.pread(fd, length, at) == b"k0" * (CHUNK // 2), "held: not overwritten"
    os.close(fd)
    assert acquire(client, names(1)).prefix == 0
    release(client, acquired.lease)
    assert numbers(client)["hot_bytes_held"] == 0


def test_an_overdue_lease_ends_with_its_connection_once_room_is_wanted(
    shard: Shard, client: FakeClient
) -> None:
    other = shard.client()
    keys = names(40)
    put(client, keys)
    acquire(client, keys, LOAD, lease_ms=1000)
    shard.clock.now += 2.0
    shard.service.tick()
    told = numbers(other)
    assert (told["leases"], told["leases_overdue"]) == (0, 1)
    assert told["hot_bytes_overdue"] == told["hot_bytes_held"] > 0
    shard.service.tick()
    assert why_refused(client) is None, "nobody wants the room"
    for turn in range(4):
        put(other, names(16, f"other{turn}-"), region=1 + turn)
        acquire(other, names(16, f"other{turn}-"), LOAD, lease_ms=60_000)
    shard.service.tick()
    refused = why_refused(client)
    assert isinstance(refused, Gone)
    assert "expired 1.0 s ago" in str(refused)
    assert "release leases in time" in str(refused)
    assert why_refused(other) is None
    told = numbers(other)
    assert (told["leases_overdue"], told["hot_bytes_overdue"], told["connections_ended_overdue"]) == (0, 0, 1)


@pytest.mark.parametrize("wish", [HOT, LOAD])
def test_over_tcp_it_is_refused(shard: Shard, wish: InPlace) -> None:
    client = shard.client(shm=False)
    refused = client.fails(Kind.ACQUIRE, Acquire([b"k"], 1000, wish))
    assert refused.code == ErrorCode.INVALID
    assert "unix://" in refused.message


def test_a_wish_that_nobody_knows(client: FakeClient) -> None:
    assert client.fails(Kind.ACQUIRE, Acquire([b"k"], 1000, 3)).code == ErrorCode.INVALID


# The channel is whatever a client passes.


def give(client: FakeClient, descriptor: int) -> ErrorReply:
    client.descriptors.append(descriptor)
    return client.fails(Kind.ARENA_OPEN, ArenaOpen(1))


def test_an_arena_that_is_not_there(client: FakeClient) -> None:
    put(client, names(1))
    ours, theirs = socket.socketpair()
    with ours:
        client.descriptors.append(theirs.detach())
        refused = client.fails(Kind.ARENA_OPEN, ArenaOpen(77))
        assert (refused.code, refused.message) == (ErrorCode.INVALID, "there is no arena 77")
        assert ours.recv(1) == b"", "the shard has closed its end"


def test_a_request_without_a_channel(client: FakeClient) -> None:
    with pytest.raises(ProtocolError, match="exactly one descriptor"):
        client.start(Kind.ARENA_OPEN, ArenaOpen(1))


def test_channels_that_are_none(client: FakeClient) -> None:
    put(client, names(1))
    before = descriptors()
    reading, writing = os.pipe()
    channels = [
        reading,
        writing,
        os.memfd_create("no channel"),
        os.open("/dev/null", os.O_RDWR),
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach(),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(),
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).detach(),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach(),
    ]
    for channel in channels:
        assert give(client, channel).code == ErrorCode.REGION
    ours, theirs = socket.socketpair()
    ours.close()
    assert give(client, theirs.detach()).code == ErrorCode.REGION
    assert descriptors() <= before


def test_a_channel_that_is_full_does_not_hold_the_shard(client: FakeClient) -> None:
    put(client, names(1))
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours:
        try:
            while True:
                theirs.send(bytes(65536))
        except BlockingIOError:
            pass
        theirs.setblocking(True)
        assert give(client, theirs.detach()).code == ErrorCode.REGION


def test_a_socket_that_lingers_is_closed_at_once(client: FakeClient) -> None:
    put(client, names(1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, array.array("i", [1, 1000]))
        sock.setblocking(False)
        try:
            while True:
                sock.send(bytes(1 << 20))
        except BlockingIOError:
            pass
        assert give(client, sock.detach()).code == ErrorCode.REGION


def test_what_is_sent_is_not_inherited_and_not_the_shard_s_number(client: FakeClient) -> None:
    put(client, names(1))
    acquired = acquire(client, names(1))
    _, fd = open_arena(client, acquired.places[0])
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"evil", 0)
    os.close(fd)
