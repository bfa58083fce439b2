"""Estimates of load times against what loads take, in virtual time on a device with a latency and a bandwidth."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from mezzo.errors import ErrorCode
from mezzo.protocol.messages import (
    Acquire,
    Acquired,
    ErrorReply,
    Get,
    Got,
    Kind,
    LookedUp,
    Lookup,
    Put,
    PutDone,
)
from mezzo_server.blockstore.loads import Tier
from mezzo_server.blockstore.shares import Shares
from tests.simulation.timed_device import TimedDevice
from tests.unit.mezzo_server.shard_harness import MIB, Shard

KIB = 1 << 10
RATE = 2e9
LATENCY_S = 150e-6
WARM_UP = 40
"""Loads after which a load is steady."""


class Loop:
    """A client that always has one get under way, and notes for each what was estimated and what it took."""

    def __init__(self, played: Played, keys: Sequence[bytes], *, shm: bool = True) -> None:
        self.played = played
        self.keys = list(keys)
        self.client = played.shard.client(shm=shm)
        size = played.chunk * len(keys)
        if shm:
            self.client.region(1, size).close()
            targets = [[at, played.chunk] for at in range(0, size, played.chunk)]
            self.get = Get(self.keys, 1, targets)
        else:
            self.get = Get(self.keys, capacities=[played.chunk] * len(keys))
        self.request = 0
        self.began = 0.0
        self.said = 0.0
        self.ratios: list[float] = []
        self.saids: list[float] = []
        self.over_high = 0
        self.high = 0.0

    def begin(self) -> None:
        # Not `ask`: nothing is to move meanwhile.
        request = self.client.start(Kind.LOOKUP, Lookup(self.keys))
        self.client.turn()
        told = self.client.answer(request, LookedUp)
        self.said, self.high = told.load_us / 1e6, told.load_high_us / 1e6
        self.saids.append(self.said)
        self.began = self.played.shard.clock.now
        self.request = self.client.start(Kind.GET, self.get)

    def look(self) -> None:
        """Begin again if it has ended."""
        if not self.request:
            self.begin()
            return
        if any(isinstance(body, Got) for body in self.client.answers(self.request)):
            self.client.answer(self.request, Got)
            took = self.played.shard.clock.now - self.began
            self.ratios.append(took / self.said)
            self.over_high += took > self.high
            self.client.frames.clear()
            self.client.payloads.clear()
            self.begin()


class Played:
    def __init__(self, chunk: int, count: int, *, rate: float = RATE, hot_bytes: int = 0) -> None:
        self.chunk = chunk
        device = partial(TimedDevice, 96 * MIB, bytes_per_s=rate, latency_s=LATENCY_S, timed=False)
        self.shard = Shard(device=device, hot_bytes=hot_bytes)
        assert isinstance(self.shard.device, TimedDevice)
        self.device = self.shard.device
        writer = self.shard.client()
        writer.region(1, chunk).close()
        self.keys = [b"k%d" % n for n in range(count)]
        for key in self.keys:
            writer.ask(Kind.PUT, Put([key], [chunk], [], 1, [[0, chunk]]), PutDone)
        self.device.timed = True

    def play(
        self, loops: Sequence[Loop], until: Callable[[], bool], tick: Callable[[], None] = lambda: None
    ) -> None:
        for _ in range(100_000):
            self.shard.settle()
            for loop in loops:
                loop.look()
            self.shard.settle()
            if until():
                return
            tick()
            self.shard.clock.now = max(self.shard.clock.now, self.device.next_at)
        raise AssertionError("it never comes")

    def run(self, loops: Sequence[Loop], count: int) -> None:
        """Until each loop has made so many loads more."""
        wanted = [len(loop.ratios) + count for loop in loops]
        self.play(loops, lambda: all(len(loop.ratios) >= n for loop, n in zip(loops, wanted, strict=True)))


@pytest.fixture
def made() -> Iterator[list[Played]]:
    made: list[Played] = []
    yield made
    for played in made:
        played.device.timed = False
        for _ in range(1000):
            played.shard.clock.now += 1.0
            played.shard.settle()
            if not played.device.in_flight:
                break
        played.shard.close()


def median_error(ratios: Sequence[float]) -> float:
    return statistics.median(abs(ratio - 1) for ratio in ratios)


@pytest.mark.parametrize("rate", [0.4e9, 6e9])
@pytest.mark.parametrize(
    ("chunk", "count", "clients"), [(64 * KIB, 1, 1), (64 * KIB, 16, 1), (MIB, 4, 1), (MIB, 4, 6)]
)
def test_half_of_the_estimates_are_within_a_fifth(
    made: list[Played], rate: float, chunk: int, count: int, clients: int
) -> None:
    played = Played(chunk, count, rate=rate)
    made.append(played)
    played.device.jitter = 0.3
    loops = [Loop(played, played.keys) for _ in range(clients)]
    played.run(loops, -(-WARM_UP // clients))
    for loop in loops:
        loop.ratios.clear()
    played.run(loops, 60 // clients)
    assert median_error([ratio for loop in loops for ratio in loop.ratios]) <= 0.2


def test_loads_of_several_sizes_side_by_side(made: list[Played]) -> None:
    played = Played(64 * KIB, 32)
    made.append(played)
    loops = [Loop(played, played.keys[:1]), Loop(played, played.keys[:8]), Loop(played, played.keys)]
    played.run(loops, WARM_UP)
    for loop in loops:
        loop.ratios.clear()
    played.run(loops, 40)
    for loop in loops:
        assert median_error(loop.ratios) <= 0.2, len(loop.keys)


def test_over_a_stream_too(made: list[Played]) -> None:
    played = Played(128 * KIB, 4)
    made.append(played)
    loop = Loop(played, played.keys, shm=False)
    played.run([loop], WARM_UP)
    loop.ratios.clear()
    played.run([loop], 30)
    assert median_error(loop.ratios) <= 0.2


def test_a_burst_is_seen_before_it_is_measured(made: list[Played]) -> None:
    """What is queued counts at once: the first load behind a burst knows of it."""
    played = Played(MIB, 8)
    made.append(played)
    calm = Loop(played, played.keys[:4])
    played.run([calm], WARM_UP)
    burst = [Loop(played, played.keys) for _ in range(6)]
    played.play([], lambda: not played.device.in_flight)
    played.play(burst, lambda: all(loop.request for loop in burst))
    late = Loop(played, played.keys[:4])
    played.play([late], lambda: bool(late.ratios))
    assert late.saids[0] > 6 * calm.saids[-1]
    assert 0.6 < late.ratios[0] < 1.6


def test_a_stall_moves_nothing_far(made: list[Played]) -> None:
    played = Played(MIB, 4)
    made.append(played)
    loop = Loop(played, played.keys)
    played.run([loop], WARM_UP)
    before = loop.said
    played.device.stall_s = 5.0
    played.run([loop], 2)
    assert loop.said < 1.5 * before
    loop.ratios.clear()
    played.run([loop], 30)
    assert median_error(loop.ratios) <= 0.2


def test_a_device_that_became_slow_is_noticed(made: list[Played]) -> None:
    played = Played(MIB, 4)
    made.append(played)
    loop = Loop(played, played.keys)
    played.run([loop], WARM_UP)
    played.device.bytes_per_s /= 5
    played.run([loop], 30)
    loop.ratios.clear()
    played.run([loop], 30)
    assert median_error(loop.ratios) <= 0.2


def test_nine_of_ten_take_no_longer_than_the_high_estimate(made: list[Played]) -> None:
    played = Played(64 * KIB, 4)
    made.append(played)
    played.device.jitter = 0.8
    loop = Loop(played, played.keys)
    played.run([loop], 200)
    loop.ratios.clear()
    loop.over_high = 0
    played.run([loop], 200)
    assert loop.over_high <= 40


class Weights(Shares):
    def __init__(self, weights: dict[bytes, float]) -> None:
        self.weights = weights

    def weight(self, tenant: bytes) -> float:
        return self.weights.get(tenant, 1.0)


def test_another_tenants_flood_counts_by_its_share(made: list[Played]) -> None:
    played = Played(MIB, 4)
    made.append(played)
    loads = played.shard.store.loads
    alone = loads.estimate(b"me", 0, 4 * MIB, None, None).seconds
    loads.queue(b"flood", 1000 * MIB)
    shared = loads.estimate(b"me", 0, 4 * MIB, None, None).seconds
    assert 1.8 * alone < shared < 2.2 * alone
    played.shard.store.shares = Weights({b"me": 3.0})
    played.shard.clock.now += 1.0
    heavy = loads.estimate(b"me", 0, 4 * MIB, None, None).seconds
    assert 1.25 * alone < heavy < 1.45 * alone
    own = loads.estimate(b"flood", 0, 4 * MIB, None, None).seconds
    assert own > 200 * alone
    loads.queue(b"flood", -1000 * MIB)
    assert loads.estimate(b"me", 0, 4 * MIB, None, None).seconds == pytest.approx(alone)


def test_hot_chunks_have_an_estimate_of_their_own(made: list[Played]) -> None:
    played = Played(64 * KIB, 8, rate=0.1e9, hot_bytes=4 * MIB)
    made.append(played)
    client = played.shard.client()
    request = client.start(Kind.LOOKUP, Lookup(played.keys))
    client.turn()
    told = client.answer(request, LookedUp)
    assert (told.prefix, told.hot_prefix, told.hot_bytes) == (8, 8, 8 * 64 * KIB)
    assert told.device_load_us == 0
    assert told.hot_load_us == told.load_us < 1000
    # Of a prefix that is hot in part, the leading hot chunks are told, and both tiers.
    namespace = played.shard.store._context.index.peek(client.session.scope)
    hot = played.shard.store.hot
    assert hot is not None
    slot = namespace.hot.get(played.keys[5])
    assert slot is not None
    hot.drop(slot)
    request = client.start(Kind.ACQUIRE, Acquire(played.keys, 1000))
    client.turn()
    acquired = client.answer(request, Acquired)
    assert (acquired.prefix, acquired.hot_prefix, acquired.hot_bytes) == (8, 5, 7 * 64 * KIB)
    assert acquired.device_load_us >= 200
    assert acquired.load_us >= acquired.device_load_us
    assert acquired.load_high_us >= acquired.load_us


@pytest.mark.parametrize("shm", [True, False])
def test_a_deadline_that_cannot_be_met_fails_at_once_and_says_the_estimate(
    made: list[Played], shm: bool
) -> None:
    played = Played(128 * KIB, 8, rate=0.1e9)
    made.append(played)
    loop = Loop(played, played.keys, shm=shm)
    played.run([loop], WARM_UP)
    played.play([], lambda: not played.device.in_flight)
    fields = dict(
        zip(Get.__struct_fields__, (getattr(loop.get, f) for f in Get.__struct_fields__), strict=True)
    )
    took_ms = round(loop.said * 1000)
    refused = loop.client.start(Kind.GET, Get(**{**fields, "deadline_ms": max(1, took_ms // 3)}))
    now = played.shard.clock.now
    played.shard.settle()
    error = loop.client.answer(refused, ErrorReply)
    assert (error.code, played.shard.clock.now) == (ErrorCode.DEADLINE, now)
    assert f"loading {MIB} bytes would take about" in error.message
    # What was refused is queued nowhere.
    assert played.shard.store.loads.queued == 0 or not shm


@pytest.mark.parametrize("shm", [True, False])
def test_who_always_says_a_deadline_finds_out_that_a_device_is_fast_again(
    made: list[Played], shm: bool
) -> None:
    """What is refused measures nothing: without a try now and then it would be refused for ever."""
    played = Played(128 * KIB, 8)
    made.append(played)
    loop = Loop(played, played.keys, shm=shm)
    played.run([loop], WARM_UP)
    usual_ms = round(loop.said * 1000)
    played.device.bytes_per_s /= 50
    played.run([loop], WARM_UP)
    assert loop.said > 20 * usual_ms / 1000
    played.device.bytes_per_s *= 50
    played.play([], lambda: not played.device.in_flight)
    played.shard.settle()
    fields = {field: getattr(loop.get, field) for field in Get.__struct_fields__}
    hurried = Get(**{**fields, "deadline_ms": 3 * usual_ms})

    def outcome() -> type[Got | ErrorReply]:
        request = loop.client.start(Kind.GET, hurried)
        ended: list[type[Got | ErrorReply]] = []

        def over() -> bool:
            ended[:] = [
                type(body) for body in loop.client.answers(request) if isinstance(body, Got | ErrorReply)
            ]
            return bool(ended)

        played.play([], over)
        return ended[0]

    assert outcome() is ErrorReply
    played.shard.clock.now += 20.0
    assert [outcome() for _ in range(20)] == [Got] * 20


def test_one_load_at_a_time_tries_whether_it_is_still_too_slow(made: list[Played]) -> None:
    played = Played(128 * KIB, 8, rate=0.1e9)
    made.append(played)
    loop = Loop(played, played.keys)
    played.run([loop], WARM_UP)
    played.play([], lambda: not played.device.in_flight)
    played.shard.settle()
    loop.client.frames.clear()
    fields = {field: getattr(loop.get, field) for field in Get.__struct_fields__}
    hurried = Get(**{**fields, "deadline_ms": max(1, round(loop.said * 250))})
    for _ in range(3):
        played.shard.clock.now += 20.0
        requests = [loop.client.start(Kind.GET, hurried) for _ in range(4)]
        played.play([], lambda: not played.device.in_flight)
        played.shard.settle()
        told = [[type(body) for body in loop.client.answers(request)] for request in requests]
        assert told == [[Got], *[[ErrorReply]] * 3]


def test_the_error_is_counted_by_tier(made: list[Played]) -> None:
    played = Played(MIB, 4)
    made.append(played)
    loops = [Loop(played, played.keys), Loop(played, played.keys, shm=False)]
    played.run(loops, 5)
    told = played.shard.service.measures.histograms()["load_ratio"]
    assert told["device"].count >= 5
    assert told["stream"].count >= 5
    assert told[Tier.HOT.name.lower()].count == 0


def test_what_is_given_up_leaves_nothing_queued(made: list[Played]) -> None:
    played = Played(MIB, 8)
    made.append(played)
    loops = [Loop(played, played.keys), Loop(played, played.keys, shm=False)]
    for loop in loops:
        loop.begin()
    assert played.shard.store.loads.queued > 0
    for loop in loops:
        loop.client.close()
    played.play([], lambda: not played.device.in_flight)
    assert played.shard.store.loads.queued == 0
    assert played.shard.store.loads.hot.queued == 0
    assert not played.shard.store.loads._queued
