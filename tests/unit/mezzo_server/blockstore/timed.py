"""A store on a played device that takes time: a latency for each transfer and a bandwidth for all. Virtual."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.io import Transfer
from mezzo_server.memory import Span


class TimedDevice(MemoryDevice):
    """Transfers end ``latency_s`` after their bytes went through, one after the other, at ``rate``.

    ``jitter`` makes the time of each vary by so much of it; ``stall`` adds to the next one.
    """

    def __init__(self, size_bytes: int, now: Callable[[], float], *, rate: float, latency_s: float) -> None:
        super().__init__(size_bytes)
        self.now = now
        self.rate = rate
        self.latency_s = latency_s
        self.timed = False
        """it takes no time before this is set"""
        self.jitter = 0.0
        self.stall_s = 0.0
        self.random = random.Random(1)
        self._free_at = 0.0
        self._timed: list[tuple[float, int, Transfer]] = []
        self._count = 0

    def submit(self, transfers: Sequence[Transfer]) -> None:
        super().submit(transfers)
        if not self.timed:
            return
        for transfer in super().reap():
            seconds = transfer.length / self.rate * (1 + self.jitter * (2 * self.random.random() - 1))
            self._free_at = max(self._free_at, self.now()) + seconds + self.stall_s
            self.stall_s = 0.0
            self._count += 1
            heapq.heappush(self._timed, (self._free_at + self.latency_s, self._count, transfer))

    def reap(self) -> list[Transfer]:
        ended = super().reap()
        while self._timed and self._timed[0][0] <= self.now():
            ended.append(heapq.heappop(self._timed)[2])
        return ended

    @property
    def in_flight(self) -> int:
        return len(self._timed) + super().in_flight

    @property
    def next_at(self) -> float:
        """When the next transfer ends."""
        return self._timed[0][0] if self._timed else float("inf")

    def borrow(self, offset: int, length: int) -> Span | None:
        return None
