"""docs/protocol.md names every frame, field and error code."""

import re
from pathlib import Path

import pytest

from mezzo.errors import ErrorCode
from mezzo.protocol.messages import BODIES, ChunkStat, Kind

TEXT = Path(__file__).parents[3].joinpath("docs", "protocol.md").read_text()


@pytest.mark.parametrize("kind", Kind)
def test_frames_and_their_fields(kind):
    assert f"`{kind.name}` ({kind.value})" in TEXT
    for field in BODIES[kind].__struct_fields__:
        assert f"`{field}`" in TEXT, field


@pytest.mark.parametrize("code", ErrorCode)
def test_error_codes(code):
    assert re.search(rf"^\| {code.value} \| `{code.name}` \|", TEXT, re.MULTILINE)


def test_entries_of_stated():
    assert f"[{', '.join(ChunkStat.__struct_fields__)}]".replace(" ", "") in re.sub(r"\s", "", TEXT)
