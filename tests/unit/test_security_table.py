"""SECURITY.md says which test fails without which defence: those tests are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tests_that_are_named_exist() -> None:
    table = (ROOT / "SECURITY.md").read_text().partition("## What would be noticed")[2]
    named = set(re.findall(r"`(test_\w+)`", table))
    paths = {name.removeprefix("tests/") for name in re.findall(r"`([\w/]+\.py)`", table)}
    folders = (ROOT / "tests", ROOT / "client/mezzo/testing")  # which has the suite that clients share
    texts = {str(path): path.read_text() for folder in folders for path in folder.rglob("*.py")}
    assert len(named) > 30
    assert {name for name in named if not any(f"def {name}(" in text for text in texts.values())} == set()
    assert {path for path in paths if not any(there.endswith("/" + path) for there in texts)} == set()
