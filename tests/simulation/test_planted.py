"""The simulator finds bugs: each that is planted, within the number of seeds that it is said to take."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.planting import ROOT, Bug, Hunk, applied, names, read

FOUND_AT_ONCE = ("epoch_ignored", "older_copy_wins")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()


def find(name: str) -> str:
    """Plant it, and play seeds until one finds it; what was said."""
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(["client", "server", os.environ.get("PYTHONPATH", "")]),
    }
    played = subprocess.run(
        [sys.executable, "-m", "tests.simulation.planting", name],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert played.returncode == 0, played.stdout + played.stderr
    return played.stdout


@pytest.mark.parametrize("name", names())
def test_its_lines_are_where_it_says(name: str) -> None:
    bug = read(name)
    for path in bug.hunks:
        assert applied(bug, path) != (ROOT / path).read_text()
        compile(applied(bug, path), path, "exec")


def test_there_are_enough_of_them_and_the_document_has_each() -> None:
    assert len(names()) >= 12
    table = dict(re.findall(r"^\| `(\w+)` \| .* \| (\d+) \|$", DOCUMENT, re.MULTILINE))
    assert table == {name: str(read(name).seeds) for name in names()}


@pytest.mark.parametrize("name", FOUND_AT_ONCE)
def test_it_is_found_at_once(name: str) -> None:
    assert "found by seed" in find(name)


@pytest.mark.long
@pytest.mark.timeout(1800)  # some take hundreds of seeds, on whatever machine this is
@pytest.mark.parametrize("name", sorted(set(names()) - set(FOUND_AT_ONCE)))
def test_it_is_found(name: str) -> None:
    assert "found by seed" in find(name)


def test_a_diff_that_does_not_fit_any_more_says_so() -> None:
    path = "server/mezzo_server/pod/standing.py"
    for old in ("def what_was_never_there() -> None:", ""):
        with pytest.raises(LookupError, match="make it anew"):
            applied(Bug("lost", "", 1, {}, {path: [Hunk((old,), ("pass",))]}), path)
