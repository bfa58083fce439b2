"""``mezzo workload``: generate a workload as a trace, or look at the figures of traces."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer

from mezzo.cli.output import json_result, remark, result
from mezzo.errors import InvalidArgument

if TYPE_CHECKING:
    from mezzo.replay.trace import Request, Trace
    from mezzo.replay.workload_config import WorkloadConfig

PRESET_DEFAULT = "conversation"
COMPARED_MAX = 16


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("workload")(write_workload)


def write_workload(
    *,
    out: Annotated[
        Path | None, typer.Option(help="File to write; without it, standard output.", dir_okay=False)
    ] = None,
    preset: Annotated[
        str, typer.Option(help="conversation, chat, documents or agents: what to start from.")
    ] = PRESET_DEFAULT,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with parameters that differ from the preset.", dir_okay=False),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One parameter that differs; may be repeated."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Another seed, another trace.", show_default="the preset's")
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option("--duration", help="Seconds that it lasts.", show_default="the preset's")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=0, help="Requests, at most; 0: as many as come.")
    ] = None,
    sessions_per_s: Annotated[
        float | None, typer.Option(help="Sessions that begin in a second.", show_default="the preset's")
    ] = None,
    listed: Annotated[
        bool,
        typer.Option(
            "--list",
            help="Write nothing; print every parameter with its limits and meaning, as a file for --config.",
        ),
    ] = False,
    described: Annotated[
        list[Path] | None,
        typer.Option(
            "--describe",
            metavar="TRACE",
            help="Write nothing; print the figures of this trace. May be repeated.",
        ),
    ] = None,
    compared: Annotated[
        list[Path] | None,
        typer.Option(
            "--compare",
            metavar="TRACE",
            help="Write nothing; print this trace's figures beside the workload's.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, max=COMPARED_MAX, help="With --compare: mean, lowest and highest of so many seeds."
        ),
    ] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print figures or parameters as JSON.")] = False,
) -> None:
    """Generate conversations and agents as a trace, the same for the same seed and parameters.

    docs/workload.md explains every parameter, and how close the preset `conversation` comes to the
    published trace that it is fitted to.
    """
    from msgspec.structs import replace

    from mezzo.replay.trace import Trace
    from mezzo.replay.workload import stream, workload
    from mezzo.replay.workload_settings import load_config

    wanted = {"seed": seed, "duration_s": duration_s, "requests_max": requests}
    given = [f"{name}={value}" for name, value in wanted.items() if value is not None]
    if sessions_per_s is not None:
        given.append(f"arrivals.sessions_per_s={sessions_per_s}")
    if described:
        _show([_read(path) for path in described], json=json)
        return
    parameters = load_config(preset, config, [*(changes or []), *given])
    if listed:
        _list(parameters, json=json)
    elif compared:
        made = []
        for number in range(seeds):
            one = replace(parameters, seed=parameters.seed + number)
            made.append(Trace(f"{preset}, seed {one.seed}", workload(one).requests))
        _show([_read(path) for path in compared], made, preset, json=json)
    elif out is None:
        _write(stream(parameters), sys.stdout.buffer)
    else:
        _write_file(parameters, out, json=json)


def _write(requests: Iterable[Request], file: BinaryIO) -> None:
    from mezzo.replay.trace import format_request

    for request in requests:
        file.write(format_request(request) + b"\n")
    file.flush()


def _write_file(parameters: WorkloadConfig, out: Path, *, json: bool) -> None:
    from mezzo.replay.workload import stream

    counted = _Counted()
    requests = counted(stream(parameters))
    first = next(requests, None)  # what is wrong with the parameters is told before the file is touched
    if first is None:
        raise InvalidArgument("workload: no request: a longer duration_s, or more arrivals.sessions_per_s")
    with out.open("wb") as file:
        _write([first], file)
        _write(requests, file)
    if json:
        json_result(msgspec.json.encode({"path": str(out), **counted.figures()}))
        return
    remark(
        f"{out}: {counted.requests:,} requests in {counted.last_ms / 1000:,.0f} s, {counted.references:,} blocks, "
        f"{counted.input_tokens / counted.requests:,.0f} input and "
        f"{counted.output_tokens / counted.requests:,.0f} output tokens on average; "
        "mezzo workload --describe has more"
    )


class _Counted:
    """Passes requests on and counts what can be counted without keeping them."""

    def __init__(self) -> None:
        self.requests = self.references = self.input_tokens = self.output_tokens = 0
        self.last_ms = 0.0

    def __call__(self, requests: Iterable[Request]) -> Iterator[Request]:
        for request in requests:
            self.requests += 1
            self.references += len(request.hash_ids)
            self.input_tokens += request.input_tokens
            self.output_tokens += request.output_tokens
            self.last_ms = request.timestamp_ms
            yield request

    def figures(self) -> dict[str, float]:
        return {
            "requests": self.requests,
            "references": self.references,
            "input_tokens_mean": self.input_tokens / self.requests,
            "output_tokens_mean": self.output_tokens / self.requests,
            "last_request_s": self.last_ms / 1000,
        }


def _read(path: Path) -> Trace:
    from mezzo.replay.trace import read_trace

    return read_trace(path)


def _show(read: list[Trace], made: Sequence[Trace] = (), name: str = "", *, json: bool) -> None:
    from mezzo.replay.compare import comparison, over_seeds
    from mezzo.replay.describe import describe

    if len(read) > COMPARED_MAX:
        raise InvalidArgument(f"{len(read)} traces: at most {COMPARED_MAX} side by side")
    for trace in (*read, *made):
        if not trace.requests:
            raise InvalidArgument(f"{trace.name}: no request in it, so there is nothing to describe")
    described = [describe(trace) for trace in read]
    seeds = [describe(trace) for trace in made]
    if json:
        json_result(msgspec.json.encode(described + seeds))
    else:
        result(comparison(described + (over_seeds(name, seeds) if len(seeds) > 1 else seeds)))


def _list(parameters: WorkloadConfig, *, json: bool) -> None:
    if json:
        json_result(msgspec.json.encode(parameters))
        return
    from mezzo.replay.workload_settings import commented_toml

    sys.stdout.write(commented_toml(parameters))
