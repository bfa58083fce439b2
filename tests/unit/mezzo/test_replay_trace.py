"""Reading traces: what is right is read whole, what is wrong is told with file, line and field."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument, TooLarge
from mezzo.replay import trace as module
from mezzo.replay.trace import Request, Trace, format_request, parse, read_trace

GOOD = {"timestamp": 5, "input_length": 700, "output_length": 30, "hash_ids": [0, 7]}


def line(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_reads_requests_and_digest(tmp_path: Path) -> None:
    content = line() + b"\n\n" + line(timestamp=9.5, hash_ids=[0, 8, 9], model="ignored") + b"\n"
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    trace = read_trace(path)
    assert trace.name == "t.jsonl"
    assert trace.sha256 == hashlib.sha256(content).hexdigest()
    assert trace.requests == (Request(5.0, 700, 30, (0, 7)), Request(9.5, 700, 30, (0, 8, 9)))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (line(hash_ids=[0, -1]), r"t, line 2: hash_ids\[1\]: Expected `int` >= 0"),
        (line(hash_ids=[]), r"t, line 2: hash_ids: Expected `array` of length >= 1"),
        (line(hash_ids=[3, 4, 3]), r"t, line 2: hash_ids: one number twice"),
        (line(hash_ids=[2**63]), r"t, line 2: hash_ids\[0\]: "),
        (line(hash_ids=None), r"t, line 2: hash_ids: Expected `array`, got `null`"),
        (line(timestamp="now"), r"t, line 2: timestamp: Expected `float`, got `str`"),
        (line(timestamp=-1), r"t, line 2: timestamp: Expected `float` >= 0"),
        (line(timestamp=4), r"t, line 2: timestamp: 4 ms comes after 5 ms"),
        (line(input_length=1.5), r"t, line 2: input_length: Expected `int`, got `float`"),
        (b'{"timestamp": 6}', r"t, line 2: the line: Object missing required field `input_length`"),
        (b"[1, 2]", r"t, line 2: the line: Expected `object`, got `array`"),
        (b'{"timestamp": 6', r"t, line 2: not JSON: "),
        (b"\xff\xfe", r"t, line 2: not JSON: "),
    ],
)
def test_what_is_wrong_is_named(wrong: bytes, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        list(parse([line(), wrong], "t"))


def test_missing_file_and_folder_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        read_trace(tmp_path / "absent.jsonl")
    with pytest.raises(InvalidArgument, match="Is a directory"):
        read_trace(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    with pytest.raises(InvalidArgument, match="no request in it"):
        read_trace(tmp_path / "empty.jsonl")


def test_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "REQUESTS_MAX", 2)
    with pytest.raises(TooLarge, match="line 3: over 2 requests"):
        list(parse([line()] * 3, "t"))
    monkeypatch.setattr(module, "REFERENCES_MAX", 3)
    with pytest.raises(TooLarge, match="line 2: over 3 block references"):
        list(parse([line()] * 2, "t"))
    monkeypatch.setattr(module, "LINE_BYTES_MAX", 100)
    path = tmp_path / "long.jsonl"
    path.write_bytes(b" " * 101)
    with pytest.raises(TooLarge, match=r"long\.jsonl, line 1: over 100 bytes"):
        read_trace(path)


def requests() -> st.SearchStrategy[Request]:
    ids = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=8, unique=True).map(tuple)
    lengths = st.integers(0, 2**40)
    return st.builds(Request, st.floats(0, 1e15), lengths, lengths, ids)


@given(st.lists(requests(), min_size=1, max_size=6))
def test_what_is_written_is_read_back(made: list[Request]) -> None:
    made.sort(key=lambda request: request.timestamp_ms)
    assert list(parse([format_request(request) for request in made], "t")) == made


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, unique=True), min_size=1, max_size=12))
def test_summary_counts_as_a_simple_model_does(lists: list[list[int]]) -> None:
    trace = Trace("t", tuple(Request(1000.0 * n, 1, 1, tuple(ids)) for n, ids in enumerate(lists)))
    summary = trace.summary()
    flat = [hash_id for ids in lists for hash_id in ids]
    assert summary.requests == len(lists)
    assert summary.references == len(flat)
    assert summary.distinct == len(set(flat))
    assert summary.seen_before == len(flat) - len(set(flat))
    assert summary.hit_rate_max == pytest.approx(1 - len(set(flat)) / len(flat))
    assert summary.duration_s == len(lists) - 1


def test_head_and_repeated() -> None:
    trace = Trace("t", tuple(Request(1000.0 * n, 1, 1, (n,)) for n in range(3)))
    assert trace.head(0) is trace
    assert trace.head(5) is trace
    assert trace.head(2).requests == trace.requests[:2]
    twice = trace.repeated(2)
    assert [request.timestamp_ms for request in twice.requests] == [0, 1000, 2000, 2000, 3000, 4000]
    assert twice.summary().hit_rate_max == 0.5
