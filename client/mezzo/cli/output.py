"""What commands print: results to standard output, all else to standard error.

Rich leaves colours and movement out where the stream is no terminal, and honours NO_COLOR.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console

NARROW = 100
"""columns where the output is no terminal: wide enough for every table of ours"""


class Report(Protocol):
    """Tells how much has been done."""

    def __call__(self, done: int, /) -> None: ...


def console() -> Console:
    """For results."""
    # Late: a command that prints bytes or JSON starts sooner without.
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else NARROW, highlight=False)


def notes() -> Console:
    """For everything that is not the result."""
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else NARROW, highlight=False)


def remark(message: str) -> None:
    """One line that is no result, to standard error."""
    notes().print(message, markup=False, soft_wrap=True)


def complain(message: str) -> None:
    """One line about what went wrong, to standard error."""
    line = " ".join(message.split())
    notes().print(f"mezzo: {line}", markup=False, soft_wrap=True)


def result(value: Any) -> None:
    """A result for people: a table, a line."""
    console().print(value)


def json_result(encoded: bytes) -> None:
    """A result for programs."""
    sys.stdout.write(encoded.decode().rstrip("\n") + "\n")
    sys.stdout.flush()


@contextmanager
def progress(label: str, total: int) -> Iterator[Report]:
    """A bar on standard error while the block runs, if that is a terminal; else nothing."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = notes()
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
