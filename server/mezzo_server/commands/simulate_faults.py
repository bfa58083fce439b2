"""`mezzo simulate faults`: a whole pod in virtual time, with everything that goes wrong with it, from a seed."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer

from mezzo.cli.output import console, json_result, progress
from mezzo.errors import InvalidArgument

LINES = 60


class FaultsReport(msgspec.Struct, frozen=True):
    """One run that failed, or the only one."""

    seed: int
    failure: str | None
    """what must never happen, and happened; null: all is well"""
    digest: str
    """hash of the trace: the same for the same seed and options, wherever it is played"""
    numbers: dict[str, float]
    trace: list[str]
    """its last lines"""
    reproduce: str
    """the command that plays it again"""


class FaultsSummary(msgspec.Struct, frozen=True):
    """All runs."""

    seeds: int
    """played"""
    failed: int
    seconds: float
    """that it took"""
    runs: list[FaultsReport]
    """those that failed; the only one, if there was but one"""


def faults(
    *,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="How many seeds, one after the other.")
    ] = 1,
    count: Annotated[
        int | None, typer.Option("--faults", min=0, max=10_000, help="Faults of a run. Default: 12.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=1, max=10_000, help="Of virtual time for which they strike. Default: 20."),
    ] = None,
    kinds: Annotated[
        str, typer.Option(help="Kinds of faults, separated by commas. Default: a choice from the seed.")
    ] = "",
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Processes.")] = 1,
    stop_after: Annotated[
        float, typer.Option(min=0, help="Begin no other seed after so many seconds; 0: play all.")
    ] = 0.0,
    trace: Annotated[bool, typer.Option("--trace", help="Print the whole trace, as it comes.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Play a whole pod in virtual time, with faults from a seed, and check what must always hold.

    Exit status 1 if an invariant does not hold, with the end of the trace and the command that plays it again.
    """
    from mezzo_server.testing.simulation.many import play
    from mezzo_server.testing.simulation.options import DEFAULTS, KINDS, Options

    chosen = tuple(name.strip() for name in kinds.split(",") if name.strip())
    unknown = sorted(set(chosen) - set(KINDS))
    if unknown:
        raise InvalidArgument(f"--kinds {', '.join(unknown)}: there are {', '.join(KINDS)}")
    options = Options(
        DEFAULTS.faults if count is None else count,
        DEFAULTS.seconds if seconds is None else seconds,
        chosen or None,
    )
    told = console()
    tell = (lambda line: told.print(line, markup=False, soft_wrap=True)) if trace else None
    began = time.monotonic()
    played, failed = 0, []
    with progress("seeds", seeds) as report:
        for outcome in play(range(seed, seed + seeds), options, jobs, stop_after, tell):
            played += 1
            report(played)
            if outcome.failure is not None or seeds == 1:
                failed.append(
                    FaultsReport(
                        outcome.seed,
                        outcome.failure,
                        outcome.digest,
                        outcome.numbers,
                        list(outcome.lines[-LINES:]),
                        options.command(outcome.seed),
                    )
                )
    summary = FaultsSummary(
        played, sum(run.failure is not None for run in failed), round(time.monotonic() - began, 1), failed
    )
    if json:
        json_result(msgspec.json.encode(summary))
    else:
        for run in failed:
            for line in () if trace or run.failure is None else run.trace:
                told.print(line, markup=False, soft_wrap=True)
            if run.failure is not None:
                told.print(f"seed {run.seed}: {run.failure}", markup=False, soft_wrap=True)
                told.print(f"to play it again: {run.reproduce}", markup=False, soft_wrap=True)
            told.print(
                f"seed {run.seed}: trace {run.digest}, "
                + ", ".join(f"{value:g} {name}" for name, value in run.numbers.items()),
                markup=False,
                soft_wrap=True,
            )
        told.print(f"{played} seeds, {summary.failed} failed, {summary.seconds:g} s", soft_wrap=True)
    if summary.failed:
        raise typer.Exit(1)
