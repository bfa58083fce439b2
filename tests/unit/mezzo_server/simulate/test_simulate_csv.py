"""libCacheSim's CSV: read as it is written, bounded, and never an exception that is not ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument, TooLarge
from mezzo_server.simulate.workload import (
    CSV_LINE_BYTES_MAX,
    CSV_SIZE_MAX,
    ChunkRequest,
    parse_csv,
    read_workload,
)


def parse(text: bytes, columns: tuple[int, int, int] = (0, 1, 2)) -> list[ChunkRequest]:
    return list(parse_csv(text.splitlines(), "made", columns))


def test_as_libcachesim_writes_it() -> None:
    text = b"# made\n0, 17, 4096, 3\n0.5, 18, 100, 2\n\n1, 17, 4096, 9\n"
    assert parse(text) == [
        ChunkRequest(0.0, (0,), (4096,)),
        ChunkRequest(0.5, (1,), (100,)),
        ChunkRequest(1.0, (0,), (4096,)),
    ]


def test_heading_and_columns() -> None:
    text = b"size,time,obj\n10,1,a\n0,2,b\n99,3,a\n"
    assert parse(text, (1, 2, 0)) == [
        ChunkRequest(1.0, (0,), (10,)),
        ChunkRequest(2.0, (1,), (1,)),
        ChunkRequest(3.0, (0,), (10,)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"1,a",
        b"1,a,-1",
        b"1,a,1.5",
        b"1,a," + b"9" * 14,
        b"1,a,%d" % (CSV_SIZE_MAX + 1),
        b"1,,1",
        b"2,a,1\n1,a,1",
        b"1,a,1\nx,a,1",
        b"nan,a,1\nnan,a,1",
        b"inf,a,1\ninf,a,1",
        b"-1,a,1\n-1,a,1",
    ],
)
def test_wrong_lines_are_named(text: bytes) -> None:
    with pytest.raises(InvalidArgument, match="made, line"):
        parse(text)


@given(st.binary(max_size=300))
def test_random_bytes(text: bytes) -> None:
    try:
        parse(text)
    except (InvalidArgument, TooLarge):
        return


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.text("abc09", min_size=1, max_size=4), st.integers(0, 1 << 40)),
        max_size=20,
    )
)
def test_what_is_written_is_read(rows: list[tuple[float, str, int]]) -> None:
    rows.sort(key=lambda row: row[0])
    found = parse("\n".join(f"{at!r},{name},{size}" for at, name, size in rows).encode())
    assert [request.time_s for request in found] == [at for at, _, _ in rows]
    first: dict[str, int] = {}
    for request, (_, name, size) in zip(found, rows, strict=True):
        assert request.sizes == (first.setdefault(name, max(size, 1)),)


def test_files_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_bytes(b"1,a,1\n" + b"x" * (CSV_LINE_BYTES_MAX + 2))
    with pytest.raises(TooLarge, match="line 2"):
        read_workload(path)
    path.write_bytes(b"time,obj,size\n")
    with pytest.raises(InvalidArgument, match="no request"):
        read_workload(path)
    with pytest.raises(InvalidArgument, match="missing"):
        read_workload(tmp_path / "missing.csv")
