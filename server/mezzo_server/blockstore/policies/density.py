"""Mezzo's own policy: keeps what promises the most hits for the space and the time that it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import nsmallest
from math import inf

from mezzo.protocol.messages import PRIORITY_DEFAULT, PRIORITY_MAX
from mezzo_server.blockstore.api import PutChunk
from mezzo_server.blockstore.policies.base import STAMP_BITS, STAMP_MAX, ReclaimPolicy, key_hash, set_stamp
from mezzo_server.blockstore.policies.ghost import Ghost
from mezzo_server.blockstore.policies.hazards import SPAN, TIME_BITS, TIME_MASK, UNITS, Hazards, step_of
from mezzo_server.blockstore.policies.rewrites import RewriteBudget
from mezzo_server.blockstore.segment import Segment

# Classes: chunks that were not used since they came, by what their request was like; then by uses.
RUNS = 6
"""how many chunks came together: 1, 2 to 3, ... 32 and more"""
STARTS = 3
"""where in the prefix the first of them is: at its beginning, after one chunk, later"""
LAST = RUNS * STARTS
"""the last chunk of a request: mostly one that is not full, and never wanted in that form again"""
USED = LAST + 1
COUNTS = 6
"""uses, the last of these classes: so many and more"""
UNKNOWN = USED + COUNTS
"""what a restart found"""
CLASSES = UNKNOWN + 1
PRIORITY_SHIFT = 5
KIND_MASK = (1 << PRIORITY_SHIFT) - 1

LAST_LANE = 1
"""What mostly is not wanted again shares segments, so that their space comes back whole."""
APART_BELOW = 0.5
"""The last chunk of a request goes there if it promises less than this share of what the others do,"""
APART_FROM = 4
"""and if there are so many: it becomes a record of its own, which has its price."""
GHOSTS = 1 << 16
SAMPLE = 512
"""Chunks of a segment that are looked at to tell what it is worth."""
EVALUATIONS = 12
"""Segments evaluated for one victim, apart from those that are evaluated in turn."""
IN_TURN = 8
ALL_AT_ONCE = 32
"""Where there are not more segments, all are evaluated for each victim."""
PACE = 0.1
"""By how much the threshold for survivors moves with each victim, at most."""
SURVIVOR_WORTH_MIN = 1.5
"""What is rewritten must be worth so many times what reclaim gives up on average."""
PRIORITY_BASE = 2.0
"""A chunk is worth so many times as much as one of the priority below."""
WEIGHTS = tuple(PRIORITY_BASE ** (priority - PRIORITY_DEFAULT) for priority in range(PRIORITY_MAX + 1))


class Density(ReclaimPolicy):
    """The segment goes whose chunks promise the fewest hits; those of its chunks live on that promise most.

    A chunk that will be rewritten is not lost with its segment, so that it counts for no more than the price
    of rewriting, however much it promises: segments with a few good chunks among many poor ones go first.

    What a chunk promises is learned while serving, by class and age (`hazards.py`): the class says what its
    request was like, or how often it was used.  Age is counted in bytes put.  Which survivors are
    rewritten is a matter of price: the threshold rises while the budget is short and falls while there is
    plenty, so that over time the best get it.

    A stamp is the priority in 3 bits, the class in 5, and the time of the last use in 24; a dead chunk has
    stamp 0.
    """

    name = "density"

    def __init__(self) -> None:
        groups = [0] * USED + [1] * COUNTS + [2]
        self._hazards = Hazards(groups, _supposed())
        self._ghost = Ghost(GHOSTS)
        self._unit_bytes = 1 << 20
        self._bytes = 0
        self._time = 1
        self._next = 0
        """segment that is evaluated in turn"""
        self._threshold = 0.0
        self._given_up = 0.0
        """worth of what reclaim met lately, on average"""
        self._budget: RewriteBudget | None = None

    def begin(self, capacity_bytes: int, segments: Sequence[Segment], budget: RewriteBudget) -> None:
        self.resized(capacity_bytes)
        self._budget = budget
        # What a restart finds came in the order of the segments, one capacity in all.
        self._time = UNITS
        for place, segment in enumerate(segments):
            since = 1 + (UNITS - 1) * place // len(segments)
            segment.restamp((PRIORITY_DEFAULT << PRIORITY_SHIFT | UNKNOWN) << TIME_BITS | since)
            segment.order = 0.0
            self._hazards.found(UNKNOWN, since, segment.live_count)

    def resized(self, capacity_bytes: int) -> None:
        self._unit_bytes = max(capacity_bytes // UNITS, 1)

    def opened(self, segment: Segment) -> None:
        segment.order = 0.0  # looked at first

    # -- chunks come and are used

    def arriving(self, salt: int, chunks: Sequence[PutChunk], fresh: Sequence[int]) -> Sequence[int]:
        self._advance(sum([sum(chunks[number].parts) for number in fresh]))
        run = min(len(fresh).bit_length() - 1, RUNS - 1)
        start = min(chunks[fresh[0]].position, STARTS - 1)
        kind = run * STARTS + start
        last = len(chunks) - 1
        now = self._time & TIME_MASK
        take, came = self._ghost.take, self._hazards.came
        worth = self._hazards.worth
        apart = len(fresh) == 1 or (
            len(fresh) >= APART_FROM and worth[LAST][0] < APART_BELOW * worth[kind][0]
        )
        marks = []
        for number in fresh:
            note = take(key_hash(salt, chunks[number].key))
            if note is not None:
                mine = self._again(note)
            else:
                mine = LAST if number == last else kind
            came(mine, self._time)
            mark = (chunks[number].priority << PRIORITY_SHIFT | mine) << TIME_BITS | now
            marks.append(LAST_LANE << STAMP_BITS | mark if apart and mine == LAST else mark)
        return marks

    def stored(self, segment: Segment, numbers: range, marks: Sequence[int] | None) -> None:
        if marks is not None:
            touched = segment.table.touched
            for number, mark in zip(numbers, marks, strict=True):
                touched[number] = mark & STAMP_MAX

    def used(self, segment: Segment, number: int) -> None:
        stamp, now = segment.table.touched[number], self._time
        kind = stamp >> TIME_BITS & KIND_MASK
        after = USED if kind < USED or kind == UNKNOWN else min(kind + 1, USED + COUNTS - 1)
        self._hazards.moved(kind, now - (now - stamp & TIME_MASK), after, now)
        priority = stamp >> TIME_BITS & ~KIND_MASK
        set_stamp(segment, number, (priority | after) << TIME_BITS | now & TIME_MASK)

    def _again(self, stamp: int) -> int:
        """The class of a chunk that is wanted again."""
        kind = stamp >> TIME_BITS & KIND_MASK
        self._hazards.used(kind, self._time - (self._time - stamp & TIME_MASK), self._time)
        return USED if kind < USED or kind == UNKNOWN else min(kind + 1, USED + COUNTS - 1)

    def rewritten(self, segment: Segment, number: int, target: Segment, copy: int) -> None:
        target.table.touched[copy] = segment.table.touched[number]

    def evicted(self, segment: Segment, number: int, salt: int) -> None:
        stamp = segment.table.touched[number]
        self._ghost.add(key_hash(salt, segment.table.keys[number]), stamp, self._forgotten)

    def _forgotten(self, stamp: int) -> None:
        since = self._time - (self._time - stamp & TIME_MASK)
        self._hazards.ended(stamp >> TIME_BITS & KIND_MASK, since, self._time)

    # -- segments go

    def victim(self, candidates: Sequence[Segment], log_segments: Sequence[Segment]) -> Segment:
        if len(candidates) <= ALL_AT_ONCE:
            for segment in candidates:
                self._evaluate(segment)
            return min(candidates, key=_worth)
        first = self._next % len(candidates)
        self._next = first + IN_TURN
        for segment in candidates[first : self._next]:
            self._evaluate(segment)
        # What was worth least when it was looked at last may have been used since.
        least = nsmallest(EVALUATIONS, candidates, key=_worth)
        for segment in least:
            self._evaluate(segment)
        return min(least, key=_worth)

    def _evaluate(self, segment: Segment) -> None:
        """What would be given up with a segment: what its chunks promise, or the price of rewriting them."""
        state = (segment.touched_sum, segment.live_count)
        if segment.seen != state:
            # Chunks that came together, or were used together, have the same stamp: there are few different ones.
            touched = segment.table.touched
            counted = Counter(touched[:: 1 + len(touched) // SAMPLE])
            del counted[0]
            segment.seen = state
            segment.stamps = tuple(counted.items())
        worth, weights, now = self._hazards.worth, WEIGHTS, self._time
        # What is rewritten costs no more than the price of rewriting, whatever it promises.
        most = self._threshold or inf
        total, live = 0.0, 0
        for stamp, count in segment.stamps:
            kind = stamp >> TIME_BITS
            promise = (
                worth[kind & KIND_MASK][step_of(now - stamp & TIME_MASK)] * weights[kind >> PRIORITY_SHIFT]
            )
            total += (promise if promise < most else most) * count
            live += count
        segment.order = total / live * segment.live_bytes if live else 0.0

    def _promise(self, stamp: int) -> float:
        kind = stamp >> TIME_BITS
        promise = self._hazards.worth[kind & KIND_MASK][step_of(self._time - stamp & TIME_MASK)]
        return promise * WEIGHTS[kind >> PRIORITY_SHIFT]

    def survivors(self, victim: Segment, live: Sequence[int], sealed: Sequence[Segment]) -> list[int]:
        if not live:
            return []
        table = victim.table
        touched = table.touched
        promises = [self._promise(touched[number]) for number in live]
        mean = sum(promises) / len(live)
        self._given_up = 0.95 * self._given_up + 0.05 * mean if self._given_up else mean
        fill = 0.0 if self._budget is None else self._budget.fill
        least = SURVIVOR_WORTH_MIN * self._given_up
        self._threshold = min(max(self._threshold * (1 + PACE * (0.5 - fill)), least), 100 * least)
        rated = []
        for number, promise in zip(live, promises, strict=True):
            if promise > self._threshold:
                # of those worth the same the first of a prefix: the others are of no use without them
                rated.append((-promise, table.position[number], number))
        rated.sort()
        return [number for _, _, number in rated]

    # -- time passes

    def _advance(self, size: int) -> None:
        """So many bytes are put."""
        self._bytes += size
        passed, self._bytes = divmod(self._bytes, self._unit_bytes)
        for _ in range(min(passed, UNITS)):
            self._time += 1
            if not self._time % SPAN:
                self._hazards.pass_on(self._time)
            if not self._time % (UNITS // 2):
                self._hazards.forget()
        self._time += max(passed - UNITS, 0)


def _supposed() -> list[float]:
    """What is believed of the classes before anything was learned, beside one another."""
    fresh = [
        2.0 ** -(run / 2) * (1.0 if start < 2 else 0.5) for run in range(RUNS) for start in range(STARTS)
    ]
    return [*fresh, 0.1, *(2.0 * 1.5**uses for uses in range(COUNTS)), 1.0]


def _worth(segment: Segment) -> float:
    return segment.order
