"""`mezzo config`: what is in force, what is wrong with a file, and the document of all settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mezzo.cli.output import json_result, result
from mezzo.errors import InvalidArgument
from mezzo_server.config import NodeConfig, keys, load, load_with_origins
from mezzo_server.config.document import document

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Changed = Annotated[bool, typer.Option("--changed", help="Only those that are not the default.")]
Config = Annotated[Path | None, typer.Option(help="TOML file with settings.")]


def register_config(app: typer.Typer) -> None:
    """Add `mezzo config` and the commands below it."""
    group = typer.Typer(help="Show, check and document settings.", no_args_is_help=True)
    group.command("show")(show)
    group.command("check")(check)
    group.command("docs")(docs)
    app.add_typer(group, name="config")


def show(*, config: Config = None, changed: Changed = False, json: Json = False) -> None:
    """Print the settings in force, and where each comes from: default, file or variable."""
    loaded = load_with_origins(config, os.environ)
    values = {name: _value(loaded.config, key.path) for name, key in keys().items()}
    origins = {name: origin for name, origin in loaded.origins.items() if not changed or origin != "default"}
    if json:
        told = {name: {"value": values[name], "from": origin} for name, origin in origins.items()}
        json_result(msgspec.json.encode(told))
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("key", "value", "from"):
        table.add_column(title, overflow="fold")
    for name, origin in origins.items():
        table.add_row(name, keys()[name].shown(values[name]) or '""', origin)
    result(table)


def check(
    *,
    file: Annotated[Path, typer.Argument(help="TOML file with settings.", show_default=False)],
    json: Json = False,
) -> None:
    """Say whether a file of settings is right. Exit status 1, and what is wrong, if not."""
    try:
        load(file)
    except InvalidArgument as error:
        if not json:
            sys.stderr.write(f"mezzo: {error}\n")
        else:
            json_result(msgspec.json.encode({"ok": False, "error": str(error)}))
        raise typer.Exit(1) from None
    if json:
        json_result(msgspec.json.encode({"ok": True, "error": None}))
    else:
        sys.stdout.write(f"{file} is right\n")


def docs() -> None:
    """Print docs/configuration.md."""
    sys.stdout.write(document())


def _value(config: NodeConfig, path: tuple[str, ...]) -> object:
    value: object = config
    for name in path:
        value = getattr(value, name)
    return value
