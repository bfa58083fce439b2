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
"""that hazards are learned for: finer ones would have too few uses to learn from"""
STEPS_ALONE = 64
STEPS_OF_OCTAVE = 16
"""Worths are told apart by finer *steps* of age: the first are a span each, then so many make a doubling."""
PRIOR = 12.0
"""how many uses a class needs to count as much as its group"""
FORGET = 0.97
"""of what was learned is left when half of the capacity was put"""
LEARN_AT_ONCE = 4
"""classes whose worths are computed anew at the end of each span"""


def _edges() -> list[int]:
    """First unit of each age, two ages for each doubling, and the end of the last one; all are whole spans."""
    edges = [0, SPAN]
    for age in range(AGES - 1):
        octave, half = divmod(age, 2)
        edges.append((2 * SPAN << octave) + half * (SPAN << octave))
    return edges


EDGES = _edges()
_ENDS = EDGES[1:]
_WIDTHS = [EDGES[age + 1] - EDGES[age] for age in range(AGES)]
_SPANS = EDGES[AGES] // SPAN
_AGE_OF = bytes(max(age for age in range(AGES) if EDGES[age] <= span * SPAN) for span in range(_SPANS))


def _step_of(span: int) -> int:
    if span < STEPS_ALONE:
        return span
    octave = span.bit_length() - STEPS_ALONE.bit_length()
    width = STEPS_ALONE // STEPS_OF_OCTAVE << octave
    return STEPS_ALONE + octave * STEPS_OF_OCTAVE + (span - (STEPS_ALONE << octave)) // width


_WATCHED = [
    (age, EDGES[age] // SPAN, min(EDGES[age + 1] // SPAN, COHORTS))
    for age in range(AGES)
    if EDGES[age] // SPAN < COHORTS
]
"""the ages that cohorts are watched for: each with its first span and the one after its last"""
_STEP_OF = bytes(_step_of(span) for span in range(_SPANS))
STEPS = _STEP_OF[-1] + 1


def _blend() -> list[tuple[int, float]]:
    """For each step the age whose middle comes before its own, and how far it is on the way to the next."""
    middles = [(EDGES[age] + EDGES[age + 1]) / 2 for age in range(AGES)]
    blend = []
    for step in range(STEPS):
        first = _STEP_OF.index(step)
        middle = SPAN * (first + _STEP_OF.count(step) / 2)
        age = max((age for age in range(AGES - 1) if middles[age] <= middle), default=0)
        share = (middle - middles[age]) / (middles[age + 1] - middles[age])
        blend.append((age, min(max(share, 0.0), 1.0)))
    return blend


_BLEND = _blend()


def age_of(units: int) -> int:
    """The number of an age."""
    span = units // SPAN
    return _AGE_OF[span] if span < _SPANS else AGES - 1


def step_of(units: int) -> int:
    """The step of age that `Hazards.worth` has for so many units."""
    span = units // SPAN
    return _STEP_OF[span] if span < _SPANS else STEPS - 1


class Hazards:
    """Cohorts, hazards and worths of all classes. Owner of all of them.

    A chunk's waiting is counted at the end of each span, for the whole span; what it did not wait of the
    span in which it came, and what it waited of the one in which it was used, is counted then.
    """

    __slots__ = ("_groups", "_turn", "_uses", "_waited", "_waiting", "worth")

    def __init__(self, groups: Sequence[int], supposed: Sequence[float]) -> None:
        """One class for each entry of ``groups``: classes of one group lend one another what they know.

        ``supposed`` is what the classes are worth beside one another before anything is known.
        """
        self._groups = [[other for other, one in enumerate(groups) if one == mine] for mine in groups]
        self._uses = [[0.0] * AGES for _ in groups]
        self._waited = [[0.0] * AGES for _ in groups]
        self._waiting = [[0] * COHORTS for _ in groups]
        self._turn = 0
        # Until something is known: the older the less.
        self.worth = [
            _by_step([factor / (EDGES[age + 1] + UNITS) for age in range(AGES)]) for factor in supposed
        ]
        """hits for each unit of time, by class and step of age"""

    def found(self, kind: int, since: int, count: int) -> None:
        """At the beginning of a span: so many chunks are of that class ``since``, and watched from now on."""
        self._waiting[kind][since // SPAN % COHORTS] += count

    def came(self, kind: int, now: int) -> None:
        """A chunk is of that class from now on."""
        span, passed = divmod(now, SPAN)
        self._waiting[kind][span % COHORTS] += 1
        self._waited[kind][0] -= passed

    def used(self, kind: int, since: int, now: int) -> None:
        """A chunk that was of that class ``since`` is wanted."""
        self.ended(kind, since, now)
        self._uses[kind][age_of(now - since // SPAN * SPAN)] += 1.0

    def moved(self, kind: int, since: int, after: int, now: int) -> None:
        """`used`, and `came` of the class ``after``, in one call: it is on the way of every get."""
        span, passed = divmod(now, SPAN)
        spans = span - since // SPAN
        age = _AGE_OF[spans] if spans < _SPANS else AGES - 1
        if spans < COHORTS:
            waiting = self._waiting[kind]
            cohort = since // SPAN % COHORTS
            if waiting[cohort]:
                waiting[cohort] -= 1
                self._waited[kind][age] += passed
        self._uses[kind][age] += 1.0
        self._waiting[after][span % COHORTS] += 1
        self._waited[after][0] -= passed

    def ended(self, kind: int, since: int, now: int) -> None:
        """A chunk that was of that class ``since`` is watched no more."""
        span, passed = divmod(now, SPAN)
        spans = span - since // SPAN
        if spans < COHORTS:
            waiting = self._waiting[kind]
            cohort = since // SPAN % COHORTS
            if waiting[cohort]:
                waiting[cohort] -= 1
                self._waited[kind][_AGE_OF[spans]] += passed

    def pass_on(self, now: int) -> None:
        """A span has ended: count who waits; the cohort that is watched longest gives way to a new one.

        Some of the classes are learned anew, in turn.  Takes about a hundred microseconds.
        """
        newest = (now // SPAN - 1) % COHORTS
        for waiting, waited in zip(self._waiting, self._waited, strict=True):
            if not any(waiting):
                continue  # as of most classes
            by_span = [*waiting[newest::-1], *waiting[:newest:-1]]
            for age, first, end in _WATCHED:
                count = sum(by_span[first:end])
                if count:
                    waited[age] += SPAN * count
            waiting[(newest + 1) % COHORTS] = 0
        pools: dict[int, _Pool] = {}
        for _ in range(LEARN_AT_ONCE):
            self._turn = (self._turn + 1) % len(self._groups)
            first = self._groups[self._turn][0]
            if first not in pools:
                pools[first] = self._pool(first)
            self._learn(self._turn, pools[first])

    def forget(self) -> None:
        """Half of the capacity was put: what was learned weighs less."""
        for rows in (self._uses, self._waited):
            for row in rows:
                row[:] = [FORGET * value for value in row]

    def learn(self, kind: int) -> None:
        """Compute the worths of one class anew."""
        self._learn(kind, self._pool(kind))

    def _pool(self, kind: int) -> _Pool:
        group = self._groups[kind]
        return _Pool(
            [sum(of_age) for of_age in zip(*[self._uses[other] for other in group], strict=True)],
            [sum(of_age) for of_age in zip(*[self._waited[other] for other in group], strict=True)],
        )

    def _learn(self, kind: int, pool: _Pool) -> None:
        uses, waited = self._uses[kind], self._waited[kind]
        if not any(uses) and max(waited) <= 0.0:
            self.worth[kind] = pool.worth  # all that is known of it is its group
            return
        rates = []
        for used, time, pooled, seen in zip(uses, waited, pool.rates, pool.times, strict=True):
            # as if the class had been seen for so long as brings PRIOR uses to its group
            prior = PRIOR / pooled
            if prior > seen:
                prior = seen
            rates.append((used + pooled * prior) / (time + prior if time > 0.0 else prior))
        self.worth[kind] = _by_step(worths_of(rates))


class _Pool:
    """What is known of a group of classes: what any of them is believed to be like that was not seen itself."""

    __slots__ = ("_worth", "rates", "times")

    def __init__(self, uses: Sequence[float], waited: Sequence[float]) -> None:
        self.times = [time + most if time > 0.0 else most for time, most in zip(waited, _ENDS, strict=True)]
        """that its chunks were watched, at each age"""
        self.rates = [(used + 0.01) / time for used, time in zip(uses, self.times, strict=True)]
        self._worth: list[float] | None = None

    @property
    def worth(self) -> list[float]:
        """By step, as in `Hazards.worth`; shared, and never changed."""
        if self._worth is None:
            self._worth = _by_step(worths_of(self.rates))
        return self._worth


def worths_of(rates: Sequence[float]) -> list[float]:
    """Hits for each unit of time when kept for the best time from the beginning of each age on.

    ``rates`` are uses for each unit of waiting, by age.  From the last age on: ages that follow are taken along for as
    long as what they promise is more than what those before them do, so that it is one pass.
    """
    worths = [0.0] * AGES
    runs: list[tuple[float, float, float, float]] = []
    """hits for each unit of time, hits, time, and who is left, of what comes behind: the best last"""
    for age in range(AGES - 1, -1, -1):
        left = exp(-rates[age] * _WIDTHS[age])
        hits = 1.0 - left
        time = _WIDTHS[age] * (1.0 - hits / 2)
        best = hits / time
        while runs and runs[-1][0] > best:
            _, more, longer, stay = runs.pop()
            hits += left * more
            time += left * longer
            left *= stay
            best = hits / time
        runs.append((best, hits, time, left))
        worths[age] = best
    return worths


def _by_step(worths: Sequence[float]) -> list[float]:
    """Worths by age as worths by step: between the middles of two ages what lies between."""
    return [worths[age] + share * (worths[age + 1] - worths[age]) for age, share in _BLEND]
