"""How likely a chunk is wanted again, learned from those that were: by class and age, forgetting slowly.

Chunks that came, or were used, in the same span of time and are of the same class are a *cohort*; how many
of each are still waiting to be used is counted.  A use divided by the time that chunks waited at that age is
the hazard; counting the time of those that wait still is what keeps a young memory from believing that
everything is used.  From the hazards follows the *worth* of a chunk of a class and an age: the most hits for
each unit of time that keeping it, for the best of all times, promises (Gittins 1979; with one time to keep
all it is LHD's hit density: Beckmann et al., NSDI 2018).  Time is counted in bytes put.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

TIME_BITS = 24
TIME_MASK = (1 << TIME_BITS) - 1
UNITS = 4096
"""of time in which as much is put as there is capacity"""
SPAN = 128
"""units that make one cohort"""
COHORTS = 256
"""cohorts of one class that are watched: eight capacities"""
AGES = 20
PRIOR = 12.0
"""how many uses a class needs to count as much as its group"""
FORGET = 0.9
"""of what was learned is left when half of the capacity was put"""
PATIENCE = 0.7
"""A chunk is worth at least so much of what it will be worth one age later."""


def _edges() -> list[int]:
    """First unit of each age, two ages for each doubling, and the end of the last one; all are whole spans."""
    edges = [0, SPAN]
    for age in range(AGES - 1):
        octave, half = divmod(age, 2)
        edges.append((2 * SPAN << octave) + half * (SPAN << octave))
    return edges


EDGES = _edges()
_LOOKUP = bytes(
    max(age for age in range(AGES) if EDGES[age] <= step * SPAN) for step in range(EDGES[AGES] // SPAN)
)


def age_of(units: int) -> int:
    """The number of an age."""
    step = units // SPAN
    return _LOOKUP[step] if step < len(_LOOKUP) else AGES - 1


class Hazards:
    """Cohorts, hazards and worths of all classes. Owner of all of them."""

    __slots__ = ("_groups", "_learned_at", "_uses", "_waited", "_waiting", "worth")

    def __init__(self, groups: Sequence[int], supposed: Sequence[float]) -> None:
        """One class for each entry of ``groups``: classes of one group lend one another what they know.

        ``supposed`` is what the classes are worth beside one another before anything is known.
        """
        self._groups = [[other for other, one in enumerate(groups) if one == mine] for mine in groups]
        self._uses = [[0.0] * AGES for _ in groups]
        self._waited = [[0.0] * AGES for _ in groups]
        self._waiting = [[0] * COHORTS for _ in groups]
        self._learned_at = [0] * len(groups)
        # Until something is known: the older the less.
        self.worth = [[factor / (EDGES[age + 1] + UNITS) for age in range(AGES)] for factor in supposed]
        """hits for each unit of time, by class and age"""

    def came(self, kind: int, now: int) -> None:
        """A chunk is of that class from now on."""
        self._waiting[kind][now // SPAN % COHORTS] += 1

    def used(self, kind: int, since: int, now: int) -> None:
        """A chunk that was of that class ``since`` is wanted."""
        self.ended(kind, since, now)
        self._uses[kind][age_of(now - since)] += 1.0

    def moved(self, kind: int, since: int, after: int, now: int) -> None:
        """`used`, and `came` of the class ``after``, in one call: it is on the way of every get."""
        span, began = now // SPAN, since // SPAN
        if span - began < COHORTS:
            waiting = self._waiting[kind]
            cohort = began % COHORTS
            if waiting[cohort]:
                waiting[cohort] -= 1
        self._waiting[after][span % COHORTS] += 1
        step = span - began
        self._uses[kind][_LOOKUP[step] if step < len(_LOOKUP) else AGES - 1] += 1.0

    def ended(self, kind: int, since: int, now: int) -> None:
        """A chunk that was of that class ``since`` is watched no more."""
        if now // SPAN - since // SPAN < COHORTS:
            cohort = since // SPAN % COHORTS
            self._waiting[kind][cohort] = max(self._waiting[kind][cohort] - 1, 0)

    def pass_on(self, now: int) -> None:
        """A new span begins: the cohort that is watched longest gives way to a new one."""
        cohort = now // SPAN % COHORTS
        for waiting in self._waiting:
            waiting[cohort] = 0

    def forget(self) -> None:
        """Half of the capacity was put: what was learned weighs less."""
        for rows in (self._uses, self._waited):
            for row in rows:
                row[:] = [FORGET * value for value in row]

    def learn(self, kind: int, now: int) -> None:
        """Compute the worths of one class anew; some tens of microseconds."""
        waited = self._waited[kind]
        passed = now - self._learned_at[kind]
        self._learned_at[kind] = now
        newest = now // SPAN
        for back in range(min(COHORTS, newest + 1)):
            count = self._waiting[kind][(newest - back) % COHORTS]
            if count:
                waited[age_of(back * SPAN)] += count * passed
        group = self._groups[kind]
        uses = [sum([self._uses[other][age] for other in group]) for age in range(AGES)]
        times = [sum([self._waited[other][age] for other in group]) for age in range(AGES)]
        rates = []
        for age in range(AGES):
            pooled = (uses[age] + 0.01) / (times[age] + EDGES[age + 1])
            # as if the class had been seen for so long as brings PRIOR uses to its group
            prior = min(PRIOR / pooled, times[age] + EDGES[age + 1])
            rates.append((self._uses[kind][age] + pooled * prior) / (waited[age] + prior))
        self.worth[kind] = _worths(rates)


def _worths(rates: Sequence[float]) -> list[float]:
    """Hits for each unit of time when kept for the best time from the beginning of each age on.

    ``rates`` are uses for each unit of waiting, by age.
    """
    widths = [EDGES[age + 1] - EDGES[age] for age in range(AGES)]
    stays = [exp(-rate * width) for rate, width in zip(rates, widths, strict=True)]
    worths = []
    for first in range(AGES):
        left, hits, time, best = 1.0, 0.0, 0.0, 0.0
        for age in range(first, AGES):
            hit = left * (1.0 - stays[age])
            hits += hit
            time += widths[age] * (left - hit / 2)
            left -= hit
            best = max(best, hits / time)
            if left < 1e-4:
                break
        worths.append(best)
    # Not much less than when it will be older: what comes must have its chance, or those that were here first stay.
    # With 1.0 it has too much of it where space is short, with 0.0 it has none.
    for age in range(AGES - 2, -1, -1):
        worths[age] = max(worths[age], PATIENCE * worths[age + 1])
    return worths
