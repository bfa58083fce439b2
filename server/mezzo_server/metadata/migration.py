"""From one metadata engine to another: everything that is stored, and nothing that goes with a process. No I/O.

The copy is made in transactions, after a mark that says where it comes from, and the mark goes last: a copy that
was broken off is begun anew by the same command, and nobody takes it for a whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mezzo.errors import Conflict, Unavailable
from mezzo_server.metadata.engine import OPERATIONS_MAX, Check, Engine, Entry, Write

MARK = "migrating"
"""Key of the mark; its value is the other engine's name."""
BATCH_BYTES = 512 << 10
"""etcd takes requests of 1.5 MiB."""


class Migrated(NamedTuple):
    """What a migration did."""

    entries: int
    bytes: int
    left_out: int
    """entries that go with a running process, which makes them anew"""


async def migrate(
    source: Engine, target: Engine, name: str, left_out: Sequence[str], progress: Callable[[int, int], None]
) -> Migrated:
    """Copy all entries but those under the prefixes ``left_out``; ``name`` is what the mark calls the source.

    ``progress`` is told how many entries of how many are there.

    Raises:
        Conflict: the target has entries already, the source changed meanwhile, or is only half of a copy itself.
        Unavailable: one of them is; to be begun anew.
    """
    if await source.get(MARK) is not None:
        raise Conflict("the source is a copy that was broken off: finish that migration first")
    before = await source.scan("")
    wanted = [entry for entry in before.entries if not entry.key.startswith(tuple(left_out))]
    size = sum(len(entry.key) + len(entry.value) for entry in wanted)
    copied = Migrated(len(wanted), size, len(before.entries) - len(wanted))
    if wanted and _values((await target.scan("")).entries, left_out) == _values(wanted, ()):
        return copied  # only the answer to the last step of an earlier attempt was lost
    await _claim(target, name)
    present = {entry.key: entry for entry in (await target.scan("")).entries}
    mark = present.pop(MARK, None)
    if mark is None:
        raise Unavailable("the mark of this migration is gone: does another one run?")
    stale = [key for key in present if key not in {entry.key for entry in wanted}]
    missing = [e for e in wanted if e.key not in present or present[e.key].value != e.value]
    done = len(wanted) - len(missing)
    for batch in _batches([Write(key, None) for key in stale] + [Write(e.key, e.value) for e in missing]):
        outcome = await target.transact([Check(MARK, mark.revision)], batch)
        if not outcome.done:
            raise Unavailable("the mark of this migration changed: does another one run?")
        done += sum(write.value is not None for write in batch)
        progress(done, len(wanted))
    after = await source.scan("")
    if _values(after.entries, left_out) != _values(before.entries, left_out):
        raise Conflict("the source was changed while it was copied: stop what writes to it, and begin anew")
    if not (await target.transact([Check(MARK, mark.revision)], [Write(MARK, None)])).done:
        raise Unavailable("the mark of this migration changed: does another one run?")
    if _values((await target.scan("")).entries, ()) != _values(wanted, ()):
        raise Conflict("what is in the target now is not what was copied: something else writes to it")
    return copied


async def _claim(target: Engine, name: str) -> None:
    """Leave the mark in an empty target, or find ours there."""
    mark = await target.get(MARK)
    if mark is None:
        if (await target.scan("")).entries:
            raise Conflict("the target is not empty: a migration goes into an empty one")
        if (await target.transact([Check(MARK, 0)], [Write(MARK, name.encode())])).done:
            return
        mark = await target.get(MARK)
    if mark is None or mark.value != name.encode():
        other = "another source" if mark is None else mark.value.decode(errors="replace")
        raise Conflict(f"the target is half of a copy of {other}: finish that one, or empty it")


def _batches(writes: Sequence[Write]) -> list[list[Write]]:
    batches: list[list[Write]] = []
    room = 0
    for write in writes:
        size = len(write.key) + len(write.value or b"")
        if not batches or len(batches[-1]) == OPERATIONS_MAX or size > room:
            batches.append([])
            room = BATCH_BYTES
        batches[-1].append(write)
        room -= size
    return batches


def _values(entries: Sequence[Entry], left_out: Sequence[str]) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in entries if not entry.key.startswith(tuple(left_out))}
