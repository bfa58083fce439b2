"""python -m benchmarks [NAME ...] [--quick]; see docs/performance.md."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct, structs
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.harness import Row, Skipped, Unmeasured
from benchmarks.machine import machine, place
from benchmarks.settings import Settings, quick


class Benchmark(Struct, frozen=True):
    """A module with ``rows(settings)``, and what it measures."""

    module: str
    title: str
    where: str = ""
    """which folder of the settings it measures, if one"""


BENCHMARKS = {
    "disk": Benchmark("device_disk", "Device: the disk", "disk"),
    "tmpfs": Benchmark("device_tmpfs", "Device: a file on tmpfs", "tmpfs"),
    "cost": Benchmark("cost", "Our own cost, on the null device"),
    "tcp": Benchmark("tcp", "TCP"),
    "lookup": Benchmark("lookup", "Lookup"),
    "estimates": Benchmark("estimates", "Estimates of load times", "disk"),
    "tls": Benchmark("tls", "TLS"),
    "hot": Benchmark("hot", "Hot tier"),
    "in_place": Benchmark("in_place", "Use in place"),
    "frontend": Benchmark("frontend", "Through the front-end"),
    "others": Benchmark("others", "Redis, and one file per chunk", "disk"),
    "restart": Benchmark("restart", "Restart", "disk"),
    "commit": Benchmark("commit_order", "Order of commit: header after the payload, or at once", "disk"),
    "reclaim": Benchmark("reclaim", "What reclaim costs", "disk"),
    "fairness": Benchmark("fairness", "A loud neighbour", "disk"),
    "timing_attack": Benchmark("timing_attack", "Timing of another tenant's chunks (S2)"),
    "placement": Benchmark("placement", "Placement"),
    "spread": Benchmark("spread", "Spread over several shards"),
    "shards": Benchmark("shards", "A second shard on the same cores"),
    "encryption": Benchmark("encryption", "What encryption at rest costs"),
}


def main(arguments: Sequence[str]) -> int:
    """Run what is named, or all; 1 if one of them broke (a missed target is no failure)."""
    options = _parse(arguments)
    console = Console()
    names = list(BENCHMARKS)
    if not options.docs:
        settings = _settings(options)
        broken = [name for name in options.name or names if not _run(name, settings, console)]
    else:
        broken = []
    report.write_tables(names, docs=options.docs)
    console.print(f"wrote {report.DOCUMENT if options.docs else report.RESULTS / 'table.md'}")
    if broken:
        console.print(f"[red]broken: {', '.join(broken)}")
    return 1 if broken else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Mezzo beside its references.")
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all if none"
    )
    parser.add_argument("--quick", action="store_true", help="only see that it works (2 minutes)")
    parser.add_argument("--pairs", type=int, help="pairs of samples for each row; 15")
    parser.add_argument("--seconds", type=float, help="length of one sample; 1")
    parser.add_argument("--disk", type=Path, default=Path(), help="a folder on the disk to measure; this one")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="a folder on a tmpfs")
    parser.add_argument(
        "--docs", action="store_true", help="measure nothing: put what was measured into docs/performance.md"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.name) - set(BENCHMARKS)
    if unknown:
        parser.error(
            f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
        )
    return options


def _settings(options: argparse.Namespace) -> Settings:
    settings = Settings(disk=options.disk, tmpfs=options.tmpfs)
    if options.quick:
        settings = quick(settings)
    if options.pairs is not None:
        settings = structs.replace(settings, pairs=max(1, options.pairs))
    if options.seconds is not None:
        settings = structs.replace(settings, sample_s=max(0.05, options.seconds))
    return settings


def _run(name: str, settings: Settings, console: Console) -> bool:
    """Run one, show and save it. False if it broke."""
    benchmark = BENCHMARKS[name]
    began = time.monotonic()
    taken: list[Row] = []
    unmeasured: list[Unmeasured] = []
    whole = True
    console.rule(benchmark.title)
    try:
        rows: Callable[[Settings], Iterator[Row | Unmeasured]]
        rows = importlib.import_module(f"benchmarks.{benchmark.module}").rows
        for row in rows(settings):
            if isinstance(row, Row):
                taken.append(row)
                console.print(" | ".join(cell for cell in report.cells(row) if cell), highlight=False)
            else:
                unmeasured.append(row)
    except Skipped as reason:
        unmeasured.append(Unmeasured(name=benchmark.title, reason=str(reason)))
    except Exception as error:
        whole = False
        console.print_exception()
        unmeasured.append(Unmeasured(name=benchmark.title, reason=f"broke: {type(error).__name__}: {error}"))
    where = ""
    if benchmark.where:
        spot = place(getattr(settings, benchmark.where))
        where = f"{spot.filesystem} on {spot.device}"
    result = report.Result(
        benchmark=name,
        title=benchmark.title,
        taken=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        seconds=round(time.monotonic() - began, 1),
        quick=settings.quick,
        pairs=settings.pairs,
        where=where,
        machine=machine(),
        rows=taken,
        unmeasured=unmeasured,
    )
    report.save(result)
    _show(result, console)
    return whole


def _show(result: report.Result, console: Console) -> None:
    shown = Table(*report.HEADINGS, title=result.title)
    for row in result.rows:
        shown.add_row(*report.cells(row), style="red" if row.met is False else None)
    if result.rows:
        console.print(shown)
    for missing in result.unmeasured:
        console.print(f"not measured: {missing.name}: {missing.reason}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
