"""Replay, load and demo against real shards, through the command line as people use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mezzo.replay.trace import read_trace
from mezzo_server.testing import RunningShard, running_shard
from tests.integration.nursery import run_mezzo

SHA_256 = "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df"


def mezzo(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line, without the published trace."""
    done = run_mezzo(*arguments, environ={"MEZZO_TRACES": "", "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture
def published() -> Path:
    """The published trace, where it is at hand."""
    folder = Path(os.environ.get("MEZZO_TRACES") or Path(__file__).parents[3] / "shared" / "traces")
    for name in ("conversation_trace.jsonl", "mooncake_conversation.jsonl"):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"the published trace is not in {folder}; docs/replay.md says where to get it")


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_replay_with_reclaim(transport: str, tmp_path: Path) -> None:
    """The device is far smaller than what is put, so chunks come, go and come again."""
    with running_shard(devices=[f"{tmp_path}/device"], capacity="64MiB") as shard:
        done = mezzo(
            "replay", "--address", getattr(shard, transport), "--requests", "800", "--block", "32KiB",
            "--out", tmp_path / "out", "--json",
        )  # fmt: skip
    report = json.loads(done.stdout)
    assert json.loads((tmp_path / "out" / "replay.json").read_text()) == report
    assert (tmp_path / "out" / "replay.png").read_bytes().startswith(b"\x89PNG")
    assert report["requests"] == 800
    assert report["wrong_bytes"] == 0
    assert report["put_bytes"] > 2 * 64 * 2**20
    assert 0 < report["hit_rate"] < report["hit_rate_max"]
    assert report["references"] == sum(report[name] for name in ("hits", "stored", "exists", "refused"))
    assert report["evicted"] > 0


@pytest.mark.parametrize("in_place", [False, True])
def test_hits_by_tier(in_place: bool, tmp_path: Path) -> None:
    hot = '[shard.hot]\nbytes = "16MiB"\narena_bytes = "4MiB"\n'
    with running_shard(devices=["memory:256MiB"], config=hot) as shard:
        done = mezzo(
            "replay", "--address", shard.unix, "--requests", "600", "--block", "8KiB", "--out", tmp_path,
            "--json", *["--in-place"] * in_place,
        )  # fmt: skip
    report = json.loads(done.stdout)
    tiers = report["tiers"]
    assert (report["wrong_bytes"], report["gone"]) == (0, 0)
    assert report["references"] == sum(report[name] for name in ("hits", "stored", "exists", "refused"))
    assert report["hits"] <= tiers["hot_chunks"] + tiers["device_chunks"] + report["in_place"]
    assert tiers["device_chunks"] > 0, "16 MiB do not hold all of it"
    if in_place:
        assert report["in_place"] > 100
        assert report["acquire"]["count"] == 600
    else:
        assert tiers["hot_chunks"] > 100
        assert max(window["hot_rate"] for window in report["timeline"]) > 0


@pytest.fixture(scope="module")
def shard() -> Iterator[RunningShard]:
    """For what neither fills nor counts."""
    with running_shard() as shard:
        yield shard


def test_in_place_needs_shared_memory(shard: RunningShard, tmp_path: Path) -> None:
    done = mezzo(
        "replay", "--address", shard.tcp, "--in-place", "--requests", "5", "--out", tmp_path, status=2
    )
    assert "in_place" in done.stderr


def test_table_for_people(shard: RunningShard, tmp_path: Path) -> None:
    done = mezzo(
        "replay", "--address", shard.unix, "--requests", "20", "--block", "4KiB", "--out", tmp_path, "--no-plot"
    )  # fmt: skip
    assert "from the device" in done.stdout
    assert "wrong bytes" in done.stdout
    assert f"results: {tmp_path}" in done.stdout
    assert "taking a seeded workload" in done.stderr
    assert not (tmp_path / "replay.png").exists()


def test_bench(shard: RunningShard) -> None:
    for address in (shard.unix, shard.tcp):
        done = mezzo(
            "bench", "--address", address, "--chunk", "64KiB", "--chunks", "32", "--operations", "200",
            "--get", "60", "--put", "20", "--lookup", "20", "--verify", "--json",
        )  # fmt: skip
        report = json.loads(done.stdout)
        assert report["get"]["requests"] + report["put"]["requests"] + report["lookup"]["requests"] == 200
        assert report["get"]["done"] == report["get"]["chunks"] > 0
        assert report["wrong_bytes"] == 0


def test_no_shard_is_one_line_and_status_2(tmp_path: Path) -> None:
    done = mezzo(
        "replay", "--address", f"unix://{tmp_path}/nobody", "--requests", "5", "--out", tmp_path, status=2
    )
    (said, line) = done.stderr.splitlines()
    assert "taking a seeded workload" in said
    assert line.startswith("mezzo: ")
    assert "nobody" in line


@pytest.mark.parametrize("transport", ["shm", pytest.param("tcp", marks=pytest.mark.long)])
def test_demo_keeps_what_it_had_over_sigkill(transport: str, tmp_path: Path) -> None:
    done = mezzo(
        "demo", "--requests", "300", "--capacity", "256MiB", "--hot", "64MiB", "--transport", transport, "--dir", tmp_path,
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    both = json.loads(done.stdout)
    assert both["replay"]["wrong_bytes"] == 0
    restart = both["restart"]
    assert restart["after"] == restart["before"] > 0
    assert restart["compared"] > 0
    assert (restart["lost"], restart["wrong_bytes"]) == (0, 0)
    tiers = both["replay"]["tiers"]
    assert tiers["hot_chunks"] > 0
    assert tiers["hot_chunks"] + tiers["device_chunks"] >= both["replay"]["hits"]
    assert both["grpc"]["address"].startswith("grpc://")
    assert both["grpc"]["wrong_bytes"] == 0
    assert both["series"] > 50
    apart = both["tenants"]
    assert apart["asked"] >= apart["owner_sees"] > 0
    assert (apart["other_sees"], apart["other_bytes"], apart["wrong_token_refused"]) == (0, 0, True)
    assert set(both["metrics"]) == {"shard", "frontend", "supervisor"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}, "the device file is removed"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "node.log", "replay.json", "replay.png", "restart.json"
    }  # fmt: skip


def test_demo_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mezzo.cli", "demo", "--dir", tmp_path, "--out", tmp_path / "out"],
        env={**os.environ, "MEZZO_TRACES": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    with process.stderr as said:
        for line in said:
            if "serves" in line:
                break
        process.send_signal(signal.SIGTERM)
        said.read()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_the_published_trace_is_what_the_documents_say(published: Path) -> None:
    trace = read_trace(published)
    summary = trace.summary()
    assert trace.sha256 == SHA_256
    assert (summary.requests, summary.references, summary.distinct) == (12031, 288500, 182790)
    assert round(summary.hit_rate_max, 3) == 0.366


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_the_whole_published_trace(published: Path, transport: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mezzo.cli", "demo", published, "--transport", transport, "--dir", tmp_path,
         "--out", tmp_path / "out", "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    both: dict[str, Any] = json.loads(done.stdout)
    assert both["replay"]["requests"] == 12031
    assert both["replay"]["wrong_bytes"] == 0
    assert both["replay"]["hit_rate"] > 0.2
