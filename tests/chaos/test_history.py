"""What is made of histories: which operations count for a tenure, what is known at its begin, what was erased."""

from __future__ import annotations

import math

import pytest

from mezzo.placement.pod_map import PodMap, ShardPlace
from tests.chaos.epochs import Look, tenures
from tests.chaos.history import Called, History, Purge, WrongBytes, during, number_of, payload
from tests.chaos.register import ABSENT, Operation, State

A, B = b"a" * 16, b"b" * 16
PLACES = [ShardPlace(shard, "n", "", (), 1) for shard in (A, B)]


def look(sent: float, epoch: int, owner: int, before: int | None = None, *, followed: bool = True) -> Look:
    previous = {} if before is None else dict.fromkeys(range(16), before)
    return Look(sent, sent + 1, PodMap(bytes(16), epoch, 4, PLACES, [owner] * 16, previous), followed)


def put(value: int, begin: float, end: float, answer: str = "stored") -> Operation:
    return Operation("put", answer, begin, end, value)  # type: ignore[arg-type]


def test_a_tenure_is_what_is_sure():
    looks = [
        look(0, 1, 0),
        look(5, 1, 0),
        look(10, 2, 1, 0, followed=False),
        look(20, 2, 1, 0),
        look(25, 2, 1, 0),
    ]
    first, second = tenures(looks, 3)
    assert (first.begin, first.end, first.owner, first.before) == (1, 5, A, None)
    assert (second.begin, second.end, second.owner, second.before) == (21, 25, B, A)


def test_epochs_with_one_owner_are_one_tenure_and_a_lost_epoch_parts_them():
    looks = [look(0, 1, 0), look(5, 1, 0), look(10, 2, 0), look(15, 2, 0), look(20, 4, 0), look(25, 4, 0)]
    first, second = tenures(looks, 3)
    assert (first.begin, first.end, first.epochs) == (1, 15, (1, 2))
    assert (second.begin, second.end, second.epochs) == (21, 25, (4, 4))
    assert first.is_steady(1, 4)
    assert first.is_steady(12, 14)
    assert not first.is_steady(4, 6)


def test_what_reaches_over_a_tenure_may_have_happened_in_it():
    (tenure,) = tenures([look(0, 1, 0), look(10, 1, 0)], 3)
    before, over, within = put(1, -5, -4), put(2, 0, 3), put(3, 4, 5)
    after, late, read = put(4, 11, 12), put(5, 9, 12), Operation("get", "found", 0, 3, 1)
    operations, initial = during([before, over, within, after, late, read], tenure)
    assert [(each.value, each.answer, each.begin, each.end) for each in operations] == [
        (2, "maybe", 1, math.inf), (3, "stored", 4, 5), (5, "maybe", 9, math.inf)
    ]  # fmt: skip
    assert State(ABSENT) in initial
    assert len(initial) > 1
    assert during([within], tenure)[1] == [State(ABSENT)]
    unanswered = put(6, -5, math.inf, "maybe")
    assert during([unanswered], tenure)[0][0].answer == "maybe"


def test_a_history_is_judged_by_tenure():
    history = History()
    looks = [look(0, 1, 0), look(10, 1, 0), look(20, 2, 1), look(30, 2, 1)]
    history.operations = [(b"k", put(1, 2, 3)), (b"k", put(2, 22, 23))]
    assert history.refusals(looks, lambda key: 3) == []  # another shard has it
    history.operations.append((b"k", put(3, 25, 26)))
    assert "none of these after it" in history.refusals(looks, lambda key: 3)[0]


def test_bytes_tell_their_key_and_their_put():
    data = payload(b"key", 7)
    assert number_of(b"key", data) == 7
    for wrong in (data[:-1], data + b"\0", b"\0" + data[1:], data[:100] + b"\0" + data[101:], b""):
        if wrong != data:
            with pytest.raises(WrongBytes):
                number_of(b"key", wrong)
    with pytest.raises(WrongBytes):
        number_of(b"other", data)


def test_what_was_erased_is_not_to_be_read():
    history = History()
    history.purges = [Purge(10, 11)]
    read = Operation("get", "found", 15, 16, 1)
    history.erasable = [(b"k", put(1, 2, 3)), (b"k", read)]
    assert history.resurrected(10) == []
    assert len(history.resurrected(2)) == 1
    history.erasable[0] = (b"k", put(1, 9, 12))  # beside the purge
    assert history.resurrected(2) == []


def test_who_is_late_is_told():
    history = History()
    history.calls = [
        Called("c", "get", 1, 0.0, 2.0, 2.5),
        Called("c", "get", 1, 0.0, 2.0, 9.0),
        Called("c", "put", 1, 0.0, 2.0),
    ]
    assert [each.end for each in history.late()] == [9.0, math.inf]
