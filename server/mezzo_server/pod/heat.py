"""Which chunks are got so often that a second copy pays, in bounded memory. No I/O, no clock.

One request in a few is counted, for as many as it stands for, so that counting costs a get next to nothing.  Counts
are those of Misra and Gries ("Finding repeated elements", 1982): of so many counters, each key that has more than
one part in that number of all gets has one.  They begin anew with each window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mezzo_server.blockstore.api import Scope

WINDOW_S = 10.0
SAMPLED = 8
"""One request in so many is counted, on average, at random: callers that ask in a pattern are counted too."""
COUNTERS = 4096
REQUEST_KEYS_MAX = 256
"""of one request that are counted: the first ones, since prefixes are what is shared"""
STAYS_PART = 0.25
"""What is popular stays so above this part of the threshold: half of its gets go to the other copy from then on."""
POPULAR_KEYS_MAX = 1024

Name = tuple[bytes, bytes, bytes]
"""Tenant, namespace and key."""


class Heat:
    """Owner of the counts. Used by one thread: `asked` with each get, `turn` now and then."""

    def __init__(self, gets_per_s: float, random: Callable[[], float], now: float) -> None:
        """``gets_per_s``: a chunk with as many is popular."""
        self._gets_per_s = gets_per_s
        self._random = random
        self._skip = 0
        self._counts: dict[Name, int] = {}
        self._began = now
        self._popular: dict[Name, None] = {}

    def asked(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """A get of these."""
        if self._skip:
            self._skip -= 1
            return
        self._skip = int(self._random() * (2 * SAMPLED - 1))
        tenant, namespace, counts = scope.tenant, scope.namespace, self._counts
        for key in keys[:REQUEST_KEYS_MAX]:
            name = tenant, namespace, key
            if name in counts:
                counts[name] += SAMPLED
            elif len(counts) < COUNTERS:
                counts[name] = SAMPLED
            else:
                # Once for a request: it may have hundreds of keys that nobody has counted, and each would take as long.
                self._counts = {each: count - SAMPLED for each, count in counts.items() if count > SAMPLED}
                return

    def turn(self, now: float) -> list[Name] | None:
        """What is popular, the most popular first, if a window has ended; None: it has not."""
        seconds = now - self._began
        if seconds < WINDOW_S:
            return None
        comes, stays = seconds * self._gets_per_s, seconds * self._gets_per_s * STAYS_PART
        found = [
            (count, name)
            for name, count in self._counts.items()
            if count >= (stays if name in self._popular else comes)
        ]
        found.sort(key=lambda one: -one[0])
        self._popular = dict.fromkeys([name for _, name in found[:POPULAR_KEYS_MAX]])
        self._counts, self._began = {}, now
        return list(self._popular)
