"""The supervisor with stand-ins for its processes, which do what processes should not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from mezzo.errors import InvalidArgument
from mezzo_server.config import LogConfig, MetricsConfig, NodeConfig, ShardConfig, SupervisorConfig
from mezzo_server.supervisor.main import PROCESS, NodeReadiness, Supervisor
from mezzo_server.supervisor.process import resolved
from tests.patience import PATIENCE_S

QUICK = SupervisorConfig(backoff_s_min=0.01, backoff_s_max=0.02, start_s=30.0, stop_s=30.0)
NO_METRICS = MetricsConfig(shard="", frontend="", supervisor="")

PATH = os.pathsep.join(path for path in sys.path if path)
READS = "import sys, time, json, signal; settings = json.load(sys.stdin)\n"
READY = READS + "print(json.dumps({'listen': [], 'settings': settings}), flush=True)\n"
STAYS = READY + "time.sleep(600)\n"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STAYS


async def poll(condition: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE_S * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"not within {PATIENCE_S:g} s")


def node(
    shard: str,
    until: Callable[[Supervisor, list[NodeReadiness]], bool],
    *,
    frontend: str = STAYS,
    supervisor: SupervisorConfig = QUICK,
) -> tuple[int, Supervisor, list[NodeReadiness]]:
    """Run a node of stand-ins until something is so, then stop it: exit status, and what it said."""
    said: list[NodeReadiness] = []
    config = NodeConfig(supervisor=supervisor, metrics=NO_METRICS)
    programs = {"shard": shard, "frontend": frontend}
    commands = {name: [sys.executable, "-I", "-S", "-c", program] for name, program in programs.items()}
    made = Supervisor(config, said.append, commands=commands)

    async def stopped_when_so() -> int:
        running = asyncio.ensure_future(made.run())
        await poll(lambda: running.done() or until(made, said))
        if not running.done():
            os.kill(os.getpid(), signal.SIGTERM)
        return await asyncio.wait_for(running, PATIENCE_S)

    return asyncio.run(stopped_when_so()), made, said


def restarts(made: Supervisor, part: str = "shard") -> int:
    return next(report.restarts for report in made.report() if report.name == part)


def test_settings_reach_the_processes_and_come_back_in_what_they_say() -> None:
    status, _, said = node(STAYS, lambda _, said: bool(said))
    assert status == 0
    assert len(said) == 1
    received = msgspec.convert(said[0].shard["settings"], NodeConfig)
    # Standard error of the supervisor is no terminal here, and the processes are told.
    assert received == NodeConfig(supervisor=QUICK, metrics=NO_METRICS, log=LogConfig(format="json"))
    assert said[0].frontend is not None


def test_a_crash_loop_is_told_and_ends_when_it_is_stopped(capfd: pytest.CaptureFixture[str]) -> None:
    crashes = READS + "print('oh no', file=sys.stderr); sys.exit(3)\n"
    status, made, said = node(crashes, lambda made, _: restarts(made) >= 3)
    assert status == 0
    assert said == []
    assert restarts(made, "frontend") == 0
    assert capfd.readouterr().err.count("oh no\n") >= 3


def test_what_never_gets_ready_is_killed_and_started_again() -> None:
    hangs = "import time; time.sleep(600)\n"
    config = SupervisorConfig(backoff_s_min=0.01, backoff_s_max=0.02, start_s=0.1)
    status, _, said = node(hangs, lambda made, _: restarts(made) >= 2, supervisor=config)
    assert (status, said) == (0, [])


@pytest.mark.parametrize("first", ["hello", "[1, 2]", "x" * 3_000_000])
def test_what_says_something_else_is_killed_and_started_again(first: str) -> None:
    other = (
        READS + f"print({first[:1]!r} * {len(first)} if {len(set(first)) == 1} else {first!r}, flush=True)\n"
    )
    config = SupervisorConfig(backoff_s_min=0.01, backoff_s_max=0.02, start_s=0.3)
    status, _, said = node(
        other + "time.sleep(600)\n", lambda made, _: restarts(made) >= 1, supervisor=config
    )
    assert (status, said) == (0, [])


def test_what_does_not_stop_is_killed() -> None:
    config = SupervisorConfig(stop_s=0.1)
    status, _, said = node(STAYS, lambda _, said: bool(said), frontend=DEAF, supervisor=config)
    assert status == 1
    assert len(said) == 1


def test_a_flood_on_standard_error_is_passed_on_and_not_kept(capfd: pytest.CaptureFixture[str]) -> None:
    flood = (
        READY
        + "sys.stderr.buffer.write(b'\\xff\\xfe' * 200_000 + b'\\nlast words')\nsys.stderr.flush()\nsys.exit(7)\n"
    )
    status, _, _ = node(flood, lambda made, _: restarts(made) >= 1)
    assert status == 0
    errors = capfd.readouterr().err
    assert "last words\n" in errors
    assert len(errors) > 400_000


def test_what_a_process_says_later_counts_at_its_next_start(tmp_path: Path) -> None:
    known = tmp_path / "known"
    told = READY + (
        f"if settings['shard']['devices'] == ['/b']: open({str(known)!r}, 'w').close(); time.sleep(600)\n"
        "print(json.dumps({'devices': ['/a']})); print(json.dumps({'devices': ['/b']}), flush=True)\n"
        "sys.exit(1)\n"
    )
    status, made, _ = node(told, lambda made, _: known.exists())
    assert (status, restarts(made)) == (0, 1)


def test_what_keeps_on_talking_does_not_get_stuck() -> None:
    talks = READY + "[print('x' * 1000) for _ in range(1000)]\nsys.stdout.flush(); sys.exit(0)\n"
    status, made, _ = node(talks, lambda made, _: restarts(made) >= 1)
    assert (status, restarts(made) >= 1) == (0, True)


def test_a_program_that_is_not_there() -> None:
    said: list[NodeReadiness] = []
    config = NodeConfig(supervisor=QUICK, metrics=NO_METRICS)
    made = Supervisor(config, said.append, commands={"shard": ["/nowhere/at/all"]})

    async def run() -> int:
        running = asyncio.ensure_future(made.run())
        await poll(lambda: restarts(made, "shard") >= 2)
        os.kill(os.getpid(), signal.SIGINT)
        return await asyncio.wait_for(running, PATIENCE_S)

    assert asyncio.run(run()) == 0


# ---- the side of a process that is started so


def test_settings_that_are_none_are_refused() -> None:
    for given in (b"", b"{", b"[]", b'{"shard": {"dept": 1}}', b'{"shard": {"depth": 0}}', b"x" * 2_000_000):
        with pytest.raises(InvalidArgument, match="standard input has no settings"):
            resolved(given)


def process(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", PROCESS, "shard", *arguments],
        input=given, capture_output=True, check=False, timeout=PATIENCE_S, env={**os.environ, "PYTHONPATH": PATH},
    )  # fmt: skip


def test_a_process_says_in_one_line_why_it_does_not_run() -> None:
    done = process(str(os.getpid()), "shard", given=b"{")
    assert done.returncode == 2
    assert done.stderr.startswith(b"mezzo: standard input has no settings")
    assert done.stderr.count(b"\n") == 1


def test_a_process_whose_parent_is_another_does_not_run() -> None:
    done = process("1", "shard", given=msgspec.json.encode(NodeConfig()))
    assert done.returncode == 2
    assert b"has ended" in done.stderr


def test_it_imports_no_command_line() -> None:
    """What a shard does not need is not waited for at each of its restarts."""
    left_out = "typer", "jwt", "grpc", "mezzo.client", "mezzo.asynchronous", "cryptography.x509"
    program = f"import {PROCESS}, mezzo_server.shard.main, sys; print([n for n in {left_out!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": PATH},
    )
    assert done.stdout == b"[]\n", done.stdout + done.stderr


def test_shards_of_a_node_get_settings_of_their_own_and_the_front_end_those_of_all() -> None:
    said: list[NodeReadiness] = []
    names = ("shard-0", "shard-1", "frontend")
    commands = {name: [sys.executable, "-I", "-S", "-c", STAYS] for name in names}
    shard = ShardConfig(listen=["unix:///s"], devices=["memory:64MiB"])
    config = NodeConfig(shard=shard, supervisor=replace(QUICK, shards=2), metrics=NO_METRICS)
    made = Supervisor(config, said.append, commands=commands)

    async def stopped_when_ready() -> int:
        running = asyncio.ensure_future(made.run())
        await poll(lambda: running.done() or bool(said))
        os.kill(os.getpid(), signal.SIGTERM)
        return await asyncio.wait_for(running, PATIENCE_S)

    assert asyncio.run(stopped_when_ready()) == 0
    received = [msgspec.convert(shard["settings"], NodeConfig) for shard in said[0].shards]
    assert [each.shard.listen for each in received] == [["unix:///s.0"], ["unix:///s.1"]]
    assert [each.shard.devices for each in received] == [["memory:33554432"]] * 2
    assert said[0].frontend is not None
    frontend = msgspec.convert(said[0].frontend["settings"], NodeConfig).frontend
    assert frontend.shards == ["unix:///s.0", "unix:///s.1"]
    assert [report.name for report in made.report()] == list(names)
