"""A comparison as text: a table for the terminal, and the same in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from rich.table import Table

from mezzo_server.simulate.compare import Comparison, Outcome

Row = tuple[str, float]


def rows(comparison: Comparison) -> tuple[list[float], list[tuple[Row, list[list[Outcome]]]]]:
    """(capacities, for each policy and budget its runs at each capacity)."""
    capacities = list(dict.fromkeys(o.setting.capacity_share for o in comparison.outcomes))
    found: dict[Row, dict[float, list[Outcome]]] = {}
    for outcome in comparison.outcomes:
        setting = outcome.setting
        name = setting.policy if setting.admission == "none" else f"{setting.policy}, {setting.admission}"
        row = found.setdefault((name, setting.budget), {})
        row.setdefault(setting.capacity_share, []).append(outcome)
    ordered = sorted(found, key=lambda row: (row[1], list(found).index(row)))
    return capacities, [(row, [found[row].get(share, []) for share in capacities]) for row in ordered]


def table(comparison: Comparison) -> Table:
    """For the terminal: hit rate, share of the optimum, write amplification at each capacity."""
    capacities, lines = rows(comparison)
    made = Table(box=None, header_style="bold", pad_edge=False)
    made.add_column("policy")
    made.add_column("budget", justify="right")
    for share in capacities:
        made.add_column(f"{100 * share:g}% of distinct", justify="right")
    made.add_row("optimum", "", *(f"{comparison.optima[f'{100 * s:g}']:.1%}" for s in capacities))
    last = None
    for (policy, budget), cells in lines:
        if last not in (None, budget):
            made.add_row()
        last = budget
        made.add_row(policy, f"{budget:g}", *map(_cell, cells))
    return made


def markdown(comparison: Comparison) -> str:
    """The table of docs/policies.md."""
    capacities, lines = rows(comparison)
    head = ["policy", "budget", *(f"{100 * share:g}%" for share in capacities)]
    text = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    text.append(_line(["optimum", "", *(f"{comparison.optima[f'{100 * s:g}']:.1%}" for s in capacities)]))
    text += [_line([policy, f"{budget:g}", *map(_cell, cells)]) for (policy, budget), cells in lines]
    return "\n".join(text) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(outcomes: Sequence[Outcome]) -> str:
    """Hit rate, share of the optimum, amplification: means over the seeds."""
    if not outcomes:
        return ""
    rate = mean(outcome.hit_rate for outcome in outcomes)
    share = mean(outcome.of_optimum for outcome in outcomes)
    written = mean(outcome.write_amplification for outcome in outcomes)
    return f"{rate:.1%} ({share:.2f}) x{written:.2f}"
