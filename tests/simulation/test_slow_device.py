"""R10: a device that becomes 100 times slower. Its chunks are soon misses to who cannot wait, and nobody else's are late."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

from mezzo.protocol.messages import Cancel, ErrorReply, Get, Kind
from mezzo_server.tenancy.model import Tenant
from tests.simulation.seeds import repeatable, seeds
from tests.simulation.timed import TimedShard
from tests.unit.mezzo_server.shard_harness import FakeClient

CHUNK = 64 << 10
RATE = 100e6
"""of a device, bytes a second"""
SLOWER = 100
CHUNKS = 4
"""of each shard, in a call"""
EVERY_S = 0.02
DEADLINE_S = 0.1
"""what computing the chunks would take: thirty times what loading them takes, a third of what the slow device takes"""
CALM_S, SLOW_S, ROUTED_S, FAST_S = 4.0, 14.0, 5.0, 14.0


class Part(NamedTuple):
    """What became of a shard's part of a call."""

    began: float
    seconds: float
    missed: bool


class Shard(TimedShard):
    """One of the shards that the calls go to; they begin at the same moments at all of them."""

    def __init__(self, seed: int) -> None:
        super().__init__(
            seed=seed, tenants={"t": Tenant(id=b"t" * 16, name="t")}, bytes_per_s=RATE, latency_s=100e-6
        )
        self.parts: list[Part] = []
        self.keys = [b"key-%d" % number for number in range(256)]
        self.stock("t", self.keys)
        self.began = self.now
        self._clients = [self.client("t") for _ in range(4)]
        for number in range(int((CALM_S + SLOW_S + FAST_S) / EVERY_S)):
            self.at(self.began + number * EVERY_S, self._call)

    def become_slow(self) -> None:
        self.device.bytes_per_s /= SLOWER
        self.device.latency_s *= SLOWER

    def become_fast(self) -> None:
        self.device.bytes_per_s *= SLOWER
        self.device.latency_s /= SLOWER

    def _call(self) -> None:
        start = self.random.randrange(len(self.keys) - CHUNKS)
        targets = [[number * CHUNK, CHUNK] for number in range(CHUNKS)]
        body = Get(self.keys[start : start + CHUNKS], 1, targets, deadline_ms=int(DEADLINE_S * 1000))
        client = self.random.choice(self._clients)
        request = client._next_id
        self._ask("t", client, Kind.GET, body)

        def give_up() -> None:
            if (id(client), request) in self._open:
                client.start(Kind.CANCEL, Cancel(), request_id=request)

        self.at(self.now + DEADLINE_S, give_up)

    def _answered(self, client: FakeClient) -> None:
        for frame in client.frames:
            asked = self._open.get((id(client), frame.request_id))
            if asked is not None and isinstance(asked[2], Get):
                missed = isinstance(frame.body, ErrorReply) or getattr(frame.body, "count", CHUNKS) < CHUNKS
                self.parts.append(Part(asked[1] - self.began, self.now - asked[1], missed))
        super()._answered(client)

    def between(self, since: float, until: float) -> list[Part]:
        return sorted(part for part in self.parts if since <= part.began < until)


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * len(seconds))]


def calls(shards: list[Shard], since: float, until: float) -> list[float]:
    """How long calls took that were spread over the shards: as long as the last of their parts, and not over their time."""
    together = zip(*(shard.between(since, until) for shard in shards), strict=True)
    return [min(DEADLINE_S, max(part.seconds for part in parts)) for parts in together]


def test_a_shard_whose_device_is_slow_is_misses_within_five_seconds_and_delays_nobody() -> None:
    for seed in seeds(1):
        with repeatable(seed):
            shards = [Shard(seed + number) for number in range(3)]
            slow, *others = shards
            slow.at(slow.began + CALM_S, slow.become_slow)
            slow.at(slow.began + CALM_S + SLOW_S, slow.become_fast)
            for shard in shards:
                shard.run(CALM_S + SLOW_S)
            told = slow.store.loads.estimate(b"t" * 16, 0, CHUNKS * CHUNK, None, None)
            for shard in shards:
                shard.run(FAST_S + 1.0)

            slow_at, routed_at, fast_at = CALM_S, CALM_S + ROUTED_S, CALM_S + SLOW_S
            calm = p99(calls(shards, 0.0, slow_at))
            assert p99(calls(others, slow_at, fast_at)) < 3 * calm
            assert p99(calls(shards, routed_at, fast_at)) < 3 * calm
            missed = [part.missed for part in slow.between(routed_at, fast_at)]
            assert sum(missed) > 0.98 * len(missed)
            assert not any(part.missed for shard in others for part in shard.parts)
            assert told.seconds > DEADLINE_S, "the estimate says so"
            # It is tried now and then, and found to be fast again.
            assert not any(part.missed for part in slow.between(fast_at + FAST_S - 1.0, fast_at + FAST_S))
            for shard in shards:
                shard.close()


def test_puts_and_gets_go_around_a_slow_device_of_several() -> None:
    for seed in seeds(1):
        with repeatable(seed):
            goes_around(seed)


def goes_around(seed: int) -> None:
    tenant = Tenant(id=b"t" * 16, name="t")
    shard = TimedShard(
        seed=seed, tenants={"t": tenant, "p": tenant}, bytes_per_s=RATE, latency_s=100e-6, devices=2
    )
    keys = [b"key-%d" % number for number in range(128)]
    shard.stock("t", keys)
    slow, fast = shard.store._context.logs
    there = {log: [key for key in keys if lies_on(shard, key) is log] for log in (slow, fast)}
    readers, writers = ([shard.client(name) for _ in range(4)] for name in "tp")
    numbers, began = count(), shard.now

    def put() -> None:
        shard.put("p", shard.random.choice(writers), [b"new-%d" % next(numbers)])

    def get() -> None:
        shard.get("t", shard.random.choice(readers), [shard.random.choice(there[fast])])

    for number in range(int((CALM_S + SLOW_S) / EVERY_S)):
        shard.at(began + number * EVERY_S, put)
        shard.at(began + (number + 0.5) * EVERY_S, get)
    shard.run(CALM_S)
    calm = {name: load.p99() for name, load in shard.loads.items()}
    shard.devices[0].bytes_per_s /= SLOWER
    shard.devices[0].latency_s *= SLOWER
    # What is read from it tells how slow it is.
    for number in range(4):
        shard.at(shard.now + number, lambda: shard.get("t", readers[0], there[slow][:4]))
    shard.run(ROUTED_S)
    shard.loads.clear()
    shard.run(SLOW_S - ROUTED_S)
    for name, load in shard.loads.items():
        assert load.p99() < 3 * calm[name], name
        assert set(load.ended) == {"ok"}
    loads, size = shard.store.loads, 64 * CHUNK
    told = [loads.estimate(tenant.id, 0, size, None, log.pace).seconds for log in (slow, fast)]
    assert told[0] > 30 * told[1]
    sizes = shard.store.sizes(shard.scope("t"), there[slow][:4])
    assert sizes[-1] is slow.pace
    shard.close()


def lies_on(shard: TimedShard, key: bytes) -> object:
    context = shard.store._context
    place = context.find(context.index.peek(shard.scope("t")), key)
    assert place is not None
    return place[0].log
