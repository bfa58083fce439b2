"""Several processes on one file of metadata: one is killed in the middle of it, and all may be the first."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezzo_server.metadata.engine import Change, Check, Write
from mezzo_server.metadata.sqlite import SqliteEngine

COUNTS = 40

COUNTING = """
import asyncio, sys, time
from pathlib import Path
from mezzo_server.metadata.engine import Check, Write
from mezzo_server.metadata.sqlite import SqliteEngine

async def main():
    engine = SqliteEngine(Path(sys.argv[1]), time.time)
    done = 0
    while done < int(sys.argv[2]):
        entry = await engine.get("count")
        count = int(entry.value) + 1
        outcome = await engine.transact(
            [Check("count", entry.revision)],
            [Write("count", b"%d" % count), Write(f"by/{sys.argv[3]}/{count}", b"")],
        )
        if outcome.done:
            done += 1
            print(count, flush=True)
    await engine.close()

asyncio.run(main())
"""


def counting(path: Path, counts: int, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COUNTING, str(path), str(counts), name], stdout=subprocess.PIPE, text=True
    )


COMING = """
import asyncio, sys, time
from pathlib import Path
from mezzo_server.metadata.engine import Write
from mezzo_server.metadata.sqlite import SqliteEngine

async def main():
    print("told", "ready", flush=True)
    for line in sys.stdin:
        engine = SqliteEngine(Path(line.strip()), time.time)
        try:
            told = (await engine.transact([], [Write(sys.argv[1], b"")])).revision
        except Exception as error:
            told = error
        print("told", repr(told), flush=True)
        await engine.close()

asyncio.run(main())
"""


def told_by(process: subprocess.Popen[str]) -> str:
    """What it says next, among the lines of its log."""
    return next(line for line in process.stdout if line.startswith("told ")).split(maxsplit=1)[1].strip()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where syncing costs nothing, if there is such a place."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


def test_all_may_come_first(folder: Path) -> None:
    """Shard, front-end and commands start together, and find no file: each of them may make it."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMING, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for process in processes:
            assert told_by(process) == "ready"
        for number in range(20):
            for process in processes:
                process.stdin.write(f"{folder}/{number}.db\n")
                process.stdin.flush()
            assert sorted(map(told_by, processes)) == ["1", "2"], number
    finally:
        for process in processes:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()


def test_no_change_is_lost_doubled_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"

    async def main() -> None:
        engine = SqliteEngine(path, time.time)
        await engine.transact([Check("count", 0)], [Write("count", b"0")])
        steady, killed = counting(path, COUNTS, "steady"), counting(path, 1_000_000, "killed")
        told = [int(killed.stdout.readline()) for _ in range(5)]
        killed.send_signal(signal.SIGKILL)
        with killed:  # and not `communicate`, which does not know of lines that were read ahead
            told += [int(line) for line in killed.stdout]
        steady_told = [int(line) for line in steady.communicate(timeout=60)[0].splitlines()]
        assert steady.returncode == 0
        assert len(steady_told) == COUNTS

        entry = await engine.get("count")
        by = {key: [] for key in ("steady", "killed")}
        for item in (await engine.scan("by/")).entries:
            _, name, count = item.key.split("/")
            by[name].append(int(count))
        # What was acknowledged is there; of what was not, all of it or nothing.
        assert sorted(by["steady"]) == steady_told
        assert set(told) <= set(by["killed"])
        assert len(by["killed"]) - len(told) <= 1
        assert sorted(by["steady"] + by["killed"]) == list(range(1, int(entry.value) + 1))

        changes: list[Change] = []
        watch = engine.watch("count", 0)
        while not changes or changes[-1].revision < entry.revision:
            changes += await asyncio.wait_for(anext(watch), 30)
        assert [int(change.value) for change in changes] == list(range(int(entry.value) + 1))
        assert [change.revision for change in changes] == list(range(1, int(entry.value) + 2))
        await engine.close()
        again = SqliteEngine(path, time.time, create=False)
        assert await again.get("count") == entry, "the check at the start finds nothing wrong"
        await again.close()

    asyncio.run(main())
