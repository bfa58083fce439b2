"""A shard that stops hands its slots over first: while it still serves, and for a bounded time."""

from __future__ import annotations

import pytest

from mezzo.errors import WrongEpoch
from mezzo.placement.pod_map import ShardState
from mezzo_server.pod.handover import HANDOVER_S, LINGER_S, UNPLANNED_S, Handover
from mezzo_server.pod.standing import Share
from tests.unit.mezzo_server.pod.rig import KEYS, SCOPE, World, key_of

ALL = set(range(16))


@pytest.fixture
def world() -> World:
    return World()


def begun(world: World, *nodes: str) -> list:
    shards = [world.shard(number, node=node) for number, node in enumerate(nodes, start=1)]
    world.planner()
    world.run(5)
    return shards


def goes(world: World, shard, within_s: float) -> bool:
    """Have a shard stop as its process does; whether it has gone after so long."""
    standing = shard.standing
    handover = Handover(standing.share, shard.clock())
    shard.membership.retire()
    until = world.now + within_s
    while not handover.is_over(standing.share, standing.serving, shard.clock()):
        if world.now >= until:
            return False
        world.run(0.05, 0.05)
    shard.leave()
    world.settle()
    return True


def test_somebody_serves_each_slot_at_every_moment(world):
    one, two = begun(world, "a", "b")
    mine = one.slots()
    handover = Handover(one.standing.share, one.clock())
    one.membership.retire()
    world.settle()
    assert two.slots() == ALL
    # It is asked for what it has, and whoever comes by the old map is told of the new one while it is there.
    assert one.slots() == mine
    for slot in ALL - mine:
        with pytest.raises(WrongEpoch):
            one.standing.check(SCOPE, [key_of(slot)])
    assert not handover.is_over(one.standing.share, True, one.clock())
    world.run(LINGER_S - 0.1)
    assert not handover.is_over(one.standing.share, True, one.clock())
    world.run(0.2)
    assert handover.is_over(one.standing.share, True, one.clock())
    one.leave()
    world.run(1)
    assert [shard.id for shard in world.plan().pod_map.shards] == [two.id]


def test_one_that_comes_back_has_its_slots_at_once(world):
    one, two = begun(world, "a", "b")
    mine = one.slots()
    assert goes(world, one, 2)
    again = world.shard(1, life=1, node="a")
    world.run(1)
    owned = {slot for slot in ALL if world.plan().pod_map.owner(slot).id == again.id}
    assert owned == mine == again.slots()
    assert world.plan().pod_map.shards[0].state is ShardState.SERVING
    assert two.serves


def test_a_whole_node_goes_at_once(world):
    one, other, two = begun(world, "a", "a", "b")
    one.membership.retire()
    assert goes(world, other, 3)
    assert two.slots() == ALL
    assert one.standing.share.owns_any is False


def test_without_another_node_there_is_nobody_to_wait_for(world):
    one, other = begun(world, "a", "a")
    for shard in (one, other):
        assert Handover(shard.standing.share, world.now).is_over(shard.standing.share, True, world.now)
    assert one.standing.share.alone


def test_where_nobody_plans_it_goes_without(world):
    one, _ = begun(world, "a", "b")
    world.actors.pop()
    assert not goes(world, one, UNPLANNED_S - 0.2)
    one.membership.leave()
    world.away = True
    assert goes(world, one, UNPLANNED_S + 0.2)


def test_if_all_go_each_has_its_slots_again_when_it_comes_back(world):
    shards = begun(world, "a", "b")
    epoch = world.epoch
    before = [world.plan().pod_map.owner(slot).id for slot in range(16)]
    for shard in shards:
        shard.membership.retire()
    world.run(1)
    # The first that says so hands over; the last has nobody to hand over to.
    assert world.plan().pod_map.epoch <= epoch + 1
    assert all(world.plan().pod_map.owner(slot) is not None for slot in ALL)
    for shard in shards:
        shard.leave()
    world.run(5)
    again = [world.shard(number, life=1, node=node) for number, node in ((1, "a"), (2, "b"))]
    world.run(5)
    assert [world.plan().pod_map.owner(slot).id for slot in range(16)] == before
    assert set().union(*(shard.slots() for shard in again)) == ALL


def test_a_shard_that_serves_nothing_has_nothing_to_hand_over():
    share = Share(3, 4, bytes([1] * 16))
    assert Handover(share, 0.0).is_over(share, False, 0.0)


def test_it_does_not_wait_for_ever():
    before, after = Share(3, 4, bytes([1] * 16)), Share(4, 4, bytes([1] * 16))
    handover = Handover(before, 0.0)
    assert not handover.is_over(after, True, HANDOVER_S - 0.1)
    assert handover.is_over(after, True, HANDOVER_S)


def test_slots_that_come_back_are_handed_over_again():
    before, none, some = (Share(epoch, 4, bytes([owned] * 16)) for epoch, owned in ((3, 1), (4, 2), (5, 1)))
    handover = Handover(before, 0.0)
    assert not handover.is_over(none, True, 1.0)
    assert not handover.is_over(some, True, 1.0 + LINGER_S)
    assert not handover.is_over(none, True, 1.1 + LINGER_S)
    assert handover.is_over(none, True, 1.2 + 2 * LINGER_S)


def test_who_retires_still_acknowledges_what_it_has(world):
    one, _ = begun(world, "a", "b")
    world.actors.pop()
    one.membership.retire()
    world.settle()
    assert one.serves
    assert one.slots()
    assert all(one.standing.objection(SCOPE, [KEYS[slot]], world.now) is None for slot in one.slots())
