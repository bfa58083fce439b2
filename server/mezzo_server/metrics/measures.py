"""What is measured of each request, cheaply: lists and additions, nothing of Prometheus. No I/O.

A request costs one bisection and a few additions here; names, labels and families are made when
somebody asks (`families`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from mezzo.errors import ErrorCode
from mezzo.protocol.messages import Kind
from mezzo_server.blockstore.io import DeviceTime
from mezzo_server.blockstore.loads import Tier

SECONDS = (
    0.00001,
    0.000025,
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    1.0,
    5.0,
)
"""Upper bounds of the buckets of durations, seconds: from a lookup to a put that waits for space."""
RATIOS = (0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
"""Upper bounds of the buckets of ratios: 0.8 to 1.25 is within a fifth, either way."""
HOLD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0)
"""Upper bounds of the buckets of the loop's callbacks, seconds."""

REQUEST_KINDS = (
    Kind.HELLO,
    Kind.PING,
    Kind.LOOKUP,
    Kind.GET,
    Kind.PUT,
    Kind.DELETE,
    Kind.ACQUIRE,
    Kind.RELEASE,
    Kind.STAT,
    Kind.SHARD_STAT,
    Kind.REGION_ADD,
    Kind.REGION_REMOVE,
    Kind.ARENA_OPEN,
    Kind.DEVICES,
    Kind.DEVICE_CHANGE,
    Kind.TICKET_RENEW,
    Kind.LEASE_RENEW,
    Kind.EVENTS,
    Kind.TENANT_STAT,
    Kind.CANCEL,
    Kind.PULL,
    Kind.OFFER,
)
"""Everything that a client, or another shard, may ask; PUT_DATA belongs to its PUT."""
_REQUESTED = frozenset(map(int, REQUEST_KINDS))
TRANSFER_KINDS = (Kind.GET, Kind.PUT, Kind.DELETE)
"""Requests for which devices work."""
TRANSPORTS = ("shm", "tcp")


class Histogram:
    """Counts of values by bucket. The last bucket has no upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        """sum of all values"""

    @property
    def count(self) -> int:
        """Values observed."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulated(self) -> Iterator[tuple[float, int]]:
        """(upper bound, values up to it); the last bound is infinite."""
        count = 0
        for bound, own in zip((*self.bounds, float("inf")), self.counts, strict=True):
            count += own
            yield bound, count

    def copy(self) -> Histogram:
        """As it is now."""
        other = Histogram(self.bounds)
        other.counts = self.counts.copy()
        other.total = self.total
        return other


class Measures:
    """What one shard's requests did. Owner: `Service`; touched by the loop's thread only."""

    __slots__ = ("bytes_in", "bytes_out", "cancelled", "device", "duration", "errors", "failed", "load_ratio")

    def __init__(self) -> None:
        size = max(REQUEST_KINDS) + 1
        # Three numbers in four are no request's: one for all of them, in which nothing is ever counted.
        unused = Histogram(SECONDS)
        self.duration = [Histogram(SECONDS) if kind in _REQUESTED else unused for kind in range(size)]
        """seconds from the frame to the answer, by number of the kind; whatever the outcome"""
        self.device = [Histogram(SECONDS) if kind in _REQUESTED else unused for kind in range(size)]
        """seconds from the first transfer to the end of the last, of those requests that had any"""
        self.failed = [0] * size
        """requests that were answered with an error, by number of the kind"""
        self.cancelled = [0] * size
        """requests that the client gave up, by number of the kind"""
        self.load_ratio = {tier: Histogram(RATIOS) for tier in Tier}
        """time that loads took over what was estimated when they began"""
        self.errors = dict.fromkeys(ErrorCode, 0)
        self.bytes_in = dict.fromkeys(TRANSPORTS, 0)
        """payload of chunks that were stored"""
        self.bytes_out = dict.fromkeys(TRANSPORTS, 0)
        """payload of chunks that were delivered"""

    def ended(self, kind: Kind, seconds: float, time: DeviceTime) -> None:
        """A request of this kind ended, after so long."""
        duration = self.duration[kind]
        duration.counts[bisect_left(SECONDS, seconds)] += 1
        duration.total += seconds
        if time.device_began:
            self.device[kind].observe(time.device_s)

    def load_took(self, tier: Tier, ratio: float) -> None:
        """A load that came whole took so many times what was estimated."""
        self.load_ratio[tier].observe(ratio)

    @property
    def count(self) -> int:
        """Requests of all kinds that ended."""
        return sum(self.duration[kind].count for kind in REQUEST_KINDS)

    def numbers(self) -> dict[str, int | float]:
        """The totals, for `shard_stat`. Times are microseconds."""
        numbers: dict[str, int | float] = {}
        for kind in REQUEST_KINDS:
            name = kind.name.lower()
            duration = self.duration[kind]
            numbers[f"requests_{name}"] = duration.count
            numbers[f"requests_failed_{name}"] = self.failed[kind]
            numbers[f"requests_cancelled_{name}"] = self.cancelled[kind]
            numbers[f"request_us_{name}"] = round(duration.total * 1e6)
        for kind in TRANSFER_KINDS:
            name = kind.name.lower()
            numbers[f"requests_with_device_{name}"] = self.device[kind].count
            numbers[f"request_device_us_{name}"] = round(self.device[kind].total * 1e6)
        for code, count in self.errors.items():
            numbers[f"errors_{code.name.lower()}"] = count
        for transport in TRANSPORTS:
            numbers[f"bytes_in_{transport}"] = self.bytes_in[transport]
            numbers[f"bytes_out_{transport}"] = self.bytes_out[transport]
        return numbers

    def histograms(self) -> Mapping[str, Mapping[str, Histogram]]:
        """Copies of the histograms: by name, then by kind of request."""
        return {
            "request": {kind.name.lower(): self.duration[kind].copy() for kind in REQUEST_KINDS},
            "load_ratio": {tier.name.lower(): told.copy() for tier, told in self.load_ratio.items()},
            "request_device": {kind.name.lower(): self.device[kind].copy() for kind in TRANSFER_KINDS},
        }
