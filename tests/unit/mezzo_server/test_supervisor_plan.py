from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mezzo_server.config import SupervisorConfig
from mezzo_server.supervisor.plan import Action, Plan

CONFIG = SupervisorConfig(backoff_s_min=1.0, backoff_s_max=8.0, stable_s=60.0, start_s=20.0, stop_s=10.0)
START_SHARD, START_FRONTEND = Action("start", "shard"), Action("start", "frontend")
SIGKILL = -9


def plan(*names: str, jitter: float = 1.0) -> Plan:
    return Plan([(name,) for name in names or ("shard", "frontend")], CONFIG, lambda: jitter)


def several(jitter: float = 1.0, *dispensable: str) -> Plan:
    return Plan([("shard-0", "shard-1"), ("frontend",)], CONFIG, lambda: jitter, dispensable)


def running() -> Plan:
    """Both parts ready at 0."""
    made = plan()
    assert made.begin(0) == [START_SHARD]
    assert made.ready("shard", 0) == [START_FRONTEND]
    assert made.ready("frontend", 0) == [Action("announce")]
    return made


def states(made: Plan) -> list[str]:
    return [part.state for part in made.report()]


def test_the_front_end_waits_for_the_shard_and_the_announcement_for_both() -> None:
    made = plan()
    assert made.begin(0) == [START_SHARD]
    assert states(made) == ["starting", "idle"]
    assert made.tick(19) == []
    assert made.ready("shard", 19) == [START_FRONTEND]
    assert made.ready("frontend", 20) == [Action("announce")]
    assert states(made) == ["ready", "ready"]
    assert made.due() is None


def test_a_shard_alone_is_announced() -> None:
    made = plan("shard")
    made.begin(0)
    assert made.ready("shard", 1) == [Action("announce")]


def test_what_ends_is_started_again_and_the_other_goes_on() -> None:
    made = running()
    assert made.ended("shard", SIGKILL, 100) == []
    assert states(made) == ["waiting", "ready"]
    assert made.due() == 101
    assert made.tick(100.9) == []
    assert made.tick(101) == [START_SHARD]
    assert made.ready("shard", 102) == []  # announced once, front-end running: nothing more to do
    assert [part.restarts for part in made.report()] == [1, 0]


def test_a_crash_loop_backs_off_up_to_a_limit() -> None:
    made, now, waits = running(), 0.0, []
    for _ in range(6):
        made.ended("frontend", 1, now)
        due = made.due()
        assert due is not None
        waits.append(due - now)
        now = due
        assert made.tick(now) == [START_FRONTEND]
        made.ready("frontend", now)
    assert waits == [1, 2, 4, 8, 8, 8]


def test_a_part_that_ran_for_long_starts_over() -> None:
    made = running()
    for now in (0.0, 1.0, 3.0):
        made.ended("shard", 1, now)
        made.tick(now + 8)
        made.ready("shard", now + 8)
    made.ended("shard", 1, 11 + 59.9)
    assert made.due() == pytest.approx(11 + 59.9 + 8)
    made.tick(100)
    made.ready("shard", 100)
    made.ended("shard", 1, 160)
    assert made.due() == 161


def test_waits_have_jitter() -> None:
    waits = set()
    source = random.Random(1)
    for _ in range(20):
        made = Plan([["shard"]], CONFIG, source.random)
        made.begin(0)
        made.ended("shard", 1, 0)
        waits.add(made.due())
    assert len(waits) == 20
    assert all(wait is not None and 0.5 <= wait <= 1.0 for wait in waits)


@pytest.mark.parametrize("part", ["shard", "frontend"])
def test_a_first_start_that_is_refused_ends_all(part: str) -> None:
    made = plan()
    made.begin(0)
    if part == "shard":
        assert made.ended("shard", 2, 1) == [Action("finish", status=2)]
        return
    made.ready("shard", 1)
    assert made.ended("frontend", 2, 2) == [Action("terminate", "shard")]
    assert made.ended("shard", 0, 3) == [Action("finish", status=2)]


@pytest.mark.parametrize("status", [1, SIGKILL, 0])
def test_a_first_start_that_fails_otherwise_is_tried_again(status: int) -> None:
    made = plan()
    made.begin(0)
    assert made.ended("shard", status, 1) == []
    assert made.tick(2) == [START_SHARD]
    # By now the settings were read once; who says 2 now (a device in use, say) may find it free later.
    assert made.ended("shard", 2, 3) == []


def test_a_restart_that_is_refused_is_tried_again() -> None:
    made = running()
    made.ended("shard", SIGKILL, 1)
    made.tick(2)
    assert made.ended("shard", 2, 3) == []
    assert made.tick(5) == [START_SHARD]


def test_what_is_not_ready_in_time_is_killed_and_started_again() -> None:
    made = plan()
    made.begin(0)
    assert made.due() == 20
    assert made.tick(20) == [Action("kill", "shard")]
    assert made.tick(21) == []
    assert made.ready("shard", 21) == [START_FRONTEND]  # it was ready after all; its end is on its way
    made = plan()
    made.begin(0)
    made.tick(20)
    assert made.ended("shard", SIGKILL, 21) == []
    assert made.tick(22) == [START_SHARD]


def test_stop_takes_the_front_end_first() -> None:
    made = running()
    assert made.stop(5) == [Action("terminate", "frontend")]
    assert made.stop(6) == []
    assert made.ended("frontend", 0, 7) == [Action("terminate", "shard")]
    assert made.stop(8) == []
    assert made.ended("shard", 0, 9) == [Action("finish")]


def test_what_does_not_stop_is_killed_and_told() -> None:
    made = running()
    made.stop(0)
    assert made.tick(9.9) == []
    assert made.tick(10) == [Action("kill", "frontend")]
    assert made.ended("frontend", SIGKILL, 10) == [Action("terminate", "shard")]
    assert made.ended("shard", 0, 11) == [Action("finish", status=1)]


def test_stop_while_a_part_waits_for_its_restart() -> None:
    made = running()
    made.ended("shard", SIGKILL, 1)
    assert made.stop(1.5) == [Action("terminate", "frontend")]
    assert made.tick(2) == []
    assert made.ended("frontend", 0, 2) == [Action("finish")]
    assert made.tick(100) == []


def test_stop_before_anything_is_ready() -> None:
    made = plan()
    made.begin(0)
    assert made.stop(1) == [Action("terminate", "shard")]
    assert made.ready("shard", 1.5) == []  # too late
    assert made.ended("shard", 0, 2) == [Action("finish")]


def test_shards_start_together_and_stop_together() -> None:
    made = several()
    assert made.begin(0) == [Action("start", "shard-0"), Action("start", "shard-1")]
    assert made.ready("shard-1", 1) == []
    assert made.ready("shard-0", 2) == [START_FRONTEND]
    assert made.ready("frontend", 3) == [Action("announce")]
    assert made.stop(4) == [Action("terminate", "frontend")]
    assert made.ended("frontend", 0, 5) == [Action("terminate", "shard-0"), Action("terminate", "shard-1")]
    assert made.ended("shard-1", 0, 6) == []
    assert made.ended("shard-0", 0, 7) == [Action("finish")]


def test_each_shard_restarts_for_itself() -> None:
    made = several()
    made.begin(0)
    for part in ("shard-0", "shard-1", "frontend"):
        made.ready(part, 1)
    for now in (2.0, 4.0):
        made.ended("shard-1", SIGKILL, now)
        assert made.tick(now + 2) == [Action("start", "shard-1")]
        made.ready("shard-1", now + 2)
    made.ended("shard-0", SIGKILL, 7)
    made.ended("shard-1", SIGKILL, 7)
    assert (made.due_of("shard-0"), made.due_of("shard-1")) == (8, 11)
    assert made.tick(8) == [Action("start", "shard-0")]


def test_a_shard_whose_first_start_is_refused_takes_the_others_with_it() -> None:
    made = several()
    made.begin(0)
    assert made.ended("shard-1", 2, 1) == [Action("terminate", "shard-0")]
    assert made.ready("shard-0", 1.5) == []
    assert made.ended("shard-0", 0, 2) == [Action("finish", status=2)]


def test_what_the_others_can_do_without_does_not_keep_them_from_serving() -> None:
    made = several(1.0, "shard-0", "shard-1")
    made.begin(0)
    assert made.ended("shard-1", 2, 1) == []  # its disk is broken, say
    assert made.ready("shard-0", 1.5) == [START_FRONTEND]
    assert made.ready("frontend", 1.9) == [Action("announce")]
    assert made.tick(2) == [Action("start", "shard-1")]
    assert made.ready("shard-1", 4) == []


def test_a_shard_that_is_ready_waits_for_those_that_may_still_become_so() -> None:
    made = several(1.0, "shard-0", "shard-1")
    made.begin(0)
    assert made.ready("shard-0", 1) == []
    assert made.ended("shard-1", SIGKILL, 2) == [START_FRONTEND]


def test_shards_that_are_all_refused_end_the_whole() -> None:
    made = several(1.0, "shard-0", "shard-1")
    made.begin(0)
    assert made.ended("shard-1", 2, 1) == []
    assert made.ended("shard-0", 2, 1) == [Action("finish", status=2)]


class Node(RuleBasedStateMachine):
    """Whatever happens: at most one process of each part, and a stop ends it all, shards last."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.plan = self.made()
        self.running: set[str] = set()
        self.stopping = self.finished = False
        self.announced = 0
        self.do(self.plan.begin(0.0))

    def made(self) -> Plan:
        return several(0.5)

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            assert not self.finished
            match action.verb:
                case "start":
                    assert action.part not in self.running
                    assert not self.stopping
                    self.running.add(action.part)
                case "terminate":
                    assert action.part in self.running
                    assert action.part == "frontend" or "frontend" not in self.running
                case "kill":
                    assert action.part in self.running
                case "announce":
                    self.announced += 1
                case "finish":
                    assert not self.running
                    self.finished = True

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def becomes_ready(self, data: st.DataObject) -> None:
        self.do(self.plan.ready(data.draw(st.sampled_from(sorted(self.running))), self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), status=st.sampled_from([0, 1, 2, SIGKILL]))
    def ends(self, data: st.DataObject, status: int) -> None:
        part = data.draw(st.sampled_from(sorted(self.running)))
        self.running.remove(part)
        before = self.plan.stopping
        actions = self.plan.ended(part, status, self.now)
        self.stopping = self.plan.stopping
        assert self.stopping or not before
        self.do(actions)

    @rule(seconds=st.floats(0.01, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.plan.tick(self.now))

    @rule()
    def is_told_to_stop(self) -> None:
        self.stopping = True
        self.do(self.plan.stop(self.now))

    @invariant()
    def nothing_hangs(self) -> None:
        assert self.announced <= 1
        assert self.finished or self.running or self.plan.due() is not None

    def teardown(self) -> None:
        if not self.finished:
            self.is_told_to_stop()
        for _ in range(2):
            for part in sorted(self.running):
                self.running.discard(part)
                self.do(self.plan.ended(part, 0, self.now))
        assert self.finished


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=60, stateful_step_count=30)


class NodeOfDispensableShards(Node):
    """The same where shards can do without each other."""

    def made(self) -> Plan:
        return several(0.5, "shard-0", "shard-1")


TestNodeOfDispensableShards = NodeOfDispensableShards.TestCase
TestNodeOfDispensableShards.settings = settings(max_examples=60, stateful_step_count=30)
