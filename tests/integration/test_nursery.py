"""Processes from the nursery are what users start: the same words, streams and ends. And each command once as users start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from mezzo import Client
from mezzo.errors import Unavailable
from mezzo_server.testing import RunningProcess, running_frontend, running_shard, start_command
from tests.integration import nursery
from tests.integration.metadata_replicas import running_replicas
from tests.integration.nursery import Forked, real_commands, run_mezzo, start
from tests.patience import PATIENCE_S


@pytest.fixture(params=["forked", "real"])
def starting(request: pytest.FixtureRequest) -> AbstractContextManager[None]:
    return real_commands() if request.param == "real" else nullcontext()


def test_shards_front_ends_and_metadata_services(
    starting: AbstractContextManager[None], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 32)
    engine = f"sqlite://{tmp_path}/metadata.db"
    with (
        starting,
        running_shard(devices=[f"{tmp_path}/device"], capacity="64MiB") as shard,
        running_frontend(shard.unix) as frontend,
        running_replicas(1, engine, tmp_path, secret) as (service,),
    ):
        forked = RunningProcess.starter is start
        assert [isinstance(process._process, Forked) for process in (shard, frontend, service)] == [
            forked
        ] * 3
        for process in (shard, frontend, service):
            assert process.readiness["pid"] == process.pid
            assert process.is_alive()
        with Client(frontend.grpc, via="proxy", timeout_s=PATIENCE_S) as client:
            assert client.put([b"k"], [b"bytes"]).stored == 1
        pid = shard.pid
        shard.kill()
        assert not shard.is_alive()
        shard.start()
        assert shard.pid != pid
        assert shard.readiness["chunks"] == 1
        for process in (frontend, service, shard):
            assert process.stop() == 0
            assert "Traceback" not in process.log.read_text()


def test_what_ends_at_once_says_why(starting: AbstractContextManager[None]) -> None:
    with (
        starting,
        pytest.raises(Unavailable, match="the shard did not start: mezzo: device /nowhere/at/all"),
        running_shard(devices=["/nowhere/at/all"], capacity="64MiB"),
    ):
        pass


def test_a_start_that_needs_a_python_of_its_own_has_one() -> None:
    with running_shard(environ={**os.environ, "PYTHONHASHSEED": "0"}) as shard:
        assert not isinstance(shard._process, Forked)


def test_ends_are_those_of_processes(tmp_path: Path) -> None:
    for make in (start, start_command):
        with (tmp_path / "said").open("w+b") as said:
            command = [
                "-m",
                "mezzo_server",
                "shard",
                "--device",
                "memory:64MiB",
                "--listen",
                "tcp://127.0.0.1:0",
            ]
            process = make([sys.executable, *command], dict(os.environ), said.fileno(), said.fileno())
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == process.wait() == process.poll() == -signal.SIGKILL
        process.send_signal(signal.SIGKILL)


def test_a_command_runs_where_its_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mezzo.toml").write_text("[shard]\ndepth = 7\n")
    shown = run_mezzo(
        "config", "show", "--json", "--config", "mezzo.toml", environ={"MEZZO_LOG_LEVEL": "error"}
    )
    settings = json.loads(shown.stdout)
    assert (settings["shard.depth"]["value"], settings["log.level"]["value"]) == (7, "error")


def test_where_the_nursery_ends_another_takes_its_place(tmp_path: Path) -> None:
    with running_shard() as shard:
        before = nursery._nursery()
        before._process.kill()
        with pytest.raises((RuntimeError, OSError)):
            run_mezzo("--version")
        with running_shard() as other, Client(other.unix) as client:
            assert nursery._nursery() is not before
            assert client.ping() > 0
        with Client(shard.unix) as client:
            assert client.ping() > 0, "it goes on"
        assert shard.stop() != 0, "nobody knows how it ended"
