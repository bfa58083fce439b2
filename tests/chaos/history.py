"""What clients asked for and what they were told, while a pod is hurt; and what is to be said of it afterwards."""

from __future__ import annotations

import hashlib
import itertools
import math
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from mezzo.errors import MezzoError
from tests.chaos.epochs import Look, Tenure, tenures
from tests.chaos.register import Answer, Operation, State, refusal, unknown

CHUNK_BYTES_MIN, CHUNK_BYTES_MAX = 2000, 24_000
STAMP_BYTES = 8
MISS_S = 3.0
"""A call may end so long after its time: this machine is busy with ten processes more than it has cores for."""

_numbers = itertools.count(1)


class WrongBytes(AssertionError):
    """A get delivered what was never put under this key."""


def payload(key: bytes, number: int) -> bytes:
    """The bytes of one put: they tell which, and belong to no other key."""
    stamp = number.to_bytes(STAMP_BYTES, "big")
    drawn = hashlib.blake2b(key + stamp, digest_size=8).digest()
    length = CHUNK_BYTES_MIN + int.from_bytes(drawn) % (CHUNK_BYTES_MAX - CHUNK_BYTES_MIN)
    return stamp + hashlib.shake_128(key + stamp).digest(length - STAMP_BYTES)


def number_of(key: bytes, data: bytes) -> int:
    """Which put's bytes these are. Raises WrongBytes: none's of this key."""
    number = int.from_bytes(data[:STAMP_BYTES], "big")
    if data != payload(key, number):
        raise WrongBytes(f"{key!r}: {len(data)} bytes that begin with {data[:16].hex()}")
    return number


@dataclass(slots=True)
class Called:
    """One call of a client."""

    who: str
    kind: str
    keys: int
    begin: float
    timeout_s: float
    end: float = math.inf
    error: MezzoError | None = None
    unanswered: int = 0
    """of the keys, those whose shard did not answer"""

    @property
    def failed(self) -> bool:
        """Whether somebody got no answer."""
        return self.error is not None or self.unanswered > 0

    @property
    def late_s(self) -> float:
        """How long after its time it ended."""
        return self.end - self.begin - self.timeout_s

    def __str__(self) -> str:
        how = repr(self.error) if self.error is not None else f"{self.unanswered} of {self.keys} unanswered"
        return f"{self.begin:.3f}-{self.end:.3f} {self.who} {self.kind}: {how}"


@dataclass(frozen=True, slots=True)
class Purge:
    """A namespace was emptied."""

    begin: float
    end: float


@dataclass(slots=True)
class History:
    """All of it. Appended to by any thread; judged when they have ended."""

    run: str = field(default_factory=lambda: secrets.token_hex(4))
    """what no other run's keys begin with"""
    calls: list[Called] = field(default_factory=list)
    operations: list[tuple[bytes, Operation]] = field(default_factory=list)
    erasable: list[tuple[bytes, Operation]] = field(default_factory=list)
    """in the namespace that is emptied now and then"""
    purges: list[Purge] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """what broke a thread of the load: none of what a pod may answer"""

    @staticmethod
    def number() -> int:
        """Of another put."""
        return next(_numbers)

    # Judging.

    def late(self) -> list[Called]:
        """Calls that ended too long after their time, or did not end."""
        return [each for each in self.calls if each.late_s > MISS_S]

    def refusals(self, looks: list[Look], slot_of: Callable[[bytes], int], copies: int = 1) -> list[str]:
        """What is wrong with the histories of single keys. Raises Undecided."""
        by_key: defaultdict[bytes, list[Operation]] = defaultdict(list)
        for key, operation in self.operations:
            by_key[key].append(operation)
        by_slot: dict[int, list[Tenure]] = {}
        wrong = []
        for key, operations in sorted(by_key.items()):
            slot = slot_of(key)
            if slot not in by_slot:
                by_slot[slot] = tenures(looks, slot, copies)
            for tenure in by_slot[slot]:
                within, initial = during(operations, tenure)
                refused = refusal(within, initial)
                if refused is not None:
                    wrong.append(f"{key!r} (slot {slot}), {tenure}:\n{refused}")
        return wrong

    def resurrected(self, bound_s: float) -> list[str]:
        """What was read although it had been erased for so long."""
        put_ends = {each.value: each.end for _, each in self.erasable if each.kind == "put"}
        wrong = []
        for key, read in self.erasable:
            if read.answer != "found":
                continue
            for purge in self.purges:
                if put_ends[read.value] < purge.begin and read.begin > purge.end + bound_s:
                    wrong.append(f"{key!r}: {read}, which was erased at {purge.begin:.3f}-{purge.end:.3f}")
        return wrong

    def unserved(self) -> list[tuple[float, float]]:
        """When no call of any client was answered for more than a second."""
        gaps, last = [], min((each.begin for each in self.calls), default=0.0)
        for each in sorted(self.calls, key=lambda call: call.end):
            if each.error is None:
                if each.end - last > 1.0:
                    gaps.append((round(last, 1), round(each.end, 1)))
                last = each.end
        return gaps

    def figures(self) -> dict[str, object]:
        """For people."""
        answers = Counter(f"{each.kind} {each.answer}" for _, each in self.operations)
        errors = Counter(type(each.error).__name__ for each in self.calls if each.error is not None)
        return {
            "calls": len(self.calls),
            "with errors": dict(errors),
            "with unanswered keys": sum(each.unanswered > 0 for each in self.calls),
            "operations": dict(answers),
            "keys": len({key for key, _ in self.operations}),
            "purges": len(self.purges),
            "latest_s": round(max((each.late_s for each in self.calls), default=0.0), 2),
        }


def during(operations: Iterable[Operation], tenure: Tenure) -> tuple[list[Operation], list[State]]:
    """The operations on a key while its slot had one owner, and what may have been there when that began.

    What began before or ended after it may have happened within it or not.
    """
    within, fresh = [], True
    for each in operations:
        if each.kind == "put" and each.begin < tenure.begin:
            fresh = False
        if each.begin > tenure.end or (each.end < tenure.begin and each.answer != "maybe"):
            continue
        if each.begin >= tenure.begin and (each.end <= tenure.end or each.answer == "maybe"):
            again = not tenure.is_steady(each.begin, each.end)
            if again and each.kind == "delete" and each.answer != "maybe":
                # By both epochs: what came between them is gone, too.
                maybe: Answer = "maybe"
                within.append(replace(each, answer=maybe, end=math.inf))
            again = again or each.retried
            within.append(replace(each, retried=again) if each.kind == "put" else each)
        elif each.kind != "get":
            maybe = "maybe"
            within.append(replace(each, begin=max(each.begin, tenure.begin), end=math.inf, answer=maybe))
    return within, [State(0)] if fresh else unknown(within, moved=tenure.before is not None)
