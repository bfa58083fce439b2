"""The report of a replay: one value, written as JSON and shown as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.table import Table

from mezzo.replay.figures import Latency, Window, latency, windows
from mezzo.replay.runner import Outcome
from mezzo.replay.tiers import Tiers, TierSample, tiers
from mezzo.replay.trace import TraceSummary
from mezzo.replay.worker import ReplayOptions, Wrong

REPORT_VERSION = 1


class Report(Struct, frozen=True, kw_only=True):
    """All figures of one replay. Later versions only add fields."""

    version: int = REPORT_VERSION
    trace: str
    trace_sha256: str
    address: str
    options: ReplayOptions
    summary: TraceSummary
    duration_s: float
    requests: int
    references: int
    hits: int
    hit_rate: float
    hit_rate_max: float
    """ceiling: references seen before / references, for an unbounded cache that starts empty"""
    got_bytes: int
    put_bytes: int
    got_gb_per_s: float
    """bytes got / whole duration of the run, 10**9 bytes a second; not the speed of one get"""
    put_gb_per_s: float
    stored: int
    exists: int
    refused: int
    lost: int
    evicted: int
    """chunks that the shard evicted during the run"""
    rewritten_bytes: int
    """bytes that it wrote once more meanwhile, to keep chunks of segments that it reclaimed"""
    wrong_blocks: int
    wrong_bytes: int
    wrong: list[Wrong]
    busy: int
    given_up: int
    late_s_max: float
    lookup: Latency
    get: Latency
    put: Latency
    timeline: tuple[Window, ...]
    tiers: Tiers | None = None
    """by the shard's counters; None: it does not count by tier"""
    in_place: int = 0
    """of the hits, those that were read where they lie"""
    gone: int = 0
    """blocks that were taken back while they were read in place: misses"""
    acquire: Latency = Latency(0, 0.0, 0.0, 0.0, 0.0)


def make_report(
    *,
    trace: str,
    trace_sha256: str,
    summary: TraceSummary,
    address: str,
    options: ReplayOptions,
    outcome: Outcome,
    server: Mapping[str, float],
    samples: Sequence[TierSample] = (),
) -> Report:
    """Sum up a run.

    ``server``: by how much the shard's counters rose meanwhile (absent: not at all); ``samples``: its
    counters by tier during the run.
    """
    tally = outcome.tally
    seconds = max(outcome.duration_s, 1e-9)
    return Report(
        trace=trace,
        trace_sha256=trace_sha256,
        address=address,
        options=options,
        summary=summary,
        duration_s=outcome.duration_s,
        requests=tally.requests,
        references=tally.references,
        hits=tally.hits,
        hit_rate=tally.hits / max(1, tally.references),
        hit_rate_max=summary.hit_rate_max,
        got_bytes=tally.got_bytes,
        put_bytes=tally.put_bytes,
        got_gb_per_s=tally.got_bytes / seconds / 1e9,
        put_gb_per_s=tally.put_bytes / seconds / 1e9,
        stored=tally.stored,
        exists=tally.exists,
        refused=tally.refused,
        lost=tally.lost,
        evicted=int(server.get("chunks_evicted", 0)),
        rewritten_bytes=int(server.get("rewritten_bytes", 0)),
        wrong_blocks=tally.wrong_blocks,
        wrong_bytes=tally.wrong_bytes,
        wrong=tally.wrong,
        busy=tally.busy,
        given_up=tally.given_up,
        late_s_max=tally.late_s_max,
        lookup=latency(tally.lookup_s),
        get=latency(tally.get_s),
        put=latency(tally.put_s),
        timeline=windows(tally.served, outcome.duration_s, samples=samples),
        tiers=tiers(server),
        in_place=tally.in_place,
        gone=tally.gone,
        acquire=latency(tally.acquire_s),
    )


def encode_report(report: Report) -> bytes:
    """JSON, indented, with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def write_report(report: Report, path: Path) -> None:
    """Write the report as JSON. Raises `OSError`."""
    path.write_bytes(encode_report(report))


def tables(report: Report) -> tuple[Table, Table]:
    """What was done, and how long it took, for people."""
    figures = Table(title=report.trace, title_justify="left", show_header=False)
    for name, value in _rows(report):
        figures.add_row(name, value)
    times = Table("latency", "calls", "p50 ms", "p95 ms", "p99 ms", "max ms")
    for column in times.columns[1:]:
        column.justify = "right"
    for name in ("lookup", "get", "put", "acquire"):
        if name == "acquire" and not report.acquire.count:
            continue
        row: Latency = getattr(report, name)
        cells = (f"{value:.2f}" for value in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms))
        times.add_row(name, f"{row.count:,}", *cells)
    return figures, times


def _rows(report: Report) -> list[tuple[str, str]]:
    options = report.options
    of_max = report.hit_rate / report.hit_rate_max if report.hit_rate_max else 0.0
    rows = [
        ("requests", f"{report.requests:,} in {report.duration_s:.1f} s"),
        ("block references", f"{report.references:,}, {report.summary.distinct:,} distinct"),
        ("bytes per block", f"{options.block_bytes:,}"),
        (
            "hit rate",
            f"{report.hit_rate:.1%} of a ceiling of {report.hit_rate_max:.1%} ({of_max:.0%} of what is possible)",
        ),
        *_tier_rows(report),
        ("got", f"{_gb(report.got_bytes)}, {report.got_gb_per_s:.2f} GB/s over the run"),
        ("put", f"{_gb(report.put_bytes)}, {report.put_gb_per_s:.2f} GB/s over the run"),
        ("reclaim", f"{report.evicted:,} blocks evicted, {_gb(report.rewritten_bytes)} rewritten"),
        (
            "wrong bytes",
            f"{report.wrong_bytes:,}" + (f" in {report.wrong_blocks:,} blocks" * (report.wrong_blocks > 0)),
        ),
    ]
    if report.exists:
        rows.append(("put, but there already", f"{report.exists:,} blocks"))
    if report.lost:
        rows.append(("reclaimed before the get", f"{report.lost:,} blocks"))
    if report.gone:
        rows.append(("taken back while read in place", f"{report.gone:,} blocks"))
    if report.refused:
        rows.append(("not stored", f"{report.refused:,} blocks"))
    if report.busy or report.given_up:
        rows.append(("busy answers", f"{report.busy:,}, {report.given_up:,} calls given up"))
    if options.time_scale:
        rows.append(("latest start", f"{report.late_s_max:.2f} s behind the trace's time"))
    if report.hit_rate > report.hit_rate_max:
        rows.append(("note", "the store held blocks of an earlier replay; another --salt starts afresh"))
    return rows


def _tier_rows(report: Report) -> list[tuple[str, str]]:
    """Every block reference once: by the tier that answered it, or as a miss."""
    found = report.tiers
    if found is None:
        return []
    references = max(1, report.references)

    def row(name: str, chunks: int) -> tuple[str, str]:
        return name, f"{chunks:,} ({chunks / references:.1%} of the references)"

    rows = [row("  in place", report.in_place)] if report.in_place else []
    return [
        *rows,
        row("  from the hot tier", found.hot_chunks),
        row("  from the device", found.device_chunks),
        row("  not there", report.references - report.hits),
    ]


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
