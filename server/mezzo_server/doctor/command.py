"""The command ``mezzo doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mezzo.cli.output import console, json_result
from mezzo_server.doctor.examine import Examination, Subject, examine
from mezzo_server.doctor.finding import Finding, State
from mezzo_server.machine import Host

MARKS = {State.GOOD: ("+", "green"), State.BETTER: ("~", "yellow"), State.MISSING: ("-", "yellow"), State.BROKEN: ("!", "bold red")}  # fmt: skip


def doctor(
    *,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="Also look at this file, block device or folder for one. Repeatable.", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Also look at what this TOML file configures.", dir_okay=False)
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write", help="Allow a small file without a name in folders of devices, to try O_DIRECT."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what this kernel and machine offer a node, and what to do about what is missing.

    Nothing is changed. Exit status 1 if something is broken that a node needs.
    """
    examination = examine(Host(), Subject(tuple(device or ()), config, write))
    if json:
        json_result(msgspec.json.encode(examination))
    else:
        show(examination, console())
    if examination.broken:
        raise typer.Exit(1)


def show(examination: Examination, to: Console) -> None:
    """For people: a section each, advice below what it is about."""
    for section in examination.sections:
        to.print(Text(section.title, style="bold"))
        table = Table.grid(padding=(0, 1), pad_edge=False)
        table.add_column(width=3, justify="right")
        table.add_column(width=18, overflow="fold")
        table.add_column(overflow="fold", ratio=1)
        common = section.title.partition(" ")[2]
        for finding in section.findings:
            mark, style = MARKS[finding.state]
            name = finding.name.removeprefix(common).strip() or finding.name
            table.add_row(Text(mark, style=style), escape(name), _said(finding))
        to.print(table)
        to.print()
    to.print(_sum(examination), soft_wrap=True)


def _said(finding: Finding) -> Text:
    text = Text(finding.seen)
    if finding.state is not State.GOOD:
        text = Text.assemble((f"{finding.state}: ", MARKS[finding.state][1]), finding.seen)
    if finding.advice:
        text.append(f"\n> {finding.advice}", style="cyan")
    return text


def _sum(examination: Examination) -> Text:
    parts = [f"{examination.good} good"]
    parts += [f"{count} could be better" for count in [examination.better] if count]
    parts += [f"{count} missing" for count in [examination.missing] if count]
    parts += [f"{count} broken" for count in [examination.broken] if count]
    verdict = "a node cannot run like this" if examination.broken else "a node can run here"
    style = "bold red" if examination.broken else "bold green"
    return Text.assemble((verdict, style), ": " + ", ".join(parts))
