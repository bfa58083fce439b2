"""`mezzo workload`: parameters from presets, files and flags; files of traces; figures of traces."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from mezzo.cli.app import make_app, run
from mezzo.errors import InvalidArgument
from mezzo.replay.presets import PRESETS
from mezzo.replay.trace import read_trace
from mezzo.replay.workload_settings import load_config, parameters

QUICK = ("--duration", "30", "--set", "warmup_s=60")

MEZZO = get_command(make_app([]))


def mezzo(*arguments: str | Path, status: int = 0) -> None:
    assert run(lambda: MEZZO, ["workload", *map(str, arguments)]) == status


def test_the_same_to_a_file_and_to_standard_output(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    mezzo("--preset", "chat", *QUICK, "--out", tmp_path / "t.jsonl", "--json")
    told = json.loads(capfdbinary.readouterr().out)
    mezzo("--preset", "chat", *QUICK)
    assert capfdbinary.readouterr().out == (tmp_path / "t.jsonl").read_bytes()
    trace = read_trace(tmp_path / "t.jsonl")
    assert told["requests"] == len(trace.requests)
    assert told["references"] == trace.summary().references
    assert told["input_tokens_mean"] == pytest.approx(
        sum(request.input_tokens for request in trace.requests) / len(trace.requests)
    )


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(
        'preset = "agents"\nseed = 7\n[arrivals]\nsessions_per_s = 3\n[agents]\ntool_s = 2\n'
        "[agents.steps]\nsigma = 0.1\n"
    )
    config = load_config("chat", path, ["seed=8", "agents.task={median = 5, sigma = 0.5}"])
    assert config.seed == 8
    assert config.arrivals.sessions_per_s == 3
    assert (config.agents.tool_s.median, config.agents.tool_s.sigma) == (2, 0)
    assert (config.agents.steps.median, config.agents.steps.sigma) == (12, 0.1)
    assert (config.agents.task.median, config.agents.task.sigma) == (5, 0.5)
    assert config.agents.task.least == 0, "given anew with its median"
    assert config.prompts == PRESETS["agents"].prompts


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("go_on=1", r"--set go_on=1: go_on: no such parameter; there are seed, duration_s"),
        (
            "conversations.goon=1",
            r"conversations\.goon: no such parameter; did you mean conversations\.go_on\?",
        ),
        ("conversations.go_on=2", r"conversations\.go_on: Expected `float` < 1"),
        ("conversations=2", r"conversations: 2 is no table; it has opening, message"),
        ("seed=many", r"'many' is no value: a number such as 0\.5"),
        ("seed", r"--set seed: write name=value"),
        ("agents.steps.middle=1", r"agents\.steps\.middle: no such parameter; .*median"),
        ('seed="1"', r"seed: Expected `int`, got `str`"),
    ],
)
def test_a_wrong_parameter_is_told_with_what_would_be_right(change: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        load_config("chat", None, [change])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"seed = \n", r"w\.toml: not TOML: .*line 1"),
        (b"\xff", r"w\.toml: not TOML"),
        (b'preset = "rush"', r"preset 'rush': there is none; there are conversation, chat"),
        (b"[agent]\nshare = 1", r"w\.toml: agent: no such parameter; did you mean agents\?"),
        (b"#" * 2**20 + b"#", r"w\.toml: over 1048576 bytes"),
    ],
)
def test_a_wrong_file_is_told(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument, match=told):
        load_config("chat", path)
    with pytest.raises(InvalidArgument, match="No such file"):
        load_config("chat", tmp_path / "absent")


def test_every_parameter_is_listed_and_its_value_is_toml() -> None:
    listed = parameters()
    assert {"seed", "arrivals.burst_factor", "agents.fan_out"} <= {one.name for one in listed}
    for one in listed:
        assert len(one.meaning) > 10, one.name
        tomllib.loads(f"value = {one.value}")
        assert load_config("chat", None, [f"{one.name}={one.value}"]) == PRESETS["chat"], one.name


@pytest.mark.parametrize("preset", PRESETS)
def test_the_list_is_a_file_that_makes_the_same(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mezzo("--list", "--preset", preset)
    path = tmp_path / "w.toml"
    path.write_text(capsys.readouterr().out)
    assert load_config("chat", path) == PRESETS[preset]
    mezzo("--list", "--json", "--preset", preset, "--seed", "5")
    assert json.loads(capsys.readouterr().out)["seed"] == 5


def test_figures_of_a_trace_and_beside_a_workload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    mezzo("--preset", "chat", *QUICK, "--out", path)
    mezzo("--describe", path)
    assert "ceiling of the hit rate" in capsys.readouterr().out
    mezzo("--preset", "chat", *QUICK, "--compare", path, "--seeds", "2", "--json")
    read, first, second = json.loads(capsys.readouterr().out)
    assert [read["name"], first["name"], second["name"]] == ["t.jsonl", "chat, seed 1", "chat, seed 2"]
    assert {**read, "name": ""} == {**first, "name": ""}
    assert first != second


def test_what_is_wrong_leaves_the_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("precious")
    mezzo("--out", path, "--set", "sessions_max=1", status=2)
    assert "sessions open at a time" in capsys.readouterr().err
    mezzo("--out", path, "--duration", "0.001", "--set", "warmup_s=0", status=2)
    assert "no request" in capsys.readouterr().err
    assert path.read_text() == "precious"
