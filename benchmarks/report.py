"""Results as JSON, as a table, and as the marked block in docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.harness import Row, Unmeasured
from benchmarks.machine import Machine

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCUMENT = HERE.parent / "docs" / "performance.md"
BEGIN = "<!-- table: python -m benchmarks --docs -->"
END = "<!-- end of table -->"

HEADINGS = ("what", "unit", "reference", "ours", "ratio", "min, quartiles, max", "target", "met")


class Result(Struct, frozen=True, kw_only=True):
    """One benchmark's run."""

    benchmark: str
    title: str
    taken: str
    """when, UTC"""
    seconds: float
    """how long it took"""
    quick: bool
    """small and short: only to see that it works"""
    pairs: int
    where: str
    """filesystem and device, where that matters"""
    machine: Machine
    rows: list[Row]
    unmeasured: list[Unmeasured]


def save(result: Result, folder: Path = RESULTS) -> Path:
    """Write ``<benchmark>.json``, over an older one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.benchmark}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    return path


def load(names: Sequence[str], folder: Path = RESULTS) -> list[Result]:
    """What is there of these benchmarks, in their order."""
    paths = (folder / f"{name}.json" for name in names)
    return [msgspec.json.decode(path.read_bytes(), type=Result) for path in paths if path.exists()]


def figure(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, one cell for each of `HEADINGS`."""
    spread = row.spread
    around = f"{figure(spread.min)}, {figure(spread.q1)} - {figure(spread.q3)}, {figure(spread.max)}"
    target = ""
    if row.target is not None:
        target = f"{'at least' if row.better == 'higher' else 'at most'} {row.target:g}"
    met = "" if row.met is None else "yes" if row.met else "no"
    reference = f"{row.reference}: {figure(row.reference_median)}" if row.reference else ""
    ratio = figure(spread.median) if row.reference else ""
    return (row.name, row.unit, reference, figure(row.ours_median), ratio, around, target, met)


def table(results: Sequence[Result]) -> str:
    """All of them in Markdown."""
    if not results:
        return "Not measured yet.\n"
    blocks = []
    for result in results:
        lines = [f"### {result.title}", "", about(result), ""]
        if result.rows:
            lines += [_line(HEADINGS), _line(["---"] * len(HEADINGS))]
            lines += [_line(cells(row)) for row in result.rows]
            lines.append("")
        lines += [f"- {row.name}: {row.note}" for row in result.rows if row.note]
        lines += [f"- not measured: {row.name}: {row.reason}" for row in result.unmeasured]
        details = _details(result.rows)
        if details:
            lines += [*([""] if lines[-1] else []), *details]
        blocks.append("\n".join(lines).rstrip() + "\n")
    return "\n".join(blocks)


def about(result: Result) -> str:
    """One line on when, where and how a benchmark ran."""
    machine = result.machine
    parts = [
        f"{machine.cores} cores ({machine.processor})",
        f"{machine.memory_bytes / 2**30:.0f} GiB",
        machine.kernel,
        result.where,
        f"Python {machine.python}",
        *(f"{tool} {version}" for tool, version in machine.tools.items()),
        f"{result.pairs} {'pair' if result.pairs == 1 else 'pairs'}",
        f"{result.taken}, {result.seconds:.0f} s",
    ]
    line = "; ".join(part for part in parts if part)
    return f"**Quick run: it shows that it works, the figures mean little.** {line}" if result.quick else line


def _details(rows: Sequence[Row]) -> list[str]:
    """What was seen on the side, in a table of its own."""
    keys = list(dict.fromkeys(key for row in rows for key in (*row.ours_detail, *row.reference_detail)))
    if not keys:
        return []
    lines = [_line(["seen on the side", *(key.replace("_", " ") for key in keys)])]
    lines.append(_line(["---"] * (len(keys) + 1)))
    for row in rows:
        for who, detail in (("reference", row.reference_detail), ("ours", row.ours_detail)):
            if detail:
                values = [figure(detail[key]) if key in detail else "" for key in keys]
                lines.append(_line([f"{row.name}, {who}", *values]))
    return lines


def _line(items: Sequence[str]) -> str:
    return "| " + " | ".join(item.replace("|", "\\|") for item in items) + " |"


def put_into(document: str, block: str) -> str:
    """The document with what stands between its two marks replaced. ValueError without the marks."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{block.strip()}\n\n{END}{after}"


def write_tables(names: Sequence[str], *, docs: bool) -> list[Result]:
    """Write ``results/table.md`` from what is there, and the block in docs/performance.md if ``docs``."""
    results = load(names)
    text = table(results)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "table.md").write_text(text)
    if docs:
        DOCUMENT.write_text(put_into(DOCUMENT.read_text(), text))
    return results
