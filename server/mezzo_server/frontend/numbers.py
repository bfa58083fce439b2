"""What the front-end counts. Plain numbers; whoever exports them reads them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

METHODS = (
    "Put",
    "Get",
    "Lookup",
    "Acquire",
    "Renew",
    "Release",
    "Delete",
    "Stat",
    "ShardStat",
    "Events",
    "PollEvents",
    "OpenSession",
    "OpenNamespace",
)
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
"""Upper bounds of the buckets of durations, seconds."""


class Durations:
    """A histogram over `SECONDS`; the last bucket has what was longer."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(SECONDS) + 1)
        """calls in each, not cumulated"""
        self.seconds = 0.0
        """in all"""

    def add(self, seconds: float) -> None:
        """Count one call."""
        self.buckets[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds


class CallNumbers:
    """Of calls: totals since the start, and what is now. Written by the loop that serves them only."""

    def __init__(self, methods: Iterable[str]) -> None:
        self.calls = dict.fromkeys(methods, 0)
        """calls that ended, by method; well or not"""
        self.errors: dict[str, int] = {}
        """calls that ended with an error, by the name of its code; ``CANCELLED``: by the caller"""
        self.seconds = {method: Durations() for method in self.calls}
        """from the first byte of a call to its end, by method"""
        self.calls_in_flight = 0
        self.calls_in_flight_max = 0
        """the most there ever were at a time"""
        self.refused = 0
        """calls over calls_max"""
        self.serving = False
        """whether what is behind them answered when it was last asked"""

    def begin(self) -> None:
        """A call was admitted."""
        self.calls_in_flight += 1
        self.calls_in_flight_max = max(self.calls_in_flight_max, self.calls_in_flight)

    def end(self, method: str, seconds: float, error: str = "") -> None:
        """A call that was admitted has ended; ``error``: the name of its code."""
        self.calls_in_flight -= 1
        self.calls[method] += 1
        self.seconds[method].add(seconds)
        if error:
            self.count_error(error)

    def count_error(self, code: str) -> None:
        """Count an error by its code's name."""
        self.errors[code] = self.errors.get(code, 0) + 1


class FrontendNumbers(CallNumbers):
    """Those of a front-end."""

    def __init__(self) -> None:
        super().__init__(METHODS)
        self.maps = {"whole": 0, "difference": 0, "as_had": 0}
        """sessions of clients that were told a map of several shards, by how it was told"""
        self.bytes_in = 0
        """payload received in puts"""
        self.bytes_out = 0
        """payload sent in gets"""
        self.staging_refused = 0
        """calls that found no staging memory in time"""
        self.namespaces = 0
        """with a connection to the shard"""
        self.leases = 0
        """held on behalf of callers"""
        self.sessions = 0
        """opened, in all"""
