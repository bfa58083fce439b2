"""``mezzo replay``: a trace against a running shard, every byte checked."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mezzo.cli import options as opt
from mezzo.cli.output import console, json_result, progress, result

if TYPE_CHECKING:
    from mezzo.frontend.via import Via
    from mezzo.replay.report import Report
    from mezzo.replay.trace import Trace
    from mezzo.replay.worker import ReplayOptions, StoreClient


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay")(replay)


def replay(
    *,
    trace: opt.TracePath = None,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    namespace: opt.Namespace = "default",
    block_bytes: opt.BlockBytes = opt.DEFAULT_BLOCK_BYTES,
    concurrency: opt.Concurrency = 4,
    time_scale: Annotated[
        float,
        typer.Option(min=0, help="Seconds of the trace per second; 0: as fast as possible."),
    ] = 0.0,
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="How many times to run the trace.")] = 1,
    requests: opt.Requests = 0,
    salt: Annotated[
        str, typer.Option(help="Another salt, other keys: blocks of earlier replays are no hits.")
    ] = "",
    seed: opt.Seed = 1,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Read hot chunks where they lie, under a lease (shared memory only)."
        ),
    ] = False,
    timeout_s: opt.Timeout = 30.0,
    out: opt.Out = None,
    plot: opt.Plot = True,
    json: opt.Json = False,
) -> None:
    """Replay a trace against a running shard and check every byte that comes back.

    For each request: lookup of its prefix, get of what is there, put of what is not. Writes
    replay.json and replay.png to a folder. Exit status 1 if any byte was wrong.
    """
    from mezzo.replay.report import encode_report
    from mezzo.replay.worker import ReplayOptions

    loaded = opt.load_trace(trace, seed).head(requests).repeated(epochs)
    options = ReplayOptions(
        block_bytes=block_bytes, concurrency=concurrency, time_scale=time_scale, salt=salt, in_place=in_place
    )
    report = run_replay(loaded, options, address, namespace, timeout_s)
    folder = opt.results_folder(out, "mezzo-replay")
    write_results(report, folder, plot=plot)
    if json:
        json_result(encode_report(report))
    else:
        show(report)
        show_folder(folder)
    if report.wrong_bytes:
        raise typer.Exit(1)


def connect(
    address: str, namespace: str, timeout_s: float, *, token: str | None = None, via: Via = "auto"
) -> AbstractContextManager[StoreClient]:
    """A client; it connects with its first call."""
    import mezzo

    return mezzo.Client(address, namespace=namespace, timeout_s=timeout_s, token=token, via=via)


def run_replay(
    trace: Trace,
    options: ReplayOptions,
    address: str,
    namespace: str,
    timeout_s: float,
    *,
    token: str | None = None,
    operator: str | None = None,
    via: Via = "auto",
) -> Report:
    """Run a trace, with a bar on a terminal, and sum it up.

    ``operator``: token of who is told the numbers of the whole shard, if that is not everybody.
    """
    import time

    import mezzo
    from mezzo.replay.report import make_report
    from mezzo.replay.runner import Replay
    from mezzo.replay.tiers import TierSampler

    watching = token if operator is None else operator
    with mezzo.Client(address, namespace=namespace, timeout_s=timeout_s, token=watching, via=via) as observer:
        before = observer.shard_stat()
        sampler = TierSampler(observer.shard_stat, time.monotonic)
        sampler.take(before)
        run = Replay(lambda: connect(address, namespace, timeout_s, token=token, via=via), trace, options)
        with progress("replay", len(trace.requests)) as told:

            def look(done: int) -> None:
                told(done)
                sampler.look()

            outcome = run.run(look)
        after = observer.shard_stat()
        sampler.take(after)
    return make_report(
        trace=trace.name,
        trace_sha256=trace.sha256,
        summary=trace.summary(),
        address=address,
        options=options,
        outcome=outcome,
        server={name: value - before.get(name, 0) for name, value in after.items()},
        samples=sampler.samples,
    )


def write_results(report: Report, folder: Path, *, plot: bool) -> None:
    """Write replay.json and replay.png."""
    from mezzo.replay.report import write_report

    write_report(report, folder / "replay.json")
    if plot:
        from mezzo.replay.plot import write_plot

        write_plot(report, folder / "replay.png")


def show(report: Report) -> None:
    """Print the tables."""
    from mezzo.replay.report import tables

    for table in tables(report):
        result(table)


def show_folder(folder: Path) -> None:
    """Say where the results are."""
    console().print(f"results: {folder}", markup=False, soft_wrap=True)
