"""S7: a tenant at ten times its quota delays others by one device-queue time at most; R9: overload is shed."""

from __future__ import annotations

from itertools import count

import msgspec
import pytest

from mezzo_server.config import Limits
from mezzo_server.tenancy.model import Limit, Quota, Tenant
from tests.simulation.seeds import repeatable, seeds
from tests.simulation.timed import MIB, TimedShard
from tests.unit.mezzo_server.shard_harness import FakeClient

CHUNK = 64 << 10
RATE = 100e6
"""of the device, bytes a second"""
QUEUE_S = 0.0125
"""one device-queue time: what `OUTSTANDING_BYTES_MIN` takes on this device is not more"""
QUOTA = 40e6
MINE = 20e6
"""bytes a second that the other tenant asks for"""
SECONDS = 2.5


def tenants(quota: Quota) -> dict[str, Tenant]:
    return {
        "loud": Tenant(id=b"l" * 16, name="loud", quota=quota),
        "mine": Tenant(id=b"m" * 16, name="mine"),
    }


def p99_beside(
    load: float, quota: Quota, seed: int, *, queue_s: float = QUEUE_S, clients: int = 6, shift: int = 0
) -> tuple[float, TimedShard]:
    """p99 of a tenant's gets while another asks for ``load`` bytes a second.

    ``shift``: into memory that is not aligned, so that all goes through the store's staging memory.
    """
    shard = TimedShard(seed=seed, tenants=tenants(quota), bytes_per_s=RATE, device_queue_s=queue_s)
    names = {who: [b"%s-%d" % (who.encode(), number) for number in range(256)] for who in shard.tenants}
    for who, keys in names.items():
        shard.stock(who, keys)
    me = [shard.client("mine") for _ in range(2)]
    others = [shard.client("loud") for _ in range(clients)]
    until = shard.now + SECONDS
    pick = shard.random

    def get_mine() -> None:
        shard.get("mine", pick.choice(me), [pick.choice(names["mine"])], shift=shift)

    def get_loud() -> None:
        keys = names["loud"]
        start = pick.randrange(len(keys) - 4)
        shard.get("loud", pick.choice(others), keys[start : start + 4], shift=shift)

    shard.arrivals(MINE / CHUNK, until, get_mine)
    shard.arrivals(load / (4 * CHUNK), until, get_loud)
    shard.run(SECONDS + 1.0)
    return shard.loads["mine"].p99(), shard


HARD = Quota(bytes_per_s=Limit(0, int(QUOTA)))
SOFT = Quota(bytes_per_s=Limit(int(QUOTA), 0))
NONE = Quota()


@pytest.mark.parametrize("quota", [HARD, SOFT, NONE], ids=["hard", "soft", "none"])
def test_a_loud_neighbour_costs_one_device_queue_time_at_most(quota: Quota) -> None:
    """S7, whether the neighbour's quota refuses it, only says when it is behind, or there is none."""
    for seed in seeds(1):
        with repeatable(seed):
            calm, shard = p99_beside(0.9 * QUOTA, quota, seed)
            shard.close()
            loud, shard = p99_beside(10 * QUOTA, quota, seed)
            mine = shard.loads["mine"]
            assert set(mine.ended) == {"ok"}, "none of mine is refused"
            assert mine.ended["ok"] > 0.8 * MINE / CHUNK * SECONDS
            assert loud <= 1.2 * calm + QUEUE_S, f"{loud * 1e3:.2f} ms beside {calm * 1e3:.2f} ms"
            assert shard.loads["loud"].bytes > 0.8 * QUOTA * SECONDS, "the loud one gets its part"
            if quota is HARD:
                assert shard.loads["loud"].ended["OVER_QUOTA"] > 0.7 * shard.loads["loud"].asked
                assert min(shard.loads["loud"].retry_after_s) > 0
            shard.close()


def test_nor_does_it_where_all_goes_through_staging_memory() -> None:
    """The memory is shared too: what waits for the device must not hold all of it."""
    calm, shard = p99_beside(0.9 * QUOTA, NONE, 0, shift=8)
    shard.close()
    loud, shard = p99_beside(10 * QUOTA, NONE, 0, shift=8)
    assert set(shard.loads["mine"].ended) == {"ok"}
    assert loud <= 1.2 * calm + QUEUE_S
    shard.close()


def puts_beside(load: float, seed: int) -> tuple[float, TimedShard]:
    """p99 of a tenant's puts on a full device, while another puts ``load`` bytes a second."""
    shard = TimedShard(
        seed=seed,
        tenants=tenants(NONE),
        bytes_per_s=RATE,
        device_queue_s=QUEUE_S,
        device_bytes=64 * MIB,
        options={"waiting_bytes_max": 64 * MIB},
    )
    me = [shard.client("mine") for _ in range(2)]
    others = [shard.client("loud") for _ in range(6)]
    pick, fresh = shard.random, count()
    with shard.no_time():
        for _ in range(60):
            shard.put("loud", others[0], [b"fill-%d" % next(fresh) for _ in range(16)])
            shard.run(0.05)
    shard.loads.clear()
    until = shard.now + SECONDS

    def put(tenant: str, clients: list[FakeClient], chunks: int) -> None:
        shard.put(tenant, pick.choice(clients), [b"%d" % next(fresh) for _ in range(chunks)])

    shard.arrivals(MINE / 4 / CHUNK, until, lambda: put("mine", me, 1))
    shard.arrivals(load / (4 * CHUNK), until, lambda: put("loud", others, 4))
    shard.run(SECONDS + 1.0)
    return shard.loads["mine"].p99(), shard


def test_puts_on_a_full_device_are_no_worse_off() -> None:
    """Space that reclaim makes is shared as well, and so is what may wait for it."""
    calm, shard = puts_beside(0.9 * QUOTA, 0)
    shard.close()
    loud, shard = puts_beside(10 * QUOTA, 0)
    assert set(shard.loads["mine"].ended) == {"ok"}, "none of mine is refused"
    assert loud <= 1.2 * calm + QUEUE_S, f"{loud * 1e3:.2f} ms beside {calm * 1e3:.2f} ms"
    shard.close()


def test_it_would_cost_much_more_without_the_schedule() -> None:
    """That the test above is worth something: with all that is asked for in the device's own queue."""
    calm, shard = p99_beside(0.9 * QUOTA, NONE, 0, queue_s=0.0)
    shard.close()
    loud, shard = p99_beside(10 * QUOTA, NONE, 0, queue_s=0.0)
    assert loud > 1.2 * calm + 10 * QUEUE_S
    shard.close()


# -- space

SPACE = {
    "hard": Quota(capacity_bytes=Limit(0, 16 * MIB)),
    "soft": Quota(capacity_bytes=Limit(16 * MIB, 0)),
}


@pytest.mark.parametrize("kind", sorted(SPACE))
def test_none_of_my_chunks_goes_while_i_am_within_my_quota(kind: str) -> None:
    """S7: a neighbour puts ten times what he may have, on a device that is nearly full of what is allowed."""
    who = tenants(SPACE[kind])
    who["mine"] = msgspec.structs.replace(who["mine"], quota=Quota(capacity_bytes=Limit(14 * MIB, 14 * MIB)))
    shard = TimedShard(
        seed=0, tenants=who, bytes_per_s=1e9, device_bytes=48 * MIB, options={"segment_bytes": MIB}
    )
    mine = [b"mine-%d" % number for number in range(12 * MIB // CHUNK)]
    shard.stock("mine", mine)
    client = shard.client("loud")
    for number in range(160 * MIB // CHUNK // 16):
        shard.put("loud", client, [b"loud-%d-%d" % (number, one) for one in range(16)])
        shard.run(0.02)
    loud = shard.loads["loud"]
    assert loud.bytes > 100 * MIB
    shard.run(1.0)
    left = shard.store.prefix(shard.scope("mine"), mine)[0]
    assert left == len(mine), f"{len(mine) - left} of {len(mine)} chunks went"
    if kind == "hard":
        assert shard.store.space.live_bytes(who["loud"].id) <= 16 * MIB
    shard.close()


# -- R9

SLOW = 1.25e6
LARGE = 256 << 10


def overloaded(times: float, seconds: float, quota: Quota, seed: int) -> TimedShard:
    """Gets and puts of several tenants, so many times what the device can do; looked at all the while."""
    who = {f"t{n}": Tenant(id=bytes([n]) * 16, name=f"t{n}", quota=quota) for n in range(4)}
    limits = Limits(
        requests_max=16,
        staging_bytes=16 * MIB,
        staging_connection_bytes_max=4 * MIB,
        chunk_bytes_max=4 * MIB,
        in_flight_bytes_max=4 * MIB,
    )
    shard = TimedShard(
        seed=seed,
        tenants=who,
        bytes_per_s=SLOW,
        latency_s=0.005,
        device_queue_s=1.0,
        device_bytes=48 * MIB,
        chunk_bytes=LARGE,
        limits=limits,
        options={"waiting_bytes_max": 8 * MIB},
    )
    shard.stock("t0", [b"first-%d" % number for number in range(16)])
    clients = {name: [shard.client(name, 2) for _ in range(2)] for name in who}
    until = shard.now + seconds
    pick = shard.random
    fresh = count()

    def ask() -> None:
        name = pick.choice(sorted(who))
        client = pick.choice(clients[name])
        if pick.random() < 0.5:
            shard.put(name, client, [b"%s-%d" % (name.encode(), next(fresh))])
        else:
            own = [key for key in shard.stored if key.startswith(name.encode())]
            shard.get(name, client, own[-1:] or [b"nothing"])

    def look() -> None:
        """Nothing is over its cap, at any moment."""
        log = shard.store._context.logs[0]
        requests = sum(len(client.session.requests) for client in shard.clients)
        assert requests <= limits.requests_max * len(shard.clients)
        assert shard.store._puts.waiting_bytes <= 8 * MIB + LARGE
        assert shard.staging.free_bytes >= 0
        assert log.schedule.waiting_bytes <= requests * LARGE + 64 * MIB
        assert log.schedule.outstanding <= log.schedule.outstanding_max + 4 * MIB
        if shard.now < until:
            shard.at(shard.now + 1.0, look)

    shard.arrivals(times * SLOW / LARGE, until, ask)
    look()
    shard.run(seconds)
    return shard


@pytest.mark.parametrize(
    "quota", [Quota(bytes_per_s=Limit(0, int(SLOW / 4))), Quota()], ids=["quota", "none"]
)
def test_ten_times_overload_for_ten_minutes_is_shed(quota: Quota) -> None:
    """R9, shed by quotas, or by the limits of connections where there are none."""
    for seed in seeds(1):
        with repeatable(seed):
            shard = overloaded(2.0, 60.0, Quota(), seed)
            peak = sum(load.bytes for load in shard.loads.values()) / 60.0
            shard.close()
            shard = overloaded(10.0, 600.0, quota, seed)
            loads = list(shard.loads.values())
            goodput = sum(load.bytes for load in loads) / 600.0
            assert goodput >= 0.8 * peak, f"{goodput / 1e6:.2f} of {peak / 1e6:.2f} MB/s"
            asked = sum(load.asked for load in loads)
            shed = sum(load.ended["OVER_QUOTA"] + load.ended["BUSY"] for load in loads)
            ok = sum(load.ended["ok"] for load in loads)
            assert shed + ok > 0.99 * asked
            assert shed > 0.7 * asked
            if quota != Quota():
                assert sum(load.ended["OVER_QUOTA"] for load in loads) > 0.7 * asked
            assert all(wait > 0 for load in loads for wait in load.retry_after_s)
            assert set().union(*(load.ended for load in loads)) <= {"ok", "OVER_QUOTA", "BUSY"}
            shard.close()
            log = shard.store._context.logs[0]
            assert log.schedule.waiting == log.schedule.outstanding == 0
            assert shard.store.space.putting_bytes == 0
