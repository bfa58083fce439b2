"""A shard's membership in virtual time: when it serves, when it stops, and how it comes back."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mezzo.errors import InvalidArgument, Unavailable, WrongEpoch
from mezzo_server.metadata.engine import Write
from mezzo_server.pod.membership import KEEP, MARGIN
from mezzo_server.pod.plan_format import encode_plan
from mezzo_server.pod.records import PLAN, encode, member_key
from tests.unit.mezzo_server.pod.rig import KEYS, LEASE_S, SCOPE, World, at_once, record, shard_id

ALL = set(range(16))
SERVES_S = LEASE_S * (1 - MARGIN)


@pytest.fixture
def world() -> World:
    return World()


def begun(world: World, count: int = 2) -> list:
    shards = [world.shard(n) for n in range(1, count + 1)]
    world.planner()
    world.run(5)
    return shards


def test_it_registers_reads_the_plan_and_serves_its_slots(world):
    one, two = begun(world)
    assert world.epoch == 1
    assert one.serves
    assert two.serves
    assert one.slots() | two.slots() == ALL
    assert not one.slots() & two.slots()
    assert {r.epoch for r in world.view().records.values()} == {1}


def test_without_metadata_it_serves_nothing(world):
    world.away = True
    shard = world.shard(1)
    world.run(200)
    assert not shard.serves
    with pytest.raises(Unavailable, match="has not registered"):
        shard.standing.check(SCOPE, KEYS)
    world.away = False
    world.planner()
    world.run(10)
    assert shard.serves


def test_without_a_plan_all_is_anothers(world):
    shard = world.shard(1)
    world.run(5)
    with pytest.raises(WrongEpoch) as caught:
        shard.standing.check(SCOPE, KEYS[:1])
    assert caught.value.epoch == 0


def test_an_outage_shorter_than_the_lease_changes_nothing(world):
    shards = begun(world)
    world.run(9.5)  # right before a renewal
    world.away = True
    for _ in range(60):
        world.run(1)
        assert all(shard.serves for shard in shards)
    world.away = False
    world.run(5)
    assert all(shard.serves for shard in shards)
    assert world.epoch == 1
    assert [shard.membership.losses for shard in shards] == [0, 0]
    world.run(100)
    assert all(shard.serves for shard in shards)


def test_a_longer_one_stops_it_before_its_lease_ends(world):
    one, two = begun(world)
    world.run(20)
    one.cut = True
    stopped = None
    for _ in range(1000):
        world.run(0.1, 0.1)
        if not one.serves and stopped is None:
            stopped = world.now
            assert member_key(one.id) in {e.key for e in at_once(world.engine.scan("pod/members/")).entries}
        if world.epoch == 2:
            break
    assert stopped is not None
    assert stopped + LEASE_S * MARGIN / 2 < world.now
    assert two.slots() == ALL
    assert one.slots() == set()
    with pytest.raises(Unavailable, match="not renewed in time"):
        one.standing.check(SCOPE, KEYS)


def test_it_comes_back_after_a_loss(world):
    one, two = begun(world)
    one.cut = True
    world.run(120)
    assert two.slots() == ALL
    one.cut = False
    world.run(5)
    assert one.serves
    assert one.membership.losses == 1
    assert one.slots() | two.slots() == ALL
    assert {place.id for place in world.plan().pod_map.shards} == {one.id, two.id}


def test_after_a_loss_it_serves_by_the_present_map_alone(world):
    one, _ = begun(world)
    one.cut = True
    world.run(120)
    world.drain(2)
    world.run(2)
    world.drain(2, wanted=False)
    world.run(2)
    assert world.epoch == 4
    one.cut = False
    for _ in range(100):
        world.now += 0.1
        one.turn()
        if one.serves:
            break
    assert one.serves
    assert one.standing.epoch == 4


def test_a_loop_that_hangs_loses_its_slots(world):
    one, two = begun(world)
    world.run(20)
    one.loop_stands = True
    world.run(120)
    assert not one.serves
    assert two.slots() == ALL
    one.loop_stands = False
    world.run(5)
    assert one.serves
    assert one.slots() | two.slots() == ALL


def test_a_machine_that_slept_serves_nothing_when_it_wakes(world):
    one, two = begun(world)
    world.actors.remove(one)
    world.run(120)
    world.actors.append(one)
    assert not one.serves
    assert two.slots() == ALL
    world.run(5)
    assert one.serves
    assert one.standing.epoch == world.epoch


def test_the_lease_counts_from_when_its_renewal_was_sent(world):
    (one,) = begun(world, 1)
    world.run(LEASE_S * KEEP)
    while one.step is None:
        world.now += 0.1
        one.turn()
    sent = world.now
    world.now += 40  # on its way
    one.turn()
    world.now += 20  # and back
    one.turn()
    one.loop_turn()
    world.now = sent + SERVES_S - 0.01
    assert one.serves
    world.now += 0.02
    assert not one.serves


def test_a_clean_stop_gives_its_slots_up_at_once(world):
    one, two = begun(world)
    one.leave()
    assert not one.serves
    world.run(0.5)
    assert one.ended
    assert two.slots() == ALL


def test_a_stop_does_not_wait_for_an_engine_that_is_away(world):
    one, _ = begun(world)
    world.away = True
    one.leave()
    world.settle()
    assert one.ended


def test_a_restart_within_the_lease_changes_no_map(world):
    one, two = begun(world)
    one.crash()
    world.run(1)
    again = world.shard(1, life=1)
    world.run(5)
    assert again.serves
    assert world.epoch == 1
    assert again.slots() | two.slots() == ALL


def test_a_store_on_another_node_waits_for_the_end_of_the_lease(world):
    one, two = begun(world)
    one.crash()
    moved = world.shard(1, life=1, node="elsewhere")
    world.run(60)
    assert not moved.serves
    assert "on node n1" in moved.membership.reason
    world.run(60)
    assert moved.serves
    assert moved.membership.reason == ""
    assert moved.slots() | two.slots() == ALL


def test_a_copied_store_on_the_same_node_silences_the_first(world):
    one, _ = begun(world)
    copy = world.shard(1, life=1)
    world.run(15)
    assert copy.serves
    assert not one.serves
    assert "another process is registered" in one.membership.reason
    world.run(200)
    assert not one.serves
    assert copy.serves


def test_a_plan_of_a_later_release_ends_the_membership(world):
    one, two = begun(world)
    plan = encode_plan(world.plan())
    # The version is the first element of the array.
    at_once(world.engine.transact([], [Write(PLAN, plan[:1] + b"\x02" + plan[2:])]))
    world.run(1)
    assert not one.serves
    assert not two.serves
    assert "version 2" in one.membership.reason
    assert at_once(world.engine.scan("pod/members/")).entries == []
    at_once(world.engine.transact([], [Write(PLAN, plan)]))
    world.run(30)
    assert one.serves
    assert two.serves


def test_a_lost_answer_to_its_registration_is_no_harm(world):
    shard = world.shard(1)
    world.planner()
    for _ in range(4):
        shard.lose_answer = True
        world.run(1)
    world.run(10)
    assert shard.serves
    assert shard.slots() == ALL
    shard.membership.describe(replace(record(1), capacity_bytes=1 << 30))
    shard.lose_answer = True
    world.run(5)
    assert shard.serves
    assert world.view().records[shard_id(1)].capacity_bytes == 1 << 30


def test_somebody_who_overwrites_its_record_is_noticed(world):
    one, _ = begun(world)
    at_once(world.engine.transact([], [Write(member_key(one.id), encode(record(1, life=9)))]))
    world.run(15)
    assert not one.serves


def test_a_write_that_was_begun_before_is_not_acknowledged_after(world):
    one, two = begun(world)
    began = world.now
    slot = min(one.slots())
    assert one.standing.objection(SCOPE, [KEYS[slot]], began) is None
    one.cut = True
    world.run(100)
    assert isinstance(one.standing.objection(SCOPE, [KEYS[slot]], began), Unavailable)
    assert one.standing.withheld > 0
    assert two.standing.objection(SCOPE, [KEYS[slot]], began) is None


def test_a_membership_that_cannot_be_given_up_now_is_tried_again_later(world):
    one, _ = begun(world)
    plan = encode_plan(world.plan())
    at_once(world.engine.transact([], [Write(PLAN, plan[:1] + b"\x02" + plan[2:])]))
    one.follow()
    world.away = True
    world.run(5)  # each attempt waits for its time
    assert one.membership.failures < 20
    world.away = False
    world.run(5)
    assert member_key(one.id) not in {e.key for e in at_once(world.engine.scan("pod/members/")).entries}


@pytest.mark.parametrize("refused", ["pod/members/", "pod/use/"])
def test_what_the_metadata_do_not_take_is_not_sent_without_end(world, monkeypatch, refused):
    transact, grant, granted = world.engine.transact, world.engine.grant, []

    async def full(checks, writes):
        if any(write.key.startswith(refused) for write in writes):
            raise InvalidArgument("over 5 entries")
        return await transact(checks, writes)

    async def counted(ttl_s):
        granted.append(await grant(ttl_s))
        return granted[-1]

    monkeypatch.setattr(world.engine, "grant", counted)
    monkeypatch.setattr(world.engine, "transact", full)
    world.planner()
    shard = world.shard(1)
    world.run(60)
    assert len(granted) == 1
    assert shard.membership.failures < 60
    assert shard.serves is (refused == "pod/use/")
    monkeypatch.undo()
    world.run(10)
    assert shard.serves
    assert shard.id in world.view().uses
