"""``mezzo lookup``: how much of a prefix is there."""

from __future__ import annotations

import msgspec
import typer
from msgspec import Struct

from mezzo.cli import chunk_client
from mezzo.cli import options as opt
from mezzo.cli.chunk_client import TIMEOUT_S
from mezzo.cli.keys import parse_keys
from mezzo.cli.output import console, json_result
from mezzo.sizes import about_size


class LookupReport(Struct, frozen=True):
    """What ``mezzo lookup --json`` prints."""

    keys: int
    """asked for"""
    prefix: int
    """keys that are there, counted from the first one on"""
    bytes: int
    """their bytes in all"""
    load_s: float
    """estimate of the time that a get of them would take now, in seconds"""
    load_high_s: float
    """nine of ten such gets take no longer"""
    hot_prefix: int
    """keys in the hot tier, counted from the first one on"""
    hot_bytes: int
    """bytes of them in the hot tier"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("lookup")(lookup)


def lookup(
    *,
    keys: chunk_client.Keys,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    namespace: opt.Namespace = "default",
    timeout_s: opt.Timeout = TIMEOUT_S,
    json: opt.Json = False,
) -> None:
    """Say how many of the keys, from the first one on, are there, and how long their get would take.

    Exit status 1 if not all of them are there.
    """
    wanted = parse_keys(keys)
    with chunk_client.open_client(address, namespace, timeout_s) as client:
        found = client.lookup(wanted)
    report = LookupReport(
        len(wanted),
        found.prefix,
        found.bytes,
        found.load_s,
        found.load_high_s,
        found.hot_prefix,
        found.hot_bytes,
    )
    if json:
        json_result(msgspec.json.encode(report))
    else:
        line = f"{report.prefix} of {report.keys} from the first on, {about_size(report.bytes)}"
        if report.prefix:
            line += f", about {report.load_s * 1000:.2f} ms to load"
        console().print(line, markup=False, soft_wrap=True)
    if report.prefix < report.keys:
        raise typer.Exit(1)
