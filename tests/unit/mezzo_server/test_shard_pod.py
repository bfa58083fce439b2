"""A shard of a pod at its door: what it refuses, and what it does not acknowledge."""

from __future__ import annotations

import pytest

from mezzo.errors import ErrorCode
from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo.placement.slots import hash_key, namespace_seed
from mezzo.protocol.frame import Frame
from mezzo.protocol.messages import (
    Acquire,
    Acquired,
    Delete,
    Deleted,
    ErrorReply,
    Events,
    Get,
    Hello,
    Kind,
    LeaseRenew,
    LookedUp,
    Lookup,
    Ping,
    Put,
    PutDone,
    PutGrant,
    ShardStat,
    ShardStated,
    Stat,
    Welcome,
)
from mezzo_server.pod.standing import Share, Situation, Standing
from tests.unit.mezzo_server.shard_harness import (
    FakeClient,
    Shard,
    data_of,
    get_tcp,
    left_idle,
    put_shm,
    put_tcp,
)

LOG2 = 4
US, OTHER = bytes(15) + b"\1", bytes(15) + b"\2"


def pod_map(epoch: int, table: list[int], previous: dict[int, int] | None = None) -> PodMap:
    places = [ShardPlace(shard, "n", "", (), 1) for shard in (US, OTHER)]
    return PodMap(bytes(16), epoch, LOG2, places, table, previous or {})


HALF = [0] * 8 + [1] * 8
"""the lower slots are ours"""


class InPod:
    """A shard, a client of it, and its standing."""

    def __init__(self) -> None:
        self.shard = Shard()
        self.standing = Standing(self.shard.clock, self.shard.clock)
        self.shard.service.standing = self.standing
        self.shard.service.pod_numbers = self.standing.numbers
        self.client = self.shard.client()
        scope = self.client.session.scope
        seed = namespace_seed(scope.tenant, scope.namespace)
        keys = [b"%d" % number for number in range(200)]
        self.ours = [key for key in keys if hash_key(key, seed) >> 63 == 0][:6]
        self.others = [key for key in keys if hash_key(key, seed) >> 63][:6]

    def serves(self, epoch: int = 3, table: list[int] = HALF, previous: dict[int, int] | None = None) -> None:
        share = Share.of(pod_map(epoch, table, previous), US)
        self.standing.take(Situation(share, self.shard.clock.now + 84))

    def requests(self, keys: list[bytes]) -> list[tuple[Kind, object]]:
        return [
            (Kind.LOOKUP, Lookup(keys)),
            (Kind.ACQUIRE, Acquire(keys, 1000)),
            (Kind.GET, Get(keys)),
            (Kind.PUT, Put(keys, [10] * len(keys))),
            (Kind.DELETE, Delete(keys)),
            (Kind.STAT, Stat(keys)),
            (Kind.EVENTS, Events(wait_ms=0)),
            (Kind.LEASE_RENEW, LeaseRenew(1, 1000)),
        ]


@pytest.fixture
def pod():
    pod = InPod()
    with left_idle(pod.shard):
        yield pod


def test_before_it_is_a_member_it_serves_nothing(pod):
    for kind, body in pod.requests(pod.ours):
        told = pod.client.fails(kind, body)
        assert told.code == ErrorCode.UNAVAILABLE, kind
        assert "has not registered" in told.message
    assert pod.client.ask(Kind.SHARD_STAT, ShardStat(), ShardStated).numbers["pod_not_serving"] == 8


def test_what_is_anothers_is_refused_with_the_epoch(pod):
    pod.serves()
    for kind, body in pod.requests([*pod.ours, pod.others[0]])[:6]:
        told = pod.client.fails(kind, body)
        assert (told.code, told.epoch) == (ErrorCode.WRONG_EPOCH, 3), kind
    assert put_tcp(pod.client, {key: data_of(key, 100) for key in pod.ours}).stored_count == 6
    assert pod.client.ask(Kind.LOOKUP, Lookup(pod.ours), LookedUp).prefix == 6
    assert get_tcp(pod.client, pod.ours[:1]) == [data_of(pod.ours[0], 100)]
    assert pod.client.ask(Kind.DELETE, Delete(pod.ours), Deleted).count == 6


def test_what_it_had_before_it_still_answers(pod):
    pod.serves()
    put_tcp(pod.client, {key: data_of(key, 100) for key in pod.ours})
    pod.serves(4, [1] * 16, dict.fromkeys(range(8), 0))
    assert pod.client.ask(Kind.LOOKUP, Lookup(pod.ours), LookedUp).prefix == 6
    assert pod.client.ask(Kind.ACQUIRE, Acquire(pod.ours, 1000), Acquired).prefix == 6
    # But what is put goes to the owner, who alone knows whether it is there.
    refused = pod.client.fails(Kind.PUT, Put(pod.ours, [10] * 6))
    assert (refused.code, refused.epoch) == (ErrorCode.WRONG_EPOCH, 4)
    assert pod.client.ask(Kind.DELETE, Delete(pod.ours[:1]), Deleted).count == 1
    pod.serves(5, [1] * 16)
    assert pod.client.fails(Kind.LOOKUP, Lookup(pod.ours)).epoch == 5


def test_a_session_is_told_the_epoch(pod):
    client = FakeClient(pod.shard, shm=False)
    assert client.hello("default").epoch == 0
    pod.serves(7)
    again = FakeClient(pod.shard, shm=False)
    assert again.hello("default").epoch == 7
    client.close()
    again.close()


def told(client):
    """The epochs that a client was told unasked, each with the number of answers before it."""
    return [
        (number, frame.body.epoch) for number, frame in enumerate(client.frames) if frame.kind is Kind.EPOCH
    ]


def test_an_epoch_is_told_once_and_before_the_first_answer_by_it(pod):
    pod.serves(3)
    clients = [FakeClient(pod.shard, shm=False) for _ in range(2)]
    for client, version in zip(clients, (2, 1), strict=True):
        client.session.receive(Frame(Kind.HELLO, 0, Hello(1, version, "test", "default")))
        client.turn()
        assert client.answer(0, Welcome).version == version
    for epoch, table in ((3, HALF), (5, HALF), (5, HALF), (6, [1] * 16)):
        pod.serves(epoch, table)
        for client in clients:
            client.start(Kind.LOOKUP, Lookup(pod.ours))
            client.turn()
    assert told(clients[0]) == [(1, 5), (4, 6)]
    assert [frame.kind for frame in clients[0].frames[4:]] == [Kind.EPOCH, Kind.ERROR]
    assert told(clients[1]) == [], "an older one would not understand"
    for client in clients:
        assert len(client.frames) == 4 + 2 * (client is clients[0])
        client.close()


def test_who_would_not_be_told_is_not_answered_out_of_second_copies(pod):
    """He takes us for the owner, by a map that was before, and would believe for ever that nothing is there."""
    pod.serves(3)
    clients = [FakeClient(pod.shard, shm=False) for _ in range(2)]
    for client, version in zip(clients, (2, 1), strict=True):
        client.session.receive(Frame(Kind.HELLO, 0, Hello(1, version, "test", "default")))
        client.turn()
    places = [ShardPlace(shard, f"n{shard[-1]}", "", (), 1) for shard in (US, OTHER)]
    by_now = PodMap(bytes(16), 4, LOG2, places, [1] * 16, {}, [0] * 16)
    pod.standing.take(Situation(Share.of(by_now, US), pod.shard.clock.now + 84))
    told, untold = clients
    number = told.start(Kind.LOOKUP, Lookup(pod.ours))
    told.turn()
    assert told.answer(number, LookedUp).prefix == 0
    number = untold.start(Kind.LOOKUP, Lookup(pod.ours))
    untold.turn()
    assert untold.answer(number, ErrorReply).epoch == 4
    for client in clients:
        client.close()


def test_who_asks_nothing_is_told_nothing(pod):
    pod.serves(3)
    client = FakeClient(pod.shard, shm=False)
    client.session.receive(Frame(Kind.HELLO, 0, Hello(1, 2, "test", "default")))
    for epoch in range(4, 9):
        pod.serves(epoch)
        client.start(Kind.PING, Ping())
        client.turn()
    assert told(client) == []
    assert len(client.frames) == 1 + 5
    client.close()


def test_it_stops_by_its_clock(pod):
    pod.serves()
    assert pod.client.ask(Kind.LOOKUP, Lookup(pod.ours), LookedUp).prefix == 0
    pod.shard.clock.now += 84.1
    told = pod.client.fails(Kind.LOOKUP, Lookup(pod.ours))
    assert told.code == ErrorCode.UNAVAILABLE
    assert "not renewed in time" in told.message


@pytest.mark.parametrize("lost", ["time", "slots", "asked", "stopped"])
@pytest.mark.parametrize("way", ["tcp", "shm", "delete"])
def test_a_write_is_not_acknowledged_after(pod, lost, way):
    """Though what it had before is asked of it for a while: a put that it takes may be another than the owner's."""
    pod.serves()
    key, data = pod.ours[0], data_of(pod.ours[0], 5000)
    if way == "delete":
        put_tcp(pod.client, {key: data})
        request = pod.client.start(Kind.DELETE, Delete([key]))
    elif way == "shm":
        region = pod.client.region(1, 8192)
        region.write(0, data)
        request = pod.client.start(Kind.PUT, Put([key], [5000], region=1, sources=[[0, 5000]]))
    else:
        body = Put([key], [5000])
        request = pod.client.start(Kind.PUT, body)
        pod.shard.settle()
        pod.client.answer(request, PutGrant)
        pod.client.put_payload(request, body, 0, data)
        pod.client.session.turn_ended()
    if lost == "time":
        pod.shard.clock.now += 85
    elif lost == "slots":
        pod.serves(4, [1] * 16)
    elif lost == "asked":
        pod.serves(4, [1] * 16, dict.fromkeys(range(8), 0))
    else:
        pod.standing.end()
    pod.shard.settle()
    if (way, lost) == ("delete", "asked"):
        assert pod.client.answer(request, Deleted).count == 1
        return
    expected = ErrorCode.WRONG_EPOCH if lost in ("slots", "asked") else ErrorCode.UNAVAILABLE
    assert pod.client.answer(request, ErrorReply).code == expected
    assert pod.standing.numbers()["pod_writes_withheld"] == 1
    if way == "shm":
        region.close()


def test_a_write_whose_slots_stayed_is_acknowledged(pod):
    pod.serves()
    with_region = pod.client.region(1, 8192)
    with_region.write(0, b"x" * 5000)
    request = pod.client.start(Kind.PUT, Put([pod.ours[0]], [5000], region=1, sources=[[0, 5000]]))
    pod.serves(4, [0] * 16)
    pod.shard.settle()
    assert pod.client.answer(request, PutDone).stored_count == 1
    assert put_shm(pod.client, with_region, 1, {pod.others[0]: b"y" * 100}).stored_count == 1
    with_region.close()


def test_a_situation_without_time_serves_nothing_and_says_why(pod):
    pod.serves()
    pod.standing.take(Situation(reason="somebody else has its place"))
    assert "somebody else has its place" in pod.client.fails(Kind.LOOKUP, Lookup(pod.ours)).message
    assert pod.standing.numbers()["pod_serves_s"] == 0
