"""Whoever plans, in virtual time: beginning, joining, draining, racing, and engines that are away."""

from __future__ import annotations

import pytest

from mezzo.errors import TooLarge
from mezzo.placement.pod_map import ShardState
from mezzo_server.metadata.engine import Write
from mezzo_server.pod import planning
from mezzo_server.pod.plan_format import encode_plan
from mezzo_server.pod.planning import GATHER_S, RETURN_S, UNPLANNED_S
from mezzo_server.pod.records import SETTINGS, Settings
from mezzo_server.pod.steps import Commit
from tests.unit.mezzo_server.pod.rig import LOG2, POD, Planner, World, at_once, write_settings

ALL = set(range(16))


@pytest.fixture
def world() -> World:
    return World()


def states(world: World) -> dict[int, ShardState]:
    return {place.id[0]: place.state for place in world.plan().pod_map.shards}


def test_a_pod_is_made_once(world):
    world.planner()
    other = World(Settings(bytes(16), 5))
    second = other.planner()
    second.world = world
    world.actors.append(second)
    world.run(1)
    assert world.view().settings == world.settings
    assert second.planning.view.settings == world.settings


def test_it_waits_for_those_who_come_at_the_beginning(world):
    world.planner()
    for number in (1, 2, 3):
        world.shard(number)
        world.run(GATHER_S / 2)
        assert world.epoch == 0
    world.run(GATHER_S)
    assert world.epoch == 1
    assert states(world) == dict.fromkeys((1, 2, 3), ShardState.SERVING)


def test_one_that_makes_no_pod_plans_for_the_one_that_others_made(world):
    planner = Planner(world, 0.0, makes=False)
    world.actors.append(planner)
    world.shard(1)
    world.run(20)
    assert world.view().settings is None
    assert planner.planning.failures == 0
    write_settings(world)
    world.run(GATHER_S + 1)
    assert world.epoch == 1


def test_who_comes_later_takes_its_share_in_steps(world):
    world.planner()
    world.shard(1)
    world.run(5)
    late = world.shard(2)
    world.run(2)
    assert states(world)[2] is ShardState.JOINING
    epochs = [world.epoch]
    for _ in range(4):
        world.run(200, 5)
        epochs.append(world.epoch)
    assert states(world)[2] is ShardState.SERVING
    assert epochs == [2, 3, 4, 5, 5]
    assert late.slots()


def test_draining_and_the_change_of_mind(world):
    world.planner()
    one, two = world.shard(1), world.shard(2)
    world.run(5)
    world.drain(1)
    world.run(1)
    assert states(world)[1] is ShardState.DRAINING
    assert set(world.plan().pod_map.table) == {1}
    assert one.slots() < ALL, "it is asked for what it had"
    assert two.slots() == ALL
    world.run(3700, 5)
    assert one.slots() == set()
    world.drain(1, wanted=False)
    world.run(1)
    assert states(world)[1] is ShardState.SERVING
    assert one.slots()


def test_maps_say_who_has_second_copies_unless_that_makes_them_too_large(world, monkeypatch):
    first = world.planner()
    for number in (1, 2, 3):
        world.shard(number)
    world.run(GATHER_S + 1)
    table, seconds = world.plan().pod_map.table, world.plan().pod_map.seconds
    assert all(owner != second for owner, second in zip(table, seconds, strict=True))

    def encode(plan):
        if plan.pod_map.seconds:
            raise TooLarge("a plan of too many bytes")
        return encode_plan(plan)

    monkeypatch.setattr(planning, "encode_plan", encode)
    world.shard(4)
    world.run(UNPLANNED_S + 3)
    assert states(world)[4] is ShardState.JOINING
    assert not world.plan().pod_map.seconds
    assert [why for _, why in world.complaints] == ["a plan of too many bytes"]
    # Another that has not tried it yet does, and gives in: the two do not take turns.
    epoch = world.epoch
    world.actors.remove(first)
    world.planner()
    world.run(60)
    assert world.epoch == epoch


def test_two_planners_make_one_plan(world):
    planners = [world.planner(), world.planner()]
    world.shard(1)
    world.run(5)
    world.shard(2)
    world.run(5)
    world.run(700, 5)
    assert world.epoch == 5
    assert sum(planner.planning.plans_written for planner in planners) == 5
    assert all(planner.planning.view.plan == world.plan() for planner in planners)


def writing(planner: Planner) -> bool:
    """Whether a plan is on its way to the engine."""
    return isinstance(planner.step, Commit) and bool(planner.step.writes)


def test_a_planner_that_paused_does_not_overwrite(world):
    first, second = world.planner(), world.planner()
    world.shard(1)
    world.run(GATHER_S - 0.5)
    while not writing(first):
        world.now += 0.1
        first.turn()
    world.actors.remove(first)  # it stands still before its write reaches the engine
    world.run(5)
    world.shard(2)
    world.run(5)
    assert world.epoch == 2
    world.actors.append(first)
    world.settle()
    assert world.epoch == 2
    assert first.planning.plans_lost == 1
    assert first.planning.view.plan == second.planning.view.plan


def test_no_plan_leaves_out_who_registered_meanwhile(world):
    """The planner saw that a lease had ended, and stands still; the shard registers; then the write goes out."""
    planner = world.planner()
    one, two = world.shard(1), world.shard(2)
    world.run(5)
    two.cut = True
    world.run(70)
    world.actors = [one]
    while not writing(planner):
        world.run(0.5)
        planner.turn()
    two.cut = False
    world.actors = [one, two]
    world.run(3)
    assert two.serves
    world.actors = [one, two, planner]
    world.settle()
    assert planner.planning.plans_lost == 1
    assert world.epoch == 1
    assert one.slots() | two.slots() == ALL


def test_nobody_goes_on_before_all_follow(world):
    planner = world.planner()
    one, two = world.shard(1), world.shard(2)
    world.run(5)
    two.loop_stands = True
    world.shard(3)
    world.run(5)
    assert world.epoch == 2
    world.drain(3)
    world.run(60)
    assert world.epoch == 2, "the second shard still acts by the first map"
    assert planner.planning.numbers(world.now)["pod_members_behind"] == 1
    two.loop_stands = False
    world.run(1)
    assert world.epoch == 3
    assert one.standing.epoch == two.standing.epoch == 3


def test_a_shard_that_stands_still_holds_the_pod_up_until_its_lease_ends(world):
    world.planner()
    world.shard(1)
    two = world.shard(2)
    world.run(5)
    two.crashed = True
    world.shard(3)
    world.run(5)
    world.drain(3)
    world.run(60)
    assert world.epoch == 2
    world.run(40)
    assert world.epoch >= 3
    assert states(world) == {1: ShardState.SERVING, 3: ShardState.DRAINING}


def test_an_outage_leaves_the_last_plan(world):
    planner = world.planner()
    world.shard(1)
    world.run(5)
    plan = planner.planning.view.plan
    world.away = True
    world.run(60)
    assert planner.planning.view.plan is plan
    assert planner.planning.numbers(world.now)["pod_age_s"] > 50
    world.away = False
    world.run(5)
    assert planner.planning.view.plan == plan
    assert planner.planning.numbers(world.now)["pod_age_s"] <= 5


def test_a_member_that_cannot_be_read_stops_the_planning(world):
    world.planner()
    world.shard(1)
    world.run(5)
    at_once(world.engine.transact([], [Write("pod/members/" + "02" * 16, b"{")]))
    world.shard(3)
    world.run(5)
    assert world.epoch == 1
    assert "malformed" in world.complaints[0][1]
    at_once(world.engine.transact([], [Write("pod/members/" + "02" * 16, None)]))
    world.run(5)
    assert world.epoch == 2


def test_settings_that_cannot_be_read_are_left_alone(world):
    at_once(world.engine.transact([], [Write(SETTINGS, b"{}")]))
    planner = world.planner()
    world.run(5)
    assert at_once(world.engine.get(SETTINGS)).value == b"{}"
    assert planner.planning.failures
    write_settings(world)
    world.shard(1)
    world.run(10)
    assert world.plan().pod_map.pod == POD
    assert world.plan().pod_map.slots_log2 == LOG2


def test_metadata_that_were_restored_get_a_later_epoch(world):
    """Whoever follows epoch 3 would never heed one before it."""
    world.planner()
    one, two = world.shard(1), world.shard(2)
    world.run(5)
    old = at_once(world.engine.scan("pod/plan")).entries[0].value
    for wanted in (True, False):
        world.drain(1, wanted)
        world.run(2)
    assert world.epoch == 3
    at_once(world.engine.transact([], [Write("pod/plan", old)]))
    for _ in range(20):
        one.turn()
    assert not one.serves
    world.run(2)
    assert world.epoch == 4
    assert one.standing.epoch == two.standing.epoch == 4
    assert one.slots() | two.slots() == ALL


def test_shards_of_a_lost_pod_make_another_that_clients_follow(world):
    world.planner()
    one, two = world.shard(1), world.shard(2)
    world.run(5)
    world.drain(1)
    world.run(2)
    assert world.epoch == 2
    writes = [Write(entry.key, None) for entry in at_once(world.engine.scan("pod/")).entries]
    at_once(world.engine.transact([], writes))
    world.run(30)
    assert world.epoch == 3
    assert one.slots() | two.slots() == ALL


def test_a_pod_that_starts_again_as_a_whole_keeps_its_map(world):
    first = world.planner()
    shards = [world.shard(number) for number in (1, 2, 3)]
    world.run(5)
    for shard in shards:
        shard.crash()
    world.actors.remove(first)
    world.run(200, 50)
    world.planner()
    for number in (1, 2, 3):
        world.shard(number, life=1)
        world.run(GATHER_S / 4)
    world.run(5)
    assert world.epoch == 1
    assert states(world) == dict.fromkeys((1, 2, 3), ShardState.SERVING)


@pytest.mark.parametrize("order", [1, -1])
def test_after_an_outage_that_ended_all_leases_the_map_stays(world, order):
    shards = [world.shard(n) for n in range(1, 5)]
    world.planner()
    world.run(10)
    assert world.epoch == 1
    world.away = True
    world.run(3600, 5.0)
    assert not any(shard.serves for shard in shards)
    world.actors[:] = world.actors[::order]
    # They come back one after the other.
    for shard in shards:
        shard.cut = True
    world.away = False
    for shard in shards:
        world.run(0.5, 0.1)
        shard.cut = False
    world.run(5)
    assert all(shard.serves for shard in shards)
    assert world.epoch == 1


def test_one_that_stays_away_after_an_outage_loses_its_slots(world):
    one, two = world.shard(1), world.shard(2)
    world.planner()
    world.run(10)
    world.away = True
    world.run(200, 5.0)
    one.cut = True
    world.away = False
    world.run(RETURN_S + 2)
    assert two.slots() == ALL


def test_what_shards_use_is_no_news_of_the_pod(world):
    shards = [world.shard(n) for n in (1, 2)]
    planner = world.planner()
    world.run(15)
    view = planner.planning.view
    news, seen = view.news, view.revision
    shards[0].tells({(b"t" * 16, 0): (1 << 19, 1 << 19)})
    world.run(1)
    assert view.revision > seen
    assert view.news == news
    world.drain(1)
    world.run(1)
    assert view.news > seen
