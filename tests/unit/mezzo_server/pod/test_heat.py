"""What is got often: found among much that is not, within bounds, for as long as it is so."""

from __future__ import annotations

import random

from mezzo_server.blockstore.api import Scope
from mezzo_server.pod.heat import COUNTERS, POPULAR_KEYS_MAX, REQUEST_KEYS_MAX, STAYS_PART, WINDOW_S, Heat

SCOPE, OTHER = Scope(b"t" * 16, b"n" * 16), Scope(b"t" * 16, b"m" * 16)
RATE = 50.0


def heat(seed: int = 1) -> Heat:
    return Heat(RATE, random.Random(seed).random, 0.0)


def gets(of: Heat, key: bytes, per_s: float, scope: Scope = SCOPE, noise: int = 0) -> None:
    """A window's worth of gets, each beside so many of chunks that are got once."""
    draw = random.Random(key)
    for _ in range(int(per_s * WINDOW_S)):
        of.asked(scope, [key])
        for _ in range(noise):
            of.asked(scope, [draw.randbytes(16)])


def names(of: Heat, now: float) -> list[bytes]:
    found = of.turn(now)
    assert found is not None
    return [name[2] for name in found]


def test_what_is_got_often_is_popular_and_nothing_else():
    counts = heat()
    gets(counts, b"often", 2 * RATE)
    gets(counts, b"seldom", RATE / 2)
    gets(counts, b"often", RATE / 2, OTHER)
    assert counts.turn(WINDOW_S - 0.01) is None
    assert counts.turn(WINDOW_S) == [(SCOPE.tenant, SCOPE.namespace, b"often")]


def test_the_most_popular_come_first():
    counts = heat()
    for times, key in ((2, b"often"), (6, b"most often"), (4, b"more often")):
        gets(counts, key, times * RATE)
    assert names(counts, WINDOW_S) == [b"most often", b"more often", b"often"]


def test_it_stays_so_while_half_of_its_gets_go_elsewhere_and_no_longer():
    counts = heat()
    gets(counts, b"often", 2 * RATE)
    assert names(counts, WINDOW_S) == [b"often"]
    gets(counts, b"often", 2 * RATE * STAYS_PART)
    assert names(counts, 2 * WINDOW_S) == [b"often"]
    gets(counts, b"often", RATE * STAYS_PART / 2)
    assert names(counts, 3 * WINDOW_S) == []
    gets(counts, b"often", 2 * RATE * STAYS_PART)
    assert names(counts, 4 * WINDOW_S) == [], "it has to become popular anew"


def test_one_request_takes_from_each_other_no_more_than_one_count():
    """Whatever it asks for; nor does it hold the loop for longer than that takes."""
    counts = Heat(RATE, lambda: 0.0, 0.0)
    known = [b"%d" % number for number in range(COUNTERS)]
    for begin in range(0, COUNTERS, REQUEST_KEYS_MAX):
        for _ in range(4):
            counts.asked(SCOPE, known[begin : begin + REQUEST_KEYS_MAX])
    before = sum(counts._counts.values())
    counts.asked(SCOPE, [b"new %d" % number for number in range(REQUEST_KEYS_MAX)])
    assert sum(counts._counts.values()) == before * 3 // 4


def test_it_is_found_among_many_more_than_there_are_counters():
    counts = heat()
    gets(counts, b"often", 2 * RATE, noise=100)
    assert names(counts, WINDOW_S) == [b"often"]
    assert len(counts._counts) <= COUNTERS


def test_callers_that_ask_in_turn_are_both_counted():
    counts = heat()
    for _ in range(int(2 * RATE * WINDOW_S)):
        counts.asked(SCOPE, [b"one"])
        counts.asked(SCOPE, [b"other"])
    assert sorted(names(counts, WINDOW_S)) == [b"one", b"other"]


def test_what_is_popular_is_bounded():
    counts = heat()
    keys = [b"%d" % number for number in range(2 * REQUEST_KEYS_MAX)]
    for _ in range(int(3 * RATE * WINDOW_S)):
        counts.asked(SCOPE, keys)
    assert sorted(names(counts, WINDOW_S)) == sorted(keys[:REQUEST_KEYS_MAX])
    assert POPULAR_KEYS_MAX >= REQUEST_KEYS_MAX
