"""`mezzo key`: the master key under which the keys of encrypted tenants are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mezzo.cli.output import json_result, result

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class NewKey(msgspec.Struct, frozen=True):
    """What `mezzo key new` tells."""

    file: str
    id: str
    """names the key, and says nothing of it"""


def register_key(app: typer.Typer) -> None:
    """Add `mezzo key` and the commands below it."""
    group = typer.Typer(help="Make and change the master key of encryption at rest.", no_args_is_help=True)
    group.command("new")(new)
    app.add_typer(group, name="key")


def new(
    *,
    file: Annotated[
        Path, typer.Argument(help="File to be made; only its owner can read it.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Draw a master key and write it to a new file."""
    from rich.text import Text

    from mezzo_server.tenancy.keys import write_master_key

    made = NewKey(str(file), write_master_key(file).id.hex())
    if json:
        json_result(msgspec.json.encode(made))
        return
    result(f"master key {made.id} written to {made.file}")
    result("Keep a copy where the data is not: without it the chunks of encrypted tenants cannot be read.")
    # as text: to rich, a table's name in brackets would be a style
    result(Text(f'For the configuration:\n\n[encryption]\nmaster_key = "{file.absolute()}"'))
