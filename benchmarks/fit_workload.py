"""Fits the preset `conversation` of ``mezzo workload`` to a trace.

    python -m benchmarks.fit_workload TRACE --steps 300

Starts from the preset as it is, changes a few parameters at a time by a few percent, and keeps what
brings the figures of `mezzo.replay.describe` closer to the trace's, over several seeds. Prints the
parameters and what is left of the distance. docs/workload.md has the result.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from msgspec.structs import replace

from mezzo.errors import MezzoError
from mezzo.replay.compare import over_seeds, rows
from mezzo.replay.describe import Description, describe
from mezzo.replay.presets import PRESETS
from mezzo.replay.trace import read_trace
from mezzo.replay.workload import workload
from mezzo.replay.workload_config import WorkloadConfig
from mezzo.replay.workload_settings import load_config

PRESET = "conversation"
FIT_SEEDS = (1001, 1002, 1003)
"""others than those that docs/workload.md shows"""
TABLE_SEEDS = (1, 2, 3, 4, 5)
STEP_SIGMA = 0.12

# Figure and weight: what a cache feels counts most. A weight of 10 makes an error of 10 % cost 1.
WEIGHTS: dict[str, float] = {
    "requests": 15,
    "references": 15,
    "hit_rate_max": 25,
    **{f"lru_hit_rates.{size}": 10 for size in (1000, 2000, 4000, 8000, 16_000, 32_000, 64_000)},
    "single_use_share": 20,
    "used_2_to_4_share": 10,
    "used_5_to_9_share": 3,
    "used_10_or_more_share": 1,
    "first_turn_share": 15,
    "full_hit_share": 2,
    "last_third_to_first": 5,
    **{f"input_tokens.{name}": 6 for name in ("p10", "p25", "p50", "p75", "p90", "p99")},
    "input_tokens.mean": 15,
    **{f"output_tokens.{name}": 5 for name in ("p10", "p25", "p50", "p75", "p90", "p99")},
    "output_tokens.mean": 12,
    **{f"new_blocks.{name}": 5 for name in ("mean", "p50", "p75", "p90", "p99")},
    **{f"reuse_s.{name}": 5 for name in ("mean", "p10", "p25", "p50", "p75", "p90", "p99")},
}
FITTED = (
    "arrivals.sessions_per_s",
    "arrivals.trend",
    *(
        f"conversations.{amount}.{field}"
        for amount in ("opening", "message", "think_s")
        for field in ("median", "sigma", "long_share", "long_median", "long_sigma")
    ),
    "conversations.go_on",
    "conversations.go_on_spread",
    "conversations.retry_share",
    "conversations.edit_share",
    "conversations.edit_keep.median",
    "conversations.edit_keep.sigma",
    "conversations.edit_growth.sigma",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="of the search")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="start from there")
    parser.add_argument("--table", action="store_true", help="fit nothing: the table of docs/workload.md")
    asked = parser.parse_args()
    if asked.table:
        table(describe(read_trace(asked.trace)))
        return
    wanted = dict(figures(describe(read_trace(asked.trace))))
    rng = Random(asked.seed)
    best = msgspec.to_builtins(load_config(PRESET, None, asked.set))
    best_distance = distance(best, wanted)
    print(f"start: {best_distance:.2f}", flush=True)
    for step in range(asked.steps):
        tried = msgspec.json.decode(msgspec.json.encode(best))
        # Wide at first, fine at the end.
        sigma = STEP_SIGMA * (1 - 0.7 * step / asked.steps)
        for name in rng.sample(FITTED, rng.choice((1, 1, 2, 3))):
            change(tried, name, math.exp(rng.gauss(0, sigma)))
        found = distance(tried, wanted)
        if found < best_distance:
            best, best_distance = tried, found
            print(f"step {step}: {best_distance:.2f}", flush=True)
    print(msgspec.json.format(msgspec.json.encode(rounded(best)), indent=2).decode())


def table(published: Description) -> None:
    """The trace beside the preset, in Markdown: what `mezzo workload --compare` shows."""
    made = [describe(workload(replace(PRESETS[PRESET], seed=seed))) for seed in TABLE_SEEDS]
    columns = [published, *over_seeds(PRESET, made)]
    print(f"| | published | preset, mean of {len(made)} seeds | lowest | highest |\n|---|---|---|---|---|")
    for name, cell in rows():
        print(f"| {name.replace('  p', '&nbsp;&nbsp;p')} | {' | '.join(cell(one) for one in columns)} |")


def distance(values: dict[str, Any], wanted: dict[str, float]) -> float:
    """Sum of the squared, weighted relative errors of the figures' means over the seeds."""
    try:
        config = msgspec.convert(values, WorkloadConfig)
        made = [dict(figures(describe(workload(replace(config, seed=seed))))) for seed in FIT_SEEDS]
    except (msgspec.ValidationError, MezzoError):
        return math.inf
    total = 0.0
    for name, weight in WEIGHTS.items():
        mean = sum(one[name] for one in made) / len(made)
        total += (weight * math.log(max(mean, 1e-9) / wanted[name])) ** 2
    return total


def figures(description: Description) -> Iterator[tuple[str, float]]:
    """Figures with dotted names."""
    for name, value in msgspec.to_builtins(description).items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        elif name != "name":
            yield name, value


def change(values: dict[str, Any], name: str, factor: float) -> None:
    *tables, last = name.split(".")
    for table in tables:
        values = values[table]
    values[last] = values[last] * factor


def rounded(values: Any) -> Any:
    """Numbers with three digits: what is finer fits noise."""
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    return float(f"{values:.3g}") if isinstance(values, float) and values < 1e6 else values


if __name__ == "__main__":
    main()
