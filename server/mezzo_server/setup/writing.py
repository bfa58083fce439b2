"""The file: only what differs from the defaults, each key with its reason."""

from __future__ import annotations

import textwrap
from itertools import groupby

from mezzo.sizes import about_size
from mezzo_server.setup.proposal import Choice, Proposal

COLUMNS = 79

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def write_toml(proposal: Proposal) -> str:
    """The text of the TOML file. The same proposal gives the same text."""
    machine = proposal.machine
    seen = f"{machine.cores} cores and {about_size(machine.memory_bytes)} of memory"
    lines = [
        f"# A Mezzo node for a machine with {seen},",
        "# as `mezzo setup` saw it. Start it with: mezzo serve --config FILE",
        "# All other keys: docs/configuration.md",
    ]
    if all(choice.table != "metadata" for choice in proposal.choices):
        lines.append("# One tenant, no credentials; for more of both: mezzo setup --metadata")
    for table, choices in groupby(proposal.choices, key=lambda choice: choice.table):
        lines += ["", f"[{table}]"]
        for choice in choices:
            lines += textwrap.wrap(choice.why, COLUMNS - 2, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"{choice.key} = {_value(choice)}")
    return "\n".join(lines) + "\n"


def _value(choice: Choice) -> str:
    value = choice.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    return f"[{', '.join(_quoted(item) for item in value)}]"


def _quoted(text: str) -> str:
    """A basic string of TOML."""
    escaped = (
        _ESCAPES.get(character, character)
        if character.isprintable() or character in _ESCAPES
        else f"\\U{ord(character):08x}"
        for character in text
    )
    return f'"{"".join(escaped)}"'
