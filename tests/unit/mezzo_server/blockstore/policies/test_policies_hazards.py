"""What a class of chunks is worth: computed in one pass, and the same as by trying all times to keep it."""

import random
from math import exp

import pytest

from mezzo_server.blockstore.policies.hazards import AGES, EDGES, SPAN, UNITS, Hazards, worths_of

GROUPS = [0, 0, 0, 1, 1]


def best_of_all_times(rates):
    """Hits for each unit of time, for the best of all times to keep, from the beginning of each age on."""
    worths = []
    for first in range(AGES):
        left, hits, time, best = 1.0, 0.0, 0.0, 0.0
        for age in range(first, AGES):
            width = EDGES[age + 1] - EDGES[age]
            hit = left * (1.0 - exp(-rates[age] * width))
            hits += hit
            time += width * (left - hit / 2)
            left -= hit
            best = max(best, hits / time)
        worths.append(best)
    return worths


@pytest.mark.parametrize("seed", range(20))
def test_the_worth_is_that_of_the_best_time(seed):
    draws = random.Random(seed)
    rates = [10 ** draws.uniform(-7, -1) for _ in range(AGES)]
    assert worths_of(rates) == pytest.approx(best_of_all_times(rates))


def test_a_class_that_was_not_seen_is_like_its_group():
    learned = Hazards(GROUPS, [1.0] * len(GROUPS))
    now = UNITS
    for _ in range(200):
        learned.came(0, now)
        learned.used(0, now - SPAN, now)
        now += 1
    learned.learn(1)
    learned.learn(2)
    learned.learn(3)
    assert learned.worth[1] == learned.worth[2]
    before = learned.worth[3][0]
    learned.learn(0)
    # Of its own class more is known than of those that only belong to its group; of another group nothing is.
    assert learned.worth[0][0] > learned.worth[1][0] > before


def test_spans_that_pass_count_who_waits_and_forget_who_is_watched_for_too_long():
    learned = Hazards(GROUPS, [1.0] * len(GROUPS))
    now = UNITS
    for _ in range(50):
        learned.came(4, now)
    worth = learned.worth[4][0]
    for _ in range(400):
        now += SPAN
        learned.pass_on(now)
    assert learned.worth[4][0] < worth  # nobody came back in all that time
