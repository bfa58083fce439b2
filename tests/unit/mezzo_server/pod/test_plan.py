"""From the members of a pod to its next map: joining in steps, leaving, coming back, draining."""

from __future__ import annotations

import random
from array import array
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mezzo.placement.pod_map import ShardState, apply, difference
from mezzo.placement.rendezvous import NOBODY
from mezzo_server.pod.plan import Member, Pace, Plan, due, empty_plan, next_plan, renumbered

POD = bytes(16)
LOG2 = 12
PACE = Pace(ramp_s=600, asked_s=3600, remembered_s=86_400)


def member(number: int, *, draining: bool = False, gib: int = 64) -> Member:
    name = random.Random(number).randbytes(16)
    return Member(name, f"n{number}", "", (f"tcp://n{number}:7700",), gib << 30, draining)


def after(plan: Plan, members: list[Member], now: float = 0.0, pace: Pace = PACE) -> Plan:
    following = next_plan(plan, members, now, pace, seconds=True)
    return plan if following is None else following


def share(plan: Plan, who: Member) -> float:
    index = next((n for n, shard in enumerate(plan.pod_map.shards) if shard.id == who.id), None)
    return 0.0 if index is None else Counter(plan.pod_map.table)[index] / len(plan.pod_map.table)


def begun(count: int) -> Plan:
    return after(empty_plan(POD, LOG2), [member(n) for n in range(count)])


def test_a_pod_begins_with_all_who_are_there():
    plan = begun(4)
    assert plan.pod_map.epoch == 1
    assert all(shard.state is ShardState.SERVING for shard in plan.pod_map.shards)
    assert NOBODY not in plan.pod_map.table
    assert plan.pod_map.previous == {}
    assert next_plan(plan, [member(n) for n in range(4)], 100.0, PACE) is None


def test_a_map_says_who_has_second_copies_where_that_is_wanted():
    members = [member(n) for n in range(4)]
    without = next_plan(empty_plan(POD, LOG2), members, 0.0, PACE)
    assert without is not None
    assert not without.pod_map.seconds
    assert next_plan(without, members, 1.0, PACE) is None
    with_them = next_plan(without, members, 1.0, PACE, seconds=True)
    assert with_them is not None
    assert with_them.pod_map.epoch == 2
    assert with_them.pod_map.table == without.pod_map.table
    nodes = [shard.node for shard in with_them.pod_map.shards]
    pairs = zip(with_them.pod_map.table, with_them.pod_map.seconds, strict=True)
    assert all(nodes[owner] != nodes[second] for owner, second in pairs)
    # A planner that wants none does not make another map for it, so the two do not take turns.
    assert next_plan(with_them, members, 2.0, PACE) is None
    assert next_plan(with_them, members, 2.0, PACE, seconds=True) is None


def test_second_copies_stay_where_they_are_while_the_shards_do():
    plan = begun(4)
    later = after(plan, [member(n) for n in range(5)], 1000.0)
    stays = renumbered(later, 77).pod_map
    assert stays.seconds == later.pod_map.seconds
    forgotten = after(later, [member(n) for n in range(5)], 1000.0 + 2 * PACE.asked_s)
    assert forgotten.pod_map.seconds != array("H")
    alone = after(plan, [member(0)], 2000.0)
    assert set(alone.pod_map.seconds) == {NOBODY}


def test_a_new_shard_takes_its_share_in_steps():
    plan = begun(4)
    members = [member(n) for n in range(5)]
    shares, now = [], 1000.0
    while True:
        plan = after(plan, members, now)
        shares.append(share(plan, members[4]))
        wait = due(plan, now, PACE)
        if not plan.began:
            break
        assert wait is not None
        assert 0 < wait <= 200
        now += wait
    assert now == 1600.0
    assert len(shares) == 4
    assert shares == sorted(shares)
    assert 0.04 < shares[0] < 0.08
    assert 0.18 < shares[-1] < 0.22
    assert {shard.state for shard in plan.pod_map.shards} == {ShardState.SERVING}


def test_a_slot_that_moved_tells_who_had_it_for_a_while():
    plan = begun(4)
    members = [member(n) for n in range(5)]
    later = after(plan, members, 1000.0)
    new = next(n for n, shard in enumerate(later.pod_map.shards) if shard.id == members[4].id)
    moved = {slot for slot, index in enumerate(later.pod_map.table) if index == new}
    assert moved == set(later.pod_map.previous)
    for slot in moved:
        assert later.pod_map.owner_before(slot).id == plan.pod_map.owner(slot).id
    pace = Pace(ramp_s=0, asked_s=50)
    later = after(plan, members, 1000.0, pace)
    assert due(later, 1000.0, pace) == 50
    assert next_plan(later, members, 1050.0, pace) is None
    forgetful = after(later, members, 1051.0, pace)
    assert forgetful.pod_map.previous == {}
    assert forgetful.pod_map.epoch == later.pod_map.epoch + 1
    assert due(forgetful, 1051.0, pace) is None


def test_who_is_gone_moves_nothing_but_its_own_and_comes_back_to_it():
    plan = begun(5)
    rest = [member(n) for n in range(4)]
    without = after(plan, rest, 1000.0)
    gone = member(4)
    for slot, index in enumerate(plan.pod_map.table):
        if plan.pod_map.shards[index].id != gone.id:
            assert without.pod_map.owner(slot) == plan.pod_map.owner(slot)
        else:
            assert without.pod_map.owner_before(slot) is None
    again = after(without, [*rest, gone], 2000.0)
    assert [again.pod_map.owner(slot).id for slot in range(1 << LOG2)] == [
        plan.pod_map.owner(slot).id for slot in range(1 << LOG2)
    ]
    assert all(shard.state is ShardState.SERVING for shard in again.pod_map.shards)
    late = after(without, [*rest, gone], 1000.0 + PACE.remembered_s + 1)
    assert ShardState.JOINING in {shard.state for shard in late.pod_map.shards}


def test_who_is_drained_owns_nothing_and_can_be_asked():
    plan = begun(4)
    members = [member(0, draining=True), *(member(n) for n in range(1, 4))]
    drained = after(plan, members, 1000.0)
    assert share(drained, members[0]) == 0
    had = {slot for slot in range(1 << LOG2) if plan.pod_map.owner(slot).id == members[0].id}
    assert {slot for slot in had if drained.pod_map.owner_before(slot).id == members[0].id} == had
    gone = after(drained, members[1:], 2000.0)
    assert gone.pod_map.previous == {}
    back = after(drained, [member(n) for n in range(4)], 2000.0)
    assert share(back, members[0]) > 0.2


class PlanMachine(RuleBasedStateMachine):
    """Members come, go, drain and change at any time: the map is right, moves little, and settles."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = empty_plan(POD, LOG2)
        self.members: dict[int, Member] = {}
        self.now = 0.0

    def look(self) -> None:
        following = next_plan(self.plan, list(self.members.values()), self.now, PACE, seconds=True)
        if following is None:
            return
        assert following == next_plan(
            self.plan, list(self.members.values())[::-1], self.now, PACE, seconds=True
        )
        before, later = self.plan.pod_map, following.pod_map
        assert later.epoch == before.epoch + 1
        assert apply(before, difference(before, later)) == later
        ids = {shard.id for shard in later.shards}
        for slot in range(1 << LOG2):
            was, new = before.owner(slot), later.owner(slot)
            if was is not None and was.id in ids and new is not None and new.id != was.id:
                asked = later.owner_before(slot)
                assert asked is not None
                assert asked.id == was.id
        self.plan = following
        assert next_plan(self.plan, list(self.members.values()), self.now, PACE) is None

    @rule(number=st.integers(0, 7), draining=st.booleans(), gib=st.sampled_from([1, 64, 640]))
    def come(self, number: int, draining: bool, gib: int) -> None:
        self.members[number] = member(number, draining=draining, gib=gib)
        self.look()

    @rule(number=st.integers(0, 7))
    def go(self, number: int) -> None:
        self.members.pop(number, None)
        self.look()

    @rule(seconds=st.sampled_from([1, 150, 250, 4000, 100_000]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    @rule()
    def until_due(self) -> None:
        wait = due(self.plan, self.now, PACE)
        if wait is not None:
            self.now += wait
            self.look()

    @invariant()
    def every_slot_has_an_owner_if_anybody_may_own_it(self) -> None:
        pod_map = self.plan.pod_map
        able = [shard for shard in pod_map.shards if shard.weight]
        assert (NOBODY in pod_map.table) is (not able)
        assert {shard.id for shard in pod_map.shards} == {each.id for each in self.members.values()}
        assert set(pod_map.previous) == set(self.plan.moved)


TestPlan = PlanMachine.TestCase
TestPlan.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
