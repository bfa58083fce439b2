"""A bar while devices are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mezzo.cli.output import notes

if TYPE_CHECKING:
    from mezzo_server.blockstore.recovery import Progress


@contextmanager
def recovery_progress() -> Iterator[Progress | None]:
    """A bar on standard error while devices are read, if that is a terminal."""
    shown = notes()
    if not shown.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=shown, transient=True
    ) as bar:
        task = bar.add_task("reading segments", total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if done >= total:
                bar.stop()

        yield told
