"""A picture of a comparison: hit rate over write amplification, a panel for each capacity."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mezzo_server.simulate.compare import Comparison
from mezzo_server.simulate.tables import rows

# Okabe and Ito's colours, told apart by colour-blind readers as well: https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = "os^Dvx+"


def write_plot(comparison: Comparison, path: Path) -> None:
    """Write a PNG. Raises `OSError`."""
    capacities, lines = rows(comparison)
    figure = Figure(figsize=(3.4 * len(capacities) + 1.2, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(capacities), squeeze=False)[0]
    policies = list(dict.fromkeys(policy for (policy, _), _ in lines))
    for place, (panel, share) in enumerate(zip(panels, capacities, strict=True)):
        best = comparison.optima[f"{100 * share:g}"]
        panel.axhline(100 * best, color="#777777", linestyle="--", label="optimum (Belady)")
        for number, policy in enumerate(policies):
            points = [
                (mean(o.write_amplification for o in cells[place]), mean(o.hit_rate for o in cells[place]))
                for (name, _), cells in lines
                if name == policy and cells[place]
            ]
            panel.plot(
                [x for x, _ in points],
                [100 * y for _, y in points],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                label=policy,
            )
        panel.set_title(f"{100 * share:g}% of the distinct bytes", fontsize=10)
        panel.set_xlabel("write amplification")
        panel.grid(visible=True, alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("prefix hits, percent of references")
    # Below all panels: in one of them it would lie over what it explains.
    known = panels[0].get_legend_handles_labels()
    columns = min(len(known[1]), 3 * len(capacities))
    figure.legend(*known, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    figure.suptitle(comparison.trace, fontsize=11)
    figure.savefig(path)
