"""What an owner must tell seconds before bytes that are put anew count: chunks that it has no more. No I/O, no clock.

A second gives what it pulled in its tenure (`pod.provenance`).  When a chunk leaves its owner (evicted, expired, corrupt) the
second may have it still: that is a chunk that is there.  But a put of other bytes must not be acknowledged while
the second gives the first ones.  So the owner tells the second of what has left, in the background, and until that has answered puts
of these chunks, and of no others, are declined.  What clients delete they tell the second themselves, and first; it is told once more
without barring anything, for the case that the second has forgotten it since (it was killed).

An owner that starts does not know what its former life had not told: so the first that it tells each second is
that everything begins anew (`Provenance.begin`).  It does so too where there is more to tell than is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import NamedTuple

from mezzo.backoff import Backoff
from mezzo_server.blockstore.api import Scope
from mezzo_server.pod.offers import BACKOFF_S_MIN, BATCH_KEYS_MAX, LATE_S, NOTHING_LEFT, SecondOf

LEFT_KEYS_MAX = 32768
"""Chunks that are to be told, of all seconds together: some megabytes, only while one of them does not answer."""

BACKOFF_S_MAX = 2.0
"""A second that is there again is to hear of it soon: until then puts are declined."""


class Farewell(NamedTuple):
    """What one second is told. To be ended with `Leavings.ended`."""

    second: bytes
    scope: Scope | None
    keys: list[bytes]
    """that have left; none with ``anew``"""
    anew: bool
    """all that it has of this owner's does not count any more"""


class Leavings:
    """Owner of what has left and is to be told. Used by one thread."""

    def __init__(self, second_of: SecondOf, random: Callable[[], float]) -> None:
        """``second_of``: by the map that was followed last, whether or not anything is served."""
        self._second_of = second_of
        self._random = random
        self._seconds: frozenset[bytes] | None = None
        self._anew: dict[bytes, int] = {}
        """seconds that are to begin anew; how often that was found necessary"""
        self._left: dict[bytes, dict[Scope, dict[bytes, bool]]] = {}
        """by second; whether puts are barred"""
        self._count = 0
        self._under_way: dict[bytes, Farewell | None] = {}
        """by second; None: whatever is answered to it tells nothing any more"""
        self._again: set[tuple[Scope, bytes]] = set()
        """chunks that have left once more since that was told that is under way"""
        self._failed: dict[bytes, Backoff] = {}
        self._asked: dict[bytes, int] = {}
        """of `_anew`, when that was told that is under way"""
        self._numbers = dict(NOTHING_LEFT)

    def follow(self, seconds: frozenset[bytes]) -> None:
        """These are seconds of what we own from now on. Those that were not are with a tenure of their own, by the map."""
        if self._seconds is None:
            self._anew = dict.fromkeys(sorted(seconds), 1)
        self._seconds = seconds
        for second in [each for each in self._left if each not in seconds]:
            self._forget(second)
        self._anew = {second: times for second, times in self._anew.items() if second in seconds}
        self._failed = {second: each for second, each in self._failed.items() if second in seconds}

    def begin_anew(self) -> None:
        """It is not known any more what any of the seconds has."""
        for second in sorted(self._seconds or ()):
            self._begins(second)

    def left(self, scope: Scope, key: bytes, *, bars: bool = True) -> bool:
        """A chunk is here no more; whether somebody is to be told.  ``bars``: puts of it are, until then."""
        second = self._second_of(scope, key)
        if second is None or self._seconds is None or second not in self._seconds:
            return False
        full = self._count >= LEFT_KEYS_MAX
        if not bars and full:
            return False
        keys = self._left.setdefault(second, {}).setdefault(scope, {})
        if key in keys:
            keys[key] |= bars
            under_way = self._under_way.get(second)
            if under_way is not None and under_way.scope == scope and key in under_way.keys:
                self._again.add((scope, key))  # what is answered now may be from before it was here once more
            return False
        if full:
            # Who is told that all begins anew need not be told of each.
            longest = max(self._left, key=lambda each: sum(map(len, self._left[each].values())))
            self._forget(longest)
            self._begins(longest)
            if longest == second:
                return True
        keys[key] = bars
        self._count += 1
        return True

    def bars(self, scope: Scope, key: bytes) -> bool:
        """Whether bytes that are put now under a key that is not here would have to be declined."""
        if not self._count and not self._anew:
            return False
        second = self._second_of(scope, key)
        if second is None:
            return False
        barred = second in self._anew or self._left.get(second, {}).get(scope, {}).get(key, False)
        self._numbers["pod_puts_barred"] += barred
        return barred

    def next(self, now: float) -> Farewell | None:
        """What is to be told now; None: nothing, see `wait_s`."""
        for second in (*self._anew, *self._left):
            backoff = self._failed.get(second)
            if second in self._under_way or (backoff is not None and now < backoff.not_before):
                continue
            farewell = self._begin(second) if second in self._anew else self._batch(second)
            if farewell is not None:
                self._under_way[second] = farewell
                return farewell
        return None

    def wait_s(self, now: float) -> float | None:
        """When to ask `next` again although nothing has happened, seconds; None: not before something does."""
        if not self._count and not self._anew:
            return None
        waits = [backoff.not_before - now for backoff in self._failed.values() if backoff.not_before > now]
        return min([*waits, LATE_S])

    def ended(self, farewell: Farewell, now: float, *, failed: bool) -> None:
        """The second has heard of it, and gives none of it any more; or ``failed``: it is tried again."""
        second = farewell.second
        counts = self._under_way.pop(second) is farewell
        if failed or not counts:
            self._again.difference_update([(farewell.scope, key) for key in farewell.keys if farewell.scope])
        if failed:
            self._numbers["pod_left_failed"] += 1
            if self._seconds and second in self._seconds:
                backoff = self._failed.get(second)
                if backoff is None:
                    backoff = self._failed[second] = Backoff(
                        self._random, first_s=BACKOFF_S_MIN, max_s=BACKOFF_S_MAX
                    )
                backoff.failed(now)
            return
        self._failed.pop(second, None)
        if not counts:
            return
        if farewell.anew:
            if self._anew.get(second) == self._asked.pop(second, None):
                self._anew.pop(second, None)
            return
        self._numbers["pod_left_told"] += len(farewell.keys)
        self._take_out(farewell)

    def numbers(self) -> Mapping[str, int | float]:
        """How it fares; docs/metrics.md lists them."""
        return {**self._numbers, "pod_left_queued": self._count, "pod_left_anew": len(self._anew)}

    def _begin(self, second: bytes) -> Farewell:
        self._asked[second] = self._anew[second]
        return Farewell(second, None, [], True)

    def _batch(self, second: bytes) -> Farewell | None:
        """What has left and is of one scope; None: nothing that this one is second for by now."""
        while scopes := self._left.get(second):
            scope, keys = next(iter(scopes.items()))
            found = list(islice(keys, BATCH_KEYS_MAX))
            farewell = Farewell(second, scope, found, False)
            others = [key for key in found if self._second_of(scope, key) != second]
            if not others:
                return farewell
            # It would refuse all for one of these.
            self._take_out(farewell._replace(keys=others))
        return None

    def _begins(self, second: bytes) -> None:
        self._anew[second] = self._anew.get(second, 0) + 1

    def _forget(self, second: bytes) -> None:
        self._count -= sum(map(len, self._left.pop(second, {}).values()))
        if second in self._under_way:
            self._under_way[second] = None

    def _take_out(self, farewell: Farewell) -> None:
        scopes = self._left.get(farewell.second)
        if scopes is None or farewell.scope is None:
            return
        keys = scopes.get(farewell.scope, {})
        for key in farewell.keys:
            if (farewell.scope, key) in self._again:
                self._again.discard((farewell.scope, key))
            elif key in keys:
                del keys[key]
                self._count -= 1
        if not keys:
            scopes.pop(farewell.scope, None)
        if not scopes:
            del self._left[farewell.second]
