"""A pod of real processes under load: hurt by whatever comes to a seed, and restarted piece by piece.

`MEZZO_CHAOS_SEED` makes it another seed, or the one of a failure again; `MEZZO_CHAOS_KEEP` names a folder for all that was
seen when a run fails.  docs/testing.md says what is checked, and how to read it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.chaos.judging import hurt
from tests.chaos.lab import Lab, running_lab
from tests.chaos.rolling import frontends, members, nodes, parts, roll, services
from tests.integration.etcd_members import find_etcd

pytestmark = pytest.mark.skipif(not find_etcd(), reason="there is no etcd, and none could be fetched")

SEED = int(os.environ.get("MEZZO_CHAOS_SEED", "1"))
SHORT_S = 6.0
RUN_S = 30.0
LONG_S = float(os.environ.get("MEZZO_CHAOS_S", "300"))
"""how long the long version hurts a pod, in runs of `RUN_S`: half of it with one copy of each chunk, half with two"""
FOUND = 0.9
"""Of what was stored before a rolling restart: stores keep it. A few slots move for the balance's sake with each change of
the map, and in the lab nobody asks their former owners after two seconds."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab() as lab:
        yield lab


def test_a_pod_that_is_hurt_answers_right_and_in_time_and_heals(lab: Lab) -> None:
    told = hurt(lab, seed=SEED, seconds=SHORT_S)
    assert told["operations"]


def test_a_rolling_restart_fails_no_request(lab: Lab) -> None:
    """No call failed twice, so none after one retry."""
    asked, told = roll(lab, [*parts(lab)[:1], *frontends(lab)[:1], *members(lab)])
    assert not asked.failed, "\n".join(asked.failed)
    assert told["found"] >= FOUND  # type: ignore[operator]


@pytest.mark.long
@pytest.mark.timeout(LONG_S * 4 + 300)
@pytest.mark.parametrize("copies", [2, 1])
def test_a_pod_that_is_hurt_for_long(lab: Lab, capsys: pytest.CaptureFixture[str], copies: int) -> None:
    lab.keep(copies)
    seeds = random.Random(SEED if "MEZZO_CHAOS_SEED" in os.environ else None)
    until = time.monotonic() + LONG_S / 2
    first = SEED if "MEZZO_CHAOS_SEED" in os.environ else seeds.randrange(1 << 31)
    while True:
        told = hurt(lab, seed=first, seconds=RUN_S, together=1 + first % 3)
        with capsys.disabled():
            print(f"\nseed {first}, {copies} copies: {told}")
        if time.monotonic() > until:
            return
        first = seeds.randrange(1 << 31)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pieces", [parts, nodes])
def test_a_rolling_restart_of_everything_fails_no_request(
    lab: Lab, pieces, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, told = roll(lab, [*pieces(lab), *frontends(lab), *services(lab), *members(lab)])
    with capsys.disabled():
        print(f"\n{told}")
    assert not asked.failed, "\n".join(asked.failed)
    assert told["found"] >= FOUND  # type: ignore[operator]
