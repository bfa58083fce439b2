"""What an owner tells its seconds that it has no more, and which puts are declined until they have heard it."""

from __future__ import annotations

import pytest

from mezzo_server.blockstore.api import Scope
from mezzo_server.pod import leaving
from mezzo_server.pod.leaving import Farewell, Leavings

SCOPE, OTHER = Scope(b"t" * 16, b"n" * 16), Scope(b"t" * 16, b"m" * 16)
ONE, TWO = b"1" * 16, b"2" * 16


def second_of(scope: Scope, key: bytes) -> bytes | None:
    return {b"1": ONE, b"2": TWO}.get(key[:1])


@pytest.fixture
def leavings() -> Leavings:
    """Of an owner whose seconds have heard that it started."""
    leavings = Leavings(second_of, lambda: 0.5)
    leavings.follow(frozenset((ONE, TWO)))
    begins(leavings)
    return leavings


def begins(leavings: Leavings) -> list[bytes]:
    """Tell everybody who is to begin anew."""
    told = []
    while (farewell := leavings.next(0.0)) is not None:
        assert farewell.anew
        told.append(farewell.second)
        leavings.ended(farewell, 0.0, failed=False)
    return told


def test_who_starts_says_so_to_every_second_before_anything_is_put():
    leavings = Leavings(second_of, lambda: 0.5)
    leavings.follow(frozenset((ONE, TWO)))
    assert leavings.bars(SCOPE, b"1a")
    assert not leavings.bars(SCOPE, b"3a"), "it has no second"
    assert begins(leavings) == [ONE, TWO]
    assert not leavings.bars(SCOPE, b"1a")
    leavings.follow(frozenset((ONE, TWO, b"3" * 16)))
    assert begins(leavings) == [], "whoever becomes second later begins by the map"


def test_what_has_left_is_barred_until_its_second_has_heard_it(leavings):
    assert leavings.left(SCOPE, b"1a")
    assert not leavings.left(SCOPE, b"1a")
    assert not leavings.left(SCOPE, b"3a")
    assert leavings.bars(SCOPE, b"1a")
    assert not leavings.bars(OTHER, b"1a")
    assert not leavings.bars(SCOPE, b"1b")
    farewell = leavings.next(0.0)
    assert farewell == Farewell(ONE, SCOPE, [b"1a"], False)
    assert leavings.next(0.0) is None, "one at a time to each"
    assert leavings.bars(SCOPE, b"1a")
    leavings.left(SCOPE, b"1b")
    leavings.ended(farewell, 0.0, failed=False)
    assert not leavings.bars(SCOPE, b"1a")
    assert leavings.bars(SCOPE, b"1b"), "that was not told yet"


def test_what_the_second_was_told_of_already_is_told_again_and_bars_nothing(leavings):
    assert leavings.left(SCOPE, b"1a", bars=False)
    assert not leavings.bars(SCOPE, b"1a")
    assert leavings.next(0.0) == Farewell(ONE, SCOPE, [b"1a"], False)
    leavings.left(SCOPE, b"1a")
    assert leavings.bars(SCOPE, b"1a")
    leavings.left(SCOPE, b"1a", bars=False)
    assert leavings.bars(SCOPE, b"1a")


def test_what_was_put_and_has_left_again_while_it_was_told_is_told_again(leavings):
    leavings.left(SCOPE, b"1a", bars=False)
    farewell = leavings.next(0.0)
    leavings.left(SCOPE, b"1a")
    leavings.ended(farewell, 0.0, failed=False)
    assert leavings.bars(SCOPE, b"1a")
    leavings.ended(leavings.next(0.0), 0.0, failed=False)
    assert not leavings.bars(SCOPE, b"1a")


def test_what_is_in_slots_of_others_by_now_is_not_told(leavings, monkeypatch):
    for key in (b"1a", b"1b", b"1c"):
        leavings.left(SCOPE, key)
    leavings.left(OTHER, b"1b")
    monkeypatch.setattr(
        leavings, "_second_of", lambda scope, key: None if key == b"1b" else second_of(scope, key)
    )
    farewell = leavings.next(0.0)
    assert farewell == Farewell(ONE, SCOPE, [b"1a", b"1c"], False)
    leavings.ended(farewell, 0.0, failed=False)
    assert leavings.next(0.0) is None
    assert leavings.numbers()["pod_left_queued"] == 0


def test_more_than_is_kept_of_that_is_not_told(leavings, monkeypatch):
    monkeypatch.setattr(leaving, "LEFT_KEYS_MAX", 1)
    leavings.left(SCOPE, b"1a")
    assert not leavings.left(SCOPE, b"1b", bars=False)
    assert not leavings.bars(SCOPE, b"1b")


def test_who_does_not_answer_is_told_again_and_holds_up_no_other(leavings):
    leavings.left(SCOPE, b"1a")
    first = leavings.next(0.0)
    leavings.ended(first, 0.0, failed=True)
    leavings.left(SCOPE, b"2a")
    other = leavings.next(0.0)
    assert other.second == TWO
    leavings.ended(other, 0.0, failed=False)
    assert leavings.next(0.0) is None
    wait_s = leavings.wait_s(0.0)
    assert 0 < wait_s < 1
    assert leavings.next(wait_s) == first
    assert leavings.numbers()["pod_left_failed"] == 1


def test_who_is_second_no_more_is_not_waited_for(leavings):
    leavings.left(SCOPE, b"1a")
    farewell = leavings.next(0.0)
    leavings.follow(frozenset((TWO,)))
    assert leavings.numbers()["pod_left_queued"] == 0
    leavings.follow(frozenset((ONE, TWO)))
    leavings.left(SCOPE, b"1a")
    leavings.ended(farewell, 0.0, failed=False)
    assert leavings.bars(SCOPE, b"1a"), "that answer was to what was told before"
    assert leavings.next(0.0).keys == [b"1a"]


def test_more_than_is_kept_makes_the_second_of_most_of_it_begin_anew(leavings, monkeypatch):
    monkeypatch.setattr(leaving, "LEFT_KEYS_MAX", 4)
    leavings.left(SCOPE, b"2a")
    for number in range(4):
        leavings.left(SCOPE, b"1%d" % number)
    assert leavings.numbers()["pod_left_queued"] == 1
    assert leavings.bars(SCOPE, b"1x")
    assert not leavings.bars(SCOPE, b"2x")
    farewell = leavings.next(0.0)
    assert farewell == Farewell(ONE, None, [], True)
    leavings.begin_anew()
    leavings.ended(farewell, 0.0, failed=False)
    assert leavings.bars(SCOPE, b"1x"), "it was found necessary again since"


def test_much_is_told_in_pieces_of_one_scope(leavings, monkeypatch):
    monkeypatch.setattr(leaving, "BATCH_KEYS_MAX", 2)
    for key in (b"1a", b"1b", b"1c"):
        leavings.left(SCOPE, key)
    leavings.left(OTHER, b"1d")
    told = []
    while (farewell := leavings.next(0.0)) is not None:
        told.append((farewell.scope, farewell.keys))
        leavings.ended(farewell, 0.0, failed=False)
    assert told == [(SCOPE, [b"1a", b"1b"]), (SCOPE, [b"1c"]), (OTHER, [b"1d"])]
    assert leavings.numbers()["pod_left_told"] == 4
    assert leavings.wait_s(0.0) is None
