"""Whether what clients saw of one key can have happened in some order: a checker of linearizability.

The key is a register that is written once: `put` stores only where nothing is (`stored`), or finds something (`exists`);
`get` tells whose bytes are there; `delete` empties it.  A history is accepted if there is an order of its operations in
which each has its effect at one moment between its begin and its end, and every answer is the one that a single
register would have given.  What has no answer (`maybe`) may have had its effect at any time after it began, or never.

What else a pod may do, and is allowed for here:

- a `get` that finds nothing says nothing (a cache: a miss is always legal), so it is no operation at all;
- a slot that moved lately has a former owner, whom clients ask where the owner has nothing or does not answer. So the
  register is a pair (`State`): what the owner has, and what the former one may have still.  Puts go to the owner, deletes
  to both, and the owner may take over what the former one has at any moment;
- a put that was made a second time by a client's own retry (`retried`) may answer `exists` of what its first attempt stored.

The search is that of Wing and Gong with the cache of Lowe ("Testing for linearizability", 2017), over one key at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

ABSENT = 0
OTHER = -1
"""Something is there, put before the history begins, that nobody reads in it."""
STEPS_MAX = 100_000

Answer = Literal["stored", "exists", "found", "present", "deleted", "absent", "maybe"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on the key, as its client saw it."""

    kind: Literal["put", "get", "delete"]
    answer: Answer
    """put: stored, exists, maybe. get: found, or present (somebody's bytes). delete: deleted, absent, maybe"""
    begin: float
    end: float
    """infinite: there was no answer"""
    value: int = 0
    """put: the number of its bytes. get: of those that were found"""
    retried: bool = False
    who: str = ""

    def __str__(self) -> str:
        value = f" {self.value}" if self.value else ""
        return f"{self.begin:.4f}-{self.end:.4f} {self.who} {self.kind}{value}: {self.answer}"


class State(NamedTuple):
    """What is there."""

    own: int
    former: int = ABSENT


class Undecided(Exception):
    """The history is too tangled to be decided within `STEPS_MAX`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a history is none of a register. The bytes that nobody reads are all called -1."""

    order: list[Operation]
    """the longest order that was found to be right"""
    stuck: list[Operation]
    """none of these can come next"""

    def __str__(self) -> str:
        lines = ["could have happened, in this order:", *(f"    {each}" for each in self.order)]
        return "\n".join([*lines, "and none of these after it:", *(f"    {each}" for each in self.stuck)])


def after(state: State, operation: Operation) -> Iterator[State]:
    """What may be there after an operation; nothing: it cannot have been answered so."""
    own, former = state
    if own == ABSENT and former != ABSENT:
        # The owner may have taken over what the former one had.
        yield from _after(State(former, former), operation)
    yield from _after(state, operation)


def _after(state: State, operation: Operation) -> Iterator[State]:
    own, former = state
    kind, answer, value = operation.kind, operation.answer, operation.value
    if kind == "get":
        there = value in (own, former) if answer == "found" else (own, former) != (ABSENT, ABSENT)
        if there:
            yield state
    elif kind == "put":
        if answer != "exists" and own == ABSENT:
            yield State(value, former)
        if answer != "stored" and own != ABSENT:
            yield state
        if answer == "exists" and operation.retried and own == ABSENT:
            yield State(value, former)
    elif answer == "maybe":
        yield State(ABSENT, ABSENT)
        if former != ABSENT:
            yield State(ABSENT, former)
    elif (answer == "deleted") == ((own, former) != (ABSENT, ABSENT)):
        yield State(ABSENT, ABSENT)


def unknown(operations: Iterable[Operation], *, moved: bool) -> list[State]:
    """What may be there at the begin of a history of which the past is not known; ``moved``: there is a former owner."""
    read = {each.value for each in operations if each.answer == "found"}
    some = sorted(read | {ABSENT, OTHER})
    return [State(own, former) for own in some for former in (some if moved else [ABSENT])]


def refusal(
    operations: Sequence[Operation], initial: Iterable[State] = (State(ABSENT),), steps_max: int = STEPS_MAX
) -> Refusal | None:
    """None: the history is that of a register. Raises Undecided."""
    search = _Search(sorted(operations, key=lambda each: (each.begin, each.end)), steps_max)
    return None if any(search.finds(state) for state in initial) else search.refusal()


class _Search:
    """One history. Operations are bits of an integer."""

    def __init__(self, operations: list[Operation], steps_max: int) -> None:
        read = {each.value for each in operations if each.kind == "get"}
        # Bytes that nobody reads might be any: what differs in them alone is looked at once.
        operations = [
            replace(each, value=OTHER) if each.kind == "put" and each.value not in read else each
            for each in operations
        ]
        self._all = operations
        self._steps_left = steps_max
        self._required = sum(1 << n for n, each in enumerate(operations) if each.answer != "maybe")
        self._seen: set[tuple[int, State]] = set()
        self._longest: tuple[int, list[int]] = (-1, [])

    def finds(self, initial: State) -> bool:
        """Whether there is an order that begins with this."""
        stack: list[tuple[int, State, tuple[int, ...]]] = [(0, initial, ())]
        while stack:
            done, state, order = stack.pop()
            done, order = self._readers(done, state, order)
            if (done, state) in self._seen:
                continue
            self._seen.add((done, state))
            self._steps_left -= 1
            if self._steps_left < 0:
                raise Undecided(f"{len(self._all)} operations")
            count = (done & self._required).bit_count()
            if count > self._longest[0]:
                self._longest = count, list(order)
            if done & self._required == self._required:
                return True
            for n in reversed(self._next(done)):
                for then in after(state, self._all[n]):
                    if then != state or self._required >> n & 1:
                        stack.append((done | 1 << n, then, (*order, n)))
        return False

    def refusal(self) -> Refusal:
        order = self._longest[1]
        done = sum(1 << n for n in order)
        stuck = [n for n in self._next(done) if self._required >> n & 1]
        return Refusal([self._all[n] for n in order], [self._all[n] for n in stuck])

    def _next(self, done: int) -> list[int]:
        """Those that may come next: they began before any that is still to come ended."""
        left = [n for n in range(len(self._all)) if not done >> n & 1]
        until = min([self._all[n].end for n in left if self._required >> n & 1], default=math.inf)
        first: dict[tuple[str, int], int] = {}
        may = []
        for n in left:
            each = self._all[n]
            if each.begin > until:
                break
            # Of several that are the same and never ended, the one that began first stands for all.
            if each.answer == "maybe" and first.setdefault((each.kind, each.value), n) != n:
                continue
            may.append(n)
        return may

    def _readers(self, done: int, state: State, order: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """Whatever may come next, fits, and changes nothing comes at once: no order is missed by that."""
        while True:
            fit = [
                n
                for n in self._next(done)
                if self._required >> n & 1 and state in _after(state, self._all[n]) and not self._changes(n)
            ]
            if not fit:
                return done, order
            done, order = done | sum(1 << n for n in fit), (*order, *fit)

    def _changes(self, n: int) -> bool:
        """Whether it may change something, now or if it came later."""
        each = self._all[n]
        return each.answer in ("stored", "deleted") or each.retried
