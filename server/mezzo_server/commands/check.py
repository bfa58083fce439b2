"""`mezzo check`: devices verified offline."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
import typer

from mezzo.cli.output import console, json_result
from mezzo.errors import InvalidArgument
from mezzo_server.commands.progress import recovery_progress


def check(
    *,
    device: Annotated[list[str], typer.Argument(help="File or block device; all devices of one store.")],
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Verify devices offline: read every record and report. Exit status 1 if anything is wrong."""
    from mezzo_server.blockstore.check import check_devices

    for path in device:
        if not os.path.exists(path) and os.path.exists(f"{path}.0"):
            raise InvalidArgument(
                f"{path} is divided among shards, each with a store of its own: check {path}.0 and those that follow, "
                "one at a time"
            )
    with recovery_progress() as progress:
        report = check_devices(device, progress=progress)
    if json:
        json_result(msgspec.json.encode(report))
    else:
        console().print(str(report), markup=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(1)
