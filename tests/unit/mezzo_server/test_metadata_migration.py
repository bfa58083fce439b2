"""From one engine to another: whole or not at all, and begun anew after any failure."""

from __future__ import annotations

import asyncio
import time

import pytest

from mezzo.errors import Conflict, Unavailable
from mezzo_server.commands.meta import migrate as command
from mezzo_server.metadata.engine import Engine, Write
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.metadata.migration import MARK, Migrated, migrate
from mezzo_server.metadata.sqlite import SqliteEngine
from mezzo_server.pod.records import MEMBERS, ROSTER, SETTINGS, USES
from mezzo_server.tenancy.entries import TICKET_KEYS

MORE = {f"catalog/{number:04d}": bytes(10_000) for number in range(300)}


def engine(entries: dict[str, bytes] | None = None) -> MemoryEngine:
    made = MemoryEngine(lambda: 0.0)
    for key, value in (entries or {}).items():
        asyncio.run(made.transact([], [Write(key, value)]))
    return made


def values(made: Engine) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in asyncio.run(made.scan("")).entries}


def run(source: Engine, target: Engine, name: str = "a") -> Migrated:
    return asyncio.run(migrate(source, target, name, ("keys/",), lambda done, entries: None))


def test_everything_is_copied_but_what_is_left_out():
    target = engine()
    done = run(engine({**MORE, "names/x": b"1", "keys/y": b"2"}), target)
    assert values(target) == {**MORE, "names/x": b"1"}
    assert (done.entries, done.left_out) == (301, 1)
    assert done.bytes == sum(len(key) + len(value) for key, value in values(target).items())


def test_the_command_leaves_out_what_goes_with_running_processes(tmp_path, capsys):
    async def filled() -> None:
        source = SqliteEngine(tmp_path / "a", time.time)
        gone = [f"{prefix}1" for prefix in (TICKET_KEYS, MEMBERS, USES)]
        await source.transact([], [Write(key, b"1") for key in (*gone, ROSTER, SETTINGS)])
        await source.close()

    async def found() -> set[str]:
        target = SqliteEngine(tmp_path / "b", time.time)
        scan = await target.scan("")
        await target.close()
        return {entry.key for entry in scan.entries}

    asyncio.run(filled())
    command(source=f"sqlite://{tmp_path / 'a'}", target=f"sqlite://{tmp_path / 'b'}", json=True)
    assert '"left_out":3' in capsys.readouterr().out
    assert asyncio.run(found()) == {ROSTER, SETTINGS}


def test_an_empty_one_is_copied_too():
    target = engine()
    assert run(engine(), target).entries == 0
    assert values(target) == {}


def test_a_target_with_something_in_it_is_left_alone():
    target = engine({"catalog/mine": b"1"})
    with pytest.raises(Conflict, match="not empty"):
        run(engine(MORE), target)
    assert values(target) == {"catalog/mine": b"1"}


class Failing(MemoryEngine):
    """Raises at its n-th transaction, before it or after it was made."""

    at, after = 0, False

    async def transact(self, checks, writes):
        self.at -= 1
        if self.at == 0 and not self.after:
            raise Unavailable("away")
        outcome = await super().transact(checks, writes)
        if self.at == 0:
            raise Unavailable("away, too late")
        return outcome


@pytest.mark.parametrize("after", [False, True])
def test_broken_off_anywhere_it_is_begun_anew(after):
    source = engine(MORE)
    failures = 0
    for at in range(1, 20):
        target = Failing(lambda: 0.0)
        target.at, target.after = at, after
        try:
            run(source, target)
        except Unavailable:
            failures += 1
            if MARK in values(target):
                with pytest.raises(Conflict, match="half of a copy of a"):
                    run(engine({"catalog/other": b""}), target, name="b")
                with pytest.raises(Conflict, match="broken off"):
                    run(target, engine())
            run(source, target)
        assert values(target) == MORE
    assert failures >= 8


def test_what_was_deleted_between_two_attempts_does_not_stay():
    target = Failing(lambda: 0.0)
    target.at = 4
    with pytest.raises(Unavailable):
        run(engine(MORE), target)
    rest = dict(list(MORE.items())[50:])
    run(engine(rest), target)
    assert values(target) == rest


def test_a_source_that_changes_meanwhile_is_told():
    source, target = engine(MORE), engine()

    def progress(done: int, entries: int) -> None:
        source._write([Write("catalog/0001", b"new")])

    with pytest.raises(Conflict, match="was changed"):
        asyncio.run(migrate(source, target, "a", (), progress))
    assert MARK in values(target)
    run(source, target)
    assert values(target)["catalog/0001"] == b"new"
