"""How long a load would take now, and how far from that it turned out to be. No I/O, no clock of its own.

An estimate is what is queued ahead of it (of the tenant's own share of the devices, where others have work
too) and its own bytes, over the pace that was measured of the devices, of the hot tier's copies and of the
connection.  That knows nothing of checksums, of turns of the loop or of how many chunks there are, so it is
corrected by the median of what loads of its kind and size took for it; another number, that nine of ten
loads stay under, is for who wants to be sure.  All of it is O(1) for a request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.pace import Pace
from mezzo_server.blockstore.put import Puts
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
LOOK_S = 0.0005
"""How long is relied on what was seen of the devices' pace, and of tenants' weights."""
STALE_S = 10.0
"""What was measured longer ago is no reason to refuse a load while nothing is queued: nobody would ever find out that
it is not so any more."""
HIGH = 0.9
"""The share of loads that should not take longer than ``high_s``."""


class Tier(IntEnum):
    """What a load is made of; of several, the last."""

    HOT = 0
    DEVICE = 1
    STREAM = 2
    """its bytes go over a stream (tcp), wherever they lie"""


HOT, DEVICE, STREAM = 0, 1, 2
TIERS = 3
TIER = (Tier.HOT, Tier.DEVICE, Tier.STREAM)
"""The same as plain numbers: this is on the way of every lookup."""


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


class Quantile:
    """A quantile of positive numbers, followed by small steps: how large an outlier is does not matter."""

    __slots__ = ("_down", "_step", "_up", "value")

    def __init__(self, share: float) -> None:
        self._up, self._down = 2 * share, 2 * (1 - share)
        self._step = STEP_FIRST
        self.value = 1.0

    def add(self, number: float) -> None:
        """Another number."""
        step, value = self._step, self.value
        if number > value:
            value *= 1 + step * self._up
            if value > CORRECTION_MAX:
                value = CORRECTION_MAX
        else:
            value *= 1 - step * self._down
            if value < 1 / CORRECTION_MAX:
                value = 1 / CORRECTION_MAX
        self.value = value
        if step > STEP:
            self._step = max(STEP, step * 0.9)


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
        "_tried",
        "seconds",
    )

    def __init__(
        self, loads: Loads, tenant: bytes, hot: int, cold: int, kind: int, raw_s: float, seconds: float
    ) -> None:
        self._loads = loads
        self._tenant = tenant
        self._size = self._left = hot + cold
        self._kind = kind
        self._raw_s = raw_s
        self._began = loads.now()
        self._tried = False
        self.seconds = seconds
        """what was expected of it"""
        if kind % TIERS == STREAM:
            hot, cold = 0, min(cold, EASY_BYTES)
        elif hot:
            loads.hot.begin(hot, self._began)
        self._hot, self._cold = hot, cold
        if cold:
            loads.queue(tenant, cold)

    def moved(self, nbytes: int) -> None:
        """So much of it has arrived; of which tier is not told, so it is taken to be of both alike."""
        left = self._left - nbytes
        if left > 0:
            self._settle(left, given_up=False)
        # else: it is about to end

    def end(self, *, whole: bool) -> None:
        """It is over; ``whole``: all that was expected has arrived."""
        loads = self._loads
        if self._left:
            self._settle(0, given_up=not whole)
            if whole:
                seconds = loads.now() - self._began
                loads.took(self._kind, seconds, self._raw_s, self.seconds)
                if self._tried and 2 * seconds < self.seconds:
                    loads.told_at[self._kind] = float("-inf")

    def is_worth_trying(self, network: Pace | None) -> bool:
        """Whether it should be tried although it is expected to take too long: that is known from long ago.

        One such load at a time, and another at once if it took less than half of what was expected.  ``network``:
        as given to `Loads.begin`.
        """
        loads, now = self._loads, self._loads.now()
        if loads.queued > self._cold or loads.hot.queued > self._hot or loads.writing:
            return False
        stale = now - loads.told_at[self._kind] > STALE_S
        if network is not None:
            if network.queued:
                return False
            stale = stale or network.idle_s(now) > STALE_S
        if stale:
            loads.told_at[self._kind] = now
            self._tried = True
        return stale

    def _settle(self, left: int, *, given_up: bool) -> None:
        loads, size, before = self._loads, self._size, self._left
        self._left = left
        if self._cold:
            cold = self._cold
            loads.queue(self._tenant, cold * left // size - cold * before // size)
        if self._hot:
            hot = self._hot * before // size - self._hot * left // size
            (loads.hot.drop if given_up else loads.hot.moved)(hot, loads.now())


class Loads:
    """The loads of one store. Owner of their queue, of the pace of copies, and of the corrections."""

    def __init__(self, context: Context, puts: Puts) -> None:
        self._context = context
        self._puts = puts
        self.now = context.now
        self.hot = Pace(HOT_RATE_START, HOT_LATENCY_START_S)
        """of copies out of the hot tier"""
        self.queued = 0
        """bytes of loads that wait for the devices"""
        self._queued: dict[bytes, int] = {}
        self._weights: dict[bytes, float] = {}
        """of tenants with loads queued, as of ``_weighed_at``"""
        self._weighed_at = float("-inf")
        self._weights_sum = 0.0
        kinds = TIERS * (len(SIZES) + 1)
        self._median = [Quantile(0.5) for _ in range(kinds)]
        self._high = [Quantile(HIGH) for _ in range(kinds)]
        self.told_at = [self.now()] * kinds
        """when a load of each kind last told something; -inf: it told that what is believed is far too slow"""
        self._looked_at = float("-inf")
        self._byte_s = self._latency_s = 0.0
        self.observe: Callable[[Tier, float], None] = lambda tier, ratio: None
        """told of each load that came whole: its time over what was expected"""

    def estimate(
        self, tenant: bytes, hot: int, cold: int, network: Pace | None, slowest: Pace | None
    ) -> Estimate:
        """What a load of so many bytes would take; ``network``: of its connection, if they go over a stream.

        ``slowest``: of the one of several devices on which all of the cold ones lie, or of one that takes far longer
        than the others, if some lie on it.
        """
        kind, raw_s, hot_s, device_s, wait_s = self._raw(tenant, hot, cold, network, slowest)
        median = self._median[kind].value
        high = self._high[kind].value
        return Estimate(
            hot_s * median,
            device_s * median,
            raw_s * median,
            raw_s * (high if high > median else median),
            wait_s * median,
        )

    def microseconds(
        self, tenant: bytes, hot: int, cold: int, network: Pace | None, slowest: Pace | None
    ) -> tuple[int, int, int, int, int]:
        """`estimate` for every lookup: hot, device, all, high and wait, in whole microseconds."""
        kind, raw_s, hot_s, device_s, wait_s = self._raw(tenant, hot, cold, network, slowest)
        median = self._median[kind].value * 1e6
        high = self._high[kind].value * 1e6
        return (
            int(hot_s * median),
            int(device_s * median),
            int(raw_s * median),
            int(raw_s * (high if high > median else median)),
            int(wait_s * median),
        )

    def begin(self, tenant: bytes, hot: int, cold: int, network: Pace | None, slowest: Pace | None) -> Load:
        """Such a load begins."""
        kind, raw_s, _, _, _ = self._raw(tenant, hot, cold, network, slowest)
        return Load(self, tenant, hot, cold, kind, raw_s, raw_s * self._median[kind].value)

    def _raw(
        self, tenant: bytes, hot: int, cold: int, network: Pace | None, slowest: Pace | None
    ) -> tuple[int, float, float, float, float]:
        """Kind and, uncorrected, seconds: in all, of hot bytes, of the others, and before the first byte."""
        size = hot + cold
        kind = TIERS * bisect_left(SIZES, size)
        if not size:
            return kind, 0.0, 0.0, 0.0, 0.0
        device_s = wait_s = 0.0
        if cold:
            device_s, wait_s = self._device_s(tenant, cold, slowest)
        if network is not None:
            # A piece is sent while the next one is read.
            raw_s = network.seconds(size)
            if raw_s > device_s:
                wait_s = network.seconds(0)
            else:
                raw_s = device_s
            return kind + STREAM, raw_s, raw_s * hot / size, device_s, wait_s
        if not hot:
            return kind + DEVICE, device_s, 0.0, device_s, wait_s
        hot_s = self.hot.seconds(hot)
        if cold:
            return kind + DEVICE, hot_s + device_s, hot_s, device_s, wait_s
        return kind + HOT, hot_s, hot_s, 0.0, self.hot.seconds(0)

    def _device_s(self, tenant: bytes, size: int, slowest: Pace | None) -> tuple[float, float]:
        """Seconds of a load from the devices, and of these before its first byte."""
        now = self.now()
        if now - self._looked_at > LOOK_S:
            self._looked_at = now
            logs = [log for log in self._context.logs if log.fenced is None] or self._context.logs
            self._byte_s = 1 / sum([log.pace.rate for log in logs])
            self._latency_s = logs[0].pace.latency_s
        byte_s, latency_s = self._byte_s, self._latency_s
        if slowest is not None:
            # In bytes of all devices together, which is what the rest is counted in.
            latency_s = slowest.latency_s
            size = int(size / (slowest.rate * byte_s))
        writing = self._puts.waiting_bytes
        ahead = self.queued + writing
        own = self._queued.get(tenant, 0) if self.queued else 0
        if self.queued > own:
            # Others have work too: it waits for its own share's worth, or until all of it is done.
            weight = self._weight(tenant)
            if now - self._weighed_at > LOOK_S or len(self._weights) != len(self._queued):
                self._weighed_at = now
                self._weights = {other: self._weight(other) for other in self._queued}
                self._weights_sum = sum(self._weights.values())
            others = self._weights_sum - self._weights.get(tenant, 0.0)
            slower = (weight + others) / weight
            shared = (own + writing + size) * slower
            if shared < ahead + size:
                return latency_s + shared * byte_s, latency_s + (shared - size * slower) * byte_s
        wait_s = latency_s + ahead * byte_s
        return wait_s + size * byte_s, wait_s

    def _weight(self, tenant: bytes) -> float:
        shares = self._context.shares
        return shares.weight(tenant) * (BEHIND_WEIGHT if shares.behind(tenant) else 1.0)

    def queue(self, tenant: bytes, nbytes: int) -> None:
        """So many more bytes of a tenant wait for the devices (or fewer)."""
        self.queued += nbytes
        own = self._queued.get(tenant, 0) + nbytes
        if own:
            self._queued[tenant] = own
        else:
            self._queued.pop(tenant, None)

    @property
    def writing(self) -> int:
        """Bytes of puts that wait for the devices."""
        return self._puts.waiting_bytes

    def took(self, kind: int, seconds: float, raw_s: float, expected_s: float) -> None:
        """A load of this kind took so long."""
        if seconds <= 0 or raw_s <= 0:
            return
        self.told_at[kind] = self.now()
        ratio = seconds / raw_s
        self._median[kind].add(ratio)
        self._high[kind].add(ratio)
        self.observe(TIER[kind % TIERS], seconds / expected_s)
