"""put, get, lookup, stat, rm: what they say, with a store in memory behind them."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from mezzo.cli import chunk_client
from mezzo.cli.app import make_app, run
from mezzo.cli.keys import format_key, parse_key
from mezzo.cli.stat import ORDER, topic_of
from mezzo.errors import InvalidArgument, Unavailable
from mezzo.testing import FakeClient, FakeStore

LIMIT = 64 * 1024

MEZZO = get_command(make_app([]))


class Outcome(SimpleNamespace):
    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        assert self.out.count("\n") == 1
        return json.loads(self.out)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore(chunk_bytes_max=LIMIT)


@pytest.fixture
def mezzo(store: FakeStore, monkeypatch: pytest.MonkeyPatch, capfdbinary):
    def opened(address: str, namespace: str, timeout_s: float) -> FakeClient:
        return FakeClient(store, namespace=namespace, timeout_s=timeout_s)

    monkeypatch.setattr(chunk_client, "open_client", opened)

    def mezzo(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        status = run(lambda: MEZZO, [str(argument) for argument in arguments])
        sys.stdout.flush()
        shown = capfdbinary.readouterr()
        return Outcome(status=status, raw=shown.out, out=shown.out.decode("latin-1"), err=shown.err.decode())

    return mezzo


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chunk"
    path.write_bytes(bytes(range(256)) * 20)
    return path


# Keys


@given(st.binary(min_size=1, max_size=64))
def test_what_is_shown_of_a_key_can_be_typed(key: bytes) -> None:
    assert parse_key(format_key(key)) == key


def test_keys() -> None:
    assert parse_key("prefix/1") == b"prefix/1"
    assert parse_key("hex:00ff") == b"\x00\xff"
    assert parse_key("ä") == "ä".encode()
    assert format_key(b"\x00\xff") == "hex:00ff"
    assert format_key(b"hex:a") == "hex:6865783a61"


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "1 to 64"), ("hex:", "1 to 64"), ("hex:f", "hexadecimal"), ("hex:zz", "hexadecimal"), ("x" * 65, "65 bytes"),
     ("\udcff", "hex:ff")],
)  # fmt: skip
def test_what_is_no_key(text: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        parse_key(text)


# Put


def test_put_says_stored_and_then_exists(mezzo, store: FakeStore, file: Path) -> None:
    first = mezzo("put", "a", file, "hex:00", file)
    assert (first.status, first.out) == (0, "stored  a  5.00 KiB\nstored  hex:00  5.00 KiB\n")
    assert mezzo("put", "a", file).out == "exists  a  5.00 KiB\n"
    again = mezzo("put", "a", file, "b", file, "--json").json
    assert again == {
        "chunks": [
            {"key": "a", "state": "exists", "bytes": 5120, "parts": 1},
            {"key": "b", "state": "stored", "bytes": 5120, "parts": 1},
        ],
        "stored": 1, "exists": 1, "declined": 0, "failed": 0,
    }  # fmt: skip
    with FakeClient(store) as client:
        out = bytearray(5120)
        assert client.get([b"\x00"], [out]).count == 1
        assert out == file.read_bytes()


def test_put_in_parts(mezzo, file: Path) -> None:
    assert mezzo("put", "a", file, "--part-bytes", "2KiB").out == "stored  a  5.00 KiB, 3 parts\n"
    assert mezzo("stat", "a", "--json").json["chunks"][0]["parts"] == 3
    assert mezzo("get", "a", "--part", "2").raw == file.read_bytes()[4096:]
    assert mezzo("get", "a", "--part", "0:2").raw == file.read_bytes()[:4096]
    many = mezzo("put", "b", file, "--part-bytes", "10")
    assert many.status == 2
    assert "at least 20" in many.err


def test_put_from_standard_input(mezzo) -> None:
    assert mezzo("put", "a", "-", stdin=b"piped").out == "stored  a  5 B\n"
    assert mezzo("get", "a").raw == b"piped"


@pytest.mark.parametrize("arguments", [("a",), ("a", "-", "b"), ("", "-"), ("a", "-", "b", "-")])
def test_put_takes_pairs(mezzo, store: FakeStore, arguments: tuple[str, ...]) -> None:
    said = mezzo("put", *arguments, stdin=b"x")
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert store.numbers()["chunks"] == 0


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_put_of_too_much_names_the_limit(mezzo, tmp_path: Path, how: str) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(LIMIT + 1))
    said = mezzo("put", "a", big if how == "file" else "-", stdin=bytes(LIMIT + 1))
    assert said.status == 2
    assert "limits.chunk_bytes_max is 64KiB" in said.err
    big.write_bytes(bytes(LIMIT))
    assert mezzo("put", "a", big if how == "file" else "-", stdin=bytes(LIMIT)).status == 0


def test_standard_input_is_read_no_further_than_the_limit(mezzo, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        read_bytes = 0

        def read(self, size: int = -1) -> bytes:
            assert size > 0
            Endless.read_bytes += size
            return bytes(size)

    monkeypatch.setattr(io, "BytesIO", lambda _: Endless())
    assert mezzo("put", "a", "-").status == 2
    assert Endless.read_bytes == LIMIT + 1


def test_put_of_nothing(mezzo, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in (tmp_path / "empty", "/dev/null", "-"):
        said = mezzo("put", "a", name)
        assert said.status == 2
        assert "empty" in said.err
    gone = mezzo("put", "a", tmp_path / "none")
    assert gone.status == 2
    assert "none" in gone.err


# Get


def test_get_writes_a_file_or_nothing(mezzo, tmp_path: Path, file: Path) -> None:
    mezzo("put", "a", file, "b", file)
    out = tmp_path / "out"
    got = mezzo("get", "a", "b", "-o", out)
    assert (got.status, got.out) == (0, "")
    assert out.read_bytes() == file.read_bytes() * 2
    missed = mezzo("get", "a", "nope", "-o", tmp_path / "other")
    assert (missed.status, missed.out) == (1, "")
    assert missed.err == "mezzo: 1 chunk missing: nope\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chunk", "out"]


def test_get_replaces_only_with_force(mezzo, tmp_path: Path, file: Path) -> None:
    mezzo("put", "a", file)
    out = tmp_path / "out"
    out.write_text("mine")
    refused = mezzo("get", "a", "-o", out)
    assert refused.status == 2
    assert "--force" in refused.err
    assert out.read_text() == "mine"
    assert mezzo("get", "nope", "-o", out, "--force").status == 1
    assert out.read_text() == "mine"
    assert mezzo("get", "a", "-o", out, "--force").status == 0
    assert out.read_bytes() == file.read_bytes()
    assert mezzo("get", "a", "-o", "/dev/null").status == 0


def test_get_writes_no_file_that_appeared_meanwhile(
    mezzo, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mezzo("put", "a", file)
    out = tmp_path / "out"
    get = FakeClient.get

    def get_slowly(self: FakeClient, *arguments: object, **options: object) -> object:
        out.write_text("somebody else's")
        return get(self, *arguments, **options)

    monkeypatch.setattr(FakeClient, "get", get_slowly)
    assert mezzo("get", "a", "-o", out).status == 2
    assert out.read_text() == "somebody else's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chunk", "out"]


def test_get_of_a_chunk_that_goes_meanwhile_is_a_miss(
    mezzo, store: FakeStore, file: Path, tmp_path: Path
) -> None:
    mezzo("put", "a", file)

    class Forgetful(FakeClient):
        def get(self, *arguments: object, **options: object) -> object:
            self.delete([b"a"])
            return super().get(*arguments, **options)

    chunk_client.open_client = lambda *_: Forgetful(store)  # the fixture puts it back
    assert mezzo("get", "a", "-o", tmp_path / "out").status == 1
    assert not (tmp_path / "out").exists()


def test_get_as_json(mezzo, tmp_path: Path, file: Path) -> None:
    mezzo("put", "a", file)
    out = tmp_path / "out"
    assert mezzo("get", "a", "-o", out, "--json").json == {
        "chunks": [{"key": "a", "bytes": 5120}], "missing": [], "bytes": 5120, "path": str(out),
    }  # fmt: skip
    missed = mezzo("get", "nope", "-o", tmp_path / "x", "--json")
    assert missed.status == 1
    assert missed.json == {"chunks": [], "missing": ["nope"], "bytes": 0, "path": None}
    both = mezzo("get", "a", "--json")
    assert (both.status, both.out) == (2, "")
    assert "--out" in both.err


@pytest.mark.parametrize("part", ["x", "-1", "1:", ":1", "1:x", "3", "0:4"])
def test_get_of_parts_that_are_not_there(mezzo, file: Path, part: str) -> None:
    mezzo("put", "a", file, "--part-bytes", "2KiB")
    said = mezzo("get", "a", f"--part={part}")
    assert (said.status, said.out) == (2, "")
    assert "--part" in said.err


def test_get_writes_no_bytes_to_a_terminal(mezzo, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mezzo("put", "a", file)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    said = mezzo("get", "a")
    assert (said.status, said.raw) == (2, b"")
    assert "--force" in said.err
    assert mezzo("get", "a", "--force").raw == file.read_bytes()


# Lookup, stat, rm


def test_lookup(mezzo, file: Path) -> None:
    mezzo("put", "a", file, "b", file)
    assert re.fullmatch(
        r"2 of 2 from the first on, 10.0 KiB, about \d+\.\d\d ms to load\n", mezzo("lookup", "a", "b").out
    )
    part = mezzo("lookup", "a", "nope", "b", "--json")
    assert part.status == 1
    assert part.json == {
        "keys": 3, "prefix": 1, "bytes": 5120, "load_s": 0.0, "load_high_s": 0.0, "hot_prefix": 1, "hot_bytes": 5120,
    }  # fmt: skip
    assert mezzo("lookup", "nope").out == "0 of 1 from the first on, 0 B\n"


def test_stat_of_chunks(mezzo, file: Path) -> None:
    mezzo("put", "a", file, "odd[key]", file)
    said = mezzo("stat", "a", "odd[key]", "nope")
    assert said.status == 1
    lines = said.out.splitlines()
    assert lines[0].split() == ["key", "bytes", "parts", "sequence", "leased", "ttl", "priority"]
    assert lines[1].split()[:3] == ["a", "5,120", "1"]
    assert lines[2].split()[0] == "odd[key]"
    assert lines[3] == "1 chunk missing: nope"
    report = mezzo("stat", "a", "nope", "--json").json
    assert report["missing"] == ["nope"]
    assert set(report["chunks"][0]) == {"key", "bytes", "parts", "sequence", "leased", "ttl_s", "priority"}


def test_put_with_a_life_and_a_priority(mezzo, file: Path) -> None:
    mezzo("put", "a", file, "--ttl", "2h", "--priority", "7")
    mezzo("put", "b", file)
    chunks = {chunk["key"]: chunk for chunk in mezzo("stat", "a", "b", "--json").json["chunks"]}
    assert 7190 < chunks["a"]["ttl_s"] <= 7200
    assert chunks["a"]["priority"] == 7
    assert (chunks["b"]["ttl_s"], chunks["b"]["priority"]) == (None, 3)
    assert [line.split()[5:] for line in mezzo("stat", "b").out.splitlines()[1:]] == [["-", "3"]]
    assert mezzo("put", "c", file, "--ttl", "soon").status == 2
    assert mezzo("put", "c", file, "--ttl", "0s").status == 2
    assert mezzo("put", "c", file, "--priority", "8").status == 2


def test_stat_of_the_shard(mezzo, file: Path) -> None:
    mezzo("put", "a", file)
    shown = mezzo("stat").out
    assert "bytes_live" in shown
    assert "5.00 KiB" in shown
    assert "rewritten_bytes" not in shown
    assert "rewritten_bytes" in mezzo("stat", "--all").out
    assert mezzo("stat", "--json").json["chunks"] == 1


@given(st.text(max_size=30))
def test_every_number_has_a_topic(name: str) -> None:
    assert topic_of(name) in ORDER


def test_rm_says_what_was_there(mezzo, file: Path) -> None:
    mezzo("put", "a", file)
    said = mezzo("rm", "a", "nope")
    assert (said.status, said.out) == (0, "deleted  a\nwas not there  nope\n")
    assert mezzo("rm", "a", "--json").json == {"chunks": [{"key": "a", "deleted": False}], "deleted": 0}


@pytest.mark.parametrize(
    "command", [("get", "a"), ("lookup", "a"), ("stat",), ("rm", "a"), ("put", "a", "-")]
)
def test_without_a_server_there_is_one_line(mezzo, store: FakeStore, command: tuple[str, ...]) -> None:
    store.unavailable = Unavailable("cannot connect to unix:///x: No such file or directory")
    said = mezzo(*command, "--json", *(["--out", "/dev/null"] if command[0] == "get" else []), stdin=b"x")
    assert (said.status, said.out) == (2, "")
    assert said.err == "mezzo: cannot connect to unix:///x: No such file or directory\n"


# Events


def test_events_are_shown_in_order(mezzo, store: FakeStore) -> None:
    with FakeClient(store, namespace="n") as client:
        client.put([b"a", b"\x00"], [b"1", b"22"])
        client.delete([b"a"])
    first = mezzo("events", "--namespace", "n", "--snapshot", "--count", 2)
    assert first.status == 0
    assert first.out.splitlines() == [
        "gap (start): what is present is not known from before",
        "present  hex:00 2 B",
    ]
    gap = mezzo("events", "--namespace", "n", "--count", 1, "--json").json
    assert (gap["kind"], gap["reason"]) == ("gap", "start")
    begin = str(gap["cursor"]).partition("-")[0] + "-0"
    lines = mezzo("events", "--namespace", "n", "--after", begin, "--count", 3, "--json").out.splitlines()
    told = [json.loads(line) for line in lines]
    assert [(line["kind"], line["key"], line["bytes"]) for line in told] == [
        ("stored", "a", 1), ("stored", "hex:00", 2), ("deleted", "a", 1),
    ]  # fmt: skip
    assert told[-1]["cursor"] == gap["cursor"]
    people = mezzo("events", "--namespace", "n", "--after", begin, "--count", 1)
    assert people.out == "stored   a 1 B\n"
    assert mezzo("events", "--after", "nonsense").status == 2
