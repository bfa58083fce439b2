"""``mezzo completion``: completion of commands and options in a shell.

The scripts are typer's; where they go is ours: folders that the shells (bash-completion, fish) look
into by themselves, so that no start-up file of the user's is edited.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

# Not marked as exported there, and the only way to typer's own scripts without its options that edit
# the start-up files of shells.
from typer.completion import completion_init, get_completion_script  # type: ignore[attr-defined]

from mezzo.cli import options as opt
from mezzo.cli.output import console, json_result
from mezzo.cli.overview import COMPLETION_VARIABLE
from mezzo.errors import InvalidArgument

PROGRAM = "mezzo"


class Shell(StrEnum):
    """Shells that can be told."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


AFTERWARDS = {
    Shell.BASH: "new shells use it if the package bash-completion is installed; others: source the file",
    Shell.ZSH: "new shells use it if ~/.zshrc has: fpath+=~/.zfunc; autoload -Uz compinit; compinit",
    Shell.FISH: "new shells use it",
}


def register(app: typer.Typer) -> None:
    """Add the command, and the shells to those that the application answers."""
    completion_init()
    app.command("completion")(completion)


def completion(
    *,
    shell: Annotated[Shell, typer.Argument(help="The shell.", show_default=False)],
    install: Annotated[
        bool, typer.Option("--install", help="Write the script to your own folder instead, and say where.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Print the script that lets a shell complete the commands and options of mezzo.

    In bash, for this session: source <(mezzo completion bash)
    """
    made_of = {"prog_name": PROGRAM, "complete_var": COMPLETION_VARIABLE, "shell": shell.value}
    script: str = get_completion_script(**made_of) + "\n"
    path = None
    if install:
        path = script_path(shell, os.environ)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
    if json:
        answer = {"shell": shell.value, "path": None if path is None else str(path), "script": script}
        json_result(msgspec.json.encode(answer))
    elif path is None:
        sys.stdout.write(script)
    else:
        console().print(f"{path}: {AFTERWARDS[shell]}", markup=False, soft_wrap=True)


def script_path(shell: Shell, environ: Mapping[str, str]) -> Path:
    """Where the shell looks for the script by itself.

    Raises:
        InvalidArgument: the environment names no home folder.
    """
    home_text = environ.get("HOME")
    if not home_text:
        raise InvalidArgument("--install writes below the home folder, and the environment has no HOME")
    home = Path(home_text)
    if shell is Shell.BASH:
        base = Path(environ.get("XDG_DATA_HOME") or home / ".local/share")
        return base / "bash-completion/completions" / PROGRAM
    if shell is Shell.ZSH:
        return home / ".zfunc" / f"_{PROGRAM}"
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish/completions" / f"{PROGRAM}.fish"
