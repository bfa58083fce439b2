"""mezzo completion: scripts, and where they are put."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mezzo.cli.app import make_app, run
from mezzo.cli.completion import Shell, script_path
from mezzo.errors import InvalidArgument


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


@pytest.mark.parametrize("shell", list(Shell))
def test_install_writes_the_script_and_nothing_else(
    home: Path, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(lambda: make_app([]), ["completion", shell.value]) == 0
    script = capsys.readouterr().out
    assert "_MEZZO_COMPLETE" in script
    assert list(home.iterdir()) == []
    assert run(lambda: make_app([]), ["completion", shell.value, "--install"]) == 0
    said = capsys.readouterr().out
    [written] = [path for path in home.rglob("*") if path.is_file()]
    assert written.read_text() == script
    assert said.startswith(f"{written}: new shells")


def test_as_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: make_app([]), ["completion", "zsh", "--install", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["shell"] == "zsh"
    assert Path(told["path"]).read_text() == told["script"]


def test_where_the_shells_look() -> None:
    assert script_path(Shell.BASH, {"HOME": "/h", "XDG_DATA_HOME": "/d"}) == Path(
        "/d/bash-completion/completions/mezzo"
    )
    assert script_path(Shell.FISH, {"HOME": "/h"}) == Path("/h/.config/fish/completions/mezzo.fish")
    with pytest.raises(InvalidArgument, match="HOME"):
        script_path(Shell.ZSH, {})


def test_another_shell_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: make_app([]), ["completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err
