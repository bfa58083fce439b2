"""The demo of a pod, as people use it: a node is lost and comes back, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.etcd_members import find_etcd
from tests.integration.nursery import run_mezzo
from tests.patience import PATIENCE_S, eventually

ETCD = find_etcd()
pytestmark = pytest.mark.skipif(not ETCD, reason="there is no etcd, and none could be fetched")


def processes_about(folder: Path) -> list[str]:
    """Command lines that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if f"{folder}/" in line and "demo-pod" not in line:
            found.append(line)
    return found


def test_a_node_is_lost_and_comes_back(tmp_path: Path) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    done = run_mezzo(
        "demo-pod", "--etcd", ETCD, "--shards", "1", "--requests", "600", "--seconds", "5", "--capacity", "512MiB",
        "--dir", scratch, "--out", out, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["requests"] + shown["requests_left"] == 600
    assert shown["wrong_bytes"] == 0
    assert [one["phase"] for one in shown["moments"]] == [
        "node-1 gone", "slots passed on", "node-1 starts", "node-1 back"
    ]  # fmt: skip
    whole = shown["phases"][0]
    assert whole["hits"] > 0
    assert sum(one["requests"] for one in shown["phases"]) == shown["requests"]
    assert 0 < shown["had"] <= 2 * shown["kept"]
    for one in shown["compared"]:
        assert one["chunks"] > 0
        assert one["wrong_bytes"] == 0
    assert {path.name for path in out.iterdir()} == {
        "etcd.log", "gate.log", "node-0.log", "node-1.log", "pod.json", "pod.png"
    }  # fmt: skip
    assert not list(scratch.iterdir())
    assert not processes_about(scratch)


@pytest.mark.long
def test_one_that_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "mezzo.cli", "demo-pod", "--etcd", ETCD, "--dir", scratch, "--out", tmp_path / "out"],
        env={**os.environ, "MEZZO_TRACES": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        eventually(lambda: len(processes_about(scratch)) > 2, "nodes are starting")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert not list(scratch.iterdir())
    assert not processes_about(scratch)


def test_without_an_etcd_it_says_what_is_missing(tmp_path: Path) -> None:
    missing = run_mezzo("demo-pod", "--out", tmp_path / "out", environ={"PATH": str(tmp_path)})
    assert missing.returncode == 2
    assert missing.stderr.startswith("mezzo: no etcd in PATH: install one (Debian: etcd-server)")
    wrong = run_mezzo("demo-pod", "--etcd", tmp_path / "etcd", "--requests", "5", "--out", tmp_path / "out")
    assert wrong.returncode == 2
    assert f"etcd ({tmp_path}/etcd) cannot be run: No such file" in wrong.stderr
