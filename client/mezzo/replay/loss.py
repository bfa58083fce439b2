"""What the loss of a node did to a replay: hits before, meanwhile and after, as figures, bars and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from rich.table import Table
from rich.text import Text

from mezzo.replay.figures import Served, windows

BARS_MAX = 24
BAR_CELLS = 40
EIGHTHS = " ▏▎▍▌▋▊▉█"


class Moment(Struct, frozen=True):
    """Something that was done to the pod, or that it did."""

    at_s: float
    """since the run's start"""
    what: str
    phase: str
    """what the time from then on is called"""


class Phase(Struct, frozen=True):
    """The replay between two moments."""

    name: str
    start_s: float
    end_s: float
    requests: int
    references: int
    hits: int
    possible: int
    """hits that a cache could have had that keeps everything"""

    @property
    def share(self) -> float:
        """Of the possible hits, those that there were."""
        return self.hits / self.possible if self.possible else 0.0


def phases(served: Iterable[Served], duration_s: float, moments: Sequence[Moment], first: str) -> list[Phase]:
    """The replay cut at the moments, which are in the order of time; ``first`` is what its beginning is called."""
    starts = [0.0, *(min(moment.at_s, duration_s) for moment in moments)]
    ends = [*starts[1:], duration_s]
    names = [first, *(moment.phase for moment in moments)]
    groups: list[list[Served]] = [[] for _ in names]
    for one in served:
        index = max(number for number, start_s in enumerate(starts) if start_s <= one.end_s or not number)
        groups[index].append(one)
    return [
        Phase(
            name,
            start_s,
            end_s,
            len(group),
            sum(one.references for one in group),
            sum(one.hits for one in group),
            sum(one.seen_before for one in group),
        )
        for name, start_s, end_s, group in zip(names, starts, ends, groups, strict=True)
    ]


def phase_table(found: Sequence[Phase]) -> Table:
    """One row for each phase."""
    table = Table("", "seconds", "requests", "block references", "hits", "of the possible hits")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in found:
        table.add_row(
            one.name,
            f"{one.start_s:.1f} to {one.end_s:.1f}",
            f"{one.requests:,}",
            f"{one.references:,}",
            f"{one.hits:,}",
            f"{one.share:.0%}" if one.possible else "-",
        )
    return table


def bars(served: Sequence[Served], duration_s: float, moments: Sequence[Moment]) -> Text:
    """Which part of the possible hits there were, over time, with the moments where they were; a screen at most."""
    text = Text()
    found = windows(served, duration_s, BARS_MAX)
    left = list(moments)
    for number, window in enumerate(found):
        share = window.hit_rate / window.hit_rate_max if window.hit_rate_max else 0.0
        notes = []
        while left and (left[0].at_s < window.end_s or number == len(found) - 1):
            notes.append(left.pop(0).what)
        text.append(f"{window.start_s:5.1f} to {window.end_s:4.1f} s  ")
        text.append(bar(share), style="blue")
        text.append(f" {share:4.0%}" if window.requests else "     ")
        if notes:
            text.append(f"  <- {'; '.join(notes)}", style="bold")
        text.append("\n")
    text.right_crop(1)
    return text


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of ``cells`` letters, full at 1; what is over is cut."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + EIGHTHS[rest] * (rest > 0)).ljust(cells)
