"""The loop's time by tenant: a played loop in which connections are always, or sometimes, ready."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from mezzo_server.blockstore.shares import Shares
from mezzo_server.shard.turns import NOBODY, QUANTUM_NS_MIN, ROUND_NS, Turns

A, B, C = b"a", b"b", b"c"
STEP_NS = 100_000


class Known(Shares):
    def __init__(self, weights: dict[bytes, float] | None = None, behind: bytes = b"") -> None:
        self.weights = weights or {}
        self.late = behind

    def weight(self, tenant: bytes) -> float:
        return self.weights.get(tenant, 1.0)

    def behind(self, tenant: bytes) -> bool:
        return tenant == self.late


class Loop:
    """An event loop that calls every connection that is ready once in each iteration, as ours do."""

    def __init__(self, connections: dict[bytes, int], shares: Shares | None = None) -> None:
        known = shares or Shares()
        self.turns = Turns(lambda: known)
        self.connections = [(tenant, n) for tenant, count in connections.items() for n in range(count)]
        self.now_ns = 0
        self.queued: set[tuple[bytes, int]] = set()
        self.held: Counter[bytes] = Counter()
        self.gaps: dict[bytes, int] = {}
        self._last: dict[bytes, int] = {}
        self._ticked_ns = 0

    def _run(self, connection: tuple[bytes, int]) -> None:
        tenant = connection[0]
        self.queued.discard(connection)
        self.gaps[tenant] = max(self.gaps.get(tenant, 0), self.now_ns - self._last.get(tenant, 0))
        self.now_ns += STEP_NS
        self._last[tenant] = self.now_ns
        self.held[tenant] += STEP_NS

    def iterate(self, count: int = 1) -> None:
        for _ in range(count):
            self.now_ns += 5_000
            for connection in self.connections:
                tenant = connection[0]
                if tenant == self.turns.alone:
                    self._run(connection)
                elif connection in self.queued:
                    continue
                elif self.turns.may(tenant, self.now_ns):
                    self._run(connection)
                    self.turns.spent(tenant, STEP_NS)
                else:
                    self.queued.add(connection)
                    self.turns.add(tenant, partial(self._run, connection))
            self.turns.begin_round(self.now_ns)
            while (drawn := self.turns.next()) is not None:
                drawn[1]()
                self.turns.spent(drawn[0], STEP_NS)
            if self.now_ns - self._ticked_ns > 20_000_000:
                self._ticked_ns = self.now_ns
                self.turns.tick()


def test_a_tenant_with_a_hundred_connections_gets_no_more_than_one_with_one() -> None:
    loop = Loop({A: 100, B: 20})
    loop.iterate(400)
    assert loop.held[A] / loop.held[B] == pytest.approx(1.0, rel=0.1)


def test_who_has_one_connection_waits_for_one_quantum_of_the_other() -> None:
    loop = Loop({A: 100, B: 1})
    loop.iterate(50)
    loop.gaps.clear()
    loop.iterate(200)
    assert loop.gaps[B] <= ROUND_NS + 2 * STEP_NS + 5_000
    plain = 100 * STEP_NS
    assert loop.gaps[B] < plain / 4, "without turns it would wait for all hundred"


def test_time_is_by_weight() -> None:
    loop = Loop({A: 50, B: 50}, Known({A: 3.0, B: 1.0}))
    loop.iterate(400)
    assert loop.held[A] / loop.held[B] == pytest.approx(3.0, rel=0.15)


def test_who_is_over_a_soft_limit_comes_last_and_still_comes() -> None:
    loop = Loop({A: 50, B: 50}, Known(behind=A))
    loop.iterate(50)
    loop.held.clear()
    loop.iterate(400)
    assert 0 < loop.held[A] < loop.held[B] / 4


def test_one_tenant_alone_takes_no_turns() -> None:
    loop = Loop({A: 100})
    loop.iterate(30)
    assert loop.turns.alone == A
    assert loop.turns.waiting == 0
    began = loop.now_ns
    loop.iterate(1)
    assert loop.now_ns - began == 100 * STEP_NS + 5_000, "all of its connections in one iteration"


def test_who_is_alone_stays_so_for_as_long_as_nobody_else_comes() -> None:
    turns = Turns(Shares)
    turns.may(A, 0)
    turns.spent(A, 1)
    turns.tick()
    turns.tick()
    assert turns.alone == A
    for _ in range(3):
        turns.tick()  # its steps are not told of any more
        assert turns.alone == A
    assert turns.may(B, 0)
    assert turns.alone == NOBODY
    turns.spent(B, 10 * ROUND_NS)
    assert turns.may(A, 0)
    turns.spent(A, 1)
    assert not turns.may(B, 0)


def test_a_second_tenant_ends_that_at_once() -> None:
    turns = Turns(Shares)
    turns.may(A, 0)
    turns.spent(A, 1)
    turns.tick()
    turns.may(A, 0)
    turns.tick()
    assert turns.alone == A
    assert turns.may(B, 0)
    assert turns.alone == NOBODY


def test_steps_of_a_tenant_go_in_order_and_none_is_lost() -> None:
    turns = Turns(Shares)
    order: list[tuple[bytes, int]] = []
    for number in range(40):
        for tenant in (A, B):
            turns.add(tenant, partial(order.append, (tenant, number)))
    assert not turns.may(A, 0), "what comes now is behind those that wait"
    for _ in range(200):
        turns.begin_round(0)
        while (drawn := turns.next()) is not None:
            drawn[1]()
            turns.spent(drawn[0], QUANTUM_NS_MIN)
    assert turns.waiting == 0
    for tenant in (A, B):
        assert [number for whose, number in order if whose == tenant] == list(range(40))
    assert [whose for whose, _ in order[:10]].count(A) == 5


def test_what_a_long_step_took_is_paid_off() -> None:
    turns = Turns(Shares)
    for tenant in (A, B):
        assert turns.may(tenant, 0)
    turns.spent(A, 10 * ROUND_NS)
    rounds = 0
    while not turns.may(A, 0):
        turns.begin_round(0)
        rounds += 1
        assert rounds < 100
    assert rounds == 20, "its part is half of a round"


def test_who_left_is_forgotten() -> None:
    turns = Turns(Shares)
    for number in range(1000):
        turns.may(number.to_bytes(4, "big"), 0)
    turns.tick()
    turns.may(C, 0)
    turns.tick()
    assert len(turns._parts) == 1
