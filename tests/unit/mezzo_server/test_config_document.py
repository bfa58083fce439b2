from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from mezzo.errors import InvalidArgument
from mezzo_server.cli import register
from mezzo_server.commands.options import Flag, Settings, takes_settings
from mezzo_server.config import keys, load
from mezzo_server.config.document import document

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"
RUNNER = CliRunner()
OURS = [key.variable for key in keys().values()]
"""variables that the surroundings of the test may have set"""


def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
    app = typer.Typer(rich_markup_mode=None)
    app.callback()(lambda: None)
    register(app)
    done = RUNNER.invoke(app, list(arguments), env={**dict.fromkeys(OURS), **environ})
    return done.exit_code, done.stdout, done.stderr


def test_the_document_is_that_of_the_schema() -> None:
    assert DOCUMENT.read_text() == document(), "run: mezzo config docs > docs/configuration.md"


def test_every_key_is_in_the_document() -> None:
    text = document()
    for key in keys().values():
        assert f"| `{key.path[-1]}` |" in text
        assert f"`{key.variable}`" in text
        if key.path[:-1]:
            assert f"## [{'.'.join(key.path[:-1])}]" in text


def examples() -> Iterator[tuple[str, str]]:
    """Documents, and settings in them. (That of docs/workload.md is about something else.)"""
    for path in sorted(DOCUMENT.parent.glob("*.md")):
        for text in re.findall(r"^```toml\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            if path.name != "workload.md":
                yield path.name, text


def test_settings_in_documents_are_right(tmp_path: Path) -> None:
    checked = []
    for name, text in examples():
        file = tmp_path / "node.toml"
        file.write_text(text)
        # Some show a part of a file, which has an engine elsewhere.
        engine = {} if "[metadata]" in text else {"MEZZO_METADATA_ENGINE": "sqlite:///metadata.db"}
        try:
            load(file, engine)
        except InvalidArgument as error:
            raise AssertionError(f"docs/{name}: {error}") from None
        checked.append(name)
    assert {"pod.md", "metadata.md", "tls.md"} <= set(checked)


def test_what_is_in_force_and_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[shard]\ncapacity_bytes = '2GiB'\n")
    status, out, _ = run("config", "show", "--config", str(file), "--json", MEZZO_SHARD_DEPTH="9")
    told = msgspec.json.decode(out)
    assert status == 0
    assert set(told) == set(keys())
    assert told["shard.capacity_bytes"] == {"value": 2 << 30, "from": str(file)}
    assert told["shard.depth"] == {"value": 9, "from": "MEZZO_SHARD_DEPTH"}
    assert told["shard.policy"] == {"value": "density", "from": "default"}
    status, out, _ = run("config", "show", "--changed", MEZZO_SHARD_DEPTH="9")
    assert status == 0
    assert out.split() == ["key", "value", "from", "shard.depth", "9", "MEZZO_SHARD_DEPTH"]


def test_a_file_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[shard]\ndepth = 0\n")
    status, out, errors = run("config", "check", str(file))
    assert (status, out) == (1, "")
    assert "shard.depth: 0 is not allowed" in errors
    assert errors.count("\n") == 1
    status, out, _ = run("config", "check", str(file), "--json")
    assert status == 1
    assert "shard.depth" in msgspec.json.decode(out)["error"]
    file.write_text("[shard]\ndepth = 1\n")
    assert run("config", "check", str(file))[0] == 0
    assert msgspec.json.decode(run("config", "check", str(file), "--json")[1]) == {"ok": True, "error": None}


@pytest.mark.parametrize("command", ["shard", "serve"])
def test_help_is_made_from_the_schema(command: str) -> None:
    status, out, _ = run(command, "--help", COLUMNS="400")
    assert status == 0
    flat = " ".join(out.split())
    for name in ("shard.capacity_bytes", "shard.durability", "log.level"):
        meaning = keys()[name].meaning.replace("`", "")
        assert meaning[1:] in flat
    assert "[process|power]" in flat
    assert "Default: process." in flat


def test_flags_are_judged_as_the_file_is() -> None:
    seen: list[Settings] = []

    @takes_settings(
        Flag("shard.depth"),
        Flag("shard.devices", "--device"),
        Flag("shard.hot.bytes", "--hot"),
        Flag("frontend.enabled", "--frontend"),
        Flag("shard.insecure"),
    )
    def command(settings: Settings, *, json: bool = False) -> None:
        seen.append(settings)

    app = typer.Typer()
    app.command()(command)

    def invoke(*arguments: str, **environ: str) -> str:
        done = RUNNER.invoke(app, list(arguments), env={**dict.fromkeys(OURS), **environ})
        return str(done.exception or "")

    flags = (
        "--depth",
        "5",
        "--device",
        "/a,b",
        "--device",
        "/c",
        "--hot",
        "64MiB",
        "--no-frontend",
        "--json",
    )
    assert invoke(*flags, MEZZO_SHARD_DEPTH="6", MEZZO_SHARD_INSECURE="true") == ""
    node = seen.pop().node
    assert (node.shard.depth, node.shard.devices, node.shard.hot.bytes) == (5, ["/a,b", "/c"], 64 << 20)
    assert (node.frontend.enabled, node.shard.insecure) == (False, True)
    assert invoke() == ""
    assert seen.pop().node.frontend.enabled
    assert "flag --depth: shard.depth: '0x' is not allowed" in invoke("--depth", "0x")
    assert "flag --hot: shard.hot.bytes: 'much'" in invoke("--hot", "much")
    assert seen == []
