"""How far a change of a pod has come, while a command waits for it: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from mezzo.cli.output import notes, remark
from mezzo_server.commands.pod_reports import PodReport, ShardReport, shown_left


class Stand(NamedTuple):
    """How far it has come."""

    over: bool
    done: float = 1.0
    """0 to 1"""
    words: str = ""


Change: TypeAlias = Callable[[PodReport], Stand]
"""How far it has come, by what the metadata say."""


def emptied(shard_id: str) -> Change:
    """A shard that is to be empty: nobody asks it for anything any more, or it is gone."""

    def stand(report: PodReport) -> Stand:
        shard = _shard(report, shard_id)
        if shard is None or (shard.state == "draining" and not shard.slots_before and not shard.slots):
            return Stand(True)
        if shard.state != "draining" or shard.slots:
            return Stand(False, 0.0, _next(report, f"it owns {shard.slots} slots until the next map"))
        share = shard.slots_before / report.slots
        return Stand(
            False, shard.done, f"still asked for {share:.1%} of the slots, {shown_left(shard.left_s)} left"
        )

    return stand


def shares(shard_id: str) -> Change:
    """A shard that is to have its share: it has all of it, and all shards follow that map."""

    def stand(report: PodReport) -> Stand:
        shard = _shard(report, shard_id)
        if shard is None or shard.state in ("new", "gone", "draining"):
            return Stand(False, 0.0, _next(report, "it has no share yet"))
        share = shard.slots / report.slots
        if shard.state == "joining":
            return Stand(
                False, shard.done, f"it has {share:.1%} of the slots, {shown_left(shard.left_s)} left"
            )
        return Stand(not report.behind, 1.0, _next(report, f"it has {share:.1%} of the slots"))

    return stand


def followed(epoch: int) -> Change:
    """A map: all shards follow it, or a later one."""

    def stand(report: PodReport) -> Stand:
        there = len(report.shards) - report.behind
        return Stand(
            report.epoch >= epoch and not report.behind,
            there / max(1, len(report.shards)),
            _next(report, "the map is made"),
        )

    return stand


def _shard(report: PodReport, shard_id: str) -> ShardReport | None:
    return next((shard for shard in report.shards if shard.id == shard_id), None)


def _next(report: PodReport, words: str) -> str:
    """With what it waits for, if that is the others."""
    return (
        f"{words}; {report.behind} shards do not follow epoch {report.epoch} yet" if report.behind else words
    )


@contextmanager
def shown() -> Iterator[Callable[[Stand], None]]:
    """Shows how it goes, to standard error."""
    console = notes()
    if not console.is_terminal:
        said = ""

        def say(stand: Stand) -> None:
            nonlocal said
            if stand.words != said:
                remark(f"{stand.done:.0%}: {stand.words}")
                said = stand.words

        yield say
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda stand: bar.update(task, completed=stand.done, description=stand.words)
