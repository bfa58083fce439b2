"""`mezzo meta`: the metadata engine itself, and the service over it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from mezzo.cli.output import json_result, remark, result
from mezzo_server.commands.options import LOG_FLAGS, Flag, Settings, takes_settings
from mezzo_server.commands.options import Json as Ready
from mezzo_server.frontend.before_grpc import before_grpc

if TYPE_CHECKING:
    from mezzo_server.metadata.service.main import ServiceReadiness

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
    group = typer.Typer(help="Look after the metadata engine, and serve it to a pod.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command("serve")(serve)
    group.command("migrate")(migrate)
    app.add_typer(group, name="meta")


@takes_settings(
    Flag("metadata_service.listen", metavar="HOST:PORT"),
    Flag("metadata_service.engine", metavar="URL"),
    Flag("metadata_service.secret_file", metavar="FILE"),
    Flag("metadata_service.insecure"),
    Flag("metrics.metadata", "--metrics", metavar="HOST:PORT"),
    *LOG_FLAGS,
    process="metadata",
)
def serve(settings: Settings, *, json: Ready = False) -> None:
    """Run a metadata service over an engine until SIGTERM or SIGINT."""
    before_grpc()
    from mezzo_server.metadata.service.main import serve as run

    def announce(readiness: ServiceReadiness) -> None:
        if json:
            json_result(msgspec.json.encode(readiness))
        else:
            sys.stdout.write("\n".join(describe(msgspec.to_builtins(readiness))) + "\n")
            sys.stdout.flush()

    run(settings.node, announce)


def describe(said: Mapping[str, object]) -> list[str]:
    """The lines that say that a metadata service is ready."""
    reached = "" if said.get("serving") else "  (its engine cannot be reached yet)"
    lines = [f"mezzo metadata service ready (process {said.get('pid', '?')})"]
    lines.append(f"  engine      {said.get('listen', '?')}{reached}")
    return lines + ([f"  metrics     http://{said['metrics']}/metrics"] if said.get("metrics") else [])


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
    from mezzo_server.pod.records import MEMBERS, USES
    from mezzo_server.tenancy.entries import TICKET_KEYS

    def progress(done: int, entries: int) -> None:
        remark(f"{done} of {entries} entries")

    async def run() -> Migrated:
        one = make_engine(source, create=False)
        try:
            other = make_engine(target)
            try:
                return await copy(one, other, source, (TICKET_KEYS, MEMBERS, USES), progress)
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
