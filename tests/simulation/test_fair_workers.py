"""S7 for worker threads: a neighbour's flood of hot gets or of puts costs one queue time at most."""

from __future__ import annotations

from itertools import count

import pytest

from mezzo_server.tenancy.model import Tenant
from tests.simulation.timed import MIB, TimedShard

CHUNK = 64 << 10
RATE = 100e6
"""of the worker threads, bytes a second"""
QUEUE_S = 0.0125
"""one queue time: what `OUTSTANDING_BYTES_MIN` takes of these threads is not more"""
QUOTA = 40e6
MINE = 20e6
"""bytes a second that the quiet tenant asks for"""
LEARN_S = 0.75
"""in which the store finds out how slow these threads are"""
SECONDS = 1.5


def beside(
    load: float, *, loud_puts: bool = False, i_put: bool = False, queue_s: float = QUEUE_S
) -> tuple[float, TimedShard]:
    """p99 of a tenant's requests for hot chunks while another moves ``load`` bytes a second.

    The device takes no time, and nothing is done in the loop: all is the threads'.
    """
    shard = TimedShard(
        seed=0,
        tenants={who: Tenant(id=who.encode() * 4, name=who) for who in ("loud", "mine")},
        bytes_per_s=float("inf"),
        latency_s=0.0,
        device_queue_s=queue_s,
        device_bytes=192 * MIB,  # so that nobody is over his share of it
        options={"inline_bytes": 0},
        workers_bytes_per_s=RATE,
        hot_bytes=48 * MIB,
    )
    names = {who: [b"%s-%d" % (who.encode(), number) for number in range(64)] for who in shard.tenants}
    for who, keys in names.items():
        shard.stock(who, keys)
    clients = {
        "mine": [shard.client("mine") for _ in range(2)],
        "loud": [shard.client("loud") for _ in range(6)],
    }
    until = shard.now + LEARN_S + SECONDS
    pick, fresh = shard.random, count()

    def ask(who: str, chunks: int, *, put: bool) -> None:
        client = pick.choice(clients[who])
        if put:
            shard.put(who, client, [b"new-%d" % next(fresh) for _ in range(chunks)])
        else:
            start = pick.randrange(len(names[who]) - chunks)
            shard.get(who, client, names[who][start : start + chunks])

    shard.arrivals(MINE / CHUNK, until, lambda: ask("mine", 1, put=i_put))
    shard.arrivals(load / (4 * CHUNK), until, lambda: ask("loud", 4, put=loud_puts))
    shard.run(LEARN_S)
    shard.loads.clear()
    shard.run(SECONDS + 2.0)
    return shard.loads["mine"].p99(), shard


@pytest.mark.parametrize(
    ("loud_puts", "i_put"),
    [(False, False), (True, False), (False, True)],
    ids=["gets", "puts", "mine are puts"],
)
def test_a_loud_neighbour_costs_one_queue_time_at_most(loud_puts: bool, i_put: bool) -> None:
    """S7, for what the worker threads do."""
    calm, shard = beside(0.9 * QUOTA, loud_puts=loud_puts, i_put=i_put)
    shard.close()
    loud, shard = beside(10 * QUOTA, loud_puts=loud_puts, i_put=i_put)
    assert set(shard.loads["mine"].ended) == {"ok"}, "none of mine is refused"
    assert shard.loads["mine"].ended["ok"] > 0.8 * MINE / CHUNK * SECONDS
    assert loud <= 1.2 * calm + QUEUE_S, f"{loud * 1e3:.2f} ms beside {calm * 1e3:.2f} ms"
    assert shard.loads["loud"].bytes > 0.8 * QUOTA * SECONDS, "the loud one gets its part"
    shard.close()
    jobs = shard.store._context.jobs.schedule
    assert jobs.waiting == jobs.outstanding == 0


def test_it_would_cost_much_more_in_the_order_in_which_it_comes() -> None:
    """That the test above is worth something: with all jobs in the threads' own queue."""
    calm, shard = beside(0.9 * QUOTA, queue_s=0.0)
    shard.close()
    loud, shard = beside(10 * QUOTA, queue_s=0.0)
    assert loud > 1.2 * calm + 10 * QUEUE_S, f"{loud * 1e3:.2f} ms beside {calm * 1e3:.2f} ms"
    shard.close()
