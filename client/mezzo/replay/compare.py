"""Tables of one trace's figures, or of several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from rich.table import Table

from mezzo.replay.describe import CACHE_BLOCKS, Description, Spread

Cell = Callable[[Description], str]


def comparison(descriptions: Sequence[Description]) -> Table:
    """One column for each."""
    table = Table("", *(one.name for one in descriptions), title_justify="left")
    # Names of files are folded; what stands left of the figures stays on one line.
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
        column.overflow = "fold"
    for name, cell in rows():
        table.add_row(name, *(cell(one) for one in descriptions))
    return table


def over_seeds(name: str, made: Sequence[Description]) -> list[Description]:
    """Mean, lowest and highest of each figure over several seeds, as columns to show beside a trace."""
    count = len(made)
    return [
        _combined(f"{name}, {count} seeds", made, lambda values: sum(values) / count),
        _combined("lowest", made, min),
        _combined("highest", made, max),
    ]


def _combined(name: str, made: Sequence[Description], how: Callable[[Sequence[float]], float]) -> Description:
    def combine(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, dict):
            return {key: combine([value[key] for value in values]) for key in first}
        if isinstance(first, str):
            return name
        return round(how(values)) if isinstance(first, int) else how(values)

    columns = combine([msgspec.to_builtins(one) for one in made])
    # A mean of whole numbers, such as those of tokens, need not be whole.
    return msgspec.convert(columns, Description, strict=False)


def rows() -> list[tuple[str, Cell]]:
    """What is shown: a name, and how it is written."""
    shown: list[tuple[str, Cell]] = [
        ("requests", lambda d: f"{d.requests:,}"),
        ("duration, s", lambda d: f"{d.duration_s:,.0f}"),
        ("block references", lambda d: f"{d.references:,}"),
        ("distinct blocks", lambda d: f"{d.distinct:,}"),
        ("ceiling of the hit rate", lambda d: f"{d.hit_rate_max:.1%}"),
    ]
    shown += [
        (f"LRU hit rate, {size:,} blocks", lambda d, size=size: f"{d.lru_hit_rates[str(size)]:.1%}")  # type: ignore[misc]
        for size in CACHE_BLOCKS
    ]
    shown += [
        ("blocks used once", lambda d: f"{d.single_use_share:.1%}"),
        ("blocks used 2 to 4 times", lambda d: f"{d.used_2_to_4_share:.1%}"),
        ("blocks used 5 to 9 times", lambda d: f"{d.used_5_to_9_share:.1%}"),
        ("blocks used 10 times or more", lambda d: f"{d.used_10_or_more_share:.2%}"),
        ("requests with the first block most used", lambda d: f"{d.first_block_share:.1%}"),
        ("requests with the second block most used", lambda d: f"{d.second_block_share_max:.2%}"),
        ("at most the first block known", lambda d: f"{d.first_turn_share:.1%}"),
        ("all blocks known", lambda d: f"{d.full_hit_share:.1%}"),
    ]
    for label, field in (
        ("input tokens", "input_tokens"),
        ("output tokens", "output_tokens"),
        ("new blocks of a request", "new_blocks"),
        ("time since known prefix was used, s", "reuse_s"),
        ("requests per minute", "requests_per_minute"),
    ):
        shown += _spread_rows(label, field)
    shown += [
        ("requests per minute, variance / mean", lambda d: f"{d.dispersion:.2f}"),
        ("requests, last third / first", lambda d: f"{d.last_third_to_first:.2f}"),
    ]
    return shown


def _spread_rows(label: str, field: str) -> list[tuple[str, Cell]]:
    def cell(name: str) -> Cell:
        def write(description: Description) -> str:
            spread: Spread = getattr(description, field)
            return f"{getattr(spread, name):,.0f}"

        return write

    return [
        (f"{label}: mean", cell("mean")),
        *((f"  {name}", cell(name)) for name in ("p10", "p25", "p50", "p75", "p90", "p99")),
    ]
