"""The command ``mezzo setup``."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from mezzo.cli import options as opt
from mezzo.cli.output import json_result, remark
from mezzo_server.machine import Host
from mezzo_server.setup.proposal import Wishes, propose
from mezzo_server.setup.writing import write_toml


def setup(
    *,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="File, block device, or folder for a file. Repeatable.",
            show_default="unused block devices, or a file in the folder for state",
        ),
    ] = None,
    capacity: Annotated[
        int | None,
        typer.Option(
            parser=opt.size, metavar="SIZE", help="Size of each device.", show_default="half of what is free"
        ),
    ] = None,
    hot: Annotated[
        int | None,
        typer.Option(
            parser=opt.size,
            metavar="SIZE",
            help="Memory of the hot tier; 0: none.",
            show_default="a quarter of it",
        ),
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="Address: unix:///path or tcp://host:port. Repeatable.", show_default="a Unix socket"
        ),
    ] = None,
    metadata: Annotated[
        bool,
        typer.Option("--metadata", help="Propose a file for tenants, namespaces and credentials, too."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print what was found and decided as JSON, the file within it.")
    ] = False,
) -> None:
    """Look at this machine and write a configuration that works on it to standard output.

    Nothing on the machine is changed, and a device that holds data is never proposed. Then:
    mezzo setup > mezzo.toml && mezzo serve --config mezzo.toml
    """
    proposal = propose(Host(), Wishes(tuple(device or ()), capacity, hot, tuple(listen or ()), metadata))
    text = write_toml(proposal)
    if json:
        json_result(msgspec.json.encode({**msgspec.to_builtins(proposal), "toml": text}))
        return
    sys.stdout.write(text)
    for note in proposal.notes:
        remark(f"note: {note}")
    for step in next_steps(metadata):
        remark(f"next: {step}")


def next_steps(metadata: bool) -> list[str]:
    """What to do with the file, in order."""
    if not metadata:
        return ["mezzo serve --config mezzo.toml   (if that is what the file is called)"]
    return [
        "mezzo tenant create NAME --config mezzo.toml   (a tenant and its token, which is shown once)",
        "mezzo credential issue --operator --config mezzo.toml   (for mezzo tenant ... --admin HOST:PORT)",
        "mezzo serve --config mezzo.toml",
    ]
