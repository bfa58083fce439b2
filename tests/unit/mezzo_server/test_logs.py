from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
import structlog

from mezzo_server.logs import KINDS_MAX, REPEATS_MAX, WINDOW_S, RepeatLimit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def passes(limit: RepeatLimit, event: str, method: str = "warning") -> dict[str, object] | None:
    try:
        return dict(limit(None, method, {"event": event}))
    except structlog.DropEvent:
        return None


def test_the_same_warning_again_and_again_is_cut_and_counted() -> None:
    clock = Clock()
    limit = RepeatLimit(clock)
    seen = [passes(limit, "loop was held") for _ in range(REPEATS_MAX + 20)]
    assert sum(line is not None for line in seen) == REPEATS_MAX
    assert passes(limit, "something else") == {"event": "something else"}
    clock.now += WINDOW_S
    assert passes(limit, "loop was held") == {"event": "loop was held", "left_out": 20}
    assert passes(limit, "loop was held") == {"event": "loop was held"}


@pytest.mark.parametrize("method", ["debug", "info", "error", "exception"])
def test_nothing_else_is_cut(method: str) -> None:
    limit = RepeatLimit(Clock())
    assert all(passes(limit, "x", method) is not None for _ in range(100))
    assert len(limit) == 0


def test_the_table_is_bounded() -> None:
    limit = RepeatLimit(Clock())
    for number in range(KINDS_MAX * 3):
        assert passes(limit, f"kind {number}") is not None
    assert len(limit) == KINDS_MAX


PROGRAM = """
import structlog
from mezzo_server.config import LogConfig
from mezzo_server.logs import configure_logs
configure_logs(LogConfig(level={level!r}, format={format!r}), "shard")
log = structlog.get_logger("mezzo.test")
log.info("told", bytes=3)
log.warning("strange\\nthing", peer="a")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("fault")
"""


def said(level: str, form: str) -> tuple[str, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(level=level, format=form)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, errors = process.communicate(timeout=30)
    assert out == ""
    return errors, process.pid


@pytest.mark.parametrize("form", ["json", "auto"])
def test_lines_of_json_name_the_process(form: str) -> None:
    errors, pid = said("info", form)
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in errors.splitlines()]
    assert [line["event"] for line in lines] == ["told", "strange\nthing", "fault"]
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    for line in lines:
        assert (line["process"], line["pid"]) == ("shard", pid)
        assert str(line["timestamp"]).endswith("Z")
    assert "ZeroDivisionError" in str(lines[2]["exception"])


def test_the_level_counts() -> None:
    assert [line for line in said("error", "json")[0].splitlines() if "fault" not in line] == []


def test_lines_for_people() -> None:
    errors, _ = said("info", "console")
    assert "told" in errors
    assert "{" not in errors.splitlines()[0]
    assert "\x1b" not in errors
    assert "process=shard" in errors


def test_nobody_reads_and_nothing_breaks() -> None:
    """A reader of the logs that goes away (`... 2>&1 | head -1`) must not end a store."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "input()\n" + PROGRAM.format(level="info", format="json") + "print('alive')\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.stdout.read() == b"alive\n"
    process.stdout.close()
    process.wait(30)
