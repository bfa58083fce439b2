"""A whole pod, in virtual time, with faults from seeds: a few of them; `make simulate` plays a thousand."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import structlog
from typer.main import get_command

from mezzo.cli.app import make_app, run
from mezzo_server.commands.simulate_faults import FaultsSummary
from mezzo_server.config import LogConfig
from mezzo_server.logs import configure_logs
from mezzo_server.pod import driving
from mezzo_server.shard import puller, stopping
from mezzo_server.testing.simulation import KINDS, Options, simulate
from mezzo_server.testing.simulation.faults import Faults
from mezzo_server.testing.simulation.pod import Pod
from mezzo_server.testing.simulation.trace import Trace
from mezzo_server.testing.simulation.violation import Violation
from mezzo_server.testing.simulation.witness import Witness

VIRTUAL = ("virtual_loop.py", "client.py")
"""Where asyncio's futures and tasks run, on a loop in virtual time."""
SIMULATION = Path(__file__).parents[2] / "server" / "mezzo_server" / "testing" / "simulation"


@pytest.fixture
def run_in_process(capsys):
    """The command, in this process: its status, and what it said."""

    def run_it(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = run(lambda: get_command(make_app()), list(arguments))
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    return run_it


@pytest.mark.parametrize("seed", range(1000, 1006))
def test_what_must_hold_holds(seed: int) -> None:
    outcome = simulate(seed)
    assert outcome.failure is None, "\n".join([*outcome.lines[-60:], Options().command(seed)])


def test_without_faults_every_call_is_answered() -> None:
    outcome = simulate(5, Options(faults=0, seconds=8))
    assert outcome.failure is None
    assert outcome.numbers["errors"] == 0
    assert outcome.numbers["early"] <= outcome.numbers["calls"] / 10
    assert min(outcome.numbers[name] for name in ("hits", "puts_stored", "deletes")) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_strikes(kind: str) -> None:
    pod = Pod(7, Options(faults=2, seconds=3, kinds=(kind,)), Trace())
    struck = []
    strike = pod.faults.kinds[kind]
    pod.faults.kinds[kind] = lambda: (struck.append(kind), strike())[1]
    try:
        pod.run()
    finally:
        pod.close()
    assert struck == [kind, kind]


def test_every_kind_that_is_named_is_there() -> None:
    pod = Pod(1, Options(), Trace())
    assert set(Faults(pod, "1", 0, None).kinds) == set(KINDS)
    pod.close()


def test_the_same_seed_is_the_same_trace_in_any_process() -> None:
    seeds = (1003, 1004)
    here = [simulate(seed).digest for seed in seeds]
    assert simulate(seeds[0]).digest == here[0]
    program = (
        "from mezzo_server.testing.simulation import simulate\n"
        f"import sys\nsys.stdout.write(' '.join(simulate(seed).digest for seed in {seeds}))"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "4242"}
    other = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert other.stdout.split() == here
    assert here[0] != here[1]


def test_what_the_process_logs_is_nothing_to_the_trace() -> None:
    """A process that plays it may have logs of its own, at another level, and have written some by the same loggers."""
    before = simulate(1004).digest
    logging = structlog.get_config()
    try:
        configure_logs(LogConfig(level="error"), "operator")
        for log in (puller.log, driving.log, stopping.log):
            log.error("said by a test")
        assert simulate(1004).digest == before
    finally:
        structlog.configure(**logging)


def test_nothing_in_it_looks_at_a_clock_or_at_chance() -> None:
    """All time is virtual, all chance is drawn from the seed, and no set decides an order."""
    banned = ("time.", "datetime.", "random.random", "random.choice", "os.urandom", "secrets.", "asyncio.", "socket.",
              "threading.")  # fmt: skip
    guilty = []
    for path in sorted(SIMULATION.glob("*.py")):
        if path.name == "many.py":  # it runs seeds in processes, for so long
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = ast.unparse(node.func)
                virtual = name.startswith("asyncio.") and path.name in VIRTUAL
                if name.startswith(banned) and not virtual:
                    guilty.append(f"{path.name}:{node.lineno}: {name}")
            loop = isinstance(node, ast.For | ast.comprehension)
            if loop and isinstance(node.iter, ast.Set | ast.SetComp):
                guilty.append(f"{path.name}: a set is gone through in no order")
    assert guilty == []


def test_a_trace_is_bounded_and_its_hash_is_over_all_of_it() -> None:
    short, whole = simulate(1001, lines_kept=50), simulate(1001)
    assert len(short.lines) == 50 < len(whole.lines)
    assert short.lines == whole.lines[-50:]
    assert short.digest == whole.digest


def test_the_command_says_how_it_went_and_how_to_play_it_again(run_in_process) -> None:
    status, told = run_in_process("simulate", "faults", "--seed", "1000", "--seeds", "2", "--faults", "3")
    assert status == 0, told
    assert "2 seeds, 0 failed" in told
    assert Options(3, kinds=("kill", "cut")).command(9) == (
        "mezzo simulate faults --seed 9 --faults 3 --kinds kill,cut"
    )
    status, told = run_in_process("simulate", "faults", "--kinds", "earthquake")
    assert status == 2
    assert "earthquake" in told


def test_a_failure_ends_with_status_1_the_reason_and_the_command(run_in_process, monkeypatch) -> None:
    def nothing_is_there(self: Witness, life: object) -> None:
        raise Violation("nothing is there")

    monkeypatch.setattr(Witness, "check", nothing_is_there)
    status, told = run_in_process("simulate", "faults", "--seed", "1000", "--faults", "2")
    assert status == 1
    assert "nothing is there" in told
    assert "mezzo simulate faults --seed 1000 --faults 2" in told
    assert " VIOLATION " in told
    status, told = run_in_process("simulate", "faults", "--seed", "1000", "--faults", "2", "--json")
    assert status == 1
    summary = msgspec.json.decode(told, type=FaultsSummary)
    assert summary.failed == 1
    assert summary.runs[0].reproduce == "mezzo simulate faults --seed 1000 --faults 2"
