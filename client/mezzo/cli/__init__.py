"""The command line, ``mezzo``.

Other installed packages add commands through the entry point group ``mezzo.commands``: each entry
is a function that takes the `typer.Typer`.
"""

from __future__ import annotations

from mezzo.cli.app import main

__all__ = ["main"]
