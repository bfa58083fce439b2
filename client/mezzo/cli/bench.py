"""``mezzo bench``: load on a running shard."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from mezzo.cli import options as opt
from mezzo.cli.output import console, json_result, progress, result
from mezzo.cli.replay import connect
from mezzo.sizes import format_size

if TYPE_CHECKING:
    from mezzo.replay.load import LoadReport


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    *,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    namespace: opt.Namespace = "default",
    chunk_bytes: Annotated[
        int,
        typer.Option(
            "--chunk", parser=opt.size, metavar="SIZE", show_default="1MiB", help="Bytes per chunk."
        ),
    ] = 1024**2,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Chunks in one request.")] = 4,
    depth: Annotated[int, typer.Option(min=1, max=256, help="Requests in flight.")] = 4,
    chunks: Annotated[int, typer.Option(min=1, help="Chunks that are put first, and then got.")] = 256,
    get: Annotated[float, typer.Option(min=0, help="Share of gets in the mix.")] = 80.0,
    put: Annotated[float, typer.Option(min=0, help="Share of puts, of new chunks.")] = 20.0,
    lookup: Annotated[float, typer.Option(min=0, help="Share of lookups.")] = 0.0,
    duration_s: Annotated[float, typer.Option("--duration", min=0.001, help="Seconds.")] = 10.0,
    operations: Annotated[int, typer.Option(min=0, help="End after so many requests; 0: by time.")] = 0,
    verify: Annotated[bool, typer.Option(help="Compare every byte that a get brings; costs time.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is drawn.")] = 1,
    salt: Annotated[str, typer.Option(help="Part of every key.", show_default="a new one for each run")] = "",
    timeout_s: opt.Timeout = 30.0,
    json: opt.Json = False,
) -> None:
    """Put load on a running shard and print throughput and latencies.

    The address decides the transport: unix:// moves the bytes through shared memory, tcp:// through
    the socket. Exit status 1 if --verify found a wrong byte.
    """
    from mezzo.replay.load import Load, LoadOptions

    options = LoadOptions(
        chunk_bytes=chunk_bytes,
        batch=batch,
        depth=depth,
        chunks=chunks,
        get=get,
        put=put,
        lookup=lookup,
        duration_s=duration_s,
        operations=operations,
        verify=verify,
        seed=seed,
        salt=salt or secrets.token_hex(8),
    )
    run = Load(lambda: connect(address, namespace, timeout_s), options)
    with progress("seconds", max(1, round(duration_s))) as told:
        report = run.run(lambda seconds: told(int(seconds)))
    if json:
        json_result(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        _show(report, address)
    if report.wrong_bytes:
        raise typer.Exit(1)


def _show(report: LoadReport, address: str) -> None:
    options = report.options
    title = (
        f"{address}: {options.batch} x {format_size(options.chunk_bytes)} per request, "
        f"{options.depth} in flight, {report.duration_s:.1f} s"
    )
    table = Table(
        "operation", "requests", "chunks", "done", "GB/s", "p50 ms", "p95 ms", "p99 ms", "max ms", title=title
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name in ("get", "put", "lookup"):
        row = getattr(report, name)
        times = row.latency
        if not row.requests:
            continue
        cells = (f"{value:.2f}" for value in (times.p50_ms, times.p95_ms, times.p99_ms, times.max_ms))
        speed = f"{row.gb_per_s:.2f}" if row.bytes else ""
        table.add_row(name, f"{row.requests:,}", f"{row.chunks:,}", f"{row.done:,}", speed, *cells)
    result(table)
    line = f"{report.requests_per_s:,.0f} requests/s; working set put in {report.fill_s:.1f} s"
    if report.busy or report.timed_out:
        line += f"; {report.busy:,} busy answers, {report.timed_out:,} timeouts"
    if options.verify:
        line += f"; {report.wrong_bytes:,} wrong bytes"
    console().print(line, soft_wrap=True)
