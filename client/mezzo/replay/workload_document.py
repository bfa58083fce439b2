"""Writes the parameters of workloads into their document: ``python -m mezzo.replay.workload_document FILE``.

What stands between the two marks of the file is replaced; a test compares it with the schema.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from mezzo.errors import InvalidArgument
from mezzo.replay.presets import PRESET_NOTES
from mezzo.replay.workload_settings import Parameter, amount_fields, parameters

BEGIN = "<!-- from the schema: python -m mezzo.replay.workload_document docs/workload.md -->"
END = "<!-- end of what is from the schema -->"


def document() -> str:
    """Presets, parameters by table, and the fields of amounts, in Markdown."""
    lines = ["", "| preset | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {note} |" for name, note in PRESET_NOTES.items()]
    for table, group in groupby(parameters(), lambda one: one.name.rpartition(".")[0]):
        lines += ["", f"### [{table}]" if table else "### At the top", ""]
        lines += _table(group)
    lines += ["", "### Amounts", ""]
    lines += _table(amount_fields())
    return "\n".join([*lines, ""])


def renewed(text: str) -> str:
    """``text`` with what is between the marks made anew. Raises `InvalidArgument` if they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InvalidArgument(f"the marks {BEGIN} and {END} are not there, in this order")
    return f"{before}{BEGIN}\n{document()}\n{END}{after}"


def _table(listed: Iterable[Parameter]) -> list[str]:
    lines = ["| parameter | default | limits | meaning |", "|---|---|---|---|"]
    for one in listed:
        name = one.name.rpartition(".")[2]
        lines.append(f"| `{name}` | `{one.value}` | {one.bounds} | {one.meaning} |")
    return lines


def main() -> None:
    """Renew the file that the command line names."""
    path = Path(sys.argv[1])
    path.write_text(renewed(path.read_text()))


if __name__ == "__main__":
    main()
