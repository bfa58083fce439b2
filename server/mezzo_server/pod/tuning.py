"""Weights that give each shard the slots that its capacity is worth, and not what chance gives it.

With 65,536 slots and a few hundred shards chance alone is off by a fifth for some.  A shard's weight is therefore
its capacity times a *tuning* near 1 that stays with it: a new map begins with the tunings of the last one, and
changes them only where a shard is further off than the tolerance, so that tuning moves next to nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mezzo.placement.rendezvous import NOBODY, WEIGHT_MAX, Contender
from mezzo_server.pod.table import make_table

TUNING_ONE = 1 << 12
"""a tuning of 1"""
TUNING_MIN, TUNING_MAX = TUNING_ONE // 4, TUNING_ONE * 4
TOLERANCE = 0.04
"""How far off a shard may be before its tuning changes."""
AIM = 0.8
"""Where within the tolerance a shard is brought to that was outside."""
ROUNDS_MAX = 40
CAPACITY_MAX = WEIGHT_MAX // TUNING_MAX


class Tuned(NamedTuple):
    """Shards' tunings, and what they lead to."""

    tunings: tuple[int, ...]
    table: Sequence[int]
    worst: float
    """by how much the worst shard is off, as a part of what it should have"""


def contenders(ids: Sequence[bytes], capacities: Sequence[int], tunings: Sequence[int]) -> list[Contender]:
    """Shards of so much capacity (in any unit, at most `CAPACITY_MAX`; 0: gets nothing), each with its tuning."""
    return [
        Contender(shard, capacity * tuning)
        for shard, capacity, tuning in zip(ids, capacities, tunings, strict=True)
    ]


def tune(
    ids: Sequence[bytes],
    capacities: Sequence[int],
    tunings: Sequence[int],
    slots_log2: int,
    tolerance: float = TOLERANCE,
) -> Tuned:
    """Tunings with which no shard is further off than ``tolerance``, as far as whole slots allow.

    A shard is never called off for less than one slot.  The result is a matter of the arguments only.
    """
    best = _measured(ids, capacities, tunings, slots_log2)
    if best.worst <= tolerance:
        return best
    now = best
    for _ in range(ROUNDS_MAX):
        now = _measured(ids, capacities, _corrected(now, capacities, tolerance), slots_log2)
        if now.worst < best.worst:
            best = now
        if best.worst <= tolerance:
            break
    return best


def _measured(
    ids: Sequence[bytes], capacities: Sequence[int], tunings: Sequence[int], slots_log2: int
) -> Tuned:
    table = make_table(contenders(ids, capacities, tunings), slots_log2)
    off = [abs(error) for error in _errors(table, capacities)]
    return Tuned(tuple(tunings), table, max(off, default=0.0))


def _errors(table: Sequence[int], capacities: Sequence[int]) -> list[float]:
    """By how much each shard has too many slots, as a part of what it should have; 0 if it is less than one slot."""
    counts = Counter(table)
    counts.pop(NOBODY, None)
    total = sum(capacities)
    errors = []
    for index, capacity in enumerate(capacities):
        due = len(table) * capacity / total if total else 0.0
        over = counts[index] - due
        errors.append(over / due if due and abs(over) >= 1 else 0.0)
    return errors


def _corrected(now: Tuned, capacities: Sequence[int], tolerance: float) -> list[int]:
    found = []
    for tuning, error in zip(now.tunings, _errors(now.table, capacities), strict=True):
        if abs(error) > tolerance:
            # Just within, and no further: what it gains others lose, and each slot is moved for it.
            tuning = round(tuning / (1 + error - math.copysign(AIM * tolerance, error)))
        found.append(max(TUNING_MIN, min(TUNING_MAX, tuning)))
    return found
