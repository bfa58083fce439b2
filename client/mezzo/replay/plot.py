"""A picture of a replay: hit rate, throughput and requests over time, one above the other."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mezzo.replay.report import Report

# Okabe and Ito's colours, told apart by colour-blind readers as well: https://jfly.uni-koeln.de/color/
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
GREY = "#777777"


def write_plot(report: Report, path: Path) -> None:
    """Write a PNG. Raises `OSError`."""
    figure = Figure(figsize=(9.0, 7.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    hit_rate, throughput, requests = figure.subplots(3, 1, sharex=True)
    middles = [(window.start_s + window.end_s) / 2 for window in report.timeline]

    hit_rate.plot(
        middles, [100 * window.hit_rate_max for window in report.timeline], color=GREY, linestyle="--",
        label=f"ceiling ({report.hit_rate_max:.1%} in all)",
    )  # fmt: skip
    hit_rate.plot(
        middles, [100 * window.hit_rate for window in report.timeline], color=BLUE,
        label=f"hit rate ({report.hit_rate:.1%} in all)",
    )  # fmt: skip
    if report.tiers is not None:
        hot = [100 * window.hot_rate for window in report.timeline]
        hit_rate.fill_between(
            middles, hot, color=ORANGE, alpha=0.45, linewidth=0, label=f"of it hot ({_hot_rate(report):.1%} in all)"
        )  # fmt: skip
    highest = max((window.hit_rate_max for window in report.timeline), default=0.0)
    hit_rate.set_ylim(0, min(100.0, max(10.0, 115 * highest)))
    finish(hit_rate, "blocks hit", "percent")

    throughput.plot(
        middles, [window.got_gb_per_s for window in report.timeline], color=BLUE,
        label=f"got ({report.got_bytes / 1e9:.1f} GB in all)",
    )  # fmt: skip
    throughput.plot(
        middles, [window.put_gb_per_s for window in report.timeline], color=ORANGE,
        label=f"put ({report.put_bytes / 1e9:.1f} GB in all)",
    )  # fmt: skip
    throughput.set_ylim(bottom=0)
    finish(throughput, "payload moved", "GB/s")

    rates = [window.requests / (window.end_s - window.start_s) for window in report.timeline]
    requests.plot(middles, rates, color=GREEN, label=f"requests ({report.requests:,} in all)")
    requests.set_ylim(bottom=0)
    finish(requests, "requests served", "per second")
    requests.set_xlabel("time since the start of the replay (s)")
    requests.set_xlim(0, max(report.duration_s, 1e-9))

    size = report.options.block_bytes
    blocks = f"{size // 1024} KiB" if size % 1024 == 0 else f"{size} bytes"
    figure.suptitle(f"{report.trace}, blocks of {blocks}, {report.wrong_bytes} wrong bytes", fontsize=11)
    figure.savefig(path)


def _hot_rate(report: Report) -> float:
    got = report.in_place + (report.tiers.hot_chunks if report.tiers is not None else 0)
    return got / max(1, report.references)


def finish(axes: Axes, title: str, unit: str) -> None:
    """Title, unit, grid and legend, the same in all pictures."""
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel(unit)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the title, where no line runs.
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), frameon=False, fontsize=8, ncols=3)
