"""What a pod asks of a store: in which order chunks were put, what left it, and what may not come back yet."""

from __future__ import annotations

import pytest

from mezzo.protocol.messages import EventKind
from mezzo_server.blockstore.api import PutStatus, Scope
from tests.simulation.rig import SCOPE, Rig, chunk, content


class Watch:
    """A guard that bars what it is told to."""

    def __init__(self, rig: Rig) -> None:
        self.told: list[tuple[bytes, int]] = []
        self.barred: set[bytes] = set()
        rig.store.guarded_by(self)

    def left(self, scope: Scope, key: bytes, why: int) -> None:
        assert scope == SCOPE
        self.told.append((key, why))

    def bars(self, scope: Scope, key: bytes) -> bool:
        return key in self.barred


def dismissed(rig: Rig, *keys: bytes) -> bool:
    done: list[bool] = []
    rig.store.dismiss(SCOPE, keys, lambda: done.append(True))
    assert len(done) < 2
    return bool(done)


def test_what_is_put_later_has_a_higher_sequence_after_a_restart_too() -> None:
    rig = Rig()
    seen = [rig.store.next_sequence]
    for number in range(3):
        rig.put(b"%d" % number, 5000)
        sequence = rig.store.sequence(SCOPE, b"%d" % number)
        assert sequence is not None
        assert sequence >= seen[-1]
        rig.restart()
        seen.append(rig.store.next_sequence)
        assert seen[-1] > sequence
    assert rig.store.sequence(SCOPE, b"never") is None


def test_what_leaves_is_told_and_what_moves_or_comes_is_not() -> None:
    rig = Rig()
    watch = Watch(rig)
    keys = rig.fill("k", 3, 5000)
    rig.delete(keys[0])
    assert dismissed(rig, keys[1], b"never")
    assert watch.told == [(keys[0], EventKind.DELETED), (keys[1], EventKind.EVICTED)]
    number = 0
    while rig.has(keys[2]):
        rig.put(b"more-%d" % number, 60_000)
        number += 1
    assert (keys[2], EventKind.EVICTED) in watch.told
    rig.store.guarded_by(None)


@pytest.mark.parametrize("how", ["kill", "cut", "close"])
def test_what_was_let_go_of_and_deleted_or_put_anew_is_so_after_restarts(how: str) -> None:
    rig = Rig()
    first, second = rig.fill("k", 2, 5000)
    assert dismissed(rig, first, second)
    assert not rig.has(first)
    assert rig.delete(first)[0] == [False]
    assert rig.put(second, content(b"other", 6000)) is PutStatus.STORED
    if how == "cut":
        rig.store.close()
    for seed in range(3):
        rig.restart(how, seed=seed)
        assert not rig.has(first)
        assert rig.get(second) == content(b"other", 6000)


def test_what_is_being_put_is_let_go_of_when_it_is_there() -> None:
    rig = Rig()
    done: list[bool] = []
    rig.begin_put([chunk(b"k", content(b"k", 5000))])
    rig.store.dismiss(SCOPE, (b"k", b"other"), lambda: done.append(True))
    assert not done
    rig.drain()
    assert done == [True]
    assert not rig.has(b"k")
    assert rig.put(b"k", 5000) is PutStatus.STORED


def test_a_guard_bars_keys_that_are_not_there_and_no_others() -> None:
    rig = Rig()
    watch = Watch(rig)
    rig.put(b"k", 5000)
    watch.barred = {b"k", b"l"}
    assert rig.put(b"k", 5000) is PutStatus.EXISTS
    assert rig.put(b"l", 5000) is PutStatus.DECLINED
    assert not rig.store.takes(SCOPE, chunk(b"l", b"l"))
    assert rig.put(b"m", 5000) is PutStatus.STORED
    watch.barred.clear()
    assert rig.put(b"l", 5000) is PutStatus.STORED
    rig.drain()
