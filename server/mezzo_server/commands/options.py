"""Flags made out of the schema of settings: name, default and help are written once, there.

A command names the keys that it wants as flags:

    @takes_settings(Flag("shard.devices", "--device"), Flag("shard.depth"))
    def shard(settings: Settings, *, json: Json = False) -> None: ...

and gets ``settings`` from defaults, ``--config``, the environment and its flags.  The processes that `mezzo serve`
starts are no commands: `mezzo_server.supervisor.process`.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mezzo_server.config import Key, Loaded, NodeConfig, keys, load_with_origins
from mezzo_server.config.loading import nested
from mezzo_server.logs import configure_logs

METAVARS = {
    "bytes": "SIZE",
    "bytes per second": "SIZE",
    "seconds": "SECONDS",
    "milliseconds": "MILLISECONDS",
}

Json = Annotated[bool, typer.Option("--json", help="Say that it is ready in one line of JSON.")]


@dataclass(frozen=True, slots=True)
class Flag:
    """One key of the schema as a flag."""

    key: str
    """its name, with the tables: ``shard.depth``"""
    name: str = ""
    """the flag; empty: the last part of the key"""
    help: str = ""
    """what to say instead of the key's meaning"""
    metavar: str = ""
    """what stands for the value; empty: by the key's type"""

    @property
    def option(self) -> str:
        """Such as ``--capacity``."""
        return self.name or "--" + self.key.rpartition(".")[2].replace("_", "-")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a command runs with."""

    loaded: Loaded

    @property
    def node(self) -> NodeConfig:
        """Settings of all parts."""
        return self.loaded.config


LOG_FLAGS = (Flag("log.level", "--log-level"), Flag("log.format", "--log-format"))


def takes_settings(*flags: Flag, process: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command ``--config``, these flags, and ``settings`` made from them.

    ``process`` is its name in logs, which are set up if it has one.
    """
    table = keys()
    parameters = {"f_" + flag.option.strip("-").replace("-", "_"): (flag, table[flag.key]) for flag in flags}

    names = {flag.key: flag.option for flag in flags}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            values = {key.name: _given(key, given.pop(name)) for name, (_, key) in parameters.items()}
            path = given.pop("config")
            settings = Settings(
                load_with_origins(path, os.environ, nested(values), names, process or "supervisor")
            )
            if process:
                configure_logs(settings.node.log, process)
            command(settings, **given)

        own = [
            p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "settings"
        ]
        made = [_config_parameter(), *(_parameter(n, flag, key) for n, (flag, key) in parameters.items())]
        return signed(run, [*made, *own])

    return decorate


def signed(run: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """The function with these parameters in its signature, from which typer reads flags and arguments."""
    shown = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def _parameter(name: str, flag: Flag, key: Key) -> inspect.Parameter:
    about = flag.help or key.meaning
    help_text = (about[:1].upper() + about[1:]).replace("``", "").replace("`", "")
    names = [flag.option]
    kind: Any = str | None
    metavar = flag.metavar or METAVARS.get(key.unit, "NUMBER" if key.is_number else "TEXT")
    if key.choices:
        metavar = "[" + "|".join(key.choices) + "]"
    if key.is_list:
        kind, help_text = list[str] | None, f"{help_text}. Repeatable"
    if key.is_bool:
        kind, metavar = bool | None, ""
        if key.default is True:
            names.append("--no-" + flag.option.strip("-"))
            names = [f"{names[0]}/{names[1]}"]
    shown = _shown_default(key)
    if shown:
        help_text = f"{help_text.rstrip('.')}. Default: {shown}"
    option = typer.Option(
        *names,
        metavar=metavar or None,
        help=help_text.rstrip(".") + ".",
        # The value of a flag that is not given is None, which lets file and environment count.
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


def _shown_default(key: Key) -> str:
    if key.default is False or key.default in ([], ""):
        return ""
    if key.is_list and isinstance(key.default, list):
        return ", ".join(key.default)
    return key.shown(key.default)


def _config_parameter() -> inspect.Parameter:
    option = typer.Option(help="TOML file with settings; the environment and flags win over it.")
    return inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, option],
    )


def _given(key: Key, value: Any) -> object:
    """The value of a flag; None: it was not given."""
    if key.is_list:
        return list(value) if value else None
    return value
