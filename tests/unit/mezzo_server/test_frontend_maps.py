"""Which map a front-end tells whom: the whole, the difference, or that there is no other."""

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mezzo.errors import Unavailable
from mezzo.placement.pod_map import PodMap, ShardPlace, apply, decode_difference, encode_map
from mezzo.pod import NO_MAP, MapHad, MapTold
from mezzo.protocol.messages import Welcome
from mezzo.v1 import session_pb2
from mezzo_server.config import FrontendConfig, NodeConfig
from mezzo_server.frontend.numbers import FrontendNumbers
from mezzo_server.frontend.pod import FrontendPod, PodKnown, differences_to, without_previous
from mezzo_server.frontend.session import SessionHandlers
from mezzo_server.pod.plan import Member, Pace, empty_plan, next_plan

POD = bytes(range(16))


def member(number):
    return Member(bytes([number] * 16), f"node {number}", "", ("tcp://h:1",), 1 << 40)


@pytest.fixture(scope="module")
def maps():
    """Of a pod that a shard joins in steps."""
    pace = Pace(ramp_s=40.0, asked_s=40.0)
    plan = next_plan(empty_plan(POD, 10), [member(number) for number in range(1, 9)], 0.0, Pace(ramp_s=0.0))
    assert plan is not None
    found, now = [plan.pod_map], 1000.0
    while len(found) < 6:
        later = next_plan(plan, [member(number) for number in range(1, 10)], now, pace)
        if later is not None:
            plan = later
            found.append(plan.pod_map)
        now += 1.0
    return found


def known(maps):
    *bases, last = maps
    encoded = encode_map(last)
    slim = [without_previous(base) for base in bases]
    return PodKnown(last, encoded, (), differences_to(last, slim, len(encoded)))


def test_who_has_one_of_the_maps_before_is_told_the_difference_which_leads_to_the_present_one(maps):
    present = known(maps)
    assert any(pod_map.previous for pod_map in maps), "or this shows little"
    for base in maps[:-1]:
        told = present.told(MapHad(POD, base.epoch))
        assert told.encoded == b""
        assert len(told.difference) < len(present.encoded) / 2
        assert apply(base, decode_difference(told.difference)) == maps[-1]


def test_all_others_are_told_the_whole(maps):
    present = known(maps)
    whole = MapTold(present.encoded)
    assert present.told(NO_MAP) == whole
    assert present.told(MapHad(bytes(16), maps[-2].epoch)) == whole
    assert present.told(MapHad(POD, maps[-1].epoch + 1)) == whole
    assert present.told(MapHad(POD, maps[-1].epoch)) == MapTold(as_had=True)


def test_maps_that_do_not_lead_here_are_left_out(maps):
    last = maps[-1]
    other_pod = PodMap(bytes(16), 1, last.slots_log2, last.shards, last.table, {})
    other_size = PodMap(POD, 1, 4, last.shards, [0] * 16, {})
    places = [ShardPlace(bytes([200 + number] * 16), "n", "", (), 1) for number in range(9)]
    strangers = PodMap(POD, 2, last.slots_log2, places, last.table, {})
    assert differences_to(last, [other_pod, other_size, last], 1 << 20) == {}
    assert differences_to(last, [strangers], 100) == {}, "no less than the whole"


def test_a_map_is_told_before_all_that_it_differs_in_is_known(maps):
    """Nobody waits for what only clients are told that missed several maps."""
    pod = FrontendPod(NodeConfig())
    waiting: deque[Any] = deque()
    pod._planner = cast(Any, SimpleNamespace(call=waiting.append))
    for number, pod_map in enumerate(maps, start=1):
        pod._moved(cast(Any, SimpleNamespace(plan=SimpleNamespace(pod_map=pod_map), records={})))
        assert pod.known.pod_map is pod_map
        assert list(pod.known.differences) == [base.epoch for base in maps[number - 2 : number - 1]]
    while waiting:
        waiting.popleft()()
    assert pod.known.differences == known(maps).differences
    assert len(pod.known.differences) == len(maps) - 1


WELCOME = Welcome(
    2, "test", bytes(16), 0, bytes(16), bytes(16), keys_max=5, key_bytes_max=64, chunk_bytes_max=1 << 20,
    body_bytes_max=1 << 20, requests_max=8, regions_max=8, region_bytes_max=1 << 30, lease_ms_max=60_000,
    block_bytes=4096, shm=False,
)  # fmt: skip


def test_a_session_tells_the_map_as_it_was_asked_for_and_counts_how(maps):
    class Shards:
        away = False

        async def look(self, timeout_s):
            return SimpleNamespace(limits=WELCOME)

    numbers = FrontendNumbers()
    handlers = SessionHandlers(Shards(), FrontendConfig(), numbers, pod=SimpleNamespace(known=known(maps)))

    def told(**had):
        request = session_pb2.OpenSessionRequest(client="test", **had)
        return asyncio.run(handlers.open_session(request, 1.0)).map

    whole = told()
    assert (whole.epoch, whole.as_had, whole.difference) == (maps[-1].epoch, False, b"")
    assert whole.encoded == encode_map(maps[-1])
    step = told(pod_had=POD, epoch_had=maps[-2].epoch)
    assert (step.encoded, step.epoch) == (b"", maps[-1].epoch)
    assert apply(maps[-2], decode_difference(step.difference)) == maps[-1]
    same = told(pod_had=POD, epoch_had=maps[-1].epoch)
    assert (same.encoded, same.difference, same.as_had) == (b"", b"", True)
    assert same.ByteSize() < 16
    assert numbers.maps == {"whole": 1, "difference": 1, "as_had": 1}


class Silent:
    """The shards of a front-end's own node, which answer nobody."""

    def __init__(self):
        self.away = False
        self.asked_s = []

    async def look(self, timeout_s):
        self.asked_s.append(timeout_s)
        raise Unavailable("no answer in time")


class OfThePod:
    """A connection to all shards of the pod, of which some answer."""

    def __init__(self, welcome):
        self.welcome = None
        self._tells = welcome
        self.asked = 0

    async def ping(self, *, timeout_s):
        self.asked += 1
        self.welcome = self._tells
        raise Unavailable("one of them did not answer")


def opened(handlers, timeout_s=10.0):
    return asyncio.run(handlers.open_session(session_pb2.OpenSessionRequest(client="test"), timeout_s))


def test_a_front_end_whose_own_shard_is_away_gives_out_the_map_in_time(maps):
    shards, others, pod = Silent(), OfThePod(WELCOME), SimpleNamespace(known=known(maps))
    # One that has just started has never heard of its shard.
    handlers = SessionHandlers(shards, FrontendConfig(), FrontendNumbers(), pod=pod, others=others)
    told = opened(handlers)
    assert told.map.encoded == encode_map(maps[-1])
    assert told.limits.lease_ms_max == WELCOME.lease_ms_max
    assert sum(shards.asked_s) <= 5.0, "the caller has half of his time left at least"
    assert others.asked == 1
    shards.away = True
    asked = len(shards.asked_s)
    assert opened(handlers).map.encoded == told.map.encoded
    assert len(shards.asked_s) == asked, "nobody waits for what is known to be away"


def test_without_any_shard_there_is_no_session(maps):
    pod = SimpleNamespace(known=known(maps))
    handlers = SessionHandlers(Silent(), FrontendConfig(), FrontendNumbers(), pod=pod, others=OfThePod(None))
    with pytest.raises(Unavailable, match="no answer in time"):
        opened(handlers)
    alone = Silent()
    with pytest.raises(Unavailable):
        opened(SessionHandlers(alone, FrontendConfig(), FrontendNumbers()), 3.0)
    assert alone.asked_s == [3.0], "there is nobody else"
