"""Policies compared by replay: determinism, the optimum, and the command."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import msgspec
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mezzo.replay.trace import Request, format_request
from mezzo_server.cli import register
from mezzo_server.simulate.compare import Comparison, Setting, compare, simulate
from mezzo_server.simulate.compare import settings as combinations
from mezzo_server.simulate.optimum import optimum
from mezzo_server.simulate.tables import markdown
from mezzo_server.simulate.workload import ChunkRequest, Workload


def conversations(count: int) -> Workload:
    """So many conversations of three turns each, interleaved; every turn prolongs its prefix."""
    requests = []
    for turn, start in product(range(3), range(0, count, 1)):
        ids = tuple(start * 100 + n for n in range(2 + 2 * turn))
        requests.append((start + turn * 7, turn, ids))
    requests.sort()
    made = tuple(ChunkRequest(float(at), ids) for at, _, ids in requests)
    return Workload("made", made, "")


WORKLOAD = conversations(120)


def test_the_same_again() -> None:
    wanted = combinations(["fifo", "lru"], [1.1], [0.2], 2)
    first = compare(WORKLOAD, wanted, segments=16)
    again = compare(WORKLOAD, wanted, segments=16)
    assert first.encode() == again.encode()
    assert msgspec.json.decode(first.encode(), type=Comparison) == first
    assert len(first.outcomes) == 4
    assert {outcome.setting.seed for outcome in first.outcomes} == {1, 2}


def test_sums() -> None:
    outcome = simulate(WORKLOAD, Setting("fifo", 1.1, 0.2), segments=16)
    whole = simulate(WORKLOAD, Setting("fifo", 1.1, 4.0), segments=64)
    assert 0 < outcome.hit_rate < whole.hit_rate
    assert whole.hit_rate == pytest.approx(optimum(WORKLOAD.requests, 1 << 40, 65536)[0])
    assert whole.evicted_bytes == 0
    assert whole.put_bytes == WORKLOAD.distinct_bytes(65536)
    assert outcome.put_bytes <= outcome.written_bytes
    assert outcome.write_amplification == pytest.approx(outcome.written_bytes / outcome.put_bytes)
    assert not outcome.refused
    assert outcome.evicted_bytes


def best_by_trying(requests: list[tuple[int, ...]], room: int) -> int:
    """Most hits over all ways to choose what stays, for requests of one chunk."""

    def go(at: int, there: frozenset[int]) -> int:
        if at == len(requests):
            return 0
        (chunk,) = requests[at]
        choices = there | {chunk}
        kept = [choices] if len(choices) <= room else [choices - {one} for one in choices]
        return (chunk in there) + max(go(at + 1, one) for one in kept)

    return go(0, frozenset())


@given(st.lists(st.integers(0, 4), max_size=7), st.integers(1, 3))
@settings(max_examples=60)
def test_the_optimum_is_one(asked: list[int], room: int) -> None:
    requests = [ChunkRequest(float(n), (chunk,)) for n, chunk in enumerate(asked)]
    rate, _ = optimum(requests, room * 10, 10)
    assert round(rate * len(asked)) == best_by_trying([(chunk,) for chunk in asked], room)


def test_no_policy_beats_the_optimum() -> None:
    for name in ("fifo", "lru", "s3fifo", "sieve"):
        assert simulate(WORKLOAD, Setting(name, 1.25, 0.1), segments=12).of_optimum <= 1


def run(*arguments: str) -> tuple[int, str, str]:
    app = typer.Typer(rich_markup_mode=None)
    app.callback()(lambda: None)
    register(app)
    done = CliRunner().invoke(app, ["simulate", "policies", *arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "made.jsonl"
    path.write_bytes(
        b"\n".join(format_request(Request(r.time_s * 1000, 1, 1, r.ids)) for r in WORKLOAD.requests)
    )
    return path


def test_command(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    options = ["--policies", "fifo,lru", "--budgets", "1,1.1", "--capacities", "22.5", "--segments", "16"]
    code, stdout, _ = run(str(trace), *options, "--out", str(out))
    assert code == 0
    assert "optimum" in stdout
    assert "22.5% of distinct" in stdout
    written = msgspec.json.decode((out / "policies.json").read_bytes(), type=Comparison)
    assert len(written.outcomes) == 4
    assert (out / "policies.md").read_text() == markdown(written)
    assert (out / "policies.png").read_bytes().startswith(b"\x89PNG")
    code, stdout, _ = run(str(trace), *options, "--json")
    assert code == 0
    assert json.loads(stdout) == json.loads(written.encode())


def test_csv_through_the_command(tmp_path: Path) -> None:
    path = tmp_path / "made.csv"
    path.write_text("size,time,name\n" + "".join(f"{50_000 + n % 7},{n},k{n % 150}\n" for n in range(400)))
    options = ["--policies", "lru", "--budgets", "1.1", "--capacities", "50", "--segments", "8"]
    code, stdout, stderr = run(str(path), *options, "--columns", "2,3,1", "--json")
    assert code == 0, stderr
    found = msgspec.json.decode(stdout.encode(), type=Comparison)
    assert found.references == 400
    assert found.distinct_bytes == sum(50_000 + n % 7 for n in range(150))


@pytest.mark.parametrize(
    "options",
    [
        ["--policies", "belady"],
        ["--policies", ","],
        ["--budgets", "0.5"],
        ["--budgets", "much"],
        ["--capacities", "0"],
        ["--columns", "1,2"],
        ["--columns", "0,1,2"],
        ["--capacities", "0.1"],
    ],
)
def test_what_makes_no_sense_is_refused(trace: Path, options: list[str]) -> None:
    assert run(str(trace), *options)[0] != 0
