"""Whose transfers a device gets next: a played device in virtual time, tenants with floods of work."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo_server.blockstore.io import Op, Transfer
from mezzo_server.blockstore.schedule import (
    BACKGROUND,
    FLOWS_MAX,
    SPLIT_BYTES,
    TRANSFER_COST_BYTES,
    Schedule,
    split,
)
from mezzo_server.blockstore.shares import Shares
from mezzo_server.memory import Memory

A, B, C = b"a", b"b", b"c"
MIB = 1 << 20
RATE = 100e6
QUEUE_S = 0.05


class Known(Shares):
    def __init__(self, weights: dict[bytes, float] | None = None, behind: Sequence[bytes] = ()) -> None:
        self.weights = weights or {}
        self.late = set(behind)

    def weight(self, tenant: bytes) -> float:
        return self.weights.get(tenant, 1.0)

    def behind(self, tenant: bytes) -> bool:
        return tenant in self.late


def transfer(tenant: bytes | None, length: int) -> Transfer:
    made = Transfer(Op.READ, tenant=tenant)
    made.length = length
    return made


class Played:
    """A device that does one transfer after the other at a rate, and what it was given."""

    def __init__(self, shares: Shares | None = None, *, rate: float = RATE, queue_s: float = QUEUE_S) -> None:
        self.now = 0.0
        self.rate = rate
        self.shares = shares or Shares()
        self.schedule = Schedule(queue_s, 0.2, self.now)
        self.schedule.rate = rate
        self.schedule.outstanding_max = self.schedule._most()
        self.device: deque[Transfer] = deque()
        self.ended: list[Transfer] = []
        self.bytes: Counter[bytes | None] = Counter()

    def come(self, *transfers: Transfer) -> None:
        self.device.extend(self.schedule.next(list(transfers), self.shares, self.now))

    def step(self) -> Transfer:
        """The device ends its oldest transfer."""
        one = self.device.popleft()
        self.now += (one.length + TRANSFER_COST_BYTES) / self.rate
        self.schedule.ended(1, one.length, self.now)
        self.ended.append(one)
        self.bytes[one.tenant] += one.length
        self.come()
        return one

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.device and self.now < until:
            self.step()


def flood(tenant: bytes, count: int, length: int = 256 << 10) -> list[Transfer]:
    return [transfer(tenant, length) for _ in range(count)]


def test_one_tenant_alone_is_not_held_up() -> None:
    played = Played()
    queue = flood(A, 4)
    assert played.schedule.next(queue, played.shares, 0.0) is queue
    assert played.schedule.waiting == 0


def test_a_device_is_given_one_queue_time_and_not_more() -> None:
    played = Played()
    played.come(*flood(A, 500, MIB))
    most = RATE * QUEUE_S
    assert most <= played.schedule.outstanding < most + MIB + TRANSFER_COST_BYTES
    assert played.schedule.waiting == 500 - len(played.device)
    assert played.schedule.waiting_bytes == played.schedule.waiting * MIB
    while played.device:
        played.step()
        assert played.schedule.outstanding < most + MIB + TRANSFER_COST_BYTES
    assert len(played.ended) == 500
    assert played.schedule.outstanding == 0


def test_who_comes_late_passes_a_flood_by() -> None:
    played = Played()
    played.come(*flood(A, 1000))
    began = played.now
    mine = transfer(B, 64 << 10)
    played.come(mine)
    while mine not in played.ended:
        played.step()
    assert played.now - began <= QUEUE_S + 0.01


def test_without_the_schedule_he_does_not() -> None:
    played = Played(queue_s=0.0)
    played.come(*flood(A, 1000))
    mine = transfer(B, 64 << 10)
    played.come(mine)
    began = played.now
    while mine not in played.ended:
        played.step()
    assert played.now - began > 20 * QUEUE_S


@given(
    weights=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    lengths=st.tuples(st.integers(1, 64), st.integers(1, 64)),
)
def test_time_is_shared_by_weight(weights: tuple[int, int], lengths: tuple[int, int]) -> None:
    played = Played(Known({A: weights[0], B: weights[1]}))
    sizes = {A: lengths[0] * 16384, B: lengths[1] * 16384}
    for tenant in (A, B):
        played.come(*flood(tenant, 40 * MIB // sizes[tenant] + 200, sizes[tenant]))
    first = len(played.device)  # of A alone: it came first
    for _ in range(first):
        played.step()
    before = played.bytes.copy()
    counts = Counter(one.tenant for one in played.ended)
    while {A, B} <= {flow.tenant for _, _, flow in played.schedule._heap} and len(played.ended) < first + 150:
        played.step()
    cost = {
        tenant: played.bytes[tenant]
        - before[tenant]
        + TRANSFER_COST_BYTES * (Counter(one.tenant for one in played.ended)[tenant] - counts[tenant])
        for tenant in (A, B)
    }
    # By start-time fairness: the work done for each, over its weight, differs by one transfer of each.
    slack = sum((sizes[t] + TRANSFER_COST_BYTES) / w for t, w in zip((A, B), weights, strict=True))
    queue = (RATE * QUEUE_S + MIB) / min(weights)  # the device ends what it has in its own order
    assert abs(cost[A] / weights[0] - cost[B] / weights[1]) <= slack + queue


def test_who_is_over_a_soft_limit_comes_last_and_still_comes() -> None:
    played = Played(Known(behind=[A]))
    played.come(*flood(A, 2000))
    for _ in range(len(played.device)):
        played.step()
    played.bytes.clear()
    played.come(*flood(B, 1000))
    played.run(1.5)
    assert played.bytes[A] > 0
    assert played.bytes[B] > 10 * played.bytes[A]


def test_the_background_gets_its_share_and_all_when_nobody_else_wants_it() -> None:
    played = Played(Known({A: 50.0, B: 50.0}))
    for tenant in (A, B, BACKGROUND):
        played.come(*flood(tenant, 2000))
    played.run(0.1)
    played.bytes.clear()
    played.run(3.0)
    total = sum(played.bytes.values())
    assert played.bytes[BACKGROUND] / total == pytest.approx(0.2, abs=0.03)
    alone = Played()
    alone.come(*flood(BACKGROUND, 500))
    alone.run(0.5)
    assert alone.bytes[BACKGROUND] == pytest.approx(0.5 * RATE, rel=0.2)


def test_what_is_urgent_never_waits() -> None:
    played = Played()
    played.come(*flood(A, 1000))
    urgent = transfer(None, 4096)
    assert played.schedule.next([urgent], played.shares, played.now) == [urgent]


def test_a_slow_device_is_given_less_after_a_while() -> None:
    played = Played(rate=20e6)
    played.schedule.rate = 1e9
    played.schedule.outstanding_max = played.schedule._most()
    played.come(*flood(A, 4000))
    played.run(20.0)
    assert played.schedule.rate == pytest.approx(20e6, rel=0.1)


def test_a_device_with_little_to_do_is_not_taken_for_a_slow_one() -> None:
    played = Played()
    for _ in range(2000):
        played.come(transfer(A, 4096))
        played.step()
        played.now += 0.001
    assert played.schedule.rate >= RATE


def test_a_tenant_that_was_idle_gains_no_credit() -> None:
    played = Played()
    played.come(*flood(A, 400))
    played.run(0.5)
    played.come(*flood(B, 400))
    played.bytes.clear()
    played.run(0.5)
    assert played.bytes[A] > 0.35 * sum(played.bytes.values())


def test_flows_of_tenants_without_work_are_forgotten() -> None:
    played = Played()
    for number in range(3 * FLOWS_MAX):
        played.come(transfer(number.to_bytes(4, "big"), 4096))
        played.step()
    assert len(played.schedule.flows) <= FLOWS_MAX


def test_what_comes_together_is_told_of_as_one_also_when_others_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mezzo_server.blockstore.schedule.FLOWS_MAX", 2)
    played = Played()
    played.come(transfer(A, 10), transfer(B, 20))
    played.come(transfer(C, 30), transfer(C, 40))
    assert {tenant: flow.bytes for tenant, flow in played.schedule.flows.items()} == {C: 70}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([A, B, C, BACKGROUND, None]), st.integers(1, 512)),
            st.just("end"),
        ),
        max_size=200,
    )
)
def test_each_transfer_is_given_once_and_in_the_order_of_its_flow(events: list[object]) -> None:
    played = Played(Known({A: 1, B: 9, C: 100}, behind=[C]), rate=30e6)
    came: list[Transfer] = []
    given: list[Transfer] = []
    for event in events:
        before = len(played.device)
        if event == "end":
            if played.device:
                played.device.rotate(-1)  # a device ends what it has in any order
                before = len(played.device) - 1
                played.step()
            given += list(played.device)[before:]
            continue
        tenant, blocks = event  # type: ignore[misc]
        one = transfer(tenant, blocks * 4096)
        came.append(one)
        played.come(one)
        given += list(played.device)[before:]
        assert played.device or not played.schedule.waiting, "something waits and nothing is under way"
        assert played.schedule.waiting == sum(len(f.queue) for f in played.schedule.flows.values())
    while played.device:
        before = len(played.device) - 1
        played.step()
        given += list(played.device)[before:]
    assert sorted(map(id, given)) == sorted(map(id, came))
    for tenant in (A, B, C, BACKGROUND):
        assert [one for one in given if one.tenant == tenant] == [o for o in came if o.tenant == tenant]
    assert played.schedule.outstanding == 0
    assert played.schedule.waiting == played.schedule.waiting_bytes == 0


def test_a_long_transfer_goes_in_pieces() -> None:
    memory = Memory.anonymous(3 * SPLIT_BYTES)
    ended: list[Transfer] = []
    first, second = memory.span(0, SPLIT_BYTES + 4096), memory.span(SPLIT_BYTES + 8192, SPLIT_BYTES)
    whole = Transfer(Op.WRITE, 1 << 30, [first, second], ended.append, None, None, A)
    pieces = split(whole)
    assert [piece.length for piece in pieces] == [SPLIT_BYTES, SPLIT_BYTES, 4096]
    assert [piece.offset - (1 << 30) for piece in pieces] == [0, SPLIT_BYTES, 2 * SPLIT_BYTES]
    assert {piece.tenant for piece in pieces} == {A}
    places = [(span.offset, span.length) for piece in pieces for span in piece.spans]
    assert sum(length for _, length in places) == whole.length
    for piece in pieces:
        assert not ended
        piece.result = piece.length
        assert piece.done is not None
        piece.done(piece)
    assert ended == [whole]
    assert whole.result == whole.length


def test_a_long_transfer_fails_if_a_piece_does() -> None:
    memory = Memory.anonymous(3 * SPLIT_BYTES)
    ended: list[Transfer] = []
    pieces = split(Transfer(Op.READ, 0, [memory.span()], ended.append))
    for number, piece in enumerate(pieces):
        piece.result = -5 if number == 1 else piece.length
        assert piece.done is not None
        piece.done(piece)
    assert [one.result for one in ended] == [-5]
