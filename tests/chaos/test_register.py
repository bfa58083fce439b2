"""The checker of histories: against all orders of small histories, and on ones that are right or wrong by making."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.chaos.register import (
    ABSENT,
    OTHER,
    Operation,
    State,
    Undecided,
    after,
    refusal,
    unknown,
)


def put(value, begin, end, answer="stored", *, retried=False):
    return Operation("put", answer, begin, end, value, retried)


def get(value, begin, end):
    return Operation("get", "found", begin, end, value)


def present(begin, end):
    return Operation("get", "present", begin, end)


def delete(begin, end, answer="deleted"):
    return Operation("delete", answer, begin, end)


RIGHT = {
    "nothing": [],
    "a put and its get": [put(1, 0, 1), get(1, 2, 3)],
    "a get beside its put": [put(1, 0, 3), get(1, 1, 2)],
    "the second put finds the first": [put(1, 0, 1), put(2, 2, 3, "exists"), get(1, 4, 5)],
    "of two at a time either may be first": [put(1, 0, 3, "exists"), put(2, 1, 2), get(2, 4, 5)],
    "put again after a delete": [put(1, 0, 1), delete(2, 3), put(2, 4, 5), get(2, 6, 7)],
    "a get beside a delete": [put(1, 0, 1), delete(2, 5), get(1, 3, 4), put(2, 6, 7)],
    "a put without an answer is found later": [put(1, 0, math.inf, "maybe"), put(2, 5, 6), delete(7, 8), get(1, 9, 10)],
    "a put without an answer never was": [put(1, 0, math.inf, "maybe"), put(2, 5, 6), get(2, 9, 10)],
    "a delete without an answer": [put(1, 0, 1), delete(2, math.inf, "maybe"), get(1, 3, 4), put(2, 5, 6), get(2, 7, 8)],
    "its own first attempt": [put(1, 0, 1, "exists", retried=True), get(1, 2, 3)],
    "its own first attempt, though it would fit earlier": [
        put(2, -3, -2), put(1, 0, 9, "exists", retried=True), delete(0, 9), get(1, 10, 11)
    ],
    "a delete of nothing": [delete(0, 1, "absent"), put(1, 2, 3), present(4, 5)],
}  # fmt: skip
WRONG = {
    "a get of what nobody put": [put(1, 0, 1), get(2, 2, 3)],
    "a get before its put": [get(1, 0, 1), put(1, 2, 3)],
    "stored twice": [put(1, 0, 1), put(2, 2, 3)],
    "exists where nothing is": [put(1, 0, 1, "exists")],
    "back to life": [put(1, 0, 1), delete(2, 3), get(1, 4, 5)],
    "presence after a delete": [put(1, 0, 1), delete(2, 3), present(4, 5)],
    "exists after a delete": [put(1, 0, 1), delete(2, 3), put(2, 4, 5, "exists")],
    "the loser's bytes": [put(1, 0, 1), put(2, 2, 3, "exists"), get(2, 4, 5)],
    "two values at a time": [put(1, 0, 3), put(2, 0, 3, "exists"), get(1, 4, 5), get(2, 6, 7)],
    "deleted twice": [put(1, 0, 1), delete(2, 3), delete(4, 5)],
    "a delete that found nothing": [put(1, 0, 1), delete(2, 3, "absent")],
    "overwritten": [put(1, 0, 1), get(1, 2, 3), put(2, 4, 9), get(1, 5, 6)],
    "found, though never answered, before it began": [get(1, 0, 1), put(1, 2, math.inf, "maybe")],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_histories_are_accepted(name):
    assert refusal(RIGHT[name]) is None


@pytest.mark.parametrize("name", WRONG)
def test_wrong_histories_are_refused(name):
    assert refusal(WRONG[name]) is not None


def test_a_refusal_shows_how_far_it_went():
    told = str(refusal(WRONG["back to life"]))
    assert told.index("put 1: stored") < told.index("delete: deleted") < told.index("none of these after it")
    assert told.index("none of these after it") < told.index("get 1: found")


def test_a_former_owner_has_what_it_had_until_it_is_deleted():
    moved = [State(ABSENT, 1)]
    assert refusal([get(1, 0, 1), put(2, 2, 3), get(2, 4, 5)], moved) is None
    assert refusal([put(2, 0, 1, "exists"), get(1, 2, 3)], moved) is None  # it was taken over
    assert refusal([put(2, 0, 1), get(1, 2, 3)], moved) is None  # the owner did not answer
    assert refusal([delete(0, 1), get(1, 2, 3)], moved) is not None
    assert refusal([delete(0, math.inf, "maybe"), put(2, 2, 3), get(1, 4, 5)], moved) is None


def test_what_is_not_known_of_the_past():
    history = [get(7, 0, 1), put(2, 2, 3, "exists"), delete(4, 5), put(3, 6, 7)]
    assert refusal(history) is not None
    assert refusal(history, unknown(history, moved=False)) is None
    assert {state.own for state in unknown(history, moved=False)} == {ABSENT, OTHER, 7}
    assert refusal([*history, get(7, 8, 9)], unknown(history, moved=True)) is not None


def test_what_takes_too_long_to_decide_is_said():
    with pytest.raises(Undecided):
        refusal([put(1, 0, 1), get(1, 2, 3), delete(4, 5)], steps_max=2)


MOMENTS = st.integers(0, 12)


@st.composite
def operations(draw):
    kind, answer = draw(
        st.sampled_from(
            [("put", "stored"), ("put", "exists"), ("put", "maybe"), ("get", "found"), ("get", "present"),
             ("delete", "deleted"), ("delete", "absent"), ("delete", "maybe")]
        )
    )  # fmt: skip
    begin = draw(MOMENTS)
    end = math.inf if answer == "maybe" else begin + draw(st.integers(1, 6))
    value = draw(st.integers(1, 3)) if kind == "put" or answer == "found" else 0
    return Operation(kind, answer, begin, end, value, retried=answer == "exists" and draw(st.booleans()))


def in_some_order(history, initial):
    """As `refusal`, by trying all orders of all that may have happened."""
    required = [each for each in history if each.answer != "maybe"]
    maybe = [each for each in history if each.answer == "maybe"]
    for count in range(len(maybe) + 1):
        for chosen in itertools.combinations(maybe, count):
            for order in itertools.permutations([*required, *chosen]):
                if any(b.end < a.begin for a, b in itertools.combinations(order, 2)):
                    continue
                states = {initial}
                for each in order:
                    states = {then for state in states for then in after(state, each)}
                if states:
                    return True
    return False


@given(st.lists(operations(), max_size=5), st.sampled_from([State(0), State(2), State(0, 1), State(2, 1)]))
def test_as_by_trying_all_orders(history, initial):
    assert (refusal(history, [initial]) is None) == in_some_order(history, initial)


def played(seed, count):
    """A history of one register, each operation at its moment, told with begins and ends around it."""
    source = random.Random(seed)
    there, number, history = 0, 0, []
    for moment in range(count):
        begin, end = moment - 3 * source.random(), moment + 3 * source.random()
        choice = source.random()
        if choice < 0.4:
            number += 1
            answer = "exists" if there else "stored"
            if source.random() < 0.15:
                answer, end = "maybe", math.inf
                there = there or (number if source.random() < 0.5 else 0)
            else:
                there = there or number
            history.append(put(number, begin, end, answer))
        elif choice < 0.8:
            if there:
                history.append(get(there, begin, end))
        else:
            history.append(delete(begin, end, "deleted" if there else "absent"))
            there = 0
    return history


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_what_one_register_did_is_accepted(seed, count):
    assert refusal(played(seed, count)) is None


@given(st.integers(0, 2**32), st.integers(8, 60), st.sampled_from(["other", "early", "late", "twice"]))
def test_what_it_did_not_do_is_refused(seed, count, how):
    history = played(seed, count)
    read = {each.value for each in history if each.kind == "get"}
    stored = [each for each in history if each.answer == "stored"]
    assume(stored)
    last = max(each.end for each in history if each.end < math.inf)
    if how == "other":  # bytes that nobody put
        history.append(get(1000, 0, last))
    elif how == "early":  # before it was put
        history.append(get(stored[-1].value, -20, -10))
    elif how == "late":  # after it was deleted, and something else stored
        history += [delete(last + 1, last + 2, "maybe"), put(1001, last + 3, last + 4)]
        history += [get(1001, last + 5, last + 6), get(stored[0].value, last + 7, last + 8)]
    else:  # stored over what is there
        history += [put(1002, last + 1, last + 2, "exists", retried=True), put(1003, last + 3, last + 4)]
        assume(not any(each.answer == "maybe" and each.kind == "delete" for each in history))
    assert read is not None
    assert refusal(history) is not None
