"""`mezzo key`: the master key under which the keys of encrypted tenants are kept."""

from __future__ import annotations

import asyncio
import os
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


class Rewrapped(msgspec.Struct, frozen=True):
    """What `mezzo key rewrap` tells."""

    id: str
    """of the master key that wraps all tenants' keys now"""
    tenants: list[str]
    """ids of those whose key was wrapped anew"""


def register_key(app: typer.Typer) -> None:
    """Add `mezzo key` and the commands below it."""
    group = typer.Typer(help="Make and change the master key of encryption at rest.", no_args_is_help=True)
    group.command("new")(new)
    group.command("rewrap")(rewrap)
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
    # as texts: to rich, what is in brackets would be a style
    result(Text(f"master key {made.id} written to {made.file}"))
    result("Keep a copy where the data is not: without it the chunks of encrypted tenants cannot be read.")
    result(Text(f'For the configuration:\n\n[encryption]\nmaster_key = "{file.absolute()}"'))


def rewrap(
    *,
    config: Annotated[
        Path, typer.Option(envvar="MEZZO_CONFIG", help="The node's settings.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Wrap the tenants' keys with the current master key, so that the former ones can go."""
    from mezzo_server.commands.operator import on_metadata
    from mezzo_server.config import load_with_origins
    from mezzo_server.tenancy.keys import read_master_keys

    node = load_with_origins(config, os.environ).config
    keys = read_master_keys(node.encryption.master_key, node.encryption.former_master_keys)
    current = keys.current
    due = asyncio.run(on_metadata(node, lambda admin: admin.rewrap_keys(keys, os.urandom)))
    if json:
        json_result(msgspec.json.encode(Rewrapped(current.id.hex(), [tenant.hex() for tenant in due])))
        return
    result(
        f"keys wrapped anew: {len(due)}; all tenants' keys are wrapped with master key {current.id.hex()} now."
    )
    if node.encryption.former_master_keys:
        result("Once every host has the new settings, the former master keys are of no more use.")
