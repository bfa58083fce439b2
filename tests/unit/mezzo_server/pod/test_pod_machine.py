"""Shards, planners and an engine in any order of events: who may acknowledge a write at any moment, and who may not."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mezzo.placement.pod_map import PodMap
from mezzo_server.pod.records import Settings
from mezzo_server.pod.sharing import Known, behind
from mezzo_server.quota.part import NEWCOMER_POINTS, POINTS, SLACK_POINTS
from tests.unit.mezzo_server.pod.rig import LEASE_S, LOG2, POD, Planner, Shard, World, record

NUMBERS = st.integers(0, 3)
POINT = st.integers(0, 8).map(lambda eighths: POINTS * eighths // 8)
TENANT = b"T" * 16
RATES = (1.0, 1.001, 0.999, 1.0005)
"""of the shards' clocks beside the engine's: far more than clocks of machines differ by"""


def named(pod_map: PodMap, slot: int) -> set[bytes]:
    """Who has a slot by a map, and who had it before."""
    return {place.id for place in (pod_map.owner(slot), pod_map.owner_before(slot)) if place is not None}


class PodMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(Settings(POD, LOG2, ramp_s=60.0, asked_s=120.0))
        self.lives = [0] * len(RATES)
        self.shards = [self._start(number) for number in range(3)] + [None]
        self.planners = [self.world.planner(), self.world.planner()]
        self.world.run(5)
        self.maps: dict[int, PodMap] = {}

    def _start(self, number: int) -> Shard:
        self.lives[number] += 1
        return self.world.shard(number, self.lives[number], rate=RATES[number])

    # -- time and turns

    @rule(seconds=st.sampled_from([0.1, 1.0, 9.0, 40.0, 88.0, 100.0]))
    def all_pause(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(seconds=st.sampled_from([1.0, 15.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.run(seconds, 5.0)

    @rule(seconds=st.sampled_from([5.0, 50.0, 95.0]), number=NUMBERS)
    def one_pauses_while_the_others_act(self, seconds: float, number: int) -> None:
        shard = self.shards[number]
        if shard is not None and shard in self.world.actors:
            self.world.actors.remove(shard)
            self.world.run(seconds, 5.0)
            self.world.actors.append(shard)

    @rule(which=st.integers(0, 5), turns=st.integers(1, 4))
    def one_acts(self, which: int, turns: int) -> None:
        actors = self.world.actors
        for _ in range(turns):
            actors[which % len(actors)].turn()

    @rule(number=NUMBERS, there_s=st.sampled_from([1.0, 40.0]), back_s=st.sampled_from([1.0, 40.0, 80.0]))
    def a_call_takes_long(self, number: int, there_s: float, back_s: float) -> None:
        """The next one that the shard makes, while the others act."""
        shard = self.shards[number]
        if shard is None or shard not in self.world.actors:
            return
        for _ in range(40):
            shard.turn()
            if shard.step is not None:
                break
            self.world.run(1.0)
        self.world.actors.remove(shard)
        self.world.run(there_s, 5.0)
        shard.turn()
        self.world.run(back_s, 5.0)
        shard.turn()
        shard.loop_turn()
        self.world.actors.append(shard)

    # -- faults

    @rule(which=st.integers(0, 5), cut=st.booleans())
    def one_is_cut_off(self, which: int, cut: bool) -> None:
        self.world.actors[which % len(self.world.actors)].cut = cut

    @rule(away=st.booleans())
    def the_engine_is_away(self, away: bool) -> None:
        self.world.away = away

    @rule(which=st.integers(0, 5))
    def an_answer_is_lost(self, which: int) -> None:
        self.world.actors[which % len(self.world.actors)].lose_answer = True

    @rule(number=NUMBERS, stands=st.booleans())
    def a_loop_stands_still(self, number: int, stands: bool) -> None:
        shard = self.shards[number]
        if shard is not None:
            shard.loop_stands = stands

    # -- what operators do

    @rule(number=NUMBERS, limit=st.sampled_from([0, 4]), used=POINT, wanted=POINT)
    def a_tenant_uses_and_wants(self, number: int, limit: int, used: int, wanted: int) -> None:
        shard = self.shards[number]
        if shard is not None:
            shard.tells({(TENANT, limit): (used, max(used, wanted))})

    @rule(number=NUMBERS)
    def a_shard_starts(self, number: int) -> None:
        """Its lock on the devices says that no other life of it acts."""
        shard = self.shards[number]
        if shard is None:
            self.shards[number] = self._start(number)

    @rule(number=NUMBERS, cleanly=st.booleans())
    def a_shard_ends(self, number: int, cleanly: bool) -> None:
        shard, self.shards[number] = self.shards[number], None
        if shard is not None and cleanly:
            shard.leave()
        elif shard is not None:
            shard.crash()

    @rule(number=NUMBERS)
    def a_shard_hands_over(self, number: int) -> None:
        """It ends by another rule, before or after it has."""
        shard = self.shards[number]
        if shard is not None:
            shard.membership.retire()
            shard.retired = True

    @rule(number=NUMBERS, wanted=st.booleans())
    def a_drain_is_asked_for(self, number: int, wanted: bool) -> None:
        self.world.drain(number, wanted)

    @rule()
    def a_planner_is_another(self) -> None:
        self.world.actors.remove(self.planners.pop(0))
        self.planners.append(self.world.planner())

    # -- what always holds

    @invariant()
    def who_serves_is_registered(self) -> None:
        """So nobody serves past the end of its lease."""
        records = self.world.view().records
        for shard in self._serving():
            assert shard.id in records, f"shard {shard.number} serves and is no member"

    @invariant()
    def maps_in_use_are_at_most_one_epoch_apart(self) -> None:
        epoch = self.world.epoch
        for shard in self._serving():
            assert shard.standing.epoch in (0, epoch - 1, epoch)

    @invariant()
    def who_acknowledges_has_the_slot_or_had_it_last(self) -> None:
        plan = self.world.view().plan
        if plan is None:
            return
        now = plan.pod_map
        self.maps[now.epoch] = now
        for shard in self._serving():
            if shard.standing.epoch:
                acted_by = self.maps[shard.standing.epoch]
                for slot in shard.slots():
                    assert shard.id in named(acted_by, slot)
                    owner = acted_by.owner(slot)
                    if owner is not None and owner.id == shard.id:
                        assert shard.id in named(now, slot), "acknowledged beyond what the map allows"

    @invariant()
    def each_says_an_epoch_that_it_follows(self) -> None:
        records = self.world.view().records
        for shard in self._serving():
            stored = records.get(shard.id)
            if stored is not None and stored.incarnation == record(shard.number, shard.life).incarnation:
                assert stored.epoch <= shard.standing.epoch

    @invariant()
    def parts_of_a_quota_are_never_more_than_it_and_what_is_stated(self) -> None:
        view = self.world.view()
        serving = self._serving()
        known = Known(sorted(view.records), {}, view.uses, view.parts_mark)
        if view.parts.settled and not behind(view.parts, known):
            self.world.late &= set(view.records) - set(view.parts.shards)
        late = len(self.world.late & {shard.id for shard in serving})
        for limit in range(5):
            together = sum(shard.part.points(TENANT, limit) for shard in serving)
            assert together <= POINTS + SLACK_POINTS + late * NEWCOMER_POINTS
        for shard in serving:
            use = view.uses.get(shard.id)
            if shard.id in view.parts.shards and use is not None and use.mark == view.parts_mark:
                assert shard.part.mark == use.mark, "it says that it enforces what it does not"

    def teardown(self) -> None:
        """When all faults are over the pod heals by itself."""
        world = self.world
        world.away = False
        for actor in world.actors:
            actor.cut = actor.lose_answer = False
        for number, shard in enumerate(self.shards):
            if shard is not None:
                shard.loop_stands = False
                if shard.retired:
                    shard.leave()
                    self.shards[number] = None
            world.drain(number, wanted=False)
        world.run(LEASE_S + 60, 5.0)
        alive = [shard for shard in self.shards if shard is not None]
        assert all(shard.serves for shard in alive)
        for planner in world.actors:
            if isinstance(planner, Planner):
                assert planner.planning.view.plan == world.view().plan
        if alive:
            assert {shard.standing.epoch for shard in alive} == {world.epoch}
            owned = [slot for shard in alive for slot in shard.slots()]
            assert set(owned) == set(range(1 << LOG2))
            view = world.view()
            assert view.parts.settled
            assert set(view.parts.shards) == {shard.id for shard in alive}
            assert {shard.part.mark for shard in alive} == {view.parts_mark}

    def _serving(self) -> list[Shard]:
        return [shard for shard in self.shards if shard is not None and shard.serves]


TestPodMachine = PodMachine.TestCase
TestPodMachine.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)
