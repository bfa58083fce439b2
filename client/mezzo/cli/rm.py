"""``mezzo rm``: delete chunks."""

from __future__ import annotations

import msgspec
import typer
from msgspec import Struct

from mezzo.cli import chunk_client
from mezzo.cli import options as opt
from mezzo.cli.chunk_client import TIMEOUT_S
from mezzo.cli.keys import format_key, parse_keys
from mezzo.cli.output import console, json_result


class RemovedChunk(Struct, frozen=True):
    """One key, and whether it was there."""

    key: str
    deleted: bool


class RemoveReport(Struct, frozen=True):
    """What ``mezzo rm --json`` prints."""

    chunks: list[RemovedChunk]
    deleted: int


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rm")(remove)


def remove(
    *,
    keys: chunk_client.Keys,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    namespace: opt.Namespace = "default",
    timeout_s: opt.Timeout = TIMEOUT_S,
    json: opt.Json = False,
) -> None:
    """Delete chunks, and say for each key whether it was there.

    Exit status 0 either way: when it is done none of them is there.
    """
    wanted = parse_keys(keys)
    with chunk_client.open_client(address, namespace, timeout_s) as client:
        result = client.delete(wanted)
    chunks = [
        RemovedChunk(format_key(key), deleted) for key, deleted in zip(wanted, result.deleted, strict=True)
    ]
    if json:
        json_result(msgspec.json.encode(RemoveReport(chunks, result.count)))
        return
    for chunk in chunks:
        said = "deleted" if chunk.deleted else "was not there"
        console().print(f"{said}  {chunk.key}", markup=False, soft_wrap=True)
