"""The commands as people and scripts run them: processes, a real shard, a real bash."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from mezzo import Client
from mezzo.cli.app import make_app, run
from mezzo_server.testing import running_shard
from tests.integration.nursery import run_mezzo_bytes
from tests.integration.shard_wire import numbers
from tests.patience import PATIENCE_S


def mezzo(*arguments: object, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    return run_mezzo_bytes(*arguments, stdin=stdin, environ=environ)


def test_a_chunk_there_and_back(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(300_001)
    (tmp_path / "in").write_bytes(data)
    with running_shard() as shard:
        server = ("--server", shard.unix)
        put = mezzo("put", "a", tmp_path / "in", "hex:00ff", "-", *server, "--json", stdin=b"piped")
        assert put.returncode == 0, put
        assert msgspec.json.decode(put.stdout)["stored"] == 2
        assert mezzo("get", "a", "--server", shard.tcp).stdout == data
        assert mezzo("get", "a", "hex:00ff", "-o", tmp_path / "out", *server).returncode == 0
        assert (tmp_path / "out").read_bytes() == data + b"piped"
        assert mezzo("lookup", "a", "hex:00ff", *server).stdout.startswith(b"2 of 2 ")
        stat = msgspec.json.decode(mezzo("stat", "a", *server, "--json").stdout)
        assert stat["chunks"][0]["bytes"] == len(data)
        assert mezzo("rm", "a", *server).stdout == b"deleted  a\n"
        missed = mezzo("get", "a", *server)
        assert (missed.returncode, missed.stdout) == (1, b"")
        environ = {"MEZZO_ADDRESS": shard.tcp}
        assert msgspec.json.decode(mezzo("stat", "--json", **environ).stdout)["chunks"] == 1


def test_a_file_over_the_limit_of_the_shard(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as big:
        big.truncate(1 << 40)  # would not fit into memory
    with running_shard() as shard:
        with Client(shard.unix) as client:
            limit_bytes = client.chunk_bytes_max()
        said = mezzo("put", "a", tmp_path / "big", "--server", shard.unix)
        assert said.returncode == 2
        assert b"chunk_bytes_max" in said.stderr
        (tmp_path / "just").write_bytes(bytes(limit_bytes))
        assert mezzo("put", "a", tmp_path / "just", "--server", shard.unix).returncode == 0


def test_nobody_reads_the_output() -> None:
    with running_shard() as shard:
        with Client(shard.unix) as client:
            client.put([b"a"], [bytes(1 << 20)])
        for command in (["get", "a"], ["stat"]):
            process = subprocess.Popen(
                [sys.executable, "-m", "mezzo.cli", *command, "--server", shard.unix],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdout is not None
            process.stdout.close()
            process.stdout = None
            _, said = process.communicate(timeout=PATIENCE_S)
            assert (process.returncode, said) == (141, b"")


def test_no_server_is_one_line() -> None:
    said = mezzo("stat", "--server", "unix:///nowhere/at/all")
    assert (said.returncode, said.stdout) == (2, b"")
    assert said.stderr.count(b"\n") == 1


def test_what_setup_writes_starts_a_node(tmp_path: Path) -> None:
    """Twice, with the same file: before the device is there, and when it is."""
    # The ports of a node that runs on this machine stay its own.
    ports = {f"MEZZO_METRICS_{name}": "" for name in ("SHARD", "FRONTEND", "SUPERVISOR")}
    ports["MEZZO_FRONTEND_LISTEN"] = "127.0.0.1:0"
    config = tmp_path / "mezzo.toml"
    sock = Path(f"/tmp/mezzo-test-{os.getpid()}-setup")
    wishes = ("--device", tmp_path, "--capacity", "256MiB", "--hot", "0", "--listen", f"unix://{sock}")
    texts = []
    for start in range(2):
        wrote = mezzo("setup", *wishes)
        assert wrote.returncode == 0, wrote
        texts.append(wrote.stdout)
        assert {path.name for path in tmp_path.iterdir()} == (
            {"mezzo.toml", "mezzo.chunks"} if start else set()
        )
        config.write_bytes(wrote.stdout)
        process = subprocess.Popen(
            [sys.executable, "-m", "mezzo.cli", "serve", "--config", str(config), "--json"],
            stdout=subprocess.PIPE,
            env={**os.environ, **ports},
        )
        try:
            assert process.stdout is not None
            ready = msgspec.json.decode(process.stdout.readline())
            assert ready["shard"]["devices"][0]["bytes"] == 256 << 20
            assert numbers(f"unix://{sock}")["chunks"] == start
            with Client(f"unix://{sock}") as client:
                client.put([b"kept"], [b"bytes"])
            assert mezzo("doctor", "--config", config).returncode == 0
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
            process.stdout.close()
            sock.unlink(missing_ok=True)
    assert texts[0] == texts[1]


def test_what_setup_writes_without_wishes_is_valid(tmp_path: Path) -> None:
    """The machine that runs the test may have no room; then it says so."""
    wrote = mezzo("setup")
    if wrote.returncode:
        assert b"room" in wrote.stderr
        return
    (tmp_path / "mezzo.toml").write_bytes(wrote.stdout)
    assert tomllib.loads(wrote.stdout.decode())["shard"]["devices"]
    assert mezzo("config", "check", tmp_path / "mezzo.toml").returncode == 0


@pytest.mark.parametrize("command", [["doctor"], ["setup"]])
def test_setup_and_doctor_work_without_the_server_extra(command: list[str]) -> None:
    absent = ["structlog", "uvloop", "grpc", "google", "prometheus_client", "mezzo_server._native.ring",
              "mezzo_server._native.pool"]  # fmt: skip
    script = f"import sys; sys.modules.update(dict.fromkeys({absent})); from mezzo.cli import main; main()"
    said = subprocess.run(
        [sys.executable, "-c", script, *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in said.stderr
    if command == ["doctor"]:
        assert said.returncode == 1
        assert "pip install 'mezzo[server]'" in said.stdout
    else:
        assert "enabled = false" in said.stdout or "room" in said.stderr


@pytest.mark.parametrize("command", [["shard"], ["serve"], ["tenant", "list"], []])
def test_the_server_alone_says_what_to_install_in_one_line(command: list[str]) -> None:
    script = "import sys; sys.modules['structlog'] = None; from mezzo_server.cli import main; main()"
    said = subprocess.run(
        [sys.executable, "-c", script, *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "mezzo: this needs the Python module structlog: pip install 'mezzo[server]'\n"


# Completion

BASH = shutil.which("bash")


def complete(folder: Path, script: str, line: str) -> list[str]:
    """What a bash with the script would offer at the end of ``line``."""
    wrapper = folder / "mezzo"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m mezzo.cli "$@"\n')
    wrapper.chmod(0o755)
    words = line.split(" ")
    asked = f"""{script}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
function=$(complete -p mezzo | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $function mezzo
printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(
        [str(BASH), "--norc", "-c", asked],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(make_app, ["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert complete(tmp_path, script, "mezzo loo") == ["lookup"]
    assert "--part-bytes" in complete(tmp_path, script, "mezzo put --part")
    assert set(complete(tmp_path, script, "mezzo completion ")) == {"bash", "zsh", "fish"}
