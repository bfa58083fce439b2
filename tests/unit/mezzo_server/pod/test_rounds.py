"""When parts of quotas are found anew, by the machines that write and follow them, in virtual time."""

from __future__ import annotations

import pytest

from mezzo_server.metadata.engine import Write
from mezzo_server.pod.parts import UsedRow, decode_parts
from mezzo_server.pod.records import PARTS, USES
from mezzo_server.pod.rounds import ROUND_S, SPREAD_S
from mezzo_server.pod.steps import Commit
from mezzo_server.quota.part import NEWCOMER_POINTS, POINTS
from tests.unit.mezzo_server.pod.rig import LEASE_S, Shard, World, at_once

TENANT = b"T" * 16


@pytest.fixture
def world() -> World:
    return World()


def begun(world: World, count: int, planners: int = 1) -> list[Shard]:
    for _ in range(planners):
        world.planner()
    shards = [world.shard(number) for number in range(1, count + 1)]
    world.run(5)
    return shards


def says(shard: Shard, used: float, wanted: float = 0.0) -> None:
    shard.tells({(TENANT, 0): (int(used * POINTS), int(max(used, wanted) * POINTS))})


def parts_of(shards: list[Shard]) -> list[float]:
    return [shard.part.points(TENANT, 0) / POINTS for shard in shards]


def test_shards_are_told_their_parts_as_soon_as_they_serve(world: World) -> None:
    shards = begun(world, 4)
    assert all(shard.serves and shard.part.settled for shard in shards)
    view = world.view()
    assert sum(view.parts.default) / POINTS == pytest.approx(17 / 16, abs=0.001)
    assert [shard.part.default for shard in shards] == list(view.parts.default)
    assert {use.mark for use in view.uses.values()} == {view.parts_mark}


def test_only_a_pod_that_begins_does_not_wait_for_another_planner_to_be_first(world: World) -> None:
    planner = world.planner(spread=1.0)
    shards = [world.shard(number) for number in (1, 2)]
    while world.view().plan is None:
        world.run(0.1, 0.1)
    assert all(shard.part.settled for shard in shards)
    assert world.view().parts.number == 1
    world.shard(3)
    world.run(SPREAD_S - 0.1, 0.1)
    assert world.view().parts.number == 1
    world.run(0.3, 0.1)
    assert world.view().parts.number > 1
    assert planner.planning.numbers(world.now)["pod_rounds_written"] == world.view().parts.number


def test_a_shard_that_is_alone_has_the_whole(world: World) -> None:
    [alone] = begun(world, 1)
    assert alone.part.default == POINTS


def test_parts_go_where_they_are_wanted_and_the_metadata_are_written_seldom(world: World) -> None:
    shards = begun(world, 4, planners=2)
    says(shards[0], 0.26, 0.4)
    for shard in shards[1:]:
        says(shard, 0.03)
    world.run(2 * ROUND_S)
    assert parts_of(shards)[0] >= 0.4
    assert sum(parts_of(shards)) <= 1.0
    before, rounds = world.writes, world.view().parts.number
    world.run(300, 5)
    assert world.writes == before, "nothing happens, so nothing is written"
    for number in range(30):  # whatever happens in between
        says(shards[0], 0.3 + 0.002 * number, 0.5)
        world.run(1)
    assert world.view().parts.number - rounds <= 2 * (30 / ROUND_S + 1)


def test_what_shrinks_is_given_to_others_when_its_shard_has_said_so(world: World) -> None:
    shards = begun(world, 3)
    shards[2].loop_stands = True
    says(shards[0], 0.35, 0.8)
    says(shards[1], 0.05)
    world.run(60, 2)
    assert shards[2].serves
    assert sum(parts_of(shards)) <= 17 / 16
    assert world.view().parts.number == 2, "the first half of a round, and no further"
    # It says nothing, so its lease ends: then it serves nothing, and the others have it all.
    world.run(LEASE_S + 20, 2)
    assert not shards[2].serves
    assert parts_of(shards)[0] >= 0.7


def test_a_shard_that_is_cut_off_keeps_its_part_until_its_lease_has_ended(world: World) -> None:
    shards = begun(world, 3)
    shards[2].cut = True
    says(shards[0], 0.35, 0.8)
    says(shards[1], 0.05)
    world.run(60, 2)
    assert shards[2].serves
    assert parts_of(shards)[2] == pytest.approx(17 / 48, abs=0.05)
    assert sum(parts_of(shards)) <= 17 / 16
    world.run(60, 2)
    assert not shards[2].serves
    assert parts_of(shards)[0] >= 0.7
    # It comes back, with a little until all have heard of it.
    little = []
    shards[2].cut = False
    for _ in range(40):
        world.run(0.5)
        if shards[2].serves:
            little.append(shards[2].part.default)
    assert little[-1] > 0.25 * POINTS
    assert sum(parts_of(shards)) <= 17 / 16


def test_what_was_found_without_one_that_comes_back_meanwhile_is_not_written(world: World) -> None:
    """It has read the parts before, and has its own of them."""
    shards = begun(world, 3)
    planner = world.actors.pop(0)
    shards[2].cut = True
    world.run(LEASE_S + 10, 2)
    assert not shards[2].serves
    says(shards[0], 0.35, 0.8)
    says(shards[1], 0.05)
    for _ in range(100):
        did = planner.turn()
        step = planner.step
        if isinstance(step, Commit) and any(write.key == PARTS for write in step.writes):
            break
        if not did:
            world.now += 0.1
    else:
        pytest.fail("it divides nothing")
    shards[2].cut = False
    world.run(5)
    assert shards[2].serves
    before = world.view().parts.number
    planner.turn()  # it reaches the metadata only now
    assert world.view().parts.number == before
    world.actors.append(planner)
    for _ in range(300):
        did = [actor.turn() for actor in tuple(world.actors)]
        assert sum(parts_of(shards)) <= 17 / 16
        if True not in did:
            world.now += 0.1


def test_one_that_joins_gets_its_part_in_two_rounds(world: World) -> None:
    shards = begun(world, 2)
    joining = world.shard(9)
    seen = []
    for _ in range(200):
        did = [actor.turn() for actor in tuple(world.actors)]
        if True not in did:
            world.now += 0.1
        seen.append(joining.part.default)
        serving = [shard for shard in (*shards, joining) if shard.serves]
        assert sum(shard.part.default for shard in serving) <= POINTS * 17 / 16 + NEWCOMER_POINTS
    assert seen[0] == NEWCOMER_POINTS
    # It has one slot of 16, for a beginning, of which the former owner is asked, too.
    assert seen[-1] == POINTS * 17 // 16 // 17
    assert joining.part.settled


def test_without_the_metadata_all_parts_stay(world: World) -> None:
    shards = begun(world, 3)
    before = parts_of(shards)
    world.away = True
    says(shards[0], 0.35, 0.8)
    for shard in shards[1:]:
        says(shard, 0.01)
    world.run(60, 2)
    assert parts_of(shards) == before
    world.away = False
    world.run(20)
    assert parts_of(shards)[0] > before[0]


def test_a_use_that_cannot_be_read_holds_up_the_rounds(world: World) -> None:
    """Nobody knows what that shard enforces."""
    shards = begun(world, 2)
    at_once(world.engine.transact([], [Write(USES + shards[1].id.hex(), b"junk")]))
    says(shards[0], 0.5, 0.9)
    world.run(30)
    assert world.view().parts.number == 1
    assert world.complaints
    says(shards[1], 0.0)
    world.run(30)
    assert parts_of(shards)[0] > 0.6


def test_metadata_that_were_lost_or_set_back_are_followed(world: World) -> None:
    shards = begun(world, 3)
    old = at_once(world.engine.get(PARTS))
    assert old is not None
    says(shards[0], 0.4, 0.7)
    for shard in shards[1:]:
        says(shard, 0.01)
    world.run(30)
    assert parts_of(shards)[0] > 0.6
    at_once(world.engine.transact([], [Write(PARTS, old.value)]))
    world.run(1)
    world.run(30)
    view = world.view()
    assert {shard.part.mark for shard in shards} == {view.parts_mark}
    assert parts_of(shards)[0] > 0.6
    assert decode_parts(old.value).number <= view.parts.number
    assert view.uses[shards[0].id].rows == (UsedRow(TENANT, 0, int(0.4 * POINTS), int(0.7 * POINTS)),)
