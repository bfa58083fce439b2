"""Making shares even at once: what it moves, that it is made over the map that it was thought out on, and by nobody else."""

from __future__ import annotations

import random

import pytest

from mezzo.errors import Busy, FormatError, InvalidArgument
from mezzo.placement.pod_map import ShardState
from mezzo_server.commands.pod_reports import pod_report, rebalance_report, rebalance_words
from mezzo_server.commands.pod_waiting import emptied, followed, shares
from mezzo_server.metadata.engine import Write
from mezzo_server.pod.operating import PodOperator, seen
from mezzo_server.pod.plan import Member, Pace, Plan, empty_plan, next_plan
from mezzo_server.pod.rebalancing import changes, excess, rebalanced
from mezzo_server.pod.records import member_key
from tests.unit.mezzo_server.pod.rig import World, at_once, shard_id

POD = bytes(16)
LOG2 = 10
PACE = Pace(ramp_s=600, asked_s=3600)


def member(number: int, gib: int = 64, *, draining: bool = False) -> Member:
    name = random.Random(number).randbytes(16)
    return Member(name, f"n{number}", "", (f"tcp://n{number}:7700",), gib << 30, draining)


def begun(members: list[Member]) -> Plan:
    plan = next_plan(empty_plan(POD, LOG2), members, 0.0, PACE, seconds=True)
    assert plan is not None
    return plan


@pytest.mark.parametrize("seed", range(6))
def test_afterwards_shares_are_more_even_and_it_says_what_moves(seed: int) -> None:
    chance = random.Random(seed)
    members = [member(number, chance.randint(64, 512)) for number in range(chance.randint(3, 9))]
    plan = begun(members[: len(members) - seed % 3])
    usual = next_plan(plan, members, 10.0, PACE, seconds=True)
    plan = usual or plan
    after = rebalanced(plan, members, 20.0, PACE)
    told = changes(plan, members, after)
    if after is None:
        assert (told.moves, told.epoch) == (0, plan.pod_map.epoch)
        return
    assert after.pod_map.epoch == plan.pod_map.epoch + 1
    names = [place.id for place in plan.pod_map.shards], [place.id for place in after.pod_map.shards]
    pairs = zip(plan.pod_map.table, after.pod_map.table, strict=True)
    moved = {slot: (names[0][old], names[1][new]) for slot, (old, new) in enumerate(pairs)}
    moved = {slot: (old, new) for slot, (old, new) in moved.items() if old != new}
    assert told.moves == len(moved) > 0
    for shard in told.shards:
        assert shard.gains == sum(new == shard.id for _, new in moved.values())
        assert shard.loses == sum(old == shard.id for old, _ in moved.values())
    assert set(after.pod_map.previous) >= set(moved), "who had them is asked"
    assert all(place.state is ShardState.SERVING for place in after.pod_map.shards)
    assert after.began == {}
    assert excess(after, members) < excess(plan, members)
    assert excess(after, members) < 0.02 * (1 << LOG2)
    assert next_plan(after, members, 30.0, PACE, seconds=True) is None, "who plans lets it be"


def test_one_that_is_to_be_empty_stays_so():
    members = [member(1), member(2), member(3, draining=True)]
    plan = next_plan(begun([member(1), member(2), member(3)]), members, 5.0, PACE, seconds=True)
    assert plan is not None
    told = changes(plan, members, rebalanced(plan, members, 9.0, PACE))
    gone = next(shard for shard in told.shards if shard.node == "n3")
    assert (gone.slots, gone.slots_after, gone.off_after) == (0, 0, 0.0)


@pytest.fixture
def world() -> World:
    world = World()
    world.planner()
    world.shard(1)
    world.shard(2)
    world.run(5)
    world.shard(3)
    world.run(2)
    return world


def operator(world: World) -> PodOperator:
    return PodOperator(world.engine, lambda: world.now)


def states(world: World) -> dict[str, str]:
    return {shard.node: shard.state for shard in at_once(operator(world).look()).shards}


def test_a_shard_that_is_joining_has_its_share_at_once(world):
    assert states(world)["n3"] == "joining"
    epoch = world.epoch
    thought = at_once(operator(world).rebalance(dry_run=True))
    assert (thought.made, thought.joined, thought.epoch) == (False, (shard_id(3),), epoch + 1)
    assert thought.moves > 0
    assert world.epoch == epoch, "it was only thought out"
    told = at_once(operator(world).rebalance())
    assert told.made
    assert (told.moves, told.shards) == (thought.moves, thought.shards)
    world.run(2)
    assert states(world) == dict.fromkeys(("n1", "n2", "n3"), "serving")
    world.run(700, step_s=20.0)
    assert world.epoch == epoch + 1, "no step of its is left"
    again = at_once(operator(world).rebalance())
    assert (again.made, again.moves) == (False, 0)
    assert "as even as" in rebalance_words(rebalance_report(again))


def test_it_waits_for_who_does_not_follow_and_for_who_is_away(world):
    three = world.actors[-1]
    world.actors.remove(three)
    assert at_once(operator(world).rebalance()).made
    world.drain(1)  # or there would be nothing to do
    with pytest.raises(Busy, match="do not follow"):
        at_once(operator(world).rebalance())
    assert not at_once(operator(world).rebalance(dry_run=True)).made
    world.actors.append(three)
    world.run(2)
    at_once(world.engine.transact([], [Write(member_key(shard_id(2)), None)]))
    with pytest.raises(Busy, match="n2 is away"):
        at_once(operator(world).rebalance())


def test_what_cannot_be_read_is_no_ground_to_plan_on(world):
    at_once(world.engine.transact([], [Write(member_key(shard_id(9)), b'{"reader_min":2}')]))
    with pytest.raises(FormatError, match="pod/members"):
        at_once(operator(world).rebalance())
    with pytest.raises(InvalidArgument, match="no pod"):
        at_once(operator(World()).rebalance())


def test_how_far_changes_have_come(world):
    def look():
        return pod_report(seen(world.view(), world.now))

    three, one = shard_id(3).hex(), shard_id(1).hex()
    stand = shares(three)(look())
    assert not stand.over
    assert 0 < stand.done < 1
    assert "left" in stand.words
    assert followed(world.epoch)(look()).over
    assert not followed(world.epoch + 1)(look()).over
    world.run(620, step_s=20.0)
    assert shares(three)(look()).over
    assert shares("ff" * 16)(look()).words == "it has no share yet"
    world.drain(1)
    stand = emptied(one)(look())
    assert (stand.over, stand.done) == (False, 0.0)
    assert "until the next map" in stand.words
    world.run(1800, step_s=20.0)
    stand = emptied(one)(look())
    assert not stand.over
    assert 0.4 < stand.done < 0.6
    assert "30 min" in stand.words or "29 min" in stand.words
    world.run(1900, step_s=20.0)
    assert emptied(one)(look()).over
    assert emptied("ff" * 16)(look()).over, "it is gone"
