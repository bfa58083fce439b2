"""The picture of a replay during which a node was lost: hits of what was possible, and requests, over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mezzo.replay.figures import Window
from mezzo.replay.loss import Moment
from mezzo.replay.plot import BLUE, GREEN, GREY, ORANGE, finish


def write_loss_plot(title: str, timeline: Sequence[Window], moments: Sequence[Moment], path: Path) -> None:
    """Write a PNG. Raises `OSError`."""
    figure = Figure(figsize=(9.0, 6.0), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    hits, requests = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    middles = [(window.start_s + window.end_s) / 2 for window in timeline]
    shares = [
        100 * window.hit_rate / window.hit_rate_max if window.hit_rate_max else 0.0 for window in timeline
    ]
    hits.fill_between(middles, shares, color=BLUE, alpha=0.25, linewidth=0)
    hits.plot(middles, shares, color=BLUE, label="hits")
    hits.set_ylim(0, 112)
    hits.axhline(100, color=GREY, linestyle="--", linewidth=1, label="a cache that keeps everything")
    finish(hits, "of the hits that were possible", "percent")
    rates = [window.requests / (window.end_s - window.start_s) for window in timeline]
    requests.plot(middles, rates, color=GREEN, label="requests")
    requests.set_ylim(bottom=0)
    finish(requests, "requests served", "per second")
    requests.set_xlabel("time since the start of the replay (s)")
    end_s = max((window.end_s for window in timeline), default=1.0)
    requests.set_xlim(0, end_s)
    for number, moment in enumerate(moments):
        for axes in (hits, requests):
            axes.axvline(moment.at_s, color=ORANGE, linewidth=1.5, zorder=1)
        # One below the other, since they may come within a second; late ones to the left of their line.
        late = moment.at_s > end_s / 2
        hits.annotate(
            moment.what, (moment.at_s, 46 - 11 * number), xytext=(-6 if late else 6, 0),
            ha="right" if late else "left", va="center", textcoords="offset points", fontsize=8, zorder=3,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": ORANGE, "linewidth": 0.6},
        )  # fmt: skip
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)
