"""`mezzo meta`: the metadata engine itself."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from mezzo.cli.output import json_result, remark, result

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class MigrationReport(msgspec.Struct, frozen=True):
    """What `mezzo meta migrate` tells."""

    source: str
    target: str
    entries: int
    bytes: int
    left_out: int
    """what running front-ends and shards make anew"""


def register_meta(app: typer.Typer) -> None:
    """Add `mezzo meta` and the commands below it."""
    group = typer.Typer(help="Look after the metadata engine.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command("migrate")(migrate)
    app.add_typer(group, name="meta")


def migrate(
    *,
    source: Annotated[
        str, typer.Option("--from", metavar="ENGINE", help="As in metadata.engine.", show_default=False)
    ],
    target: Annotated[
        str,
        typer.Option(
            "--to", metavar="ENGINE", help="An empty one; made if it is a file.", show_default=False
        ),
    ],
    json: Json = False,
) -> None:
    """Copy tenants, namespaces, quotas and credentials to another engine. Nothing may write to either meanwhile."""
    from mezzo_server.metadata.migration import Migrated
    from mezzo_server.metadata.migration import migrate as copy
    from mezzo_server.metadata.opening import make_engine
    from mezzo_server.pod.records import MEMBERS
    from mezzo_server.tenancy.entries import TICKET_KEYS

    def progress(done: int, entries: int) -> None:
        remark(f"{done} of {entries} entries")

    async def run() -> Migrated:
        one = make_engine(source, create=False)
        try:
            other = make_engine(target)
            try:
                return await copy(one, other, source, (TICKET_KEYS, MEMBERS), progress)
            finally:
                await other.close()
        finally:
            await one.close()

    done = asyncio.run(run())
    report = MigrationReport(source, target, done.entries, done.bytes, done.left_out)
    if json:
        json_result(msgspec.json.encode(report))
        return
    result(
        f"copied {done.entries} entries, {done.bytes} bytes; {done.left_out} of running processes left out"
    )
    result("Change metadata.engine everywhere, then start again.")
