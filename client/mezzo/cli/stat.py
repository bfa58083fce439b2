"""``mezzo stat``: what is known of chunks, or of the shard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec import Struct
from rich.table import Table

from mezzo.cli import chunk_client
from mezzo.cli import options as opt
from mezzo.cli.chunk_client import TIMEOUT_S
from mezzo.cli.keys import count_of, format_key, parse_keys
from mezzo.cli.output import console, json_result, result
from mezzo.cli.shards import shards_at
from mezzo.sizes import about_size

if TYPE_CHECKING:
    from rich.console import Console

# Where people look for a number: the first topic with one of whose words its name begins; the last
# takes what is left. The store grows new numbers, and they must find their place without this table.
TOPICS = (
    ("errors", ("errors", "faults", "fences", "io_errors", "read_errors", "chunks_corrupt", "chunks_lost",
                "mismatches", "checksum_mismatches", "hot_mismatches", "devices_fenced", "streams_not_verified",
                "segments_retired")),
    ("quota", ("quota_", "over_quota")),
    ("time", ("request_", "loop_", "uptime")),
    ("devices", ("device_",)),
    ("reads", ("chunks_got", "bytes_got", "chunks_missed", "gets_", "streams_", "bytes_out")),
    ("hot tier", ("hot_", "arena", "slots")),
    ("writes", ("chunks_put", "bytes_put", "put", "chunks_deleted", "tombstones", "writes_", "flushes",
                "bytes_in", "bytes_written")),
    ("background", ("rewritten", "chunks_rewritten", "scrub", "segments_reclaimed", "chunks_evicted",
                    "bytes_evicted", "segments_given_up", "chunks_expired", "bytes_expired", "chunks_erased",
                    "bytes_erased", "chunks_erasing", "deadlines", "anchor_age")),
    ("space", ("chunks", "bytes_", "segments_", "devices", "capacity_", "namespace_")),
    ("clients", ("connections", "requests", "busy", "cancelled", "refused", "lease", "region", "payload_")),
    ("memory", ("staging", "store_staging", "memory")),
)  # fmt: skip
ORDER = (
    "space",
    "quota",
    "devices",
    "reads",
    "writes",
    "hot tier",
    "clients",
    "memory",
    "time",
    "background",
    "errors",
    "other",
)


class StatChunk(Struct, frozen=True):
    """One chunk that is there."""

    key: str
    bytes: int
    parts: int
    sequence: int
    leased: bool
    ttl_s: float | None
    """what is left of its life; null: it has no end"""
    priority: int


class StatReport(Struct, frozen=True):
    """What ``mezzo stat KEY... --json`` prints."""

    chunks: list[StatChunk]
    missing: list[str]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("stat")(stat)


def stat(
    *,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY...]",
            help="Keys: text is taken as it is (UTF-8), bytes are written hex:0123abcd. Without any: the shard.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Of the shard: numbers that are 0 too.")] = False,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    namespace: opt.Namespace = "default",
    timeout_s: opt.Timeout = TIMEOUT_S,
    json: opt.Json = False,
) -> None:
    """Show what is known of chunks; without a key, the numbers of the shard, or of each shard of the node.

    Exit status 1 if a key is missing.
    """
    if not keys:
        told = {}
        for shard in shards_at(address):
            with chunk_client.open_client(shard, namespace, timeout_s) as client:
                told[shard] = client.shard_stat()
        if json:
            json_result(msgspec.json.encode(told.get(address, told), order="sorted"))
        else:
            for shard, numbers in told.items():
                show_shard(numbers, shard, every=every, to=console())
        return
    wanted = parse_keys(keys)
    with chunk_client.open_client(address, namespace, timeout_s) as client:
        known = client.stat(wanted)
    chunks = [
        StatChunk(
            format_key(key),
            chunk.bytes,
            chunk.parts,
            chunk.sequence,
            chunk.leased,
            None if chunk.ttl_ms < 0 else chunk.ttl_ms / 1000,
            chunk.priority,
        )
        for key, chunk in zip(wanted, known, strict=True)
        if chunk is not None
    ]
    missing = [format_key(key) for key, chunk in zip(wanted, known, strict=True) if chunk is None]
    if json:
        json_result(msgspec.json.encode(StatReport(chunks, missing)))
    else:
        _show_chunks(chunks, missing)
    if missing:
        raise typer.Exit(1)


def _show_chunks(chunks: list[StatChunk], missing: list[str]) -> None:
    if chunks:
        table = Table(
            "key", "bytes", "parts", "sequence", "leased", "ttl", "priority", box=None, header_style="bold"
        )
        for column in (*table.columns[1:4], *table.columns[5:]):
            column.justify = "right"
        table.columns[0].overflow = "fold"
        for chunk in chunks:
            leased = "yes" if chunk.leased else "no"
            table.add_row(
                _plain(chunk.key),
                f"{chunk.bytes:,}",
                str(chunk.parts),
                str(chunk.sequence),
                leased,
                "-" if chunk.ttl_s is None else f"{chunk.ttl_s:,.0f} s",
                str(chunk.priority),
            )
        result(table)
    if missing:
        line = f"{count_of(missing)} missing: {' '.join(missing)}"
        console().print(line, markup=False, soft_wrap=True)


def show_shard(numbers: Mapping[str, float], address: str, *, every: bool, to: Console) -> None:
    """The numbers of a shard by topic; those that are 0 only if ``every``."""
    table = Table(
        box=None, header_style="bold", title=_plain(address), title_justify="left", show_header=False
    )
    table.add_column("topic", style="bold")
    table.add_column("name", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("about", style="dim")
    left_out = 0
    for topic in ORDER:
        names = [name for name in sorted(numbers) if topic_of(name) == topic]
        shown = [name for name in names if numbers[name] or every]
        left_out += len(names) - len(shown)
        for index, name in enumerate(shown):
            value = numbers[name]
            exact = f"{value:,.0f}" if value == int(value) else f"{value:,.3f}"
            about = about_size(value) if "bytes" in name and value >= 1024 else ""
            last = index == len(shown) - 1
            table.add_row(topic if index == 0 else "", name, exact, about, end_section=last)
    to.print(table)
    if left_out:
        to.print(f"{left_out} more are 0 (--all shows them)", style="dim", markup=False)


def topic_of(name: str) -> str:
    """Under which heading people look for a number of this name."""
    for topic, beginnings in TOPICS:
        if name.startswith(beginnings):
            return topic
    return "other"


def _plain(text: str) -> str:
    """Text in which rich sees no markup."""
    return text.replace("[", r"\[")
