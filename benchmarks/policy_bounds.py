"""How much of Belady's optimum can be had without knowing the future: chunk by chunk, without segments.

    python -m benchmarks.policy_bounds TRACE

For a trace in either format of `mezzo simulate policies`, at some capacities, shares of the references that
are prefix hits (every chunk counts as one, whatever its size; rewriting is free and without limit):

- Belady: knows when each chunk is wanted next.
- LRU: exact; what a request used last goes last, a prefix goes from its end.
- For several ways to tell chunks apart (*classes*, told at each reference by what a store can know then):
  - *ceiling*: no policy that keeps chunks of a class up to an age, one of its own for each class or drawn at
    random, has more hits on this trace, even if it is told beforehand how many chunks of each class are wanted
    at each age *in this very trace*.  Space must suffice on average only, not at each moment, and prefixes may
    have holes, so that the ceiling is above what can be had: it is the dual of a fractional knapsack.
  - *replayed*: a policy that is told the same and keeps what promises most (Gittins' index: the most hits for
    each unit of space and time, for the best time to keep), within capacity at all moments.  An achievement,
    not a bound, but for the knowledge of the trace that no store has.

More classes know more, until they describe this trace rather than predict anything: a class for each chunk
is Belady.  docs/policies.md has what came of it.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mezzo_server.simulate.optimum import optimum
from mezzo_server.simulate.workload import ChunkRequest, read_workload

CAPACITIES = (0.05, 0.10, 0.20, 0.50)
AGE_FINENESS = 1.03
"""each age is so many times as long as the one before"""
BATCH_SHARE = 0.002
"""of the capacity is evicted at once: less is slower, and no different"""
PRICES = np.geomspace(1e-10, 1.0, 600)
"""of space, in hits for each chunk and reference"""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Reference(NamedTuple):
    """What a store that remembers all it saw knows of a chunk when it is asked for."""

    uses: int
    """how often it was asked for before"""
    gap: int
    """references from the end of that request to the end of this one; 0 if it never was"""
    position: int
    known: int
    """how many of the first chunks of the request were seen before"""
    length: int


def by_age(one: Reference) -> object:
    """All chunks are of one class."""
    return None


def as_density(one: Reference) -> object:
    """The classes of `mezzo_server.blockstore.policies.density`."""
    if one.uses:
        return min(one.uses, 6)
    if one.position == one.length - 1:
        return "last"
    return min((one.length - one.known).bit_length(), 6), min(one.known, 2)


def finer(one: Reference) -> object:
    """Whatever helped in trials, all at once."""
    last = one.position == one.length - 1
    place = one.position.bit_length() // 2
    if one.uses:
        return min(one.uses, 6), one.gap.bit_length() // 2, place, last
    return (one.length - one.known).bit_length(), min(one.known, 2), place, last


CLASSES: dict[str, Callable[[Reference], object]] = {
    "age only": by_age,
    "as density": as_density,
    "finer": finer,
}


class Known(NamedTuple):
    """A trace, and what is known of its chunks by class and age."""

    requests: Sequence[Sequence[int]]
    kinds: Sequence[Sequence[int]]
    """class of each reference"""
    edges: Ints
    """ages, in references"""
    hits: Floats
    """by class and age: how many are wanted when kept so long"""
    reach: Floats
    """the same, kept until just before the next of these ages"""
    waits: Floats
    """and the space and time that takes, in chunks times references"""

    @property
    def references(self) -> int:
        return sum(len(request) for request in self.requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--capacity", type=float, action="append", help="share of the distinct chunks")
    asked = parser.parse_args()
    requests = [request.ids for request in read_workload(asked.trace).requests]
    distinct = len({chunk for request in requests for chunk in request})
    references = sum(len(request) for request in requests)
    shares = asked.capacity or CAPACITIES
    sizes = [int(distinct * share) for share in shares]
    print(f"{references} references to {distinct} chunks")
    print("| | classes | " + " | ".join(f"{100 * share:g} %" for share in shares) + " |")
    print("|---|---:|" + "---:|" * len(shares))
    plain = [ChunkRequest(0.0, tuple(request)) for request in requests]
    best = [optimum(plain, size, 1)[0] for size in sizes]
    row("Belady", "", best, best)
    row("LRU", "", [lru(requests, size) / references for size in sizes], best)
    for name, classify in CLASSES.items():
        known = learn(requests, classify)
        count = str(len(known.hits))
        row(f"{name}: ceiling", count, [ceiling(known, size) / references for size in sizes], best)
        row(f"{name}: replayed", count, [replay(known, size) / references for size in sizes], best)


def row(name: str, classes: str, rates: Sequence[float], best: Sequence[float]) -> None:
    cells = [f"{100 * rate:.1f} % ({rate / most:.2f})" for rate, most in zip(rates, best, strict=True)]
    print(f"| {name} | {classes} | " + " | ".join(cells) + " |", flush=True)


def learn(requests: Sequence[Sequence[int]], classify: Callable[[Reference], object]) -> Known:
    """Class of each reference, and when chunks of each class are wanted again."""
    numbers: dict[object, int] = {}
    seen: dict[int, tuple[int, int, int]] = {}
    """chunk -> (when, class, uses)"""
    ended: list[tuple[int, int, bool]] = []
    """(class, references until it was wanted again or the trace ended, whether it was wanted)"""
    kinds = []
    now = 0
    for request in requests:
        # What is kept after a request is kept until the end of the next.
        now += len(request)
        known = next((place for place, chunk in enumerate(request) if chunk not in seen), len(request))
        mine = []
        for position, chunk in enumerate(request):
            uses = gap = 0
            if chunk in seen:
                since, before, uses = seen[chunk]
                uses, gap = uses + 1, now - since
                ended.append((before, gap, True))
            kind = classify(Reference(uses, gap, position, known, len(request)))
            number = numbers.setdefault(kind, len(numbers))
            seen[chunk] = (now, number, uses)
            mine.append(number)
        kinds.append(mine)
    ended.extend((kind, now - since, False) for since, kind, _ in seen.values())
    edges = [0, 1]
    while edges[-1] < now:
        edges.append(int(edges[-1] * AGE_FINENESS) + 1)
    ages = np.array(edges, dtype=np.int64)
    of = np.array([kind for kind, _, _ in ended])
    lengths = np.array([length for _, length, _ in ended], dtype=np.int64)
    wanted = np.array([again for _, _, again in ended])
    hits, reach, waits = (np.zeros((len(numbers), len(ages))) for _ in range(3))
    for place, age in enumerate(ages):
        met = wanted & (lengths <= age)
        hits[:, place] = np.bincount(of[met], minlength=len(numbers))
        met = wanted & (lengths < ages[min(place + 1, len(ages) - 1)])
        reach[:, place] = np.bincount(of[met], minlength=len(numbers))
        waits[:, place] = np.bincount(of, weights=np.minimum(lengths, age), minlength=len(numbers))
    return Known(requests, kinds, ages, hits, reach, waits)


def ceiling(known: Known, capacity: int) -> float:
    """The most hits of policies that know classes and ages, when space need suffice on average only.

    For any price of space the hits beyond what space costs, plus the price of all space, is no less than what
    any such policy has (weak duality); the lowest of these bounds is taken.
    """
    space = float(capacity) * known.references
    # An age between two edges brings what is wanted before the later one, and takes no less than the earlier.
    bounds = [
        price * space + (known.reach - price * known.waits).max(axis=1).sum() for price in PRICES.tolist()
    ]
    return float(min(*bounds, known.hits[:, -1].sum()))


def promises(known: Known) -> Floats:
    """Gittins' index by class and age: the most hits for each unit of space and time from there on."""
    count = len(known.edges)
    index = np.zeros((len(known.hits), count))
    for age in range(count - 1):
        hits = known.hits[:, age + 1 :] - known.hits[:, age : age + 1]
        waits = known.waits[:, age + 1 :] - known.waits[:, age : age + 1]
        index[:, age] = (hits / np.maximum(waits, 1e-9)).max(axis=1)
    return index


def replay(known: Known, capacity: int) -> int:
    """Prefix hits when what promises least goes first."""
    index = promises(known)
    top = 1 + max(max(request, default=0) for request in known.requests)
    there = np.zeros(top, dtype=bool)
    kind, since, position = (np.zeros(top, dtype=np.int64) for _ in range(3))
    batch = max(int(capacity * BATCH_SHARE), 1)
    hits = count = now = 0
    for request, kinds in zip(known.requests, known.kinds, strict=True):
        ids = np.array(request, dtype=np.int64)
        now += len(ids)
        present = there[ids]
        hits += len(ids) if present.all() else int(present.argmin())
        there[ids] = True
        kind[ids], since[ids], position[ids] = kinds, now, np.arange(len(ids))
        count += len(set(request)) - len(set(ids[present].tolist()))
        if count > capacity:
            held = np.flatnonzero(there)
            age = np.searchsorted(known.edges, now - since[held], "right") - 1
            worth = index[kind[held], np.minimum(age, len(known.edges) - 1)]
            # of equals the end of a prefix first
            leaving = held[np.lexsort((-position[held], worth))[: count - capacity + batch]]
            there[leaving] = False
            count -= len(leaving)
    return hits


def lru(requests: Sequence[Sequence[int]], capacity: int) -> int:
    """Prefix hits of exact LRU."""
    there: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for request in requests:
        hits += next((place for place, chunk in enumerate(request) if chunk not in there), len(request))
        for chunk in reversed(request):
            there[chunk] = None
            there.move_to_end(chunk)
        while len(there) > capacity:
            there.popitem(last=False)
    return hits


if __name__ == "__main__":
    main()
