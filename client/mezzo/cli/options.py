"""Options that several commands share."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from mezzo.cli.output import remark
from mezzo.credentials import TOKEN_VARIABLE
from mezzo.durations import parse_duration
from mezzo.errors import InvalidArgument
from mezzo.replay.trace import Trace, read_trace
from mezzo.sizes import parse_size

DEFAULT_BLOCK_BYTES = 64 * 1024
DEFAULT_ADDRESS = "unix:///tmp/mezzo.sock"

TRACES_VARIABLE = "MEZZO_TRACES"
# As published (kvcache-ai/Mooncake, FAST25-release/traces), and as people rename it.
TRACE_NAMES = ("conversation_trace.jsonl", "mooncake_conversation.jsonl")


def size(value: str | int) -> int:
    """A size option's value, or its default; what is no size is a usage error."""
    try:
        return value if isinstance(value, int) else parse_size(value)
    except InvalidArgument as error:
        raise typer.BadParameter(str(error)) from error


def duration(value: str | float) -> float:
    """A duration option's value in seconds, or its default; what is no duration is a usage error."""
    try:
        return value if isinstance(value, float) else parse_duration(value)
    except InvalidArgument as error:
        raise typer.BadParameter(str(error)) from error


Address = Annotated[
    str,
    typer.Option(
        "--server",
        "--address",
        "-a",
        envvar="MEZZO_ADDRESS",
        help="The shard: unix:///path (shared memory), tcp://host:port, or tcps://host:port for TLS.",
    ),
]


_FROM_FILE = "mezzo.token_file"


def _use_token(context: typer.Context, value: str | None) -> str | None:
    """What the SDK shows to front-ends, in this process and those that it starts; an empty text: nothing."""
    if value is not None and not context.meta.get(_FROM_FILE):
        os.environ[TOKEN_VARIABLE] = value
    return None


def _use_token_file(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if not text:
            raise typer.BadParameter(f"{path} is empty")
        os.environ[TOKEN_VARIABLE] = text
        context.meta[_FROM_FILE] = True
    return None


Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar=TOKEN_VARIABLE,
        show_envvar=True,
        metavar="TOKEN",
        callback=_use_token,
        expose_value=False,
        help="Shown to the front-end. Other users of this host can see it: better a file, or the variable.",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=_use_token_file,
        expose_value=False,
        dir_okay=False,
        exists=True,
        help="File with the token; wins over --token.",
    ),
]
Namespace = Annotated[str, typer.Option(help="Namespace of the chunks.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds until a call fails.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
TracePath = Annotated[
    Path | None,
    typer.Argument(
        metavar="TRACE",
        help="Trace, JSON lines. Without it: the Mooncake conversation trace in the folder that "
        f"{TRACES_VARIABLE} names, or else a seeded workload.",
        show_default=False,
    ),
]
BlockBytes = Annotated[
    int,
    typer.Option(
        "--block", parser=size, metavar="SIZE", show_default="64KiB", help="Bytes per block of 512 tokens."
    ),
]
Concurrency = Annotated[int, typer.Option("--concurrency", "-c", min=1, max=256, help="Requests in flight.")]
Requests = Annotated[int, typer.Option("--requests", min=0, help="Only the first so many requests; 0: all.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the workload that stands in for a trace.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for the results.", show_default="mezzo-replay-<time>", file_okay=False),
]
Plot = Annotated[bool, typer.Option(help="Whether to draw a plot.")]


def load_trace(path: Path | None, seed: int) -> Trace:
    """The trace that was asked for, else the published one if it is at hand, else the workload."""
    if path is None:
        path = _published()
    if path is not None:
        return read_trace(path)
    remark(
        f"no trace given, and none in {TRACES_VARIABLE}: taking a seeded workload of our own, fitted to the "
        "published conversation trace (docs/replay.md says where that is)"
    )
    from msgspec.structs import replace

    from mezzo.replay.presets import PRESETS
    from mezzo.replay.workload import workload

    return workload(replace(PRESETS["conversation"], seed=seed))


def _published() -> Path | None:
    folder = os.environ.get(TRACES_VARIABLE)
    if not folder:
        return None
    for name in TRACE_NAMES:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    remark(f"{TRACES_VARIABLE}={folder}: neither {' nor '.join(TRACE_NAMES)} is there")
    return None


def results_folder(chosen: Path | None, prefix: str) -> Path:
    """Make the folder for the results. One that is there already is fine if it was asked for."""
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        return chosen
    base = f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        folder = Path(base + suffix)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise InvalidArgument(f"folder {base}: it and 98 more with this name are there already; give --out")
