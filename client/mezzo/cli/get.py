"""``mezzo get``: chunks become a file, or go to standard output."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer
from msgspec import Struct

from mezzo.cli import chunk_client
from mezzo.cli import options as opt
from mezzo.cli.chunk_client import TIMEOUT_S
from mezzo.cli.keys import count_of, format_key, parse_keys
from mezzo.cli.output import complain, json_result, remark
from mezzo.errors import InvalidArgument
from mezzo.sizes import about_size

if TYPE_CHECKING:
    import mezzo


class GotChunk(Struct, frozen=True):
    """One chunk that was written."""

    key: str
    bytes: int


class GetReport(Struct, frozen=True):
    """What ``mezzo get --out FILE --json`` prints."""

    chunks: list[GotChunk]
    missing: list[str]
    bytes: int
    """written"""
    path: str | None
    """None: nothing was written, because a key is missing"""


class Missed(Exception):
    """Keys that are not there."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        super().__init__(*keys)
        self.keys = [format_key(key) for key in keys]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("get")(get)


def get(
    *,
    keys: chunk_client.Keys,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write; without it, standard output.", dir_okay=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace the file; write to a terminal.")
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST[:COUNT]",
            help="Only these parts of each chunk, counted from 0.",
            show_default="all",
        ),
    ] = None,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    namespace: opt.Namespace = "default",
    timeout_s: opt.Timeout = TIMEOUT_S,
    json: opt.Json = False,
) -> None:
    """Read chunks, one after another, into a file or to standard output.

    A file appears when all of it is there, or not at all. Exit status 1 if a key is missing: nothing
    is written then.
    """
    wanted = parse_keys(keys)
    parts = parse_part(part)
    if json and out is None:
        raise InvalidArgument("--json needs --out: without a file the chunk itself is the standard output")
    with chunk_client.open_client(address, namespace, timeout_s) as client:
        try:
            with _opened(out, force=force) as file:
                chunks = copy_chunks(client, wanted, parts, file)
        except Missed as missed:
            if json:
                json_result(msgspec.json.encode(GetReport([], missed.keys, 0, None)))
            complain(f"{count_of(missed.keys)} missing: {' '.join(missed.keys)}")
            raise typer.Exit(1) from None
    report = GetReport(chunks, [], sum(chunk.bytes for chunk in chunks), str(out))
    if json:
        json_result(msgspec.json.encode(report))
    elif out is not None:
        remark(f"{out}: {about_size(report.bytes)} from {count_of(chunks)}")


def parse_part(text: str | None) -> tuple[int, int] | None:
    """``3`` and ``3:2`` as (first, count). Raises InvalidArgument for anything else."""
    if text is None:
        return None
    first, colon, count = text.partition(":")
    if not (first.isdecimal() and first.isascii() and (not colon or (count.isdecimal() and count.isascii()))):
        raise InvalidArgument(f"--part {text!r}: write the first part, or FIRST:COUNT, such as 3 or 3:2")
    return int(first), int(count) if colon else 1


def copy_chunks(
    client: mezzo.Client, keys: Sequence[bytes], part: tuple[int, int] | None, file: BinaryIO
) -> list[GotChunk]:
    """Write chunks to ``file``, one at a time in memory. Raises `Missed` before the first if any is missing."""
    known = client.stat(keys)
    if missing := [key for key, chunk in zip(keys, known, strict=True) if chunk is None]:
        raise Missed(missing)
    chunks = []
    for key, chunk in zip(keys, known, strict=True):
        if chunk is None:
            continue
        if part is not None and sum(part) > chunk.parts:
            raise InvalidArgument(
                f"--part: {format_key(key)} has {count_of(range(chunk.parts), 'part')}, counted from 0"
            )
        with client.region(chunk.bytes) as region:
            got = client.get([key], [region[: chunk.bytes]], part=part)
            if not got.count:
                raise Missed([key])  # it went between the two questions
            file.write(region.view[: got.bytes])
        chunks.append(GotChunk(format_key(key), got.bytes))
    return chunks


@contextmanager
def _opened(out: Path | None, *, force: bool) -> Iterator[BinaryIO]:
    """What to write to. A file takes its name when the block ends well; otherwise nothing is left."""
    if out is None:
        if sys.stdout.isatty() and not force:
            raise InvalidArgument("a chunk is no text for a terminal; give --out FILE, a pipe, or --force")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if out.exists() and not stat.S_ISREG(out.stat().st_mode):  # /dev/null, a named pipe
        with out.open("wb") as file:
            yield file
        return
    if out.exists() and not force:
        raise InvalidArgument(f"{out} exists; --force replaces it")
    draft = out.with_name(f".{out.name[:200]}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            yield file
        if force:
            draft.replace(out)
        else:
            _link(draft, out)
    finally:
        draft.unlink(missing_ok=True)


def _link(draft: Path, out: Path) -> None:
    """Give the draft its name unless somebody took it meanwhile."""
    try:
        os.link(draft, out)
    except FileExistsError:
        raise InvalidArgument(f"{out} exists; --force replaces it") from None
    except OSError:  # a filesystem without links
        draft.rename(out)
