"""A faulty device (`blockstore.devices.faulty`) that takes its time: transfers end when virtual time has come to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from mezzo_server.blockstore.devices.faults import Fault
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.blockstore.io import Device, Transfer
from mezzo_server.testing.simulation.violation import Violation

LATENCY_S = 0.0002
SELDOM, SELDOM_S = 0.2, 0.1
"""So large a part takes up to so much longer, as with a device that erases: others get in between."""


class TimedDevice(Device):
    """Gives back what a `FaultyDevice` has done, at the time that it would take. Owned by one life of a shard.

    While it is not ``timed`` (the store starts or stops, and drives it alone) all is done at once.
    """

    def __init__(
        self,
        inner: FaultyDevice,
        now: Callable[[], float],
        after: Callable[[float], None],
        randomness: random.Random,
    ) -> None:
        """``after`` has the store pumped in so many seconds."""
        self.inner = inner
        self.name = inner.name
        self.size_bytes = inner.size_bytes
        self.block_bytes = inner.block_bytes
        self.memory_align_bytes = inner.memory_align_bytes
        self.timed = False
        self.slowness = 1.0
        """how many times longer everything takes"""
        self._now = now
        self._after = after
        self._random = randomness
        self._due = 0.0

    @property
    def in_flight(self) -> int:
        return self.inner.in_flight

    def submit(self, transfers: Sequence[Transfer]) -> None:
        """See `Device.submit`."""
        for transfer in transfers:
            if transfer.offset + transfer.length > self.size_bytes:
                raise Violation(
                    f"{self.name}: {transfer.op.name} of {transfer.length} bytes at {transfer.offset}, behind the end of "
                    f"its {self.size_bytes} bytes"
                )
        idle = not self.inner.in_flight
        self.inner.submit(transfers)
        if self.timed and idle and transfers:
            self._await()

    def reap(self) -> list[Transfer]:
        """What has ended by now: a choice of what is in flight, in any order."""
        if not self.timed:
            return self.inner.reap()
        if not self.inner.in_flight or self._now() < self._due:
            return []
        ended = self.inner.reap()
        if self.inner.in_flight:
            self._await()
        return ended

    def wait(self, timeout_s: float | None = None) -> None:
        """Return at once."""

    def grow(self, size_bytes: int = 0) -> None:
        """See `Device.grow`."""
        self.inner.grow(size_bytes)
        self.size_bytes = self.inner.size_bytes

    def close(self) -> None:
        """See `Device.close`."""
        self.inner.close()

    def kill(self, faults: Iterable[Fault] = ()) -> FaultyDevice:
        """The process has ended: what the next one finds."""
        return self.inner.kill(faults=faults)

    def power_cut(self, faults: Iterable[Fault] = ()) -> FaultyDevice:
        """The power has failed: what the next process finds."""
        return self.inner.power_cut(faults=faults)

    def _await(self) -> None:
        seconds = LATENCY_S * self.slowness * (0.5 + self._random.random())
        if self._random.random() < SELDOM:
            seconds += SELDOM_S * self._random.random()
        self._due = self._now() + seconds
        self._after(seconds * 1.000_001)
