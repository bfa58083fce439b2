"""Use in place against a server whose every frame is written by hand, and whose arena is a file of ours."""

import fcntl
import gc
import os
import socket
import struct

import pytest

import mezzo
from mezzo.in_place import Arena, Places, unknown_arenas
from mezzo.protocol.messages import Acquired, ArenaOpened, InPlace, Kind, Released
from tests.contract.peer import UNIX
from tests.held import descriptors
from tests.patience import PATIENCE_S

PAGE = 4096
DATA = 2 * PAGE
SIZE = DATA + 16 * PAGE
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class ShardArena:
    """The shard's side of an arena."""

    def __init__(self, seals=SEALS, size=SIZE):
        self.fd = os.memfd_create("arena", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)

    def fill(self, page, data, generation):
        os.pwrite(self.fd, data, DATA + page * PAGE)
        self.set(page, generation)

    def set(self, page, generation):
        os.pwrite(self.fd, struct.pack("<Q", generation), 8 * page)


@pytest.fixture
def arena():
    arena = ShardArena()
    arena.fill(3, b"first", 7)
    arena.fill(5, b"second", 8)
    yield arena
    os.close(arena.fd)


PLACES = [1, 3, 5, 7, 0, 0, 0, 0, 1, 5, 6, 8]
KEYS = [b"a", b"b", b"c"]


def grant(peer, places=PLACES, lease=9):
    frame = peer.expect(Kind.ACQUIRE)
    peer.send(Kind.ACQUIRED, frame.request_id, Acquired(lease, len(places) // 4, 11, 5000, 0, places))
    return frame.body


def pass_arena(peer, arena, opened=None, passed=1):
    frame = peer.expect(Kind.ARENA_OPEN)
    with socket.socket(fileno=peer.descriptors.pop()) as channel:
        if passed:
            socket.send_fds(channel, [b"\0"], [arena.fd] * passed)
    peer.send(Kind.ARENA_OPENED, frame.request_id, opened or ArenaOpened(SIZE, DATA, PAGE))
    return frame.body


@pytest.fixture
def held(make, network, start, arena):
    """A lease in place, and the peer that gave it."""
    client = make(UNIX)
    lease = start(client.acquire, KEYS, 5.0, in_place=True)
    peer = network.accept(shm=True)
    assert grant(peer).in_place == InPlace.HOT
    assert pass_arena(peer, arena).arena == 1
    return lease(), peer


def released(peer):
    frame = peer.expect(Kind.RELEASE)
    peer.send(Kind.RELEASED, frame.request_id, Released(held=True))


def test_views(held, arena):
    lease, _ = held
    assert (lease.prefix, lease.hot) == (3, 2)
    assert [view and bytes(view) for view in lease.views] == [b"first", None, b"second"]
    lease.check()


@pytest.mark.parametrize("page", [3, 5])
def test_a_changed_generation(held, arena, page):
    lease, _ = held
    with pytest.raises(mezzo.Gone, match="1 of 2 chunks in place were taken back"), lease.using():
        arena.set(page, 100)


def test_the_generation_of_another_page_is_of_no_account(held, arena):
    lease, _ = held
    with lease.using():
        arena.set(4, 100)


def test_release_checks_first_and_still_releases(held, arena, start):
    lease, peer = held
    assert bytes(lease.views[0]) == b"first"
    arena.set(3, 100)
    outcome = start(lease.release)
    released(peer)
    with pytest.raises(mezzo.Gone):
        outcome()


def test_leaving_looks_before_it_tells_the_server(held, arena, start):
    """After RELEASE the slot may be overwritten at once: what changes then is none of the lease's."""
    lease, peer = held
    assert bytes(lease.views[0]) == b"first"
    outcome = start(lease.release)
    frame = peer.expect(Kind.RELEASE)
    arena.set(3, 100)
    peer.send(Kind.RELEASED, frame.request_id, Released(held=True))
    assert outcome() is True


def test_a_lost_connection(held, start, network):
    lease, peer = held
    peer.close()
    assert bytes(lease.views[0]) == b"first"
    outcome = start(lease.release)
    try:
        ended = outcome()
    except mezzo.Gone:
        ended = False  # it had seen the end of the stream already
    assert ended is False
    with pytest.raises(mezzo.Gone):
        lease.check()


def test_an_arena_is_asked_for_once(make, network, start, arena):
    client = make(UNIX)
    first = start(client.acquire, KEYS, 5.0, in_place=True)
    peer = network.accept(shm=True)
    grant(peer)
    pass_arena(peer, arena)
    first()
    second = start(client.acquire, KEYS, 5.0, in_place=True, load=True)
    assert grant(peer, lease=10).in_place == InPlace.LOAD
    assert second().hot == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"opened": ArenaOpened(SIZE + PAGE, DATA, PAGE)}, "says"),
        ({"opened": ArenaOpened(SIZE, 0, PAGE)}, "data at 0"),
        ({"opened": ArenaOpened(SIZE, SIZE, PAGE)}, "data at"),
        ({"opened": ArenaOpened(SIZE, DATA, 8)}, "pages of 8"),
        ({"opened": ArenaOpened(SIZE, DATA + 4, PAGE)}, "data at"),
        ({"passed": 0}, "sent no arena"),
        ({"passed": 2}, "sent 2 descriptors"),
    ],
)
def test_an_arena_that_cannot_be_one(make, network, start, arena, change, words):
    before = descriptors()
    client = make(UNIX)
    outcome = start(client.acquire, KEYS, 5.0, in_place=True)
    peer = network.accept(shm=True)
    grant(peer)
    pass_arena(peer, arena, **change)
    released(peer)  # nobody will use the lease
    with pytest.raises(mezzo.ProtocolError, match=words):
        outcome()
    client.close()
    peer.close()
    del outcome  # and with it the error, whose frames have the mapping
    gc.collect()
    assert [name for _, name in descriptors() - before if "memfd" in name] == []


def test_an_arena_whose_size_can_change(make, network, start):
    arena = ShardArena(seals=0)
    outcome = start(make(UNIX).acquire, KEYS, 5.0, in_place=True)
    peer = network.accept(shm=True)
    grant(peer)
    pass_arena(peer, arena)
    released(peer)
    with pytest.raises(mezzo.ProtocolError, match="not sealed"):
        outcome()
    os.close(arena.fd)


@pytest.mark.parametrize("place", [[1, 16, 5, 7], [1, 15, PAGE + 1, 7], [1, 3, 0, 7], [1, 2**40, 5, 7]])
def test_a_place_outside_of_its_arena(make, network, start, arena, place):
    outcome = start(make(UNIX).acquire, [b"a"], 5.0, in_place=True)
    peer = network.accept(shm=True)
    grant(peer, place)
    pass_arena(peer, arena)
    released(peer)
    with pytest.raises(mezzo.ProtocolError, match="outside of arena 1"):
        outcome()


def test_an_answer_without_the_places_that_were_asked_for(make, network, start):
    outcome = start(make(UNIX).acquire, KEYS, 5.0, in_place=True)
    peer = network.accept(shm=True)
    frame = peer.expect(Kind.ACQUIRE)
    peer.send(Kind.ACQUIRED, frame.request_id, Acquired(9, 3, 11, 5000, 0, PLACES[:-1]))
    with pytest.raises(mezzo.ProtocolError, match="11 numbers for 3 places"):
        outcome()


def test_a_lease_that_came_too_late_is_released(make, connected, start):
    client = make(UNIX, cancel_grace_s=PATIENCE_S)
    peer = connected(client, shm=True)
    outcome = start(client.acquire, KEYS, 5.0, in_place=True, load=True, timeout_s=0.1)
    frame = peer.expect(Kind.ACQUIRE)
    peer.expect(Kind.CANCEL)
    peer.send(Kind.ACQUIRED, frame.request_id, Acquired(9, 3, 11, 5000, 0, PLACES))
    assert peer.expect(Kind.RELEASE).body.lease == 9
    peer.send(Kind.CANCELLED, frame.request_id, mezzo.protocol.messages.Cancelled())
    with pytest.raises(mezzo.DeadlineExceeded):
        outcome()


def test_places_and_arenas():
    memory = bytearray(SIZE)
    arena = Arena(memoryview(memory).toreadonly(), DATA, PAGE)
    memory[24:32] = struct.pack("<Q", 7)
    memory[DATA + 3 * PAGE : DATA + 3 * PAGE + 5] = b"first"
    assert unknown_arenas({}, PLACES) == [1]
    assert unknown_arenas({1: arena}, PLACES) == []
    assert unknown_arenas({}, [0, 0, 0, 0]) == []
    places = Places({1: arena}, PLACES[:8])
    assert (places.hot, places.views[1]) == (1, None)
    assert bytes(places.views[0] or b"") == b"first"
    assert places.changed() == 0
    memory[24:32] = struct.pack("<Q", 9)
    assert places.changed() == 1
    with pytest.raises(mezzo.ProtocolError):
        Arena(memoryview(memory), DATA, 1)
