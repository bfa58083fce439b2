"""However a simulated run ends, nothing of it is left: no task, no coroutine, nothing that is heard of later."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from types import CoroutineType

import pytest

from mezzo_server.testing.simulation import Options, simulate
from mezzo_server.testing.simulation.pod import GATHER_S, Pod
from mezzo_server.testing.simulation.trace import Trace
from mezzo_server.testing.simulation.violation import Violation

SECONDS = 6.0


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the interpreter had to say of what nobody hears."""
    gc.collect()
    said: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: said.append(f"{told.object}: {told.exc_value}"))
    gc.disable()  # what is left of a run is to be seen before it is collected
    yield said
    gc.enable()


def under_way() -> list[str]:
    """Tasks whose coroutines have not ended."""
    return [
        repr(one)
        for one in gc.get_objects()
        if isinstance(one, asyncio.Task) and getattr(one.get_coro(), "cr_frame", None) is not None
    ]


def held() -> list[str]:
    """Tasks and coroutines that anybody still has."""
    gc.collect()
    gc.collect()  # a task that never ended takes a second time
    return [repr(one) for one in gc.get_objects() if isinstance(one, asyncio.Task | CoroutineType)]


def test_a_run_that_came_to_its_end_leaves_nothing(heard: list[str]) -> None:
    before, had = under_way(), held()
    assert simulate(3, Options(faults=6, seconds=SECONDS)).failure is None
    assert under_way() == before
    assert held() == had
    assert heard == []


@pytest.mark.parametrize("seed", [2, 5, 28])
@pytest.mark.parametrize("after_s", [1.0, 4.5])
def test_a_run_that_was_cut_off_leaves_nothing(
    heard: list[str], cut_off: Callable[[float], None], seed: int, after_s: float
) -> None:
    before, had = under_way(), held()
    cut_off(GATHER_S + after_s)
    assert simulate(seed, Options(faults=6, seconds=SECONDS)).failure == "cut off"
    assert under_way() == before
    assert held() == had
    assert heard == []


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have each run fail at a time."""
    run: Callable[[Pod], None] = Pod.run

    def fail() -> None:
        raise Violation("cut off")

    def cut_at(when: float) -> None:
        def run_until(pod: Pod) -> None:
            pod.clockwork.at(when, fail)
            run(pod)

        monkeypatch.setattr(Pod, "run", run_until)

    return cut_at


def end_amid_calls() -> None:
    """A pod whose run is over while clients have calls under way: nothing is told, and nothing happens any more."""
    trace = Trace()
    pod = Pod(2, Options(faults=0), trace)
    pod.clockwork.run(GATHER_S)
    for client in pod.clients:
        client.worker.start()
    loops = [client.worker.client.at.loop for client in pod.clients]
    pod.clockwork.run(
        GATHER_S + 30.0,
        lambda: sum(any(not task.done() for task in loop.tasks) for loop in loops) > 1,
    )
    assert len(under_way()) > 1
    told, events = trace.digest, pod.clockwork.events
    pod.close()
    pod.clockwork.run(GATHER_S + 60.0)
    assert (trace.digest, pod.clockwork.events) == (told, events)


def test_calls_end_with_the_run_and_are_no_part_of_its_trace(heard: list[str]) -> None:
    before, had = under_way(), held()
    end_amid_calls()
    assert under_way() == before
    assert held() == had
    assert heard == []
