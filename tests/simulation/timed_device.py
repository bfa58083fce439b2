"""A device that takes time, by a clock of the test's: a latency for each transfer and a bandwidth for all."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.io import Transfer


class TimedDevice(MemoryDevice):
    """Memory whose transfers end when a device of this rate would have ended them, one after the other.

    ``latency_s`` is on top, and of all transfers at once, as that of an SSD with many channels.
    """

    def __init__(
        self,
        size_bytes: int,
        now: Callable[[], float],
        *,
        bytes_per_s: float,
        latency_s: float,
        timed: bool = True,
    ) -> None:
        super().__init__(size_bytes)
        self._now = now
        self.bytes_per_s = bytes_per_s
        self.latency_s = latency_s
        self.timed = timed
        """whether transfers take time at all"""
        self.jitter = 0.0
        """the time of each varies by so much of it"""
        self.stall_s = 0.0
        """added to the next one"""
        self.in_flight_bytes_max = 0
        self._random = random.Random(1)
        self._free_at = 0.0
        self._ends: list[tuple[float, int, Transfer]] = []
        self._number = 0
        self._in_flight_bytes = 0

    @property
    def next_at(self) -> float:
        """When the next transfer ends."""
        return self._ends[0][0] if self._ends else float("inf")

    def submit(self, transfers: Sequence[Transfer]) -> None:
        if not self.timed:
            super().submit(transfers)
            return
        now = self._now()
        for transfer in transfers:
            seconds = transfer.length / self.bytes_per_s
            if self.jitter:
                seconds *= 1 + self.jitter * (2 * self._random.random() - 1)
            self._free_at = max(self._free_at, now) + seconds + self.stall_s
            self.stall_s = 0.0
            self._number += 1
            heapq.heappush(self._ends, (self._free_at + self.latency_s, self._number, transfer))
            self._in_flight_bytes += transfer.length
        self.in_flight_bytes_max = max(self.in_flight_bytes_max, self._in_flight_bytes)

    def reap(self) -> list[Transfer]:
        now, ended = self._now(), super().reap()
        while self._ends and self._ends[0][0] <= now:
            transfer = heapq.heappop(self._ends)[2]
            self._in_flight_bytes -= transfer.length
            transfer.result = self._perform(transfer)
            ended.append(transfer)
        return ended

    @property
    def in_flight(self) -> int:
        return len(self._ends) + super().in_flight

    def borrow(self, offset: int, length: int) -> None:
        """Streams read like everybody else."""
        return
