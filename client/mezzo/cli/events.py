"""``mezzo events``: what happens in a namespace, live."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from msgspec import Struct

from mezzo.cli import chunk_client
from mezzo.cli import options as opt
from mezzo.cli.chunk_client import TIMEOUT_S
from mezzo.cli.keys import format_key
from mezzo.cli.output import console, json_result
from mezzo.events import Cursor, Gap, Happening
from mezzo.sizes import about_size


class EventReport(Struct, frozen=True):
    """One line of ``mezzo events --json``."""

    kind: str
    """``stored``, why a chunk was removed, or ``gap``"""
    cursor: str
    """for ``--after``"""
    key: str = ""
    bytes: int = 0
    listed: bool = False
    """the chunk was there when the namespace was listed"""
    reason: str = ""
    """of a gap"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("events")(events)


def events(
    *,
    after: Annotated[
        str, typer.Option(metavar="CURSOR", help="Begin behind this cursor, which --json tells.")
    ] = "",
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="List the chunks that are there first.")
    ] = False,
    count: Annotated[int, typer.Option(min=0, help="End after so many lines; 0: never.")] = 0,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    namespace: opt.Namespace = "default",
    timeout_s: opt.Timeout = TIMEOUT_S,
    json: opt.Json = False,
) -> None:
    """Watch what is stored in a namespace and removed from it, in order."""
    cursor = Cursor.parse(after) if after else None
    with chunk_client.open_client(address, namespace, timeout_s) as client:
        client.connect(timeout_s)
        for number, happening in enumerate(client.events(cursor, snapshot=snapshot), 1):
            if json:
                json_result(msgspec.json.encode(report(happening)))
            else:
                console().print(line(happening), markup=False, soft_wrap=True)
            if number == count:
                return


def report(happening: Happening) -> EventReport:
    """One thing that happened, for programs."""
    cursor = str(happening.cursor)
    if isinstance(happening, Gap):
        return EventReport("gap", cursor, reason=happening.reason.name.lower())
    key, kind = format_key(happening.key), happening.kind.name.lower()
    return EventReport(kind, cursor, key, happening.bytes, happening.listed)


def line(happening: Happening) -> str:
    """One thing that happened, for people."""
    if isinstance(happening, Gap):
        return f"gap ({happening.reason.name.lower()}): what is present is not known from before"
    kind = "present" if happening.listed else happening.kind.name.lower()
    return f"{kind:8} {format_key(happening.key)} {about_size(happening.bytes)}"
