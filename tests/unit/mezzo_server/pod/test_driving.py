"""The thread that does what a machine of the pod wants: faults, stops, and engines that never answer."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

import pytest

from mezzo.errors import InvalidArgument, MezzoError, Unavailable
from mezzo_server.config import PodConfig
from mezzo_server.metadata.engine import Scan
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.pod.driving import READS_MAX, Driver
from mezzo_server.pod.place import node_name, reached_at
from mezzo_server.pod.steps import End, Look, Step, Wait, Watch
from tests.patience import PATIENCE_S, eventually


class Machine:
    """Looks once, and then does what the test says."""

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self.wants: Callable[[], Step] = lambda: Look("pod/")
        self.failures: list[MezzoError] = []
        self.did = threading.Event()

    def next_step(self, now: float, wall_s: float) -> Step:
        return self.wants()

    def looked(self, scan: object, now: float) -> None:
        self.watch = Watch("pod/", 0)
        self.wants = End
        self.did.set()

    def failed(self, error: MezzoError, now: float) -> None:
        self.failures.append(error)
        self.did.set()

    def changed(self, changes: object, now: float) -> None:
        pass

    def watch_ended(self, now: float) -> None:
        self.watch = None


class Engine(MemoryEngine):
    made = 0

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        type(self).made += 1


class Broken(Engine):
    """Has a fault of ours, the first time."""

    async def scan(self, prefix: str):
        if self.made == 1:
            raise RuntimeError("a fault")
        return await super().scan(prefix)


class Silent(Engine):
    """Never answers."""

    async def scan(self, prefix: str):
        await asyncio.Event().wait()


def driven(machine: Machine, engine: type[Engine]) -> Driver:
    engine.made = 0
    return Driver(machine, engine, lambda: None, name="test")


def test_it_ends_when_the_machine_wants_nothing_more():
    machine = Machine()
    driver = driven(machine, Engine)
    driver.start()
    assert driver.join(PATIENCE_S)
    assert machine.did.is_set()
    driver.call(lambda: pytest.fail("nobody is there any more"))


def test_a_fault_is_told_and_another_engine_made():
    machine = Machine()
    driver = driven(machine, Broken)
    driver.start()
    assert driver.join(PATIENCE_S)
    assert Broken.made == 2
    assert isinstance(machine.failures[0], Unavailable)
    assert "RuntimeError('a fault')" in str(machine.failures[0])


def test_a_fault_in_deciding_does_not_end_what_is_followed():
    machine = Machine()

    def wants() -> Step:
        if not machine.failures:
            raise ValueError("a fault")
        return Look("pod/")

    machine.wants = wants
    driver = driven(machine, Engine)
    driver.start()
    assert driver.join(PATIENCE_S)
    assert "ValueError('a fault')" in str(machine.failures[0])
    assert machine.did.is_set()


def test_a_fault_that_stays_is_not_met_without_end():
    machine = Machine()
    tried: list[float] = []

    def wants() -> Step:
        tried.append(0.0)
        raise ValueError("a fault")

    machine.wants = wants
    driver = driven(machine, Engine)
    driver.start()
    assert machine.did.wait(PATIENCE_S)
    driver.stop(PATIENCE_S)
    assert driver.join(0)
    assert len(tried) < 10


def test_a_stop_does_not_wait_for_an_answer():
    machine = Machine()
    driver = driven(machine, Silent)
    driver.start()
    assert not driver.join(0.01)
    driver.stop(PATIENCE_S)
    assert driver.join(0)


def test_who_calls_is_heard_whatever_it_does():
    machine = Machine()
    machine.wants = lambda: Wait(None)
    driver = driven(machine, Engine)
    driver.call(machine.did.set)  # before the thread runs, too
    driver.start()
    assert machine.did.wait(PATIENCE_S)

    def finish() -> None:
        machine.wants = End

    driver.call(finish)
    assert driver.join(PATIENCE_S)


def test_one_that_was_never_started_has_nothing_to_end():
    driver = driven(Machine(), Engine)
    driver.stop(PATIENCE_S)
    assert driver.join(0)


def test_where_others_reach_a_shard():
    listening = ["tcp://0.0.0.0:7700", "tcps://[::]:7701", "tcp://10.0.0.9:7702", "unix:///run/mezzo.sock"]
    assert reached_at(listening, PodConfig(host="gpu-1")) == (
        "unix:///run/mezzo.sock", "tcp://gpu-1:7700", "tcps://gpu-1:7701", "tcp://10.0.0.9:7702",
    )  # fmt: skip
    elsewhere = PodConfig(advertise=["tcp://10.0.0.8:9000"])
    assert reached_at(listening, elsewhere) == ("tcp://10.0.0.8:9000",)
    with pytest.raises(InvalidArgument, match=r"pod\.host"):
        reached_at(listening, PodConfig())
    assert node_name(PodConfig(node="n")) == "n"
    assert node_name(PodConfig())


def test_others_read_beside_what_the_machine_does():
    machine = Machine()
    machine.wants = lambda: Wait(None)
    driver = driven(machine, Engine)
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()

    def read() -> object:
        driver.read("pod/", answers.put)
        return answers.get(timeout=PATIENCE_S)

    driver.start()
    # Before the engine was made it cannot be asked; nobody makes it but the machine.
    eventually(lambda: isinstance(read(), Scan), "the engine is asked")
    driver.call(lambda: setattr(machine, "wants", End))
    assert driver.join(PATIENCE_S)
    driver.read("pod/", lambda told: pytest.fail("nobody is there any more"))


def test_who_reads_from_a_silent_engine_is_told_or_dropped():
    machine = Machine()
    made = threading.Event()

    class Noticed(Silent):
        def __init__(self) -> None:
            super().__init__()
            made.set()

    driver = driven(machine, Noticed)
    told: queue.SimpleQueue[object] = queue.SimpleQueue()
    driver.start()
    assert made.wait(PATIENCE_S)  # who reads before that is told so, too
    for _ in range(READS_MAX + 1):
        driver.read("pod/", told.put)
    # One too many is told so at once; a stop waits for none of the others.
    assert isinstance(told.get(timeout=PATIENCE_S), Unavailable)
    driver.stop(PATIENCE_S)
    assert driver.join(0)
    assert told.empty()
