"""`mezzo simulate`: policies compared by replay of a trace, and a whole pod with faults, without a node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mezzo.cli.options import size
from mezzo.cli.output import console, json_result, progress, remark, result
from mezzo.errors import InvalidArgument
from mezzo_server.commands.simulate_faults import faults

POLICIES = "density,fifo,lru,s3fifo,sieve"
BUDGETS = "1.0,1.1,1.25"
CAPACITIES = "5,10,20,50"
RUNS_MAX = 10_000


def register_simulate(app: typer.Typer) -> None:
    """Add `mezzo simulate` and the commands below it."""
    group = typer.Typer(
        help="Play policies, or a whole pod with faults, without a node.", no_args_is_help=True
    )
    group.callback()(lambda: None)
    group.command("policies")(policies)
    group.command("faults")(faults)
    app.add_typer(group, name="simulate")


def policies(
    *,
    trace: Annotated[
        Path, typer.Argument(help="Trace as of `mezzo replay`, or libCacheSim's CSV (*.csv).", dir_okay=False)
    ],
    names: Annotated[str, typer.Option("--policies", help="Policies, separated by commas.")] = POLICIES,
    budgets: Annotated[str, typer.Option(help="Write amplifications that are allowed.")] = BUDGETS,
    capacities: Annotated[
        str, typer.Option(help="Capacities, in percent of the trace's distinct bytes.")
    ] = CAPACITIES,
    block: Annotated[
        int,
        typer.Option(
            parser=size,
            metavar="SIZE",
            show_default="64KiB",
            help="Bytes of a chunk, where the trace has none.",
        ),
    ] = 64 << 10,
    segments: Annotated[int, typer.Option(min=8, max=65536, help="Segments of the device.")] = 256,
    admissions: Annotated[
        str, typer.Option("--admission", help="Admission: none, second_touch; separated by commas.")
    ] = "none",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Runs of each setting.")] = 1,
    requests: Annotated[int, typer.Option(min=0, help="Requests, at most; 0: all.")] = 0,
    columns: Annotated[
        str, typer.Option(help="Columns of time, object and size in a CSV, from 1.")
    ] = "1,2,3",
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Runs at a time.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for policies.json, policies.md and policies.png.", file_okay=False),
    ] = None,
    plot: Annotated[bool, typer.Option(help="Draw the plot, with --out.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare reclaim policies on a trace: prefix hits against write amplification, beside the optimum.

    Each run goes through the store's own code, on a device that stores nothing, in the trace's time.
    """
    from mezzo_server.blockstore.policies import policy
    from mezzo_server.simulate.compare import compare, settings
    from mezzo_server.simulate.tables import markdown, table
    from mezzo_server.simulate.workload import read_workload

    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        policy(name)
    wanted = settings(
        chosen,
        _numbers("--budgets", budgets, 1.0, 16.0),
        [share / 100 for share in _numbers("--capacities", capacities, 0.1, 1000.0)],
        seeds,
        _admissions(admissions),
    )
    if not 0 < len(wanted) <= RUNS_MAX:
        raise InvalidArgument(f"{len(wanted)} runs; 1 to {RUNS_MAX} are possible")
    first, second, third = _columns(columns)
    workload = read_workload(trace, (first, second, third)).head(requests)
    with progress("simulating", len(wanted)) as report:
        comparison = compare(
            workload, wanted, chunk_bytes=block, segments=segments, jobs=jobs, progress=report
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "policies.json").write_bytes(comparison.encode() + b"\n")
        (out / "policies.md").write_text(markdown(comparison))
        if plot:
            from mezzo_server.simulate.plot import write_plot

            write_plot(comparison, out / "policies.png")
        remark(f"written to {out}")
    if json:
        json_result(comparison.encode())
        return
    result(table(comparison))
    console().print(
        f"{comparison.trace}: {comparison.references:,} references, {comparison.distinct_bytes:,} distinct bytes. "
        "Each cell: prefix hits, share of the optimum, write amplification.",
        soft_wrap=True,
    )


def _numbers(option: str, text: str, least: float, most: float) -> list[float]:
    try:
        values = [float(cell) for cell in text.split(",") if cell.strip()]
    except ValueError:
        values = []
    if not values or not all(least <= value <= most for value in values):
        raise InvalidArgument(f"{option} {text!r}: numbers from {least:g} to {most:g}, separated by commas")
    return values


def _admissions(text: str) -> list[str]:
    modes = [cell.strip() for cell in text.split(",")]
    if not modes or not set(modes) <= {"none", "second_touch"}:
        raise InvalidArgument(f"--admission {text!r}: none, second_touch, or both")
    return modes


def _columns(text: str) -> tuple[int, int, int]:
    cells = [cell.strip() for cell in text.split(",")]
    if len(cells) != 3 or not all(cell.isdigit() and 1 <= int(cell) <= 64 for cell in cells):
        raise InvalidArgument(f"--columns {text!r}: three numbers from 1 to 64, such as 1,2,3")
    first, second, third = (int(cell) - 1 for cell in cells)
    return first, second, third
