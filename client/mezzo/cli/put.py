"""``mezzo put``: files become chunks."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer
from msgspec import Struct

from mezzo.cli import chunk_client
from mezzo.cli import options as opt
from mezzo.cli.chunk_client import TIMEOUT_S
from mezzo.cli.keys import count_of, format_key, parse_key
from mezzo.cli.output import complain, console, json_result
from mezzo.errors import InvalidArgument, TooLarge
from mezzo.protocol.messages import PARTS_MAX, PRIORITY_DEFAULT, PRIORITY_MAX
from mezzo.sizes import about_size, format_size

if TYPE_CHECKING:
    import mezzo
    from mezzo.regions import Region

STDIN = "-"


class PutChunk(Struct, frozen=True):
    """What became of one file."""

    key: str
    state: str
    """stored, exists, declined or failed"""
    bytes: int
    parts: int


class PutReport(Struct, frozen=True):
    """What ``mezzo put --json`` prints."""

    chunks: list[PutChunk]
    stored: int
    exists: int
    declined: int
    """that the server did not take: it does not think them worth its devices' writes now"""
    failed: int


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("put")(put)


def put(
    *,
    items: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY FILE",
            help="Pairs of a key and a file; - is standard input. A key is text as it is (UTF-8), or "
            "hex:0123abcd.",
        ),
    ],
    part_bytes: Annotated[
        int,
        typer.Option(
            "--part-bytes",
            parser=opt.size,
            metavar="SIZE",
            show_default="one part",
            help="Cut each chunk into parts of this size, each of which can be read alone.",
        ),
    ] = 0,
    ttl_s: Annotated[
        float | None,
        typer.Option(
            "--ttl",
            parser=opt.duration,
            metavar="TIME",
            show_default="as namespace and tenant say",
            help="How long the chunks live: 90s, 10min, 1.5h, 7d.",
        ),
    ] = None,
    priority: Annotated[
        int,
        typer.Option(min=0, max=PRIORITY_MAX, help="The higher, the longer the server tries to keep them."),
    ] = PRIORITY_DEFAULT,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    namespace: opt.Namespace = "default",
    timeout_s: opt.Timeout = TIMEOUT_S,
    json: opt.Json = False,
) -> None:
    """Store files as chunks, and say for each whether it was stored or its key existed already.

    A chunk never changes: where the key exists, the bytes that are there stay. Exit status 2 if a
    chunk could not be stored.
    """
    pairs = parse_pairs(items)
    chunks = []
    with chunk_client.open_client(address, namespace, timeout_s) as client:
        limit_bytes = client.chunk_bytes_max()
        for position, (key, file) in enumerate(pairs):
            with ExitStack() as stack:
                region, length = read_file(file, limit_bytes, client, stack)
                parts = parts_of(length, part_bytes)
                result = client.put(
                    [key],
                    [region[:length]],
                    parts=parts if part_bytes else None,
                    position=position,
                    ttl_s=ttl_s,
                    priority=priority,
                )
            state = result.states[0].name.lower()
            chunks.append(PutChunk(format_key(key), state, length, len(parts)))
    states = [chunk.state for chunk in chunks]
    report = PutReport(chunks, *(states.count(state) for state in ("stored", "exists", "declined", "failed")))
    if json:
        json_result(msgspec.json.encode(report))
    else:
        for chunk in chunks:
            parts_text = "" if chunk.parts == 1 else f", {chunk.parts} parts"
            line = f"{chunk.state}  {chunk.key}  {about_size(chunk.bytes)}{parts_text}"
            console().print(line, markup=False, soft_wrap=True)
    if report.failed:
        complain(f"{count_of([c for c in chunks if c.state == 'failed'])} not stored: the device failed")
        raise typer.Exit(2)


def parse_pairs(items: Sequence[str]) -> list[tuple[bytes, str]]:
    """Keys and their files.

    Raises:
        InvalidArgument: one is without the other, a key has the wrong form, - is there twice.
    """
    if len(items) % 2:
        raise InvalidArgument(
            f"put takes pairs of a key and a file, and {items[-1]!r} is left over; to store standard input "
            "give - as the file"
        )
    pairs = [(parse_key(key), file) for key, file in zip(items[::2], items[1::2], strict=True)]
    if [file for _, file in pairs].count(STDIN) > 1:
        raise InvalidArgument("standard input (-) can be stored under one key only")
    return pairs


def parts_of(length: int, part_bytes: int) -> list[int]:
    """Lengths of the parts of a chunk; the last one may be shorter.

    Raises:
        InvalidArgument: there would be more than a chunk can have.
    """
    if not part_bytes:
        return [length]
    count = -(-length // part_bytes)
    if count > PARTS_MAX:
        raise InvalidArgument(
            f"--part-bytes {format_size(part_bytes)} cuts {length} bytes into {count} parts; a chunk has at "
            f"most {PARTS_MAX}: give at least {-(-length // PARTS_MAX)}"
        )
    return [part_bytes] * (count - 1) + [length - part_bytes * (count - 1)]


def read_file(name: str, limit_bytes: int, client: mezzo.Client, stack: ExitStack) -> tuple[Region, int]:
    """The bytes of a file in a region that lives as long as ``stack``, and how many they are.

    Raises:
        TooLarge: it is over ``limit_bytes``; no more than that is ever read.
        InvalidArgument: it is empty, or no file.
    """
    if name == STDIN:
        return _read_stream(sys.stdin.buffer, "standard input", limit_bytes, client, stack)
    with open(name, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return _read_stream(file, name, limit_bytes, client, stack)
        _check(status.st_size, name, limit_bytes)
        region = stack.enter_context(client.region(status.st_size))
        length = 0
        while length < status.st_size:
            count = file.readinto(region.view[length:])
            if not count:
                raise InvalidArgument(f"{name} became shorter while it was read")
            length += count
        return region, length


def _read_stream(
    stream: BinaryIO, name: str, limit_bytes: int, client: mezzo.Client, stack: ExitStack
) -> tuple[Region, int]:
    pieces = []
    length = 0
    while length <= limit_bytes and (piece := stream.read(min(1024**2, limit_bytes + 1 - length))):
        pieces.append(piece)
        length += len(piece)
    _check(length, name, limit_bytes)
    region = stack.enter_context(client.region(length))
    at = 0
    for piece in pieces:
        region.view[at : at + len(piece)] = piece
        at += len(piece)
    return region, length


def _check(length: int, name: str, limit_bytes: int) -> None:
    if length > limit_bytes:
        raise TooLarge(
            f"{name} has more bytes than a chunk may have: the shard's limits.chunk_bytes_max is "
            f"{format_size(limit_bytes)}"
        )
    if not length:
        raise InvalidArgument(f"{name} is empty; a chunk has at least one byte")
