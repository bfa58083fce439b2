"""``mezzo workload``: write the seeded workload as a trace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mezzo.cli import options as opt
from mezzo.cli.output import json_result, remark
from mezzo.replay.trace import format_request
from mezzo.replay.workload import WorkloadOptions, workload

DEFAULTS = WorkloadOptions()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("workload")(write_workload)


def write_workload(
    *,
    out: Annotated[
        Path | None, typer.Option(help="File to write; without it, standard output.", dir_okay=False)
    ] = None,
    seed: opt.Seed = DEFAULTS.seed,
    conversations: Annotated[int, typer.Option(min=1, help="Conversations.")] = DEFAULTS.conversations,
    duration_s: Annotated[
        float, typer.Option("--duration", help="Seconds within which they begin.")
    ] = DEFAULTS.duration_s,
    system_prompts: Annotated[
        int, typer.Option(min=1, help="System prompts that they share.")
    ] = DEFAULTS.system_prompts,
    turns_mean: Annotated[
        float, typer.Option("--turns", help="Turns of a conversation, on average.")
    ] = DEFAULTS.turns_mean,
    json: Annotated[
        bool, typer.Option("--json", help="With --out: print what the trace holds as JSON.")
    ] = False,
) -> None:
    """Write a seeded workload of multi-turn conversations with shared system prompts, as a trace."""
    made = workload(
        WorkloadOptions(
            seed=seed,
            conversations=conversations,
            duration_s=duration_s,
            system_prompts=system_prompts,
            turns_mean=turns_mean,
        )
    )
    lines = b"".join(format_request(request) + b"\n" for request in made.requests)
    if out is None:
        sys.stdout.write(lines.decode())
        return
    out.write_bytes(lines)
    summary = made.summary()
    if json:
        json_result(msgspec.json.encode({"path": str(out), **msgspec.to_builtins(summary)}))
    else:
        remark(
            f"{out}: {summary.requests:,} requests, {summary.references:,} blocks, "
            f"{summary.distinct:,} distinct, ceiling of the hit rate {summary.hit_rate_max:.1%}"
        )
