"""The audit log: what is in it, that it is bounded, and that nothing is done which could not be told."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from mezzo.errors import Unavailable
from mezzo_server.admin.audit import Actor, Audit, AuditFile, Outcome, make_audit

ACTOR = Actor("0123456789abcdef", "ipv4:127.0.0.1:1234")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_who_what_when_from_where_and_how_it_ended(tmp_path: Path) -> None:
    audit = make_audit("", tmp_path, bytes_max=1 << 20, files=1)
    audit.record(
        ACTOR, "tenant.create", Outcome.DONE, tenant="acme", weight=3, quota={"a": {"soft": 1}}, none=None
    )
    path = tmp_path / "audit.jsonl"
    (line,) = lines(path)
    assert str(line.pop("time")).endswith("Z")
    assert line == {
        "event": "tenant.create", "who": ACTOR.who, "source": ACTOR.source, "outcome": "done", "tenant": "acme",
        "weight": 3, "quota": {"a": {"soft": 1}},
    }  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_strangers_say_is_one_bounded_line(tmp_path: Path) -> None:
    audit = make_audit(str(tmp_path / "a"), None, bytes_max=1 << 20, files=1)
    audit.record(
        ACTOR,
        "x",
        Outcome.REFUSED,
        why="a\nb\x00\udcff" + "c" * 10_000,
        data=b"\x01" * 3,
        several=["d" * 1000],
    )
    text = (tmp_path / "a").read_text()
    assert text.count("\n") == 1
    assert len(text) < 2000
    assert lines(tmp_path / "a")[0]["data"] == "010101"


def test_a_line_that_did_not_fit_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = make_audit(str(tmp_path / "a"), None, bytes_max=1 << 20, files=1)
    audit.record(ACTOR, "first", Outcome.DONE)
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return write(fd, data[: len(data) - 20])

    monkeypatch.setattr(os, "write", full)
    audit.record(ACTOR, "second", Outcome.DONE)
    monkeypatch.setattr(os, "write", write)
    audit.record(ACTOR, "third", Outcome.DONE)
    assert [line["event"] for line in lines(tmp_path / "a")] == ["first", "third"]
    assert audit.lost == 1


def test_it_is_bounded(tmp_path: Path) -> None:
    audit = make_audit(str(tmp_path / "a"), None, bytes_max=500, files=2)
    for number in range(40):
        audit.record(ACTOR, "x", Outcome.DONE, number=number)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["a", "a.1", "a.2"]
    assert all(path.stat().st_size < 800 for path in tmp_path.iterdir())
    kept = [line["number"] for name in ("a.2", "a.1", "a") for line in lines(tmp_path / name)]
    assert kept == list(range(int(str(kept[0])), 40)), "the oldest went, and none between"


def test_none_is_kept_if_so_said(tmp_path: Path) -> None:
    audit = make_audit(str(tmp_path / "a"), None, bytes_max=300, files=0)
    for _ in range(9):
        audit.record(ACTOR, "x", Outcome.DONE)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_who_rotates_logs_may_take_it_away(tmp_path: Path) -> None:
    audit = make_audit(str(tmp_path / "a"), None, bytes_max=1 << 20, files=1)
    audit.record(ACTOR, "x", Outcome.DONE, number=1)
    os.rename(tmp_path / "a", tmp_path / "b")
    audit.record(ACTOR, "x", Outcome.DONE, number=2)
    assert [line["number"] for line in lines(tmp_path / "a")] == [2]


def test_a_log_that_cannot_be_written_is_said_beforehand(tmp_path: Path) -> None:
    audit = Audit(AuditFile(tmp_path / "absent" / "a", bytes_max=1, files=1))
    with pytest.raises(Unavailable, match=r"audit log .* cannot be written: No such file"):
        audit.check()
    structlog.reset_defaults()
    with capture_logs() as told:
        audit.record(ACTOR, "x", Outcome.DONE)
    assert audit.lost == 1
    assert [one["event"] for one in told] == ["an audit record was lost"]
    # Nobody makes us write through a link that he put there.
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable):
        Audit(AuditFile(tmp_path / "link", bytes_max=1, files=1)).check()


def test_standard_error(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for audit in (
        make_audit("-", tmp_path, bytes_max=1, files=1),
        make_audit("", None, bytes_max=1, files=1),
    ):
        audit.check()
        audit.record(ACTOR, "x", Outcome.DONE)
        assert json.loads(capfd.readouterr().err)["event"] == "x"
