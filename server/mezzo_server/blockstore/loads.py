"""How long a load would take now, and how far from that it turned out to be. No I/O, no clock of its own.

An estimate is what is queued ahead of it (of the tenant's own share of the devices, where others have work
too) and its own bytes, over the pace that was measured of the devices, of the hot tier's copies and of the
connection.  That knows nothing of checksums, of turns of the loop or of how many chunks there are, so it is
corrected by the median of what loads of its kind and size took for it; another number, that nine of ten
loads stay under, is for who wants to be sure.  All of it is O(1) for a request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.pace import Pace
from mezzo_server.blockstore.schedule import BEHIND_WEIGHT

HOT_RATE_START = 4e9
HOT_LATENCY_START_S = 30e-6
NETWORK_RATE_START = 1e9
NETWORK_LATENCY_START_S = 100e-6
SIZES = (256 << 10, 4 << 20, 32 << 20)
"""Loads up to each of these, and those over all, are corrected apart."""
EASY_BYTES = 4 << 20
"""At most so much of a load over a stream is queued for a device at a time."""
STEP_FIRST, STEP = 0.3, 0.03
"""How far one load moves a correction, as a share of it: at first, and in the long run."""
CORRECTION_MAX = 32.0
HIGH = 0.9
"""The share of loads that should not take longer than ``high_s``."""


class Tier(IntEnum):
    """What a load is made of; of several, the last."""

    HOT = 0
    DEVICE = 1
    STREAM = 2
    """its bytes go over a stream (tcp), wherever they lie"""


class Estimate(NamedTuple):
    """Expected seconds of a load that begins now."""

    hot_s: float
    """of its hot bytes"""
    device_s: float
    """of the others"""
    seconds: float
    """in all"""
    high_s: float
    """nine of ten loads like it take no longer"""
    wait_s: float
    """of ``seconds``, what passes before the first byte: what is queued ahead, and latencies"""


NOTHING = Estimate(0.0, 0.0, 0.0, 0.0, 0.0)


class Quantile:
    """A quantile of positive numbers, followed by small steps: how large an outlier is does not matter."""

    __slots__ = ("_share", "_step", "value")

    def __init__(self, share: float) -> None:
        self._share = share
        self._step = STEP_FIRST
        self.value = 1.0

    def add(self, number: float) -> None:
        """Another number."""
        up = number > self.value
        self.value *= 1 + 2 * self._step * (self._share if up else self._share - 1)
        self.value = min(max(self.value, 1 / CORRECTION_MAX), CORRECTION_MAX)
        self._step = max(STEP, self._step * 0.9)


class Load:
    """A load that is under way. Made by `Loads.begin`; `end` is called once."""

    __slots__ = (
        "_began",
        "_cold",
        "_hot",
        "_kind",
        "_left",
        "_loads",
        "_raw_s",
        "_size",
        "_tenant",
        "estimate",
    )

    def __init__(
        self, loads: Loads, tenant: bytes, hot: int, cold: int, kind: int, raw_s: float, estimate: Estimate
    ) -> None:
        self._loads = loads
        self._tenant = tenant
        self._hot = hot
        self._cold = cold
        self._size = self._left = hot + cold
        self._kind = kind
        self._raw_s = raw_s
        self._began = loads.now()
        self.estimate = estimate
        """what was expected of it"""
        if kind % len(Tier) == Tier.STREAM:
            cold = min(cold, EASY_BYTES)
            self._cold = cold
        elif hot:
            loads.hot.begin(hot, self._began)
        loads.queue(tenant, cold)

    def moved(self, nbytes: int) -> None:
        """So much of it has arrived; of which tier is not told, so it is taken to be of both alike."""
        left = max(self._left - nbytes, 0)
        self._settle(left, given_up=False)

    def end(self, *, whole: bool) -> None:
        """It is over; ``whole``: all that was expected has arrived."""
        loads = self._loads
        self._settle(0, given_up=not whole)
        if whole and self._size:
            loads.took(self._kind, loads.now() - self._began, self._raw_s, self.estimate.seconds)

    def _settle(self, left: int, *, given_up: bool) -> None:
        loads, size, before = self._loads, self._size, self._left
        self._left = left
        if left == before or not size:
            return
        cold = self._cold * before // size - self._cold * left // size
        loads.queue(self._tenant, -cold)
        hot = self._hot * before // size - self._hot * left // size
        if hot and self._kind % len(Tier) != Tier.STREAM:
            (loads.hot.drop if given_up else loads.hot.moved)(hot, loads.now())


class Loads:
    """The loads of one store. Owner of their queue, of the pace of copies, and of the corrections."""

    def __init__(self, context: Context, writing: Callable[[], int]) -> None:
        """``writing``: bytes of puts that are under way."""
        self._context = context
        self._writing = writing
        self.now = context.now
        self.hot = Pace(HOT_RATE_START, HOT_LATENCY_START_S)
        """of copies out of the hot tier"""
        self._queued: Counter[bytes] = Counter()
        self._weights: dict[bytes, float] = {}
        self._all = 0
        kinds = len(Tier) * (len(SIZES) + 1)
        self._median = [Quantile(0.5) for _ in range(kinds)]
        self._high = [Quantile(HIGH) for _ in range(kinds)]
        self.observe: Callable[[Tier, float], None] = lambda tier, ratio: None
        """told of each load that came whole: its time over what was expected"""

    def estimate(
        self, tenant: bytes, hot: int, cold: int, network: Pace | None, *, one_device: bool
    ) -> Estimate:
        """What a load of so many bytes would take; ``network``: of its connection, if they go over a stream.

        ``one_device``: all of the cold ones lie on one.
        """
        return self._estimate(tenant, hot, cold, network, one_device)[2]

    def begin(self, tenant: bytes, hot: int, cold: int, network: Pace | None, *, one_device: bool) -> Load:
        """Such a load begins."""
        kind, raw_s, estimate = self._estimate(tenant, hot, cold, network, one_device)
        return Load(self, tenant, hot, cold, kind, raw_s, estimate)

    def _estimate(
        self, tenant: bytes, hot: int, cold: int, network: Pace | None, one_device: bool
    ) -> tuple[int, float, Estimate]:
        size = hot + cold
        tier = Tier.STREAM if network is not None else Tier.DEVICE if cold else Tier.HOT
        kind = len(Tier) * sum(size > limit for limit in SIZES) + tier
        if not size:
            return kind, 0.0, NOTHING
        device_s, wait_s = self._device_s(tenant, cold, one_device) if cold else (0.0, 0.0)
        hot_s = 0.0
        if network is not None:
            # A piece is sent while the next one is read.
            raw_s = max(device_s, network.seconds(size))
            if raw_s > device_s:
                wait_s = network.seconds(0)
        else:
            hot_s = self.hot.seconds(hot) if hot else 0.0
            raw_s = hot_s + device_s
            if not cold:
                wait_s = self.hot.seconds(0)
        median = self._median[kind].value
        high = max(self._high[kind].value, median)
        if network is not None and hot:
            hot_s = raw_s * hot / size
        return (
            kind,
            raw_s,
            Estimate(hot_s * median, device_s * median, raw_s * median, raw_s * high, wait_s * median),
        )

    def _device_s(self, tenant: bytes, size: int, one_device: bool) -> tuple[float, float]:
        """Seconds of a load from the devices, and of these before its first byte."""
        logs = [log for log in self._context.logs if log.fenced is None] or self._context.logs
        rate = sum([log.pace.rate for log in logs])
        latency_s = logs[0].pace.latency_s
        nbytes = size * len(logs) if one_device else size
        writing = self._writing()
        own = self._queued.get(tenant, 0)
        ahead = self._all + writing
        if self._all > own:
            # Others have work too: it waits for its own share's worth, or until all of it is done.
            weight = self._weight(tenant)
            others = sum(self._weights.values()) - self._weights.get(tenant, 0.0)
            slower = (weight + others) / weight
            shared = (own + writing + nbytes) * slower
            if shared < ahead + nbytes:
                return latency_s + shared / rate, latency_s + (shared - nbytes * slower) / rate
        return latency_s + (ahead + nbytes) / rate, latency_s + ahead / rate

    def _weight(self, tenant: bytes) -> float:
        shares = self._context.shares
        return shares.weight(tenant) * (BEHIND_WEIGHT if shares.behind(tenant) else 1.0)

    def queue(self, tenant: bytes, nbytes: int) -> None:
        """So many more bytes of a tenant wait for the devices (or fewer)."""
        if not nbytes:
            return
        if tenant not in self._queued:
            self._weights[tenant] = self._weight(tenant)
        self._queued[tenant] += nbytes
        self._all += nbytes
        if not self._queued[tenant]:
            del self._queued[tenant]
            del self._weights[tenant]

    def took(self, kind: int, seconds: float, raw_s: float, expected_s: float) -> None:
        """A load of this kind took so long."""
        if seconds <= 0 or raw_s <= 0:
            return
        self._median[kind].add(seconds / raw_s)
        self._high[kind].add(seconds / raw_s)
        self.observe(Tier(kind % len(Tier)), seconds / expected_s)

    @property
    def queued(self) -> int:
        """Bytes of loads that wait for the devices."""
        return self._all
