"""Both clients against two shards by hand: what goes out when, and what becomes of a shard that does not answer."""

import asyncio
import os
import queue
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

import mezzo
from mezzo.errors import DeadlineExceeded, ErrorCode, Unavailable, Unsupported
from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo.protocol.bitmap import pack
from mezzo.protocol.messages import (
    Cancelled,
    Deleted,
    Epoch,
    ErrorReply,
    Got,
    Kind,
    LookedUp,
    PutDone,
    TicketRenewed,
    Welcome,
)
from mezzo.routing import Router
from tests.contract.peer import LIMITS, NAMESPACE, TENANT, Network, Peer
from tests.patience import PATIENCE_S

SLOTS_LOG2 = 4
IDS = [bytes([1] * 16), bytes([2] * 16)]
SHARDS = [ShardPlace(IDS[number], "node", "", (f"tcp://{name}:1",), 1) for number, name in enumerate("ab")]
SHORT_S = 0.4


def pod_map(epoch, table, previous=None):
    return PodMap(bytes(16), epoch, SLOTS_LOG2, SHARDS, table, previous or {})


EVEN = [slot % 2 for slot in range(1 << SLOTS_LOG2)]
ROUTER = Router(pod_map(1, EVEN), TENANT, NAMESPACE)
KEYS = [b"key %d" % number for number in range(12)]
OWNERS = ROUTER.owners(KEYS)
OWN = [[key for key, owner in zip(KEYS, OWNERS, strict=True) if owner == number] for number in (0, 1)]
FIRST = [OWNERS.index(number) for number in (0, 1)]


class PodNetwork(Network):
    """Knows which shard a connection is to."""

    def __init__(self):
        super().__init__()
        self._to = {"a": queue.Queue(), "b": queue.Queue()}
        self.away = ""
        """a shard that nobody reaches"""

    def accept_at(self, number, **limits):
        """The next connection to a shard, after the hello."""
        peer = self._to["ab"[number]].get(timeout=PATIENCE_S)
        peer.hello = peer.expect(Kind.HELLO).body
        peer.send(Kind.WELCOME, 0, Welcome(**{**LIMITS, **limits}, shard_id=IDS[number]))
        return peer

    def _open(self, address, timeout_s):
        self.attempts += 1
        if address.host == self.away:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        peer = Peer(theirs)
        self.peers.append(peer)
        self._to[address.host].put(peer)
        return ours


@pytest.fixture
def network():
    network = PodNetwork()
    yield network
    network.close()


class Maps:
    """Where the client's map comes from."""

    def __init__(self):
        self.now = pod_map(1, EVEN)
        self.asked = lambda: None

    def __call__(self):
        self.asked()
        return self.now


@pytest.fixture
def maps():
    return Maps()


@pytest.fixture
def pod(make, maps, network, start):
    """A client that is connected to both shards, and these."""
    client = make("tcp://pod:1", map_source=maps)
    done = start(client.ping)
    peers = [network.accept_at(number) for number in (0, 1)]
    for peer in peers:
        peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, mezzo.protocol.messages.Pong())
    done()
    return client, *peers


def looked_up(prefix):
    return LookedUp(prefix, 10 * prefix, 100 * prefix)


def test_a_shard_is_told_by_which_map_it_is_asked(pod):
    _, a, b = pod
    assert (a.hello.epoch, b.hello.epoch) == (1, 1)


def test_all_are_asked_before_any_has_answered(pod, start):
    client, a, b = pod
    result = start(client.lookup, KEYS)
    asked = [peer.expect(Kind.LOOKUP) for peer in (b, a)]
    assert [frame.body.keys for frame in asked] == [OWN[1], OWN[0]]
    b.send(Kind.LOOKED_UP, asked[0].request_id, looked_up(len(OWN[1])))
    a.send(Kind.LOOKED_UP, asked[1].request_id, looked_up(len(OWN[0])))
    found = result()
    assert (found.prefix, found.bytes, found.unanswered) == (len(KEYS), 10 * len(KEYS), 0)
    assert found.load_s == max(map(len, OWN)) * 100 / 1e6
    assert client.statistics().connections == 2


def test_keys_of_one_shard_are_asked_of_it_alone(pod, start):
    client, a, _ = pod
    result = start(client.lookup, OWN[0])
    a.send(Kind.LOOKED_UP, a.expect(Kind.LOOKUP).request_id, looked_up(1))
    assert result().prefix == 1


def test_a_shard_that_lets_go_in_time_keeps_its_connection(pod, start):
    client, a, b = pod
    result = start(client.get, KEYS, [bytearray(4) for _ in KEYS], timeout_s=SHORT_S)
    late = b.expect(Kind.GET)
    answered = a.expect(Kind.GET)
    a.send(Kind.GOT, answered.request_id, Got(0, pack([False] * len(OWN[0])), [0] * len(OWN[0])))
    b.expect(Kind.CANCEL)
    b.send(Kind.CANCELLED, late.request_id, Cancelled())
    got = result()
    assert (got.count, got.unanswered) == (0, len(OWN[1]))
    result = start(client.lookup, KEYS[:1])
    owner = (a, b)[OWNERS[0]]
    owner.send(Kind.LOOKED_UP, owner.expect(Kind.LOOKUP).request_id, looked_up(1))
    assert result().prefix == 1
    assert client.statistics().connections == 2
    assert client.statistics().timeouts == 1


def test_one_that_does_not_let_go_loses_its_connection_and_the_other_keeps_its(pod, start, network):
    client, a, b = pod
    result = start(client.get, KEYS, [bytearray(4) for _ in KEYS], timeout_s=SHORT_S)
    b.expect(Kind.GET)
    answered = a.expect(Kind.GET)
    a.send(Kind.GOT, answered.request_id, Got(0, pack([False] * len(OWN[0])), [0] * len(OWN[0])))
    assert result().unanswered == len(OWN[1])
    b.expect(Kind.CANCEL)
    assert b.ended()
    result = start(client.lookup, KEYS)
    again = network.accept_at(1)
    for peer, own in ((a, OWN[0]), (again, OWN[1])):
        peer.send(Kind.LOOKED_UP, peer.expect(Kind.LOOKUP).request_id, looked_up(len(own)))
    assert result().prefix == len(KEYS)


def test_a_put_fails_for_the_chunks_of_a_lost_shard(pod, start, network):
    client, a, b = pod
    result = start(client.put, KEYS, [b"x"] * len(KEYS), position=5, timeout_s=SHORT_S)
    b.expect(Kind.PUT)
    b.close()
    frame = a.expect(Kind.PUT)
    assert (frame.body.position, frame.body.positions) == (
        5 + FIRST[0],
        [5 + KEYS.index(key) for key in OWN[0]],
    )
    count = len(OWN[0])
    a.send(Kind.PUT_DONE, frame.request_id, PutDone(pack([False] * count), pack([True] * count), 0, count))
    done = result()
    assert (done.exists, done.failed, done.unanswered) == (count, len(OWN[1]), len(OWN[1]))
    assert [state is mezzo.PutState.FAILED for state in done.states] == [owner == 1 for owner in OWNERS]


def test_if_none_answers_it_is_an_error(pod, start):
    client, a, b = pod
    result = start(client.lookup, KEYS)
    for peer in (a, b):
        peer.send(Kind.ERROR, peer.expect(Kind.LOOKUP).request_id, ErrorReply(ErrorCode.UNAVAILABLE, "no"))
    with pytest.raises(Unavailable, match="no"):
        result()


def test_a_shard_that_has_another_map_makes_the_client_get_it_and_ask_once_more(pod, start, maps):
    client, a, b = pod
    maps.now = pod_map(2, [0] * (1 << SLOTS_LOG2))
    result = start(client.lookup, KEYS)
    a.send(Kind.LOOKED_UP, a.expect(Kind.LOOKUP).request_id, looked_up(len(OWN[0])))
    refused = b.expect(Kind.LOOKUP)
    b.send(Kind.ERROR, refused.request_id, ErrorReply(ErrorCode.WRONG_EPOCH, "a's by now", epoch=2))
    again = a.expect(Kind.LOOKUP)
    assert again.body.keys == OWN[1]
    a.send(Kind.LOOKED_UP, again.request_id, looked_up(len(OWN[1])))
    assert result().prefix == len(KEYS)
    result = start(client.lookup, KEYS)
    frame = a.expect(Kind.LOOKUP)
    assert frame.body.keys == KEYS
    a.send(Kind.LOOKED_UP, frame.request_id, looked_up(0))
    assert result().prefix == 0


@pytest.fixture
def young(make, maps, network, start):
    """As `pod`, of shards that tell their epoch."""
    client = make("tcp://pod:1", map_source=maps)
    done = start(client.ping)
    peers = [network.accept_at(number, version=2, epoch=1) for number in (0, 1)]
    for peer in peers:
        peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, mezzo.protocol.messages.Pong())
    done()
    return client, *peers


def got_none(peer, frame):
    count = len(frame.body.keys)
    peer.send(Kind.GOT, frame.request_id, Got(0, pack([False] * count), [0] * count))


def test_a_miss_is_not_believed_of_who_answers_by_a_later_map(young, start, maps):
    """What others have put since then is with who has the slots by that map."""
    client, a, b = young
    maps.now = pod_map(2, [0] * (1 << SLOTS_LOG2))
    result = start(client.get, KEYS, [bytearray(4) for _ in KEYS])
    got_none(a, a.expect(Kind.GET))
    frame = b.expect(Kind.GET)
    b.send(Kind.EPOCH, 0, Epoch(2))
    got_none(b, frame)
    again = a.expect(Kind.GET)
    assert again.body.keys == KEYS
    got_none(a, again)
    assert (result().count, result().unanswered) == (0, 0)


def test_the_next_call_goes_by_the_map_that_was_heard_of(young, start, maps):
    client, a, b = young
    maps.now = pod_map(2, [1] * (1 << SLOTS_LOG2))
    result = start(client.lookup, OWN[0])
    frame = a.expect(Kind.LOOKUP)
    a.send(Kind.EPOCH, 0, Epoch(2))
    a.send(Kind.LOOKED_UP, frame.request_id, looked_up(len(OWN[0])))
    assert result().prefix == len(OWN[0]), "what was found is believed, whoever had it"
    result = start(client.delete, OWN[0])
    frame = b.expect(Kind.DELETE)
    b.send(Kind.DELETED, frame.request_id, Deleted(0, b""))
    assert result().count == 0


def test_who_cannot_give_the_map_is_not_asked_again_and_again(young, start, maps, monkeypatch):
    """Calls go on as they can, by the map that there is."""
    monkeypatch.setattr("mezzo.pod.BEHIND_S_MIN", 1000.0)
    client, a, _ = young
    asked = []
    maps.asked = lambda: asked.append(None)
    for _ in range(5):
        result = start(client.get, OWN[0], [bytearray(4) for _ in OWN[0]])
        frame = a.expect(Kind.GET)
        a.send(Kind.EPOCH, 0, Epoch(2))
        got_none(a, frame)
        assert result().count == 0
    assert 1 <= len(asked) <= 2


def test_a_shard_that_left_the_pod_is_let_go_of(pod, start, maps):
    client, a, b = pod
    maps.now = PodMap(bytes(16), 2, SLOTS_LOG2, SHARDS[:1], [0] * (1 << SLOTS_LOG2), {})
    result = start(client.lookup, KEYS)
    a.send(Kind.LOOKED_UP, a.expect(Kind.LOOKUP).request_id, looked_up(len(OWN[0])))
    refused = b.expect(Kind.LOOKUP)
    b.send(Kind.ERROR, refused.request_id, ErrorReply(ErrorCode.WRONG_EPOCH, "a's by now", epoch=2))
    again = a.expect(Kind.LOOKUP)
    assert b.ended()
    a.send(Kind.LOOKED_UP, again.request_id, looked_up(len(OWN[1])))
    assert result().prefix == len(KEYS)


def test_a_shard_that_comes_back_is_reached_at_once(young, start, maps, network):
    """However often it was tried in vain: by the map by which it has its slots again it is there."""
    client, a, b = young
    maps.now = pod_map(2, [0] * (1 << SLOTS_LOG2), {slot: 1 for slot, owner in enumerate(EVEN) if owner})
    result = start(client.lookup, OWN[0])
    frame = a.expect(Kind.LOOKUP)
    a.send(Kind.EPOCH, 0, Epoch(2))
    a.send(Kind.LOOKED_UP, frame.request_id, looked_up(len(OWN[0])))
    assert result().prefix == len(OWN[0])
    network.away = "b"
    b.close()
    before = network.attempts
    while network.attempts < before + 4:
        result = start(client.get, OWN[1], [bytearray(4) for _ in OWN[1]])
        got_none(a, a.expect(Kind.GET))
        assert result().count == 0
    network.away = ""
    maps.now = pod_map(3, EVEN)
    result = start(client.put, OWN[1], [b"x"] * len(OWN[1]))
    refused = a.expect(Kind.PUT)
    a.send(Kind.ERROR, refused.request_id, ErrorReply(ErrorCode.WRONG_EPOCH, "b's again", epoch=3))
    b = network.accept_at(1)
    count = len(OWN[1])
    frame = b.expect(Kind.PUT)
    b.send(Kind.PUT_DONE, frame.request_id, PutDone(pack([False] * count), pack([True] * count), 0, count))
    assert (result().exists, result().unanswered) == (count, 0)


def test_who_had_a_slot_before_is_asked_for_what_is_not_there(pod, start, maps):
    client, a, b = pod
    slots = range(1 << SLOTS_LOG2)
    maps.now = pod_map(2, [0 for _ in slots], {slot: 1 for slot in slots if slot % 2})
    result = start(client.lookup, KEYS)  # from here on by the later map
    for peer in (a, b):
        frame = peer.expect(Kind.LOOKUP)
        peer.send(Kind.ERROR, frame.request_id, ErrorReply(ErrorCode.WRONG_EPOCH, "another", epoch=2))
    frame = a.expect(Kind.LOOKUP)
    a.send(Kind.LOOKED_UP, frame.request_id, looked_up(0))
    result()
    result = start(client.get, KEYS, [bytearray(4) for _ in KEYS])
    frame = a.expect(Kind.GET)
    assert frame.body.keys == KEYS
    a.send(Kind.GOT, frame.request_id, Got(0, pack([False] * len(KEYS)), [0] * len(KEYS)))
    frame = b.expect(Kind.GET)
    assert frame.body.keys == OWN[1]
    b.send(Kind.GOT, frame.request_id, Got(0, pack([False] * len(OWN[1])), [0] * len(OWN[1])))
    got = result()
    assert (got.count, got.unanswered) == (0, 0)


def test_what_is_one_shards_own_is_refused(pod):
    client, _, _ = pod
    for call in (client.devices, lambda: next(client.events())):
        with pytest.raises(Unsupported, match="a client of the shard's address"):
            call()


def test_threads_share_the_connections(pod, start):
    client, a, b = pod
    results = [start(client.lookup, KEYS) for _ in range(4)]
    for peer, own in ((a, OWN[0]), (b, OWN[1])):
        frames = [peer.expect(Kind.LOOKUP) for _ in results]
        for frame in reversed(frames):
            peer.send(Kind.LOOKED_UP, frame.request_id, looked_up(len(own)))
    assert [result().prefix for result in results] == [len(KEYS)] * 4


def test_an_interrupt_cancels_what_all_shards_do(network, maps):
    """As Ctrl-C; or, if a frame was cut in two by it, that connection ends."""

    def shards():
        peers = [network.accept_at(number) for number in (0, 1)]
        frames = [peer.expect(Kind.GET) for peer in peers]
        os.kill(os.getpid(), signal.SIGINT)
        for peer, frame in zip(peers, frames, strict=True):
            with suppress(ConnectionError):
                peer.expect(Kind.CANCEL)
                peer.send(Kind.CANCELLED, frame.request_id, Cancelled())

    surroundings = network.surroundings()
    with (
        mezzo.Client(
            "tcp://pod:1", map_source=maps, surroundings=surroundings, cancel_grace_s=PATIENCE_S
        ) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        done = pool.submit(shards)
        with pytest.raises(KeyboardInterrupt):
            client.get(KEYS, [bytearray(4) for _ in KEYS], timeout_s=PATIENCE_S)
        done.result(PATIENCE_S)
        assert "0 in flight" in repr(client)


def test_a_cancelled_task_cancels_what_all_shards_do(network, maps):
    async def run():
        client = mezzo.AsyncClient("tcp://pod:1", map_source=maps, surroundings=network.surroundings())
        get = client.get(KEYS, [bytearray(4) for _ in KEYS])
        task = asyncio.create_task(get)
        peers = [await asyncio.to_thread(network.accept_at, number) for number in (0, 1)]
        frames = [await asyncio.to_thread(peer.expect, Kind.GET) for peer in peers]
        task.cancel()
        for peer, frame in zip(peers, frames, strict=True):
            await asyncio.to_thread(peer.expect, Kind.CANCEL)
            peer.send(Kind.CANCELLED, frame.request_id, Cancelled())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "0 in flight" in repr(client)
        await client.close()

    asyncio.run(run())


def test_what_another_call_has_under_way_at_a_shard_that_leaves_is_asked_by_the_map_without_it(
    pod, start, maps
):
    """The client is not closed: nobody is told so, whichever call it was that heard of the map."""
    client, a, b = pod
    other = start(client.lookup, KEYS)
    a.send(Kind.LOOKED_UP, a.expect(Kind.LOOKUP).request_id, looked_up(len(OWN[0])))
    b.expect(Kind.LOOKUP)
    maps.now = PodMap(bytes(16), 2, SLOTS_LOG2, SHARDS[:1], [0] * (1 << SLOTS_LOG2), {})
    result = start(client.lookup, OWN[0])
    refused = a.expect(Kind.LOOKUP)
    a.send(Kind.ERROR, refused.request_id, ErrorReply(ErrorCode.WRONG_EPOCH, "a later map", epoch=2))
    frames = [a.expect(Kind.LOOKUP), a.expect(Kind.LOOKUP)]
    for frame in frames:
        a.send(Kind.LOOKED_UP, frame.request_id, looked_up(len(frame.body.keys)))
    assert sorted(len(frame.body.keys) for frame in frames) == sorted(map(len, OWN))
    assert result().prefix == len(OWN[0])
    assert other().prefix == len(KEYS)


class TicketsOfPod:
    """A front-end's tickets for a pod, each good for 100 s, in time that the test makes."""

    def __init__(self, make, maps, network, start):
        self.clock = [1000.0]
        self.asked = 0
        surroundings = network.surroundings(now=lambda: self.clock[0], random=lambda: 0.0)
        self.client = make("tcp://pod:1", map_source=maps, ticket=self._give, surroundings=surroundings)
        self._start = start
        done = start(self.client.ping)
        self.peers = [network.accept_at(number) for number in (0, 1)]
        for peer in self.peers:
            peer.send(Kind.PONG, peer.expect(Kind.PING).request_id, mezzo.protocol.messages.Pong())
        done()

    def _give(self):
        self.asked += 1
        return mezzo.Ticket(b"ticket", self.clock[0] + 100.0)

    def look_up(self, *, renewal_first):
        """A lookup at both shards that renews both tickets, and what it found."""
        result = self._start(self.client.lookup, KEYS)
        renewals = []
        for peer, own in zip(self.peers, OWN, strict=True):
            frames = {}
            while Kind.LOOKUP not in frames or (not renewal_first and len(frames) < 2):
                frame = peer.receive()
                frames[frame.kind] = frame
                if renewal_first and frame.kind is Kind.TICKET_RENEW:
                    peer.send(Kind.TICKET_RENEWED, frame.request_id, TicketRenewed(100_000))
            peer.send(Kind.LOOKED_UP, frames[Kind.LOOKUP].request_id, looked_up(len(own)))
            renewals.append(frames[Kind.TICKET_RENEW].request_id)
        found = result()
        if not renewal_first:
            for peer, request_id in zip(self.peers, renewals, strict=True):
                peer.send(Kind.TICKET_RENEWED, request_id, TicketRenewed(100_000))
        return found


@pytest.fixture
def tickets(make, maps, network, start):
    return TicketsOfPod(make, maps, network, start)


def test_no_call_waits_for_tickets_that_are_good_for_a_while_yet(tickets):
    """However long whoever gives them takes: the shards answer meanwhile."""
    tickets.clock[0] += 60.0
    found = tickets.look_up(renewal_first=False)
    assert (found.prefix, found.unanswered) == (len(KEYS), 0)


def test_one_asks_for_the_tickets_of_all_shards(tickets):
    asked = tickets.asked
    tickets.clock[0] += 150.0
    found = tickets.look_up(renewal_first=True)
    assert (found.prefix, found.unanswered) == (len(KEYS), 0)
    assert tickets.asked == asked + 1


def test_who_waits_for_a_pod_that_does_not_answer_the_hello_goes_on_trying(make, maps, network, start):
    client = make("tcp://pod:1", map_source=maps, connect_timeout_s=SHORT_S / 2)
    with pytest.raises(Unavailable, match="in time"):
        client.lookup(KEYS, timeout_s=SHORT_S)
    done = start(client.connect, PATIENCE_S)
    while network.attempts < 4:
        pass
    for at in network._to.values():  # the first ones are not there any more
        at.get(timeout=PATIENCE_S)
    network.accept_at(0)
    done()


def test_a_shard_that_does_not_answer_the_hello_takes_the_time_of_the_call(make, maps, network, start):
    client = make("tcp://pod:1", map_source=maps, connect_timeout_s=PATIENCE_S)
    result = start(client.lookup, OWN[0])
    a = network.accept_at(0)
    a.send(Kind.LOOKED_UP, a.expect(Kind.LOOKUP).request_id, looked_up(0))
    assert result().prefix == 0
    with pytest.raises(DeadlineExceeded, match="within the time of the call"):
        client.lookup(OWN[1], timeout_s=SHORT_S)
